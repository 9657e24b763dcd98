// SPDX-License-Identifier: Apache-2.0
#include <moeroute/density/bandwidth.hpp>
#include <moeroute/numeric/random.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"
#include "support/normal.hpp"

using namespace moeroute;

namespace {

using numbers = std::vector<double>;
constexpr double infinite = std::numeric_limits<double>::infinity();

numbers normals(std::uint64_t id, int n) {
  random_stream random(11, 1, id);
  numbers x;
  for (int i = 0; i < n; ++i) x.push_back(normal(random));
  return x;
}

}  // namespace

TEST_CASE("bandwidth: rules and selectors equal scipy, statsmodels and the published equations") {
  for (auto const& g : golden("density", "bandwidths")) {
    CAPTURE(g["label"].get<std::string>());
    auto const x = g["x"].get<numbers>();
    CHECK(close(scott_bandwidth(x), g["scott"], 1e-13));
    CHECK(close(silverman_bandwidth(x), g["silverman"], 1e-13));
    CHECK(close(normal_reference_bandwidth(x) / g["normal_reference"].get<double>(), 1,
                2e-5));  // statsmodels rounds 1.349
    CHECK(close(published_pipeline_bandwidth(x), g["published"], 1e-13));
    if (!g["sheather_jones"].is_null()) {
      auto const sj = sheather_jones_bandwidth(x);
      CHECK(sj.converged);
      CAPTURE(sj.bandwidth / g["sheather_jones"].get<double>() - 1);
      CHECK(close(sj.bandwidth / g["sheather_jones"].get<double>(), 1, x.size() <= 512 ? 1e-9 : 3e-5));
    }
    auto const isj = improved_sheather_jones_bandwidth(x);
    CHECK(isj.converged);
    CHECK(close(isj.bandwidth / g["improved_sheather_jones"].get<double>(), 1, 1e-9));
    if (!g.contains("likelihood")) continue;
    for (auto const& [kind, name] :
         {std::pair(kernel_kind::gaussian, "gaussian"), std::pair(kernel_kind::exponential, "exponential"),
          std::pair(kernel_kind::epanechnikov, "epanechnikov")}) {
      auto const found = likelihood_bandwidth(x, kind);
      CHECK(found.converged);
      // The likelihood is flat at its maximum: 1e-7 in h is 1e-14 in it. That of a compact kernel has corners.
      CAPTURE(found.bandwidth / g["likelihood"][name].get<double>() - 1);
      CHECK(close(found.bandwidth / g["likelihood"][name].get<double>(), 1,
                  kind == kernel_kind::epanechnikov ? 2e-3 : 3e-6));
    }
  }
}

TEST_CASE("bandwidth: by hand") {
  numbers const x{1, 2, 3, 4, 5};
  double const sd = std::sqrt(2.5), fifth = std::pow(5, -0.2);
  CHECK(scott_bandwidth(x) == doctest::Approx(sd * fifth).epsilon(1e-15));
  CHECK(silverman_bandwidth(x) == doctest::Approx(0.9 * 2 / 1.34 * fifth).epsilon(1e-15));  // IQR 2 is the smaller
  CHECK(normal_reference_bandwidth(x) ==
        doctest::Approx(std::pow(4.0 / 3, 0.2) * 2 / 1.3489795003921634 * fifth).epsilon(1e-15));
  CHECK(published_pipeline_bandwidth(x) == doctest::Approx(1.06 * std::sqrt(2.0) * fifth).epsilon(1e-15));
  CHECK(cdf_bandwidth(x) == doctest::Approx(std::cbrt(4.0 / 5) * 2 / 1.3489795003921634).epsilon(1e-15));
  CHECK(rescale_bandwidth(0.5, 3200, 100) == doctest::Approx(1).epsilon(1e-15));
  CHECK(convert_bandwidth(1, kernel_kind::gaussian, kernel_kind::epanechnikov) ==
        doctest::Approx(1.7188 / 0.7764).epsilon(1e-4));
  CHECK(convert_bandwidth(0.3, kernel_kind::cosine, kernel_kind::cosine) == 0.3);
  // More than half of the values equal: the IQR is 0 and says nothing.
  CHECK(silverman_bandwidth(numbers{0, 0, 0, 0, 0, 1}) ==
        doctest::Approx(0.9 * std::sqrt(1.0 / 6) * std::pow(6, -0.2)));
}

TEST_CASE("bandwidth: what no bandwidth can be found for") {
  for (auto const& x : {numbers{}, numbers{2}, numbers{3, 3, 3}, numbers{quiet_nan, infinite}, numbers{1, quiet_nan},
                        numbers{0, 1e-300}, numbers{-1e300, 1e300}}) {
    for (double const h : {scott_bandwidth(x), silverman_bandwidth(x), normal_reference_bandwidth(x), cdf_bandwidth(x)})
      CHECK(std::isnan(h));
    for (auto const& r : {sheather_jones_bandwidth(x), improved_sheather_jones_bandwidth(x), likelihood_bandwidth(x)}) {
      CHECK(std::isnan(r.bandwidth));
      CHECK(!r.converged);
    }
  }
  CHECK(std::isnan(published_pipeline_bandwidth(numbers{quiet_nan})));
  CHECK(published_pipeline_bandwidth(numbers{4, 4}) == 1);
  numbers const x{1, quiet_nan, 5, 2, infinite, 3, 4};
  CHECK(silverman_bandwidth(x) == silverman_bandwidth(numbers{1, 2, 3, 4, 5}));
  CHECK_THROWS_AS(convert_bandwidth(1, static_cast<kernel_kind>(50), kernel_kind::gaussian), argument_error);
  CHECK_THROWS_WITH(rescale_bandwidth(1, 5, 0), "moeroute::rescale_bandwidth: n = 5, effective = 0, must be positive");
}

TEST_CASE("bandwidth: ties and outliers fall back where an equation has no solution, and say so") {
  numbers ties;
  for (int i = 0; i < 600; ++i) ties.push_back(i % 3);
  auto const found = likelihood_bandwidth(ties);
  CHECK(!found.converged);
  CHECK(found.bandwidth == silverman_bandwidth(ties));
  CHECK(!likelihood_bandwidth(ties, kernel_kind::tophat).converged);
  for (auto const& x :
       {ties, numbers{0, 0, 0, 0, 1}, numbers{0, 1}, numbers{0, 1e-150}, numbers{-1e150, 0, 1, 2, 1e150}})
    for (auto const& r : {sheather_jones_bandwidth(x), improved_sheather_jones_bandwidth(x)}) {
      CHECK(r.bandwidth > 0);
      if (!r.converged) CHECK(r.bandwidth == silverman_bandwidth(x));
    }
  auto x = normals(3, 3000);
  x.push_back(1e12);  // 1e13 cells away from the rest
  auto const sj = sheather_jones_bandwidth(x);
  CHECK(sj.converged);
  x.pop_back();
  CHECK(sj.bandwidth == doctest::Approx(sheather_jones_bandwidth(x).bandwidth).epsilon(0.01));
}

TEST_CASE("bandwidth: scales with the data, ignores where they are and in what order") {
  auto const x = normals(1, 700);
  numbers moved, reversed(x.rbegin(), x.rend());
  for (double const v : x) moved.push_back(8 * v + 16);
  auto const rules = [](numbers const& v) {
    return numbers{scott_bandwidth(v),
                   silverman_bandwidth(v),
                   normal_reference_bandwidth(v),
                   published_pipeline_bandwidth(v),
                   cdf_bandwidth(v),
                   sheather_jones_bandwidth(v).bandwidth,
                   improved_sheather_jones_bandwidth(v).bandwidth,
                   likelihood_bandwidth(v).bandwidth};
  };
  auto const a = rules(x), b = rules(moved), c = rules(reversed);
  for (std::size_t i = 0; i < a.size(); ++i) {
    CAPTURE(i);
    CHECK(b[i] == doctest::Approx(8 * a[i]).epsilon(i < 5 ? 1e-13 : 1e-4));
    CHECK(c[i] == doctest::Approx(a[i]).epsilon(1e-12));
  }
  // All of them near the best for a normal law, 1.06 sd n^(-1/5) for densities.
  for (std::size_t i = 0; i < a.size(); ++i)
    if (i != 4) CHECK(a[i] == doctest::Approx(1.06 * std::pow(700, -0.2)).epsilon(0.35));
  for_each_vector(std::vector<float>{1, 2, 5, 9}, [](char const* name, auto const& v) {
    CAPTURE(name);
    CHECK(silverman_bandwidth(v) == silverman_bandwidth(numbers{1, 2, 5, 9}));
  });
}

TEST_CASE("bandwidth: two bumps want less than the normal rules give, and the plug-in rules see it") {
  auto x = normals(4, 600);
  for (std::size_t i = 0; i < x.size(); i += 2) x[i] += 12;
  double const alone = 1.06 * std::pow(300, -0.2);  // best for one of the bumps
  CHECK(silverman_bandwidth(x) > 4 * alone);
  CHECK(sheather_jones_bandwidth(x).bandwidth < 1.6 * alone);
  CHECK(improved_sheather_jones_bandwidth(x).bandwidth < 1.3 * alone);
  CHECK(likelihood_bandwidth(x).bandwidth < 1.3 * alone);
}

TEST_CASE("effective_sample_size: identical tokens count once, independent ones all") {
  numbers x;
  std::vector<std::int64_t> offsets{0};
  auto const values = normals(5, 40);
  for (double const v : values) {
    for (int i = 0; i < 25; ++i) x.push_back(v);
    offsets.push_back(static_cast<std::int64_t>(x.size()));
  }
  // 40 documents of 25 copies: deff = 25 * 40/39 * 999/1000.
  CHECK(effective_sample_size(x, offsets) == doctest::Approx(1000 / (25.0 * 40 / 39 * 999 / 1000)).epsilon(1e-12));
  double mean = 0;
  for (std::uint64_t id = 0; id < 40; ++id) mean += effective_sample_size(normals(100 + id, 1000), offsets) / 40;
  CHECK(mean > 850);
  CHECK(mean <= 1000);
  // Documents that are more alike than chance are worth no more than their values.
  numbers balanced;
  std::vector<std::int64_t> pairs{0};
  for (int d = 0; d < 30; ++d) {
    balanced.insert(balanced.end(), {-1, 1});
    pairs.push_back(2 * d + 2);
  }
  CHECK(effective_sample_size(balanced, pairs) == 60);
  // Documents that differ in spread alone: the mean would not see it.
  auto spread = normals(6, 1000);
  for (std::size_t i = 0; i < spread.size(); ++i) spread[i] *= i / 25 % 2 == 0 ? 0.1 : 10;
  CHECK(effective_sample_size(spread, offsets) < 400);
  // An empty document changes nothing, monotone transformations neither.
  auto with_empty = offsets;
  with_empty.insert(with_empty.begin() + 3, with_empty[3]);
  auto cubed = spread;
  for (auto& v : cubed) v = v * v * v;
  CHECK(effective_sample_size(spread, with_empty) == effective_sample_size(spread, offsets));
  CHECK(effective_sample_size(cubed, offsets) == doctest::Approx(effective_sample_size(spread, offsets)).epsilon(0.02));
}

TEST_CASE("effective_sample_size: bad input") {
  using cuts = std::vector<std::int64_t>;
  numbers const x{1, 2, 3, 4};
  CHECK(std::isnan(effective_sample_size(x, cuts{0, 4})));
  CHECK(std::isnan(effective_sample_size(numbers{1, 1}, cuts{0, 1, 2})));
  CHECK(std::isnan(effective_sample_size(numbers{}, cuts{0, 0, 0})));
  for (auto const& c : {cuts{}, cuts{0}, cuts{0, 3}, cuts{1, 4}, cuts{0, 3, 2, 4}})
    CHECK_THROWS_AS(effective_sample_size(x, c), shape_error);
  CHECK_THROWS_WITH(effective_sample_size(x, cuts{0, 2}),
                    "moeroute::effective_sample_size: offsets do not run from 0 to 4");
  CHECK_THROWS_AS(effective_sample_size(numbers{1, quiet_nan}, cuts{0, 1, 2}), argument_error);
}

TEST_SUITE("slow") {
  TEST_CASE("bandwidth: cdf_bandwidth is near the minimum of the integrated squared error of the CDF, 2000 samples") {
    int const n = 100;
    double const factors[] = {0.4, 1, 1.8};
    double error[3] = {};
    numbers y;
    for (int i = -40; i <= 40; ++i) y.push_back(i / 10.0);
    for (std::uint64_t id = 0; id < 2000; ++id) {
      auto const x = normals(1000 + id, n);
      auto const sample = kde_of(x);
      double const h = cdf_bandwidth(x);
      for (int f = 0; f < 3; ++f) {
        auto const p = sample.estimate(kernel_kind::gaussian, factors[f] * h).cdf(y);
        for (std::size_t i = 0; i < y.size(); ++i) {
          double const e = p[i] - gaussian_kernel::cdf(y[i]);
          error[f] += e * e;
        }
      }
    }
    CHECK(error[1] < error[0]);
    CHECK(error[1] < error[2]);
  }
}
