// SPDX-License-Identifier: Apache-2.0
#include <moeroute/density/kde.hpp>
#include <moeroute/numeric/random.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"
#include "support/laws.hpp"
#include "support/normal.hpp"

using namespace moeroute;

namespace {

using numbers = std::vector<double>;
constexpr double infinite = std::numeric_limits<double>::infinity();
constexpr kernel_kind every_kernel[] = {kernel_kind::gaussian,   kernel_kind::epanechnikov, kernel_kind::tophat,
                                        kernel_kind::triangular, kernel_kind::biweight,     kernel_kind::triweight,
                                        kernel_kind::cosine,     kernel_kind::exponential,  kernel_kind::logistic};

bool is_compact(kernel_kind kind) {
  return visit_kernel(kind, [](auto k) { return k.support < infinite; });
}
std::string name_of(kernel_kind kind) {
  return visit_kernel(kind, [](auto k) { return std::string(k.name); });
}

// Three bumps, a gap of many bandwidths, a hard edge and ties.
numbers sample(std::uint64_t seed, int n) {
  random_stream random(7, 1, seed);
  numbers x;
  for (int i = 0; i < n; ++i) {
    double const u = random.uniform();
    if (u < 0.5)
      x.push_back(-1 + 0.6 * normal(random));
    else if (u < 0.8)
      x.push_back(1.5 + random.uniform());
    else if (u < 0.9)
      x.push_back(std::round(normal(random) * 8) / 8);
    else
      x.push_back(14 + 0.3 * normal(random));
  }
  return x;
}

// The definition, term by term. Extended precision and kernel values by the kernel's own functions, which
// kernel_test.cpp compares with mpmath.
struct direct_sum {
  long double pdf = 0, below = 0, above = 0;
};
direct_sum direct(kernel_kind kind, numbers const& x, numbers const& w, double h, double y) {
  return visit_kernel(kind, [&](auto k) {
    direct_sum s;
    long double total = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      double const u = (y - x[i]) / h, weight = w.empty() ? 1.0 : w[i];
      s.pdf += static_cast<long double>(weight) * k.pdf(u);
      s.below += static_cast<long double>(weight) * k.cdf(u);
      s.above += static_cast<long double>(weight) * k.survival(u);
      total += weight;
    }
    s.pdf /= total * h;
    s.below /= total;
    s.above /= total;
    return s;
  });
}

double relative(double a, long double b) { return static_cast<double>(std::abs(a - b) / b); }

// Compares at m places; the tolerances are the documented ones.
void compare_with_direct(kernel_kind kind, numbers const& x, numbers const& w, double h, numbers const& y) {
  kde sample;
  if (w.empty())
    sample.update(x);
  else
    sample.update(x, w);
  auto const density = sample.estimate(kind, h);
  auto const pdf = density.pdf(y), below = density.cdf(y), above = density.survival(y),
             log_above = density.log_survival(y);
  std::vector<direct_sum> exact;
  long double peak = 0;
  for (double const v : y) {
    exact.push_back(direct(kind, x, w, h, v));
    peak = std::max(peak, exact.back().pdf);
  }
  for (std::size_t i = 0; i < y.size(); ++i) {
    CAPTURE(name_of(kind));
    CAPTURE(y[i]);
    auto const& e = exact[i];
    if (is_compact(kind)) {
      CHECK(std::abs(pdf[i] - e.pdf) <= 1e-13L * peak);
      if (e.pdf == 0) CHECK(pdf[i] == 0);
      if (e.pdf > 0) CHECK(pdf[i] > 0);
    } else if (e.pdf > 1e-300L) {
      CHECK(relative(pdf[i], e.pdf) <= 1e-12);
    } else {
      CHECK(pdf[i] < 1.1e-300);
    }
    CHECK(std::abs(below[i] - e.below) <= 1e-14);
    CHECK(std::abs(above[i] - e.above) <= 1e-14);
    if (e.above > 1e-300L && (!is_compact(kind) || e.above > 1e-10L))
      CHECK(std::abs(log_above[i] - std::log(e.above)) <= 2e-12);
  }
}

numbers grid(double low, double high, int n) {
  numbers y;
  for (int i = 0; i < n; ++i) y.push_back(low + (high - low) * i / (n - 1));
  return y;
}

}  // namespace

TEST_CASE("kde: equals mpmath's direct sum in the body, in gaps and in far tails") {
  for (auto const& g : golden("density", "sums")) {
    auto const x = g["x"].get<numbers>();
    kde sample;
    if (g["w"].is_null())
      sample.update(x);
    else
      sample.update(x, g["w"].get<numbers>());
    double const h = g["h"];
    for (auto const& k : g["kernels"])
      for (auto const kind : every_kernel) {
        if (k["name"] != name_of(kind)) continue;
        CAPTURE(g["label"].get<std::string>());
        CAPTURE(name_of(kind));
        auto const density = sample.estimate(kind, h);
        double peak = 0;
        for (auto const& row : k["rows"])
          if (!row[1].is_null()) peak = std::max(peak, row[1].get<double>());
        for (auto const& row : k["rows"]) {
          double const y = row[0], pdf = density.pdf(y);
          CAPTURE(y);
          if (row[2].is_null()) {
            CHECK(pdf == 0);
            CHECK(density.log_pdf(y) == -infinite);
          } else if (row[1].is_null()) {
            CHECK(pdf < 3e-308);
          } else {
            double const error = std::abs(pdf - row[1].get<double>());
            if (is_compact(kind)) {
              CHECK(error <= 1e-13 * peak);
            } else {
              CHECK(error <= 1e-12 * row[1].get<double>());
            }
          }
          // Down to 1e-300 as promised; beyond it the logarithm itself is the scale.
          auto const check_log = [&](double ours, nlohmann::json const& expected) {
            if (expected.is_null()) {
              CHECK(ours == -infinite);
              return;
            }
            double const e = expected, error = std::abs(ours - e);
            CHECK(error <= (e > -691 ? 2e-12 : 1e-14 * -e));
          };
          if (!is_compact(kind)) check_log(density.log_pdf(y), row[2]);
          if (is_compact(kind) && (row[3].is_null() || row[4].is_null() || row[3] < -25 || row[4] < -25)) continue;
          check_log(density.log_cdf(y), row[3]);
          check_log(density.log_survival(y), row[4]);
        }
      }
  }
}

TEST_CASE("kde: equals the direct sum on thousands of values, through boxes and chunks") {
  auto const x = sample(1, 6000);
  auto y = grid(-6, 20, 301);
  for (std::size_t i = 0; i < x.size(); i += 150) y.push_back(x[i]);  // on values and ties, out of order
  for (auto const kind : every_kernel)
    for (double const h : {0.7, 0.06}) compare_with_direct(kind, x, {}, h, y);
}

TEST_CASE("kde: equals the direct sum with weights, tiny and huge ones beside each other") {
  auto const x = sample(2, 3000);
  random_stream random(7, 2, 0);
  numbers w, y = grid(-5, 17, 97);
  for (double const v : x) w.push_back(v > 5 ? 1e-9 * random.uniform() : std::exp(6 * random.uniform()));
  for (auto const kind : every_kernel) compare_with_direct(kind, x, w, 0.3, y);
}

TEST_CASE("kde: only ratios of weights matter, at both ends of double's range") {
  auto const x = sample(4, 400);
  auto const y = grid(-9, 25, 61);
  random_stream random(7, 4, 0);
  numbers w, tiny, huge;
  for (std::size_t i = 0; i < x.size(); ++i) {
    w.push_back(1 + random.uniform());
    tiny.push_back(w.back() * 0x1p-1000);
    huge.push_back(w.back() * 0x1p1020);
  }
  for (auto const kind : every_kernel) {
    auto const estimate = [&](numbers const& weights) {
      kde k;
      k.update(x, weights);
      return k.estimate(kind, 0.3);
    };
    auto const one = estimate(w), small = estimate(tiny), large = estimate(huge);
    CHECK(small.log_pdf(y) == one.log_pdf(y));
    CHECK(large.pdf(y) == one.pdf(y));
    CHECK(small.log_survival(y) == one.log_survival(y));
    CHECK(large.log_cdf(y) == one.log_cdf(y));
  }
  // A weight beyond double's range beside the others is lost, and nothing with it.
  kde k, without;
  k.update(numbers{0, 1, 50}, numbers{0x1p1000, 0x1p1000, 0x1p-1074});
  without.update(numbers{0, 1});
  for (auto const kind : every_kernel)
    for (double const at : {-2.0, 0.5, 20.0, 49.5}) {
      auto const a = k.estimate(kind, 1), b = without.estimate(kind, 1);
      CHECK(std::abs(a.pdf(at) - b.pdf(at)) <= 1e-15);
      CHECK(std::abs(a.cdf(at) - b.cdf(at)) <= 1e-15);
      CHECK(!std::isnan(a.log_survival(at)));
    }
}

TEST_CASE("kde: equals the direct sum where h is far below the spacing and far above the range") {
  auto const x = sample(3, 500);
  auto const y = grid(-30, 40, 101);
  for (auto const kind : every_kernel)
    for (double const h : {1e-7, 1e3}) compare_with_direct(kind, x, {}, h, y);
  numbers far = x;
  far.push_back(1e12);  // too many boxes for a grid
  far.push_back(-1e300);
  for (auto const kind : every_kernel)
    compare_with_direct(kind, far, {}, 0.5, {-1e300, -3, 0, 0.3, 1.7, 14, 1e12 - 0.1, 1e12});
}

TEST_CASE("kde: values just inside and outside of an edge count as the definition says") {
  // Binary fractions: y - x = h exactly for many pairs, and the open support leaves them out.
  numbers x, y;
  for (int i = 0; i < 4000; ++i) x.push_back((i % 257) / 64.0);
  for (int i = -80; i < 350; ++i) y.push_back(i / 64.0);
  double const h = 0.25;
  auto const pdf = kde_of(x).estimate(kernel_kind::tophat, h).pdf(y);
  for (std::size_t j = 0; j < y.size(); ++j) {
    auto const inside = std::count_if(x.begin(), x.end(), [&](double v) { return std::abs(y[j] - v) < h; });
    CHECK(pdf[j] * 4000 * 2 * h == doctest::Approx(static_cast<double>(inside)).epsilon(1e-15));
    CHECK((pdf[j] == 0) == (inside == 0));
  }
  for (auto const kind : every_kernel) {
    if (!is_compact(kind)) continue;
    auto const density = kde_of(x).estimate(kind, h);
    CHECK(density.pdf(-h) == 0);
    CHECK(density.pdf(4 + h) == 0);
    CHECK(density.pdf(std::nextafter(-h, 0.0)) > 0);
    CHECK(density.cdf(-h) == 0);
    CHECK(density.survival(4 + h) == 0);
    CHECK(density.log_survival(4 + h) == -infinite);
  }
}

TEST_CASE("kde: by hand") {
  auto const two = kde_of(numbers{0, 1});
  auto const tophat = two.estimate(kernel_kind::tophat, 0.75);
  CHECK(tophat.pdf(0.5) == doctest::Approx(2 * 0.5 / (2 * 0.75)));
  CHECK(tophat.pdf(-0.5) == doctest::Approx(0.5 / (2 * 0.75)));
  CHECK(tophat.cdf(0.5) == 0.5);
  CHECK(tophat.kernel() == kernel_kind::tophat);
  CHECK(tophat.bandwidth() == 0.75);
  auto const one = kde_of(numbers{3}).estimate(kernel_kind::gaussian, 2);
  CHECK(one.pdf(3) == doctest::Approx(0.19947114020071635).epsilon(1e-15));
  CHECK(one.quantile(0.975) == doctest::Approx(3 + 2 * 1.959963984540054).epsilon(1e-14));
  CHECK(one.log_survival(3 + 2 * 40.0) == doctest::Approx(-804.608442013754).epsilon(1e-14));
}

TEST_CASE("kde: order of points, number of threads and instruction set") {
  auto const x = sample(4, 3000);
  auto y = grid(-6, 18, 5000);
  random_stream random(7, 3, 0);
  auto shuffled = y;
  for (std::size_t i = shuffled.size(); i > 1; --i)
    std::swap(shuffled[i - 1], shuffled[static_cast<std::size_t>(random.uniform() * static_cast<double>(i))]);
  shuffled[17] = quiet_nan;
  shuffled[40] = infinite;
  shuffled[41] = -infinite;
  for (auto const kind : every_kernel) {
    CAPTURE(name_of(kind));
    auto const density = kde_of(x).estimate(kind, 0.2);
    auto const pdf = density.pdf(y), cdf = density.cdf(y);
    CHECK(density.pdf(y, 3) == pdf);
    CHECK(density.cdf(y, 0) == cdf);
    auto const p = density.pdf(shuffled), c = density.cdf(shuffled), s = density.log_survival(shuffled);
    CHECK(std::isnan(p[17]));
    CHECK(std::isnan(c[17]));
    CHECK(p[40] == 0);
    CHECK(density.log_pdf(shuffled)[41] == -infinite);
    CHECK(c[40] == 1);
    CHECK(c[41] == 0);
    CHECK(s[40] == -infinite);
    CHECK(s[41] == 0);
    for (std::size_t i = 42; i < shuffled.size(); i += 7) {
      auto const at = static_cast<std::size_t>(std::lower_bound(y.begin(), y.end(), shuffled[i]) - y.begin());
      CHECK(close(p[i], pdf[at], 1e-13));
      CHECK(close(c[i], cdf[at], 1e-14));
    }
    for (auto const level : {simd_level::baseline, simd_level::avx2}) {
      detail::limit_simd_level(level);
      auto const other = kde_of(x).estimate(kind, 0.2);
      auto const q = other.log_pdf(y), log_pdf = density.log_pdf(y), d = other.cdf(y);
      detail::limit_simd_level(simd_level::avx512);
      auto const peak = *std::max_element(log_pdf.begin(), log_pdf.end());
      for (std::size_t i = 0; i < y.size(); ++i) {
        CHECK((q[i] == log_pdf[i] || std::abs(q[i] - log_pdf[i]) <= 1e-12 || (is_compact(kind) && q[i] < peak - 20)));
        CHECK(close(d[i], cdf[i], 1e-14));
      }
    }
  }
}

TEST_CASE("kde: a whole weight is so many copies, scaling and shifting by powers of two change nothing") {
  auto const x = sample(5, 400);
  numbers w, repeated, moved;
  for (std::size_t i = 0; i < x.size(); ++i) {
    w.push_back(static_cast<double>(i % 4));
    for (std::size_t j = 0; j < i % 4; ++j) repeated.push_back(x[i]);
    moved.push_back(x[i] * 0x1p-40);
  }
  auto const y = grid(-6, 18, 200);
  numbers scaled;
  for (double const v : y) scaled.push_back(v * 0x1p-40);
  kde weighted;
  weighted.update(x, w);
  CHECK(weighted.result().weightless == 100);
  CHECK(weighted.count() == 300);
  for (auto const kind : every_kernel) {
    CAPTURE(name_of(kind));
    auto const a = weighted.estimate(kind, 0.25).pdf(y), b = kde_of(repeated).estimate(kind, 0.25).pdf(y);
    auto const c = kde_of(x).estimate(kind, 0.25).pdf(y), d = kde_of(moved).estimate(kind, 0.25 * 0x1p-40).pdf(scaled);
    for (std::size_t i = 0; i < y.size(); ++i) {
      CHECK(close(a[i], b[i], 1e-14));
      CHECK(close(c[i], d[i] * 0x1p-40, 1e-14));
    }
  }
}

TEST_CASE("kde: cdf and survival add to 1, rise and fall, and pdf is their slope") {
  auto const x = sample(6, 2000);
  auto const y = grid(-7, 19, 2601);
  for (auto const kind : every_kernel) {
    CAPTURE(name_of(kind));
    auto const density = kde_of(x).estimate(kind, 0.3);
    auto const below = density.cdf(y), above = density.survival(y), pdf = density.pdf(y);
    auto const log_below = density.log_cdf(y);
    for (std::size_t i = 0; i < y.size(); ++i) {
      CHECK(std::abs(below[i] + above[i] - 1) <= 1e-15);
      if (below[i] > 0) CHECK(std::abs(std::exp(log_below[i]) / below[i] - 1) <= 1e-13);
      if (i > 0) CHECK(below[i] >= below[i - 1] - 1e-15);
    }
    if (kind == kernel_kind::tophat) continue;  // its slope jumps
    double integral = 0;
    for (std::size_t i = 0; i + 1 < y.size(); ++i) integral += (pdf[i] + pdf[i + 1]) / 2 * (y[i + 1] - y[i]);
    CHECK(integral == doctest::Approx(1).epsilon(1e-4));
  }
}

TEST_CASE("kde: quantile inverts the cdf, from 1e-300 to 1 - 1e-16, and gives the ends of the support") {
  auto const x = sample(7, 1000);
  numbers const p{0, 1e-300, 1e-12, 0.001, 0.25, 0.5, 0.8, 0.95, 1 - 1e-9, 1 - 0x1p-53, 1};
  auto const [low, high] = std::minmax_element(x.begin(), x.end());
  for (auto const kind : every_kernel) {
    CAPTURE(name_of(kind));
    double const h = 0.2;
    auto const density = kde_of(x).estimate(kind, h);
    auto const q = density.quantile(p);
    CHECK(q.front() == (is_compact(kind) ? *low - h : -infinite));
    CHECK(q.back() == (is_compact(kind) ? *high + h : infinite));
    CHECK(std::is_sorted(q.begin(), q.end()));
    for (std::size_t i = 1; i + 1 < p.size(); ++i) {
      CAPTURE(p[i]);
      // Rounding of y alone moves log p by slope * ulp(y).
      double const y = q[i], slack = 8e-16 * (std::abs(y) + h) * density.pdf(y);
      if (p[i] <= 0.5)
        CHECK(std::abs(density.cdf(y) - p[i]) <= slack + 4e-15 * p[i]);
      else
        CHECK(std::abs(density.survival(y) - (1 - p[i])) <= slack + 4e-15 * (1 - p[i]));
    }
  }
  // Between the clusters of a compact kernel the cdf is flat: the smallest y counts.
  auto const flat = kde_of(numbers{0, 10}).estimate(kernel_kind::epanechnikov, 1);
  CHECK(flat.quantile(0.5) == doctest::Approx(1).epsilon(1e-7));
  CHECK_THROWS_WITH_AS(flat.quantile(1.5), "moeroute::kernel_density::quantile: p = 1.5, must be in [0,1]",
                       argument_error);
  CHECK_THROWS_AS(flat.quantile(quiet_nan), argument_error);
}

TEST_CASE("kde: p-values hold the direct sum and say where they extrapolate") {
  auto const x = sample(9, 300);
  auto const [low, high] = std::minmax_element(x.begin(), x.end());
  numbers y = grid(*low - 3, *high + 11, 53);
  y.insert(y.end(), {*low, *high, quiet_nan});
  for (auto const kind : every_kernel) {
    auto const density = kde_of(x).estimate(kind, 0.3);
    for (auto const side : {tail_side::upper, tail_side::lower}) {
      auto const p = density.p_values(y, side);
      auto const log_p = side == tail_side::upper ? density.log_survival(y) : density.log_cdf(y);
      for (std::size_t i = 0; i + 1 < y.size(); ++i) {
        auto const d = direct(kind, x, {}, 0.3, y[i]);
        double const exact = static_cast<double>(std::log(side == tail_side::upper ? d.above : d.below));
        INFO(name_of(kind) << " at " << y[i]);
        CHECK(p[i].log_p == log_p[i]);
        CHECK(p[i].log_p_lo <= exact);
        CHECK(p[i].log_p_hi >= exact);
        CHECK((p[i].log_p_hi - p[i].log_p_lo < 1e-10 || is_compact(kind)));
        CHECK(p[i].extrapolated == (side == tail_side::upper ? y[i] > *high : y[i] < *low));
      }
      CHECK(std::isnan(p.back().log_p));
      CHECK_FALSE(p.back().extrapolated);
    }
  }
  CHECK_FALSE(kde().estimate(kernel_kind::gaussian, 1).p_value(0).extrapolated);
  // Reflected at a and b: S(y) - S(2b - y) + F(2a - y) - F(2a - b).
  double const a = *low - 0.1, b = *high + 0.2;
  for (auto const kind : every_kernel) {
    auto const density = kde_of(x).estimate(kind, 0.3, {a, b});
    auto const at = [&](double v) { return direct(kind, x, {}, 0.3, v); };
    for (double const v : grid(a, b - 1e-3, 17)) {
      auto const p = density.p_value(v);
      auto const exact =
          std::log(static_cast<double>(at(v).above - at(2 * b - v).above + at(2 * a - v).below - at(2 * a - b).below));
      CHECK(p.log_p_lo <= exact);
      CHECK(p.log_p_hi >= exact);
    }
  }
}

TEST_CASE("kde: reflection at bounds") {
  random_stream random(7, 4, 0);
  numbers x;
  for (int i = 0; i < 3000; ++i) x.push_back(random.uniform() * random.uniform());
  kde const unit = kde_of(x);
  auto const y = grid(0, 1, 4001);
  for (auto const kind : every_kernel)
    for (auto const bounds :
         {density_bounds{0, 1}, density_bounds{0, infinite}, density_bounds{-infinite, 1}, density_bounds{-0.5, 1.5}}) {
      CAPTURE(name_of(kind));
      double const h = 0.02;
      auto const density = unit.estimate(kind, h, bounds), open = unit.estimate(kind, h);
      auto const pdf = density.pdf(y), cdf = density.cdf(y), above = density.survival(y), log_pdf = density.log_pdf(y);
      for (std::size_t i = 0; i < y.size(); i += 10) {
        double expected = open.pdf(y[i]);
        if (bounds.lower > -infinite) expected += open.pdf(2 * bounds.lower - y[i]);
        if (bounds.upper < infinite) expected += open.pdf(2 * bounds.upper - y[i]);
        CHECK(close(pdf[i], expected, 1e-13));
        CHECK(std::abs(std::exp(log_pdf[i]) - pdf[i]) <= 1e-12 * (1 + pdf[i]));
        CHECK(std::abs(cdf[i] + above[i] - 1) <= 1e-14);
      }
      if (bounds.lower == 0) {
        CHECK(density.pdf(-1e-9) == 0);
        CHECK(density.log_pdf(-1) == -infinite);
        CHECK(density.cdf(0) == 0);
        CHECK(density.cdf(-3) == 0);
        CHECK(density.survival(-3) == doctest::Approx(1));
        CHECK(density.quantile(0) == 0);
      }
      if (bounds.upper == 1) {
        CHECK(density.survival(1) == 0);
        CHECK(density.quantile(1) == 1);
      }
      if (bounds.lower == 0 && bounds.upper == 1 && kind != kernel_kind::tophat) {
        double integral = 0;
        for (std::size_t i = 0; i + 1 < y.size(); ++i) {
          integral += (pdf[i] + pdf[i + 1]) / 2 * (y[i + 1] - y[i]);
          if (i % 500 == 0) CHECK(std::abs(integral - cdf[i + 1]) < 2e-4);
        }
        CHECK(integral == doctest::Approx(1).epsilon(2e-4));
        CHECK(density.cdf(density.quantile(0.3)) == doctest::Approx(0.3).epsilon(1e-12));
      }
      CHECK(std::isnan(density.pdf(quiet_nan)));
      CHECK(std::isnan(density.cdf(quiet_nan)));
    }
}

TEST_CASE("kde: accumulator laws") {
  auto x = sample(8, 500);
  x[3] = quiet_nan;
  x[9] = -infinite;
  x[11] = -0.0;
  x[12] = 0.0;
  auto const slice = [&](numbers const& v, index_t first, index_t last) {
    return vector_view<double>(v.data() + first, last - first);
  };
  law_case<kde> c{.options = {},
                  .other_options = {},
                  .documents = 500,
                  .feed = [&](kde& k, index_t first, index_t last) { k.update(slice(x, first, last)); },
                  .check_unequal_options = false};
  check_accumulator_laws(c);
  numbers w;
  for (std::size_t i = 0; i < x.size(); ++i) w.push_back(i % 7 == 0 ? 0.0 : static_cast<double>(i % 5) + 0.125);
  c.feed = [&](kde& k, index_t first, index_t last) { k.update(slice(x, first, last), slice(w, first, last)); };
  c.bad_updates = {[](kde& k) {
                     k.update(numbers{1, 2}, numbers{1});
                   },
                   [](kde& k) { k.update(numbers{1}, numbers{-1}); },
                   [](kde& k) {
                     k.update(numbers{1, 2}, numbers{1, quiet_nan});
                   },
                   [](kde& k) { k.update(numbers{1}, numbers{infinite}); }};
  check_accumulator_laws(c);
  c.feed = [&](kde& k, index_t first, index_t last) {  // some pieces with weights, some without
    if (first % 2 == 0)
      k.update(slice(x, first, last), numbers(static_cast<std::size_t>(last - first), 1.0));
    else
      k.update(slice(x, first, last));
  };
  check_accumulator_laws(c);
}

TEST_CASE("kde: result, containers and scalar types") {
  auto const empty = kde().result();
  CHECK(empty.count == 0);
  CHECK(std::isnan(empty.minimum));
  CHECK(std::isnan(kde().estimate(kernel_kind::gaussian, 1).pdf(0)));
  CHECK(std::isnan(kde().estimate(kernel_kind::tophat, 1).cdf(0)));
  CHECK(std::isnan(kde().estimate(kernel_kind::tophat, 1, {0, 1}).log_pdf(0.5)));
  CHECK(std::isnan(kde().estimate(kernel_kind::logistic, 1).quantile(0.5)));
  CHECK(kde().estimate(kernel_kind::logistic, 1).pdf(numbers{}).empty());
  kde k;
  k.update(numbers{2, quiet_nan, -1, 5}, numbers{1, 1, 2, 0});
  auto const r = k.result();
  CHECK(r.count == 2);
  CHECK(r.nonfinite == 1);
  CHECK(r.weightless == 1);
  CHECK(r.weight == 3);
  CHECK(r.effective_size == doctest::Approx(9.0 / 5));
  CHECK(r.minimum == -1);
  CHECK(r.maximum == 2);
  for_each_vector(numbers{0.5, -1, 2, 0.25}, [](char const* container, auto const& v) {
    CAPTURE(container);
    CHECK(kde_of(v) == kde_of(numbers{0.5, -1, 2, 0.25}));
    CHECK(kde_of(v).estimate(kernel_kind::gaussian, 1).pdf(v).size() == 4);
  });
  CHECK(kde_of(std::vector<bf16>{to_bf16(0.5f), to_bf16(-3)}) == kde_of(numbers{-3, 0.5}));
  CHECK(kde_of(std::vector<float>{0.1f}) == kde_of(numbers{static_cast<double>(0.1f)}));
}

TEST_CASE("kde: what cannot be estimated is refused") {
  auto const k = kde_of(numbers{0, 1, 2});
  for (double const h : {0.0, -1.0, quiet_nan, infinite, 1e-300, 1e300})
    CHECK_THROWS_AS(k.estimate(kernel_kind::gaussian, h), argument_error);
  CHECK_THROWS_WITH(k.estimate(kernel_kind::gaussian, -1),
                    "moeroute::kde::estimate: h = -1, must be positive, between 1e-290 and 1e290");
  CHECK_THROWS_AS(k.estimate(kernel_kind::gaussian, 1, {3, 2}), argument_error);
  CHECK_THROWS_AS(k.estimate(kernel_kind::gaussian, 1, {quiet_nan, 2}), argument_error);
  CHECK_THROWS_WITH(k.estimate(kernel_kind::gaussian, 1, {0, 1.5}),
                    "moeroute::kde::estimate: values from 0 to 2 are not all in [0, 1.5]");
  CHECK_THROWS_AS(k.estimate(static_cast<kernel_kind>(77), 1), argument_error);
}
