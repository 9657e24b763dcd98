// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_PROGRESS_HPP
#define MOEROUTE_CAPTURE_PROGRESS_HPP

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <unistd.h>

namespace moeroute::capture {

/// A bar on standard error, drawn only on a terminal and only after two seconds.
class progress {
 public:
  progress(std::uint64_t total, std::uint64_t done, bool wanted, char const* unit = "tokens")
      : total_{total}, first_{done}, unit_{unit}, wanted_{wanted && ::isatty(STDERR_FILENO) == 1} {}
  progress(progress const&) = delete;
  progress& operator=(progress const&) = delete;
  ~progress() { clear(); }

  void show(std::uint64_t done) {
    auto const now = clock::now();
    double const elapsed = std::chrono::duration<double>(now - start_).count();
    if (!wanted_ || elapsed < 2 || (drawn_ && now - last_ < std::chrono::milliseconds(200))) return;
    drawn_ = true;
    last_ = now;
    double const rate = static_cast<double>(done - first_) / elapsed;
    double const share = total_ == 0 ? 1.0 : static_cast<double>(done) / static_cast<double>(total_);
    constexpr int width = 30;
    auto const filled = static_cast<std::size_t>(share * width);
    double const left = rate > 0 ? static_cast<double>(total_ - std::min(total_, done)) / rate : 0;
    std::fprintf(stderr, "\r\033[K[%s%s] %3.0f %%  %llu of %llu %s  %.0f %s/s  %.0f s left",
                 std::string(filled, '#').c_str(), std::string(width - filled, '.').c_str(), 100 * share,
                 static_cast<unsigned long long>(done), static_cast<unsigned long long>(total_), unit_, rate, unit_, left);
    std::fflush(stderr);
  }

  void clear() {
    if (drawn_) std::fputs("\r\033[K", stderr);
    drawn_ = false;
  }

 private:
  using clock = std::chrono::steady_clock;
  std::uint64_t total_, first_;
  char const* unit_;
  bool wanted_, drawn_ = false;
  clock::time_point start_ = clock::now(), last_{};
};

}  // namespace moeroute::capture

#endif
