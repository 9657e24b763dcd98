// SPDX-License-Identifier: Apache-2.0
#include <moeroute/density/cell_density.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include <doctest/doctest.h>

using namespace moeroute;

namespace {

constexpr kernel_kind all_kernels[] = {kernel_kind::gaussian,   kernel_kind::epanechnikov, kernel_kind::tophat,
                                       kernel_kind::triangular, kernel_kind::biweight,     kernel_kind::triweight,
                                       kernel_kind::cosine,     kernel_kind::exponential,  kernel_kind::logistic};

double pdf_of(kernel_kind kind, double u) {
  return visit_kernel(kind, [u](auto k) { return k.pdf(u); });
}
double survival_of(kernel_kind kind, double u) {
  return visit_kernel(kind, [u](auto k) { return k.survival(u); });
}

}  // namespace

TEST_CASE("cell_density: by hand") {
  // Epanechnikov, h = 2, y = 0. A known value at 1: K(-1/2) = 9/16. A cell [0, 0.4] with mean 0.1: concave there,
  // between the chord 3/4 K(0) + 1/4 K(0.2) = 0.7425 and K(0.05) = 0.748125.
  cell_density const d({{1, 1, 1, 1, 1}, {0, 0.4, 0.1, 0.1, 3}}, kernel_kind::epanechnikov, 2);
  auto const f = d.pdf(0);
  CHECK(f.lo == doctest::Approx((0.5625 + 3 * 0.7425) / 8).epsilon(1e-13));
  CHECK(f.hi == doctest::Approx((0.5625 + 3 * 0.748125) / 8).epsilon(1e-13));
  CHECK(f.value == f.hi / (1 + 0) - (f.hi - f.value));
  CHECK(f.value == doctest::Approx(f.hi).epsilon(1e-13));
  // Survival of tophat, (1 - u)/2 in |u| < 1, is linear: Jensen and chord agree. Mean of (1 + 0.5)/2 and three times
  // (1 + 0.05)/2.
  auto const s = cell_density(d.cells(), kernel_kind::tophat, 2).survival(0);
  CHECK(s.value == doctest::Approx((0.75 + 3 * 0.525) / 4));
  CHECK(s.hi - s.lo < 6e-15);
  // The mean itself known to lie between 0.1 and 0.3: the value is that of its middle, since this survival is linear.
  auto const vague = cell_density({{0, 0.4, 0.1, 0.3, 1}}, kernel_kind::tophat, 2).survival(0);
  CHECK(vague.value == doctest::Approx((1 + 0.1) / 2).epsilon(1e-14));
  CHECK(vague.lo == doctest::Approx((1 + 0.05) / 2).epsilon(1e-14));
  CHECK(vague.hi == doctest::Approx((1 + 0.15) / 2).epsilon(1e-14));
  // y inside the cell: the survival function bends at 0, so only its values at the ends bound it.
  auto const b = cell_density({{-1, 1, 0, 0, 1}}, kernel_kind::tophat, 4).survival(0);
  CHECK(b.lo == doctest::Approx(0.375));
  CHECK(b.hi == doctest::Approx(0.625));
  // log p of one known value, three sd below y.
  auto const p = cell_density({{0, 0, 0, 0, 1}}, kernel_kind::gaussian, 0.5).p_value(1.5);
  CHECK(p.log_p == doctest::Approx(std::log(0.5 * std::erfc(3 / std::sqrt(2)))).epsilon(1e-14));
  CHECK(p.extrapolated);
  CHECK_FALSE(cell_density({{0, 0, 0, 0, 1}}, kernel_kind::gaussian, 0.5).p_value(0).extrapolated);
  CHECK(cell_density({{0, 0, 0, 0, 1}}, kernel_kind::gaussian, 0.5).p_value(-1, tail_side::lower).extrapolated);
}

TEST_CASE("cell_density: holds whatever the values in the cells are, and no bound is wasted") {
  std::mt19937_64 random(2);
  auto const uniform = [&] { return static_cast<double>(random() >> 11) * 0x1p-53; };
  for (auto const kind : all_kernels)
    for (int round = 0; round < 400; ++round) {
      // Two cells of some values each: anywhere, all at the mean, or all at the ends.
      double const h = std::pow(10, uniform() * 2 - 1), y = 3 * uniform() - 1.5;
      std::vector<density_cell> cells;
      std::vector<double> x;
      int const how = round % 3;
      for (double const lo : {-0.6, 0.3}) {
        double const hi = lo + 0.05 + 0.6 * uniform();
        std::uint64_t const n = 1 + random() % 5;
        double sum = 0;
        double const middle = lo + (hi - lo) * uniform();
        for (std::uint64_t i = 0; i < n; ++i) {
          double const v = how == 0 ? lo + (hi - lo) * uniform() : how == 1 ? middle : uniform() < 0.5 ? lo : hi;
          x.push_back(v);
          sum += v;
        }
        double const mean = sum / static_cast<double>(n);
        cells.push_back({lo, hi, std::max(lo, mean - 1e-15), std::min(hi, mean + 1e-15), n});
      }
      cell_density const d(cells, kind, h);
      double pdf = 0, survival = 0;
      for (double const v : x) pdf += pdf_of(kind, (y - v) / h) / h, survival += survival_of(kind, (y - v) / h);
      pdf /= static_cast<double>(x.size()), survival /= static_cast<double>(x.size());
      auto const f = d.pdf(y), s = d.survival(y), c = d.cdf(y);
      INFO("kernel " << static_cast<int>(kind) << " y " << y << " h " << h << " round " << round);
      double const slack = 1e-14 / h;
      CHECK(f.lo <= pdf + slack);
      CHECK(pdf - slack <= f.hi);
      CHECK(s.lo <= survival + 1e-14);
      CHECK(survival - 1e-14 <= s.hi);
      CHECK(c.lo <= 1 - survival + 1e-14);
      CHECK(1 - survival - 1e-14 <= c.hi);
      // Away from bends one bound is reached by all values at the mean, the other by values at the ends.
      bool bends = false;
      for (auto const& cell : cells) bends = bends || (y - cell.lo) * (y - cell.hi) < 0;
      if (!bends && how != 0)
        CHECK(std::min(std::abs(s.lo - survival), std::abs(s.hi - survival)) <=
              1e-13 + (y < 0.3 && y > -0.6 ? 1.0 : 0.0));
    }
}

TEST_CASE("cell_density: cells without values, and none at all") {
  cell_density const d({{0, 1, 0.5, 0.5, 0}, {5, 5, 5, 5, 2}}, kernel_kind::gaussian, 1);
  CHECK(d.cells().size() == 1);
  CHECK(d.count() == 2);
  CHECK(d.pdf(5).value == doctest::Approx(0.3989422804));
  CHECK(std::isnan(cell_density({}, kernel_kind::gaussian, 1).pdf(0).hi));
  CHECK(std::isnan(cell_density({}, kernel_kind::gaussian, 1).p_value(0).log_p));
}
