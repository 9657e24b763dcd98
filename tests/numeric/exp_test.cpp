// SPDX-License-Identifier: Apache-2.0
#include <moeroute/core/view.hpp>
#include <moeroute/numeric/exp.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "support/golden.hpp"
#include "support/kernels.hpp"

using namespace moeroute;

namespace {

struct exp_kernel {
  template <simd_level Level, class T>
  MOEROUTE_ALWAYS_INLINE static void run(T* x, index_t n) {
    constexpr int W = detail::lane_count<Level, T>;
    for (index_t i = 0; i < n; i += 2 * W) {
      detail::lanes<T, W> v[2];
      for (int k = 0; k < 2; ++k) detail::load<W>(v[k], x + i + k * W);
      detail::exp_lanes<T, W>(v);
      for (int k = 0; k < 2; ++k) detail::store<W>(v[k], x + i + k * W);
    }
  }
};

template <class T>
void within_2_ulp(nlohmann::json const& g) {
  double worst = 0;
  for (std::size_t i = 0; i < g["x"].size(); ++i) {
    T const x = g["x"][i].get<T>();
    worst = std::max(worst, ulps(reproducible_exp(x), g["exp"][i].get<double>()));
  }
  CHECK(worst <= 2);
  CHECK(worst > 0.3);  // the comparison looks at something
}

template <class T>
void same_bits_at_every_level(T lowest, std::uint64_t expected) {
  plain_random random(7);
  std::vector<T> x(4096);
  for (auto& v : x) v = static_cast<T>(lowest * T(1.01) * static_cast<T>(random.uniform()));
  x[0] = T{0};
  x[1] = -std::numeric_limits<T>::infinity();
  x[2] = -std::numeric_limits<T>::max();
  for (auto const level : levels()) {
    at_level const scope(level);
    auto y = x;
    detail::dispatch<exp_kernel>(y.data(), index_t(y.size()));
    hash h;
    int wrong = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      h.add(y[i]);
      wrong += y[i] != reproducible_exp(x[i]);
    }
    CHECK(wrong == 0);
    CHECK(h.value() == expected);  // the same with every compiler and on every machine
  }
}

template <class T>
void ends_of_the_range(T lowest, T highest) {
  constexpr T inf = std::numeric_limits<T>::infinity();
  CHECK(reproducible_exp(T{0}) == 1);
  CHECK(reproducible_exp(T{-0.0}) == 1);
  CHECK(reproducible_exp(lowest) >= std::numeric_limits<T>::min());
  CHECK(reproducible_exp(std::nextafter(lowest, -inf)) == 0);
  CHECK(reproducible_exp(-inf) == 0);
  CHECK(std::isfinite(reproducible_exp(highest)));
  CHECK(reproducible_exp(std::nextafter(highest, inf)) == inf);
  CHECK(reproducible_exp(inf) == inf);
  CHECK(std::isnan(reproducible_exp(std::numeric_limits<T>::quiet_NaN())));
}

}  // namespace

TEST_CASE("exp: within 2 ulp of the value in 60 digits") {
  for (auto const& g : golden("kernels", "exp"))
    if (g["type"] == "float32")
      within_2_ulp<float>(g);
    else
      within_2_ulp<double>(g);
}

TEST_CASE("exp: the same bits at every level, in lanes and alone") {
  same_bits_at_every_level<float>(-87.0f, 2064957643926859752u);
  same_bits_at_every_level<double>(-708.0, 10122769615554070150u);
}

TEST_CASE("exp: ends of the range, NaN") {
  ends_of_the_range<float>(-87.0f, 88.0f);
  ends_of_the_range<double>(-708.0, 709.0);
}

TEST_CASE("exp: does not decrease where the range is cut into pieces") {
  // Around the odd multiples of ln(2) / 2 the reduction changes the integer part.
  for (int k = -20; k < 20; ++k) {
    double const middle = (k + 0.5) * std::log(2.0);
    double x = middle * (1 - 1e-13), last = reproducible_exp(x);
    for (int i = 0; i < 200; ++i) {
      x = std::nextafter(x, 1e9);
      double const y = reproducible_exp(x);
      CHECK(y >= last * (1 - 0x1p-51));
      last = y;
    }
  }
}
