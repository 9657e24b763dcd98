// SPDX-License-Identifier: Apache-2.0
#include <moeroute/density/kernel.hpp>

#include <cmath>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "support/golden.hpp"

using namespace moeroute;

namespace {

constexpr kernel_kind every_kernel[] = {kernel_kind::gaussian,   kernel_kind::epanechnikov, kernel_kind::tophat,
                                        kernel_kind::triangular, kernel_kind::biweight,     kernel_kind::triweight,
                                        kernel_kind::cosine,     kernel_kind::exponential,  kernel_kind::logistic};
constexpr double infinite = std::numeric_limits<double>::infinity();

template <class F>
void for_each_kernel(F const& f) {
  for (auto const kind : every_kernel) visit_kernel(kind, f);
}

// A value that underflows has no entry.
bool near(double ours, nlohmann::json const& expected, double tolerance) {
  if (expected.is_null()) return std::abs(ours) < 3e-308;
  double const e = expected.get<double>();
  return std::abs(ours - e) <= tolerance * std::abs(e);
}
bool near_log(double ours, nlohmann::json const& expected, double tolerance) {
  if (expected.is_null()) return ours == -infinite;
  double const e = expected.get<double>();
  return std::abs(ours - e) <= tolerance * (1 + std::abs(e));
}

}  // namespace

TEST_CASE("kernel: pdf, survival, logarithms and constants equal mpmath") {
  auto const cases = golden("density", "kernels");
  CHECK(cases.size() == std::size(every_kernel));
  for (auto const& g : cases)
    for_each_kernel([&](auto k) {
      if (g["name"] != k.name) return;
      CAPTURE(k.name);
      CHECK(near(k.second_moment, g["second_moment"], 4e-16));
      CHECK(near(k.roughness, g["roughness"], 4e-16));
      CHECK(near(k.canonical_factor(), g["canonical_factor"], 4e-16));
      for (auto const& p : g["points"]) {
        double const u = p["u"];
        CAPTURE(u);
        double const tolerance = k.kind == kernel_kind::gaussian ? 4e-15 : 1e-15;
        CHECK(near(k.pdf(u), p["pdf"], 1e-15));
        CHECK(near(k.survival(u), p["survival"], tolerance));
        CHECK(near(k.cdf(-u), p["survival"], tolerance));
        CHECK(near_log(k.log_pdf(u), p["log_pdf"], 1e-15));
        CHECK(near_log(k.log_survival(u), p["log_survival"], tolerance));
        CHECK(near_log(k.log_cdf(-u), p["log_survival"], tolerance));
      }
    });
}

TEST_CASE("kernel: the Lipschitz constants bound slope and curvature, and no tighter ones would") {
  for (auto const& g : golden("density", "kernels"))
    for_each_kernel([&](auto k) {
      if (g["name"] != k.name) return;
      CAPTURE(k.name);
      double const slope = g["slope"], curvature = g["curvature"];  // largest on a grid, hence below the constants
      CHECK(slope <= k.max_slope * (1 + 1e-12));
      CHECK((k.max_slope == infinite || slope > 0.99 * k.max_slope));
      CHECK(curvature <= k.max_curvature * (1 + 1e-12));
      CHECK((k.max_curvature == infinite || curvature > 0.99 * k.max_curvature));
    });
}

TEST_CASE("kernel: edges are open, distribution functions reach 0 and 1 there") {
  for_each_kernel([](auto k) {
    CAPTURE(k.name);
    double const inside = std::nextafter(1.0, 0.0), outside = std::nextafter(1.0, 2.0);
    if (k.support == infinite) {
      CHECK(k.pdf(outside) > 0);
      CHECK(k.log_survival(1e6) > -infinite);
      CHECK(k.log_survival(1e6) < -9e5);
    } else {
      CHECK(k.support == 1);
      CHECK(k.pdf(inside) > 0);
      for (double const u : {1.0, outside, 7.0, infinite})
        for (double const v : {u, -u}) {
          CHECK(k.pdf(v) == 0);
          CHECK(k.log_pdf(v) == -infinite);
          CHECK(k.survival(v) == (v > 0 ? 0 : 1));
          CHECK(k.cdf(v) == (v > 0 ? 1 : 0));
          CHECK(k.log_survival(v) == (v > 0 ? -infinite : 0));
        }
    }
    CHECK(k.pdf(infinite) == 0);
    CHECK(k.log_pdf(-infinite) == -infinite);
    CHECK(k.survival(infinite) == 0);
    CHECK(k.survival(-infinite) == 1);
    CHECK(k.log_survival(infinite) == -infinite);
    CHECK(k.log_survival(-infinite) == 0);
    for (double const v :
         {k.pdf(quiet_nan), k.log_pdf(quiet_nan), k.survival(quiet_nan), k.log_survival(quiet_nan), k.cdf(quiet_nan)})
      CHECK(std::isnan(v));
  });
  CHECK(tophat_kernel::pdf(std::nextafter(1.0, 0.0)) == 0.5);
}

TEST_CASE("kernel: by hand") {
  CHECK(epanechnikov_kernel::pdf(0.5) == 0.5625);
  CHECK(epanechnikov_kernel::survival(0.5) == 0.15625);
  CHECK(triangular_kernel::pdf(-0.25) == 0.75);
  CHECK(triangular_kernel::survival(-0.25) == 1 - 0.28125);
  CHECK(biweight_kernel::pdf(0) == 0.9375);
  CHECK(biweight_kernel::survival(0.5) == 0.103515625);
  CHECK(triweight_kernel::survival(0) == 0.5);
  CHECK(exponential_kernel::survival(std::numbers::ln2) == doctest::Approx(0.25).epsilon(1e-15));
  CHECK(logistic_kernel::pdf(0) == 0.25);
  // Table 1 of Marron and Nolan prints four digits.
  CHECK(gaussian_kernel::canonical_factor() == doctest::Approx(0.7764).epsilon(1e-4));
  CHECK(epanechnikov_kernel::canonical_factor() == doctest::Approx(1.7188).epsilon(1e-4));
  CHECK(tophat_kernel::canonical_factor() == doctest::Approx(1.3510).epsilon(1e-4));
  CHECK(triweight_kernel::canonical_factor() == doctest::Approx(2.3122).epsilon(1e-4));
}

TEST_CASE("kernel: survival is monotone, from 1 to 0, and pdf is its slope") {
  for_each_kernel([](auto k) {
    CAPTURE(k.name);
    double before = 1;
    for (int i = -4000; i <= 4000; ++i) {
      double const u = i / 100.0, s = k.survival(u);
      CHECK(s <= before * (1 + 1e-15));
      before = s;
      double const slope = (k.survival(u - 1e-5) - k.survival(u + 1e-5)) / 2e-5;
      bool const at_edge = std::abs(std::abs(u) - 1) < 1e-4 || std::abs(u) < 1e-4;
      if (!at_edge) CHECK(std::abs(slope - k.pdf(u)) < 1e-9);
    }
  });
}

TEST_CASE("visit_kernel: gives each kernel its own type, and refuses what is none") {
  for (auto const kind : every_kernel) CHECK(visit_kernel(kind, [](auto k) { return k.kind; }) == kind);
  CHECK_THROWS_AS(visit_kernel(static_cast<kernel_kind>(9), [](auto k) { return k.pdf(0); }), argument_error);
  CHECK_THROWS_WITH(visit_kernel(static_cast<kernel_kind>(-1), [](auto k) { return k.pdf(0); }),
                    "moeroute::visit_kernel: kind = -1 is no kernel");
}
