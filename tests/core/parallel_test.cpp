// SPDX-License-Identifier: Apache-2.0
#include <moeroute/core/parallel.hpp>

#include <chrono>
#include <stdexcept>
#include <string>

#include <doctest/doctest.h>

using namespace moeroute;

TEST_CASE("parallel_for: every index once, for any number of threads") {
  for (int const threads : {0, 1, 2, 3, 8, 64})
    for (index_t const n : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> seen(static_cast<std::size_t>(n));
      parallel_for(n, threads, [&](index_t i) { ++seen[static_cast<std::size_t>(i)]; });
      CHECK(std::all_of(seen.begin(), seen.end(), [](auto const& s) { return s == 1; }));
    }
  bool called = false;
  parallel_for(-3, 2, [&](index_t) { called = true; });
  CHECK_FALSE(called);
}

TEST_CASE("parallel_for: really more than one thread, and no more than asked for") {
  std::mutex mutex;
  std::vector<std::thread::id> ids;
  std::atomic<int> waiting{0};
  parallel_for(3, 3, [&](index_t) {
    ++waiting;
    while (waiting < 3) std::this_thread::yield();  // ends only if three run at once
    std::scoped_lock const lock(mutex);
    ids.push_back(std::this_thread::get_id());
  });
  std::sort(ids.begin(), ids.end());
  CHECK(std::unique(ids.begin(), ids.end()) == ids.end());
  parallel_for(5, 1, [caller = std::this_thread::get_id()](index_t) { CHECK(std::this_thread::get_id() == caller); });
  CHECK(thread_count(3) == 3);
  CHECK(thread_count(0) >= 1);
}

TEST_CASE("parallel_for: the exception of the smallest index arrives, after all threads have ended") {
  for (int const threads : {1, 2, 5}) {
    std::atomic<int> running{0};
    auto const body = [&](index_t i) {
      ++running;
      struct at_end {
        std::atomic<int>& r;
        ~at_end() { --r; }
      } const guard{running};
      if (i >= 10) throw std::runtime_error(std::to_string(i));
    };
    try {
      parallel_for(500, threads, body);
      FAIL("no exception");
    } catch (std::runtime_error const& e) {
      CHECK(std::string(e.what()) == "10");
      CHECK(running == 0);
    }
  }
  // Index 0 throws after index 1 has.
  std::atomic<bool> thrown{false};
  auto const late = [&](index_t i) {
    if (i == 1) {
      thrown = true;
      throw std::runtime_error("1");
    }
    while (!thrown) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    throw std::runtime_error("0");
  };
  CHECK_THROWS_WITH_AS(parallel_for(2, 2, late), "0", std::runtime_error);
}
