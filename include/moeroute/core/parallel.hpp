// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CORE_PARALLEL_HPP
#define MOEROUTE_CORE_PARALLEL_HPP

#include <moeroute/core/accumulator.hpp>
#include <moeroute/core/view.hpp>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

namespace moeroute {

/// Number of threads that `threads` asks for: itself, or all hardware threads for 0.
inline int thread_count(int threads) noexcept {
  if (threads > 0) return threads;
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

/// Calls body(i) for i in 0..n-1 on `threads` threads (0: all), each i once, in no promised order.
///
/// Throws the exception of the smallest i that threw, after all threads have ended; indices not yet begun are then left out.
/// Threads share nothing: body(i) writes only what belongs to i.
template <class Body>
void parallel_for(index_t n, int threads, Body const& body) {
  auto const workers = std::min<index_t>(n, thread_count(threads));
  if (workers <= 1) {
    for (index_t i = 0; i < n; ++i) body(i);
    return;
  }
  std::atomic<index_t> next{0};
  std::atomic<bool> failed{false};
  std::mutex failure_mutex;
  index_t failure_index = n;
  std::exception_ptr failure;
  {
    std::vector<std::jthread> pool;
    pool.reserve(static_cast<std::size_t>(workers));
    for (index_t w = 0; w < workers; ++w)
      pool.emplace_back([&] {
        for (index_t i; !failed && (i = next.fetch_add(1)) < n;) {
          try {
            body(i);
          } catch (...) {
            std::scoped_lock const lock(failure_mutex);
            failed = true;
            if (i < failure_index) {
              failure_index = i;
              failure = std::current_exception();
            }
          }
        }
      });
  }
  if (failure) std::rethrow_exception(failure);
}

/// Updates one accumulator per part in parallel and merges them in a fixed tree: with an exact law the same bytes for any number
/// of threads, with an approximate one the same bytes for any number of threads and the same parts.
///
/// In     update(A&, i) feeds part i.   Out  the merged accumulator.   Empty  the empty accumulator of `options`.
template <accumulator A, class Update>
A parallel_accumulate(index_t parts, typename A::options_type const& options, int threads, Update const& update) {
  std::vector<A> states(static_cast<std::size_t>(parts), A(options));
  parallel_for(parts, threads, [&](index_t i) { update(states[static_cast<std::size_t>(i)], i); });
  return merge_all(std::span<A const>(states), options);
}

}  // namespace moeroute

#endif
