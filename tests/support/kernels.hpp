// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_TESTS_SUPPORT_KERNELS_HPP
#define MOEROUTE_TESTS_SUPPORT_KERNELS_HPP

#include <moeroute/core/scalar.hpp>
#include <moeroute/numeric/simd.hpp>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

/// The levels that this machine can run; setting one holds until the end of the scope.
inline std::vector<moeroute::simd_level> levels() {
  std::vector<moeroute::simd_level> all{moeroute::simd_level::baseline};
  for (auto const level : {moeroute::simd_level::avx2, moeroute::simd_level::avx512})
    if (level <= moeroute::supported_simd_level()) all.push_back(level);
  return all;
}
struct at_level {
  explicit at_level(moeroute::simd_level level) { moeroute::detail::limit_simd_level(level); }
  ~at_level() { moeroute::detail::limit_simd_level(moeroute::simd_level::avx512); }
  at_level(at_level const&) = delete;
  at_level& operator=(at_level const&) = delete;
};

/// Numbers that are the same with every standard library, which std::normal_distribution's are not.
class plain_random {
 public:
  explicit plain_random(std::uint64_t seed) : state_{seed} {}
  std::uint64_t bits() {  // splitmix64
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  /// Bell-shaped around 0, standard deviation 1.
  double bell() {
    double sum = uniform();  // one after the other: operands of + are evaluated in any order
    sum += uniform();
    sum += uniform();
    return (sum - 1.5) * 2;
  }
  std::uint64_t below(std::uint64_t n) { return bits() % n; }

 private:
  std::uint64_t state_;
};

template <class T>
T scalar(double x) {
  if constexpr (std::is_same_v<T, moeroute::bf16>)
    return moeroute::to_bf16(static_cast<float>(x));
  else if constexpr (std::is_same_v<T, moeroute::f16>)
    return moeroute::to_f16(static_cast<float>(x));
  else
    return static_cast<T>(x);
}

/// FNV-1a over the bytes of values.
class hash {
 public:
  template <class T>
  void add(T const& value) {
    unsigned char bytes[sizeof value];
    std::memcpy(bytes, &value, sizeof value);
    for (auto const b : bytes) state_ = (state_ ^ b) * 0x100000001b3u;
  }
  std::uint64_t value() const { return state_; }

 private:
  std::uint64_t state_ = 0xcbf29ce484222325u;
};

/// Distance in units of the last place of the exact value.
template <class T>
double ulps(T got, double exact) {
  T const nearest = static_cast<T>(exact);
  T const step = std::nextafter(std::abs(nearest), std::numeric_limits<T>::infinity()) - std::abs(nearest);
  return std::abs(static_cast<double>(got) - exact) / static_cast<double>(step);
}

#endif
