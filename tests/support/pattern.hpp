// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_TESTS_SUPPORT_PATTERN_HPP
#define MOEROUTE_TESTS_SUPPORT_PATTERN_HPP

#include <cstddef>
#include <cstdint>
#include <vector>

/// What the tests of io put into their arrays: i*i - 7i, as that type holds it. make_io.py has the same.
template <class T>
std::vector<T> pattern(std::size_t n) {
  std::vector<T> out;
  for (std::size_t i = 0; i < n; ++i)
    out.push_back(static_cast<T>(static_cast<std::int64_t>(i * i) - static_cast<std::int64_t>(7 * i)));
  return out;
}

#endif
