// SPDX-License-Identifier: Apache-2.0
#include <moeroute/density/streaming_kde.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"
#include "support/kernels.hpp"
#include "support/laws.hpp"

using namespace moeroute;

namespace {

double constexpr inf = std::numeric_limits<double>::infinity();

template <class T>
double as_double(T x) {
  return static_cast<double>(to_compute(x));
}

// A body, a small second group, values outside the grid if `wide`, NaN and infinities if `broken`.
template <class T>
std::vector<T> sample(std::size_t n, std::uint64_t seed, bool broken = false, bool wide = false) {
  plain_random random(seed);
  std::vector<T> x;
  for (std::size_t i = 0; i < n; ++i) {
    double v = random.uniform() < 0.9 ? -1 + 0.6 * random.bell() : 3 + 0.4 * random.bell();
    if (wide && random.uniform() < 0.02) v *= random.below(2) == 0 ? 40 : -40;
    if (broken && random.uniform() < 0.02) v = random.below(3) == 0 ? quiet_nan : random.below(2) == 0 ? inf : -inf;
    x.push_back(scalar<T>(v));
  }
  return x;
}

template <class T>
streaming_kde<T> fed(std::vector<T> const& x, streaming_kde_options options = {}) {
  streaming_kde<T> a(options);
  a.update(x);
  return a;
}

template <class T>
law_case<streaming_kde<T>> law(std::vector<T> const& x, streaming_kde_options options, streaming_kde_options other) {
  law_case<streaming_kde<T>> c;
  c.options = options;
  c.other_options = other;
  c.documents = 23;
  auto const n = static_cast<index_t>(x.size());
  c.feed = [x, n](streaming_kde<T>& a, index_t first, index_t last) {
    a.update(vector_view<T>(x.data() + n * first / 23, n * last / 23 - n * first / 23));
  };
  return c;
}

constexpr kernel_kind all_kernels[] = {kernel_kind::gaussian,   kernel_kind::epanechnikov, kernel_kind::tophat,
                                       kernel_kind::triangular, kernel_kind::biweight,     kernel_kind::triweight,
                                       kernel_kind::cosine,     kernel_kind::exponential,  kernel_kind::logistic};

// The direct sum over the values themselves, in long double.
template <class T>
struct direct {
  std::vector<double> x;
  kernel_kind kind;
  double h;

  direct(std::vector<T> const& values, kernel_kind k, double bandwidth) : kind{k}, h{bandwidth} {
    for (T const v : values)
      if (is_finite(v)) x.push_back(as_double(v));
  }
  template <class G>
  double mean(double y, G const& g) const {
    long double sum = 0;
    for (double const v : x) sum += static_cast<long double>(g((y - v) / h));
    return static_cast<double>(sum / static_cast<long double>(x.size()));
  }
  double pdf(double y) const {
    return visit_kernel(kind, [&](auto k) { return mean(y, [k](double u) { return k.pdf(u); }) / h; });
  }
  double cdf(double y) const {
    return visit_kernel(kind, [&](auto k) { return mean(y, [k](double u) { return k.cdf(u); }); });
  }
  double survival(double y) const {
    return visit_kernel(kind, [&](auto k) { return mean(y, [k](double u) { return k.survival(u); }); });
  }
  double log_p(double y, tail_side side) const {
    double const sign = side == tail_side::upper ? 1 : -1;
    return visit_kernel(kind, [&](auto k) {
      long double sum = 0, first = -static_cast<long double>(inf);
      for (double const v : x)
        first = std::max<long double>(first, static_cast<long double>(k.log_survival(sign * (y - v) / h)));
      if (std::isinf(static_cast<double>(first))) return -inf;
      for (double const v : x) sum += std::exp(static_cast<long double>(k.log_survival(sign * (y - v) / h)) - first);
      return static_cast<double>(first + std::log(sum / static_cast<long double>(x.size())));
    });
  }
};

void encloses(enclosure const& e, double exact) {
  CHECK(e.lo <= exact);
  CHECK(exact <= e.hi);
  CHECK(e.lo <= e.value);
  CHECK(e.value <= e.hi);
}

}  // namespace

TEST_CASE("streaming_kde: by hand, on the grid") {
  // Cells half a unit wide, keys in units of 2^-17.
  streaming_kde<float> a({.grid_log2 = 1, .extremes = 1});
  std::vector<float> const x{-0.25f, 0.25f, 0.75f, 0.5f, 0.625f, 2.f, -3.f};
  a.update(x);
  auto const cells = a.cells();
  // 2 and -3 are kept apart; [-0.5, 0) holds -0.25, [0, 0.5) 0.25, [0.5, 1) three values of mean 0.625.
  REQUIRE(cells.size() == 5);
  CHECK(cells[0].lo == -3);
  CHECK(cells[0].hi == -3);
  CHECK(cells[1].lo == -0.5);
  CHECK(cells[1].hi == 0);
  CHECK(cells[3].lo == 0.5);
  CHECK(cells[3].hi == 1);
  CHECK(cells[3].count == 3);
  CHECK(cells[3].mean_lo <= 0.625);
  CHECK(cells[3].mean_lo > 0.625 - 1e-15);
  CHECK(cells[3].mean_hi >= 0.625);
  CHECK(cells[3].mean_hi < 0.625 + 0x1p-17 * 1.01);  // below 2^6 a float may have digits beyond the key
  CHECK(cells[4].lo == 2);
  auto const r = a.result();
  CHECK(r.count == 7);
  CHECK(r.cells == 5);
  CHECK(r.minimum == -3);
  CHECK(r.maximum == 2);
  CHECK(r.mean == doctest::Approx(0.875 / 7).epsilon(1e-5));
  CHECK(a.largest() == std::vector<double>{2});
  CHECK(a.smallest() == std::vector<double>{-3});
}

TEST_CASE("streaming_kde: empty") {
  streaming_kde<float> const a;
  auto const r = a.result();
  CHECK(r.count == 0);
  CHECK(std::isnan(r.minimum));
  CHECK(std::isnan(r.mean));
  CHECK(std::isnan(r.sd));
  auto const d = a.estimate(kernel_kind::gaussian, 1);
  CHECK(std::isnan(d.pdf(0).value));
  CHECK(std::isnan(d.cdf(0).lo));
  CHECK(std::isnan(d.p_value(0).log_p));
  CHECK(a.largest().empty());
  CHECK(a.bytes() < 1000);
}

TEST_CASE("streaming_kde: bf16 and f16 lose nothing") {
  auto const check = [](auto one) {
    using T = decltype(one);
    // Every bit pattern, a random number of times, in random order.
    std::mt19937_64 random(5);
    std::vector<T> x;
    std::map<double, std::uint64_t> counts;
    std::uint64_t nan = 0, positive = 0, negative = 0;
    for (std::uint32_t bits = 0; bits < 65536; ++bits)
      for (auto n = random() % 4; n > 0; --n) {
        T const v{static_cast<std::uint16_t>(bits)};
        x.push_back(v);
        double const d = as_double(v);
        if (std::isnan(d))
          ++nan;
        else if (std::isinf(d))
          ++(d > 0 ? positive : negative);
        else
          ++counts[d];
      }
    std::shuffle(x.begin(), x.end(), random);
    auto const a = fed(x);
    auto const r = a.result();
    CHECK(a.count() == x.size());
    CHECK(r.nan == nan);
    CHECK(r.positive_infinite == positive);
    CHECK(r.negative_infinite == negative);
    CHECK(r.count == x.size() - nan - positive - negative);
    CHECK(r.minimum == counts.begin()->first);
    CHECK(r.maximum == counts.rbegin()->first);
    std::map<double, std::uint64_t> found;
    double last = -inf;
    for (auto const& c : a.cells()) {
      CHECK_FALSE(c.lo != c.hi);
      REQUIRE(last <= c.lo);
      last = c.lo;
      found[c.lo] += c.count;
    }
    CHECK(found == counts);
    // The flat table of large updates and the pages count alike.
    std::vector<T> many;
    while (many.size() < (1u << 18)) many.insert(many.end(), x.begin(), x.end());
    streaming_kde<T> piece;
    for (std::size_t i = 0; i < many.size(); i += 1000)
      piece.update(vector_view<T>(many.data() + i, static_cast<index_t>(std::min<std::size_t>(1000, many.size() - i))));
    CHECK(piece == fed(many));
  };
  check(bf16{});
  check(f16{});
}

TEST_CASE_TEMPLATE("streaming_kde: keys are floor(x 2^(q+16)) at every level", T, float, double) {
  std::mt19937_64 random(9);
  for (int const q : {-16, 0, 3, 10, 17}) {
    double const edge = std::ldexp(1.0, 15 - q);
    std::vector<T> x;
    for (int i = 0; i < 64 * 40; ++i) {
      double v = edge * (2 * static_cast<double>(random() >> 11) * 0x1p-53 - 1);
      if (i % 5 == 0) v *= 1e-6;
      if (i % 7 == 0) v = std::ldexp(std::floor(std::ldexp(v, q)), -q);  // on the edge of a cell
      if (i % 11 == 0) v = i % 2 ? 0.0 : -0.0;
      if (i % 13 == 0) v = (i % 2 ? 1 : -1) * static_cast<double>(std::numeric_limits<T>::denorm_min());
      x.push_back(static_cast<T>(v));
    }
    x[0] = static_cast<T>(-edge);
    x[1] = std::nextafter(static_cast<T>(edge), T{0});
    x[64] = static_cast<T>(edge);
    x[129] = -std::numeric_limits<T>::infinity();
    x[200] = std::numeric_limits<T>::quiet_NaN();
    x[201] = -std::numeric_limits<T>::quiet_NaN();
    x[300] = std::numeric_limits<T>::max();
    for (auto const level : levels()) {
      at_level const set(level);
      constexpr std::size_t block = detail::grid_keys::block;
      std::uint32_t keys[block];
      for (std::size_t i = 0; i < x.size(); i += block) {
        T const top = std::nextafter(static_cast<T>(edge), T{0});
        bool inside = true;
        for (std::size_t j = 0; j < block; ++j) inside = inside && x[i + j] >= static_cast<T>(-edge) && x[i + j] <= top;
        bool const said = detail::dispatch<detail::grid_keys>(x.data() + i, static_cast<T>(-edge), top,
                                                              static_cast<T>(std::ldexp(1.0, q + 16)),
                                                              static_cast<std::uint32_t*>(keys));
        CHECK(said == inside);
        for (std::size_t j = 0; j < block; ++j) {
          double const v = static_cast<double>(x[i + j]);
          if (!(v >= -edge && v < edge)) continue;
          auto const exact =
              static_cast<std::int64_t>(std::floor(static_cast<long double>(v) * std::ldexp(1.0L, q + 16))) +
              2147483648;
          REQUIRE(static_cast<std::int64_t>(keys[j]) == exact);
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("streaming_kde: cells against a naive count", T, float, double) {
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    auto const x = sample<T>(seed < 4 ? 50 * seed : 3000, seed, true, true);
    streaming_kde_options const options{.grid_log2 = static_cast<int>(seed % 4) * 3 + 2,
                                        .extremes = static_cast<index_t>(1 + 20 * (seed % 3))};
    auto const a = fed(x, options);
    std::vector<double> finite;
    std::uint64_t nan = 0, positive = 0, negative = 0;
    for (T const v : x) {
      if (std::isfinite(v)) finite.push_back(static_cast<double>(v));
      nan += std::isnan(v), positive += std::isinf(v) && v > 0, negative += std::isinf(v) && v < 0;
    }
    std::sort(finite.begin(), finite.end());
    auto const r = a.result();
    double const edge = std::ldexp(1.0, 15 - options.grid_log2);
    CHECK(r.nan == nan);
    CHECK(r.positive_infinite == positive);
    CHECK(r.negative_infinite == negative);
    CHECK(r.count == finite.size());
    CHECK(r.overflow ==
          static_cast<std::uint64_t>(std::count_if(finite.begin(), finite.end(), [&](double v) { return v >= edge; })));
    CHECK(r.underflow ==
          static_cast<std::uint64_t>(std::count_if(finite.begin(), finite.end(), [&](double v) { return v < -edge; })));
    CHECK(r.minimum == finite.front());
    CHECK(r.maximum == finite.back());
    auto const k = std::min(finite.size(), static_cast<std::size_t>(options.extremes));
    CHECK(a.smallest() == std::vector<double>(finite.begin(), finite.begin() + static_cast<index_t>(k)));
    CHECK(a.largest() == std::vector<double>(finite.rbegin(), finite.rbegin() + static_cast<index_t>(k)));
    // Take the extremes away; what is left must be in the cells, count by count and with the right mean.
    std::vector<double> rest(finite.begin() + static_cast<index_t>(k), finite.end());
    rest.resize(rest.size() > k ? rest.size() - k : 0);
    std::uint64_t total = 0;
    for (auto const& c : a.cells()) {
      total += c.count;
      if (c.lo == c.hi) continue;
      long double sum = 0;
      std::uint64_t count = 0;
      bool const outside = c.lo >= edge || c.hi <= -edge;
      for (double const v : rest)
        if (v >= c.lo && (v < c.hi || (outside && v == c.hi)) && (outside || (v >= -edge && v < edge))) {
          sum += static_cast<long double>(v);
          ++count;
        }
      CHECK(c.count == count);
      auto const mean = static_cast<double>(sum / static_cast<long double>(count));
      CHECK(c.mean_lo <= mean);
      CHECK(mean <= c.mean_hi);
      if (!outside) CHECK(c.mean_hi - c.mean_lo <= std::ldexp(1.01, -options.grid_log2 - 16));
      if (!outside && std::is_same_v<T, float> && std::abs(c.lo + c.hi) / 2 > std::ldexp(1.0, 7 - options.grid_log2))
        CHECK(c.mean_hi - c.mean_lo <= 4.5e-16 * std::abs(mean));
    }
    CHECK(total == finite.size());
  }
}

TEST_CASE("streaming_kde: mean and sd") {
  auto const x = sample<float>(20000, 3);
  double sum = 0, squares = 0;
  for (float const v : x) sum += static_cast<double>(v);
  double const mean = sum / 20000;
  for (float const v : x) squares += (static_cast<double>(v) - mean) * (static_cast<double>(v) - mean);
  double const sd = std::sqrt(squares / 19999);
  auto const r = fed(x, {.grid_log2 = 7, .extremes = 4}).result();
  CHECK(r.mean == doctest::Approx(mean).epsilon(1e-7));
  CHECK(r.sd <= sd * (1 + 1e-12));
  CHECK(r.sd * r.sd >= sd * sd - std::ldexp(1.0, -14) / 4);
  CHECK(std::isnan(fed(std::vector<float>{1000, 2000, 3000, 0}, {.grid_log2 = 10, .extremes = 1}).result().mean));
  CHECK(fed(std::vector<float>{1000, 2000, 3000, 0}, {.grid_log2 = 10, .extremes = 2}).result().mean == 1500);
}

TEST_CASE("streaming_kde: bounds hold the estimate of the data, every kernel") {
  for (auto const kind : all_kernels) {
    INFO("kernel " << static_cast<int>(kind));
    auto const try_all = [&](auto const& x, auto const& a, double tightness) {
      for (double const h : {0.03, 0.4, 2.5}) {
        direct const exact(x, kind, h);
        auto const d = a.estimate(kind, h);
        double const peak = visit_kernel(kind, [&](auto k) { return k.pdf(0); }) / h;
        for (double y = -5; y < 6; y += 0.1873) {
          INFO("y " << y << " h " << h);
          auto const f = d.pdf(y), c = d.cdf(y), s = d.survival(y);
          encloses(f, exact.pdf(y));
          encloses(c, exact.cdf(y));
          encloses(s, exact.survival(y));
          double const width = tightness / h;
          CHECK(f.hi - f.lo <= peak * ((kind == kernel_kind::tophat ? 8 * width : 12 * width * width) + 1e-13));
          CHECK(c.hi - c.lo <= 6 * width * width + 1e-13);
          for (auto const side : {tail_side::upper, tail_side::lower}) {
            auto const p = d.p_value(y, side);
            double const truth = exact.log_p(y, side);
            CHECK(p.log_p_lo <= truth);
            CHECK(truth <= p.log_p_hi);
            CHECK(p.log_p_lo <= p.log_p);
            CHECK(p.log_p <= p.log_p_hi);
            CHECK(p.extrapolated == (side == tail_side::upper ? y > *std::max_element(exact.x.begin(), exact.x.end())
                                                              : y < *std::min_element(exact.x.begin(), exact.x.end())));
          }
        }
      }
    };
    auto const narrow = sample<bf16>(400, 1, true);
    try_all(narrow, fed(narrow), 0);
    auto const x = sample<float>(700, 2, true);
    try_all(x, fed(x, {.grid_log2 = 6, .extremes = 20}), 0x1p-6);
    auto const wide = sample<double>(700, 4);
    try_all(wide, fed(wide, {.grid_log2 = 8, .extremes = 1}), 0x1p-8);
  }
}

TEST_CASE("streaming_kde: densities of scikit-learn, tails in 40 digits") {
  std::map<std::string, kernel_kind> const kinds{
      {"gaussian", kernel_kind::gaussian},         {"tophat", kernel_kind::tophat},
      {"epanechnikov", kernel_kind::epanechnikov}, {"exponential", kernel_kind::exponential},
      {"linear", kernel_kind::triangular},         {"cosine", kernel_kind::cosine}};
  auto const at = golden("streaming", "at").get<std::vector<double>>();
  auto const densities = golden("streaming", "densities"), tails = golden("streaming", "tails");
  auto const check = [&](auto one, char const* name, streaming_kde_options options) {
    using T = decltype(one);
    std::vector<T> x;
    for (double const v : golden("streaming", name)) x.push_back(scalar<T>(v));
    auto const a = fed(x, options);
    for (auto const& c : densities) {
      auto const d = a.estimate(kinds.at(c["kernel"]), c["bandwidth"]);
      auto const expected = c[name].get<std::vector<double>>();
      for (std::size_t i = 0; i < at.size(); ++i) {
        auto const f = d.pdf(at[i]);
        // scikit-learn's own error: it goes through a logarithm, and where f = 0 it gives exp(-inf).
        double const slack = 1e-12 * expected[i] + 1e-15;
        INFO(name << " " << c["kernel"] << " at " << at[i]);
        CHECK(f.lo <= expected[i] + slack);
        CHECK(expected[i] <= f.hi + slack);
        if (sizeof(T) == 2) CHECK(std::abs(f.value - expected[i]) <= slack);
      }
    }
    for (auto const& t : tails) {
      auto const p = a.estimate(kernel_kind::gaussian, t["bandwidth"]).p_value(t["y"]);
      double const expected = t[name], slack = 1e-13 * std::abs(expected);
      INFO(name << " tail at " << t["y"]);
      CHECK(p.log_p_lo <= expected + slack);
      CHECK(expected <= p.log_p_hi + slack);
      if (sizeof(T) == 2) CHECK(std::abs(p.log_p - expected) <= 2e-12 * std::max(1e-3, std::abs(expected)));
    }
  };
  check(bf16{}, "bf16", {});
  check(float{}, "float", {.grid_log2 = 8, .extremes = 4});
  check(double{}, "float", {.grid_log2 = 5, .extremes = 1});
}

TEST_CASE("streaming_kde: values outside the grid keep the bounds true") {
  auto const x = sample<float>(2000, 6, true, true);
  auto const a = fed(x, {.grid_log2 = 12, .extremes = 3});  // |x| < 8
  REQUIRE(a.result().overflow > 10);
  REQUIRE(a.result().underflow > 10);
  for (auto const kind : all_kernels) {
    direct const exact(x, kind, 1.7);
    auto const d = a.estimate(kind, 1.7);
    for (double y = -150; y < 150; y += 3.7) {
      encloses(d.pdf(y), exact.pdf(y));
      encloses(d.cdf(y), exact.cdf(y));
      auto const p = d.p_value(y);
      CHECK(p.log_p_lo <= exact.log_p(y, tail_side::upper));
      CHECK(exact.log_p(y, tail_side::upper) <= p.log_p_hi);
    }
  }
}

TEST_CASE("streaming_kde: far tails are exact once the extremes are kept") {
  auto const x = sample<float>(20000, 8);
  double const h = 0.1;
  direct const exact(x, kernel_kind::gaussian, h);
  auto const d = fed(x, {.grid_log2 = 8, .extremes = 512}).estimate(kernel_kind::gaussian, h);
  auto const coarse = fed(x, {.grid_log2 = 8, .extremes = 1}).estimate(kernel_kind::gaussian, h);
  double const top = *std::max_element(exact.x.begin(), exact.x.end());
  for (double const z : {2.0, 6.0, 12.0, 20.0, 37.0, 200.0}) {
    auto const p = d.p_value(top + z * h), rough = coarse.p_value(top + z * h);
    double const truth = exact.log_p(top + z * h, tail_side::upper);
    INFO("z " << z << " truth " << truth << " width " << p.log_p_hi - p.log_p_lo << " "
              << rough.log_p_hi - rough.log_p_lo);
    CHECK(p.extrapolated);
    CHECK(std::abs(p.log_p - truth) <= 2e-12 * std::max(1.0, std::abs(truth)));
    CHECK(p.log_p_hi - p.log_p_lo <= 4e-12 * std::max(1.0, std::abs(truth)));
    CHECK(rough.log_p_lo <= truth);
    CHECK(truth <= rough.log_p_hi);
  }
  CHECK(d.p_value(top + 37 * h).log_p < -680);
}

TEST_CASE("streaming_kde: laws") {
  check_accumulator_laws(law(sample<bf16>(3000, 1, true, true), {}, {.grid_log2 = 9}));
  check_accumulator_laws(law(sample<f16>(2000, 2, true), {}, {.extremes = 5}));
  check_accumulator_laws(
      law(sample<float>(3000, 3, true, true), {.grid_log2 = 9, .extremes = 7}, {.grid_log2 = 8, .extremes = 7}));
  check_accumulator_laws(
      law(sample<double>(3000, 4, true, true), {.grid_log2 = 12, .extremes = 40}, {.grid_log2 = 12, .extremes = 41}));
}

TEST_CASE("streaming_kde: every container, every part of a matrix") {
  auto const x = sample<float>(60, 12, true);
  auto const whole = fed(x, {.extremes = 5});
  for_each_vector(x, [&](char const* name, auto const& v) {
    INFO(name);
    streaming_kde<float> a({.extremes = 5});
    a.update(v);
    CHECK(a == whole);
  });
  for_each_matrix<float>(12, 5, x, [&](char const* name, auto const& m) {
    INFO(name);
    streaming_kde<float> a({.extremes = 5});
    a.update(m);
    CHECK(a == whole);
    std::vector<streaming_kde<float>> each(5, streaming_kde<float>({.extremes = 5}));
    update_per_expert(std::span(each), m);
    for (std::size_t e = 0; e < 5; ++e)
      CHECK(each[e] == [&] {
        streaming_kde<float> column({.extremes = 5});
        column.update(vector_view<float>(x.data() + e, 12, 5));
        return column;
      }());
  });
  std::vector<streaming_kde<float>> four(4);
  matrix_view<float> const m(x.data(), 12, 5);
  CHECK_THROWS_WITH_AS(update_per_expert(std::span(four), m),
                       doctest::Contains("4 distributions, logits have 5 columns"), shape_error);
  CHECK(four[0].count() == 0);
}

TEST_CASE("streaming_kde: counts beyond what a packed cell holds") {
  // 2^24 - 1 values in one cell fill its count; the next must not carry into it or out of it.
  std::vector<float> const block(1 << 16, 0.499f);
  streaming_kde<float> a({.extremes = 2});
  for (int i = 0; i < 260; ++i) a.update(block);
  a.update(std::vector<float>{0.4990234375f});
  std::uint64_t const n = 260 * (1 << 16) + 1;
  CHECK(a.count() == n);
  std::uint64_t cells = 0;
  for (auto const& c : a.cells()) cells += c.count;
  CHECK(cells == n);
  CHECK(a.result().mean == doctest::Approx(0.499).epsilon(1e-7));
  // By multiplication, in packed and in wide cells, the same bytes.
  streaming_kde<float> part({.extremes = 2}), by_merge({.extremes = 2});
  part.update(block);
  by_merge.merge(part, 260);
  by_merge.update(std::vector<float>{0.4990234375f});
  CHECK(by_merge == a);
  CHECK(streaming_kde<float>::deserialize(a.serialize()) == a);
  streaming_kde<bf16> half, many;
  half.update(sample<bf16>(1000, 1));
  many.merge(half, 5'000'000);
  many.merge(half, 5'000'000);
  CHECK(many.result().count == 10'000'000'000u);
  CHECK(many.result().mean == doctest::Approx(half.result().mean).epsilon(1e-13));
  auto const before = many.serialize();
  CHECK_THROWS_WITH_AS(many.merge(many, 1u << 20), doctest::Contains("more than 2^47"), argument_error);
  CHECK(many.serialize() == before);
}

TEST_CASE("streaming_kde: memory follows the values") {
  auto const x = sample<bf16>(100000, 2);
  CHECK(fed(x).bytes() < 30000);
  streaming_kde<float> a({.grid_log2 = 7});
  a.update(sample<float>(100000, 2));
  CHECK(a.bytes() < 24000);
  // What the header says of 58 layers x 256 experts: logits that span 8.
  streaming_kde<float> one({.grid_log2 = 7, .extremes = 16});
  streaming_kde<bf16> half;
  plain_random random(3);
  for (int i = 0; i < 20; ++i) {
    std::vector<float> x8;
    std::vector<bf16> narrow;
    for (int j = 0; j < 5000; ++j) {
      x8.push_back(static_cast<float>(8 * random.uniform() - 4));
      narrow.push_back(to_bf16(x8.back()));
    }
    one.update(x8);
    half.update(narrow);
  }
  CHECK(one.bytes() < 13 << 10);
  INFO("bf16 " << half.bytes());
  CHECK(half.bytes() < 22 << 10);
  // All patterns: the bound of the header.
  std::vector<bf16> every;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) every.push_back({static_cast<std::uint16_t>(bits)});
  CHECK(fed(every).bytes() <= 259 << 10);
}

TEST_CASE("streaming_kde: bad options and bandwidths") {
  for (auto const& o : {streaming_kde_options{.grid_log2 = -17}, streaming_kde_options{.grid_log2 = 101},
                        streaming_kde_options{.extremes = 0}, streaming_kde_options{.extremes = -1},
                        streaming_kde_options{.extremes = (1 << 20) + 1}})
    CHECK_THROWS_AS(streaming_kde<float>{o}, argument_error);
  auto const a = fed(sample<float>(100, 1));
  for (double const h : {0.0, -1.0, quiet_nan, inf})
    CHECK_THROWS_AS(a.estimate(kernel_kind::gaussian, h), argument_error);
  CHECK_THROWS_AS(a.estimate(static_cast<kernel_kind>(77), 1), argument_error);
  CHECK_THROWS_AS(cell_density({{1, 0, 1, 0, 1}}, kernel_kind::gaussian, 1), argument_error);
  CHECK_THROWS_AS(cell_density({{0, 1, quiet_nan, 1, 1}}, kernel_kind::gaussian, 1), argument_error);
  CHECK_THROWS_AS(cell_density({{-inf, 1, 0, 1, 1}}, kernel_kind::gaussian, 1), argument_error);
  auto const d = a.estimate(kernel_kind::epanechnikov, 0.5);
  CHECK(std::isnan(d.pdf(quiet_nan).value));
  CHECK(d.pdf(inf).value == 0);
  CHECK(d.cdf(inf).value == 1);
  CHECK(d.survival(-inf).value == 1);
  CHECK(d.p_value(100).log_p == -inf);
  CHECK(d.p_value(100).extrapolated);
}
