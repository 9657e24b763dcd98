// SPDX-License-Identifier: Apache-2.0
#include <moeroute/weights/router_similarity.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include <doctest/doctest.h>

#include "support/golden.hpp"

using namespace moeroute;

namespace {

struct routers {
  index_t experts, width;
  std::vector<std::vector<float>> w;
  std::vector<matrix_view<float>> views() const {
    std::vector<matrix_view<float>> v;
    for (auto const& x : w) v.emplace_back(x.data(), experts, width);
    return v;
  }
};

// Rows with a common part, columns of unequal size (anisotropic), rows of unequal size. Layer l copies `alike` of layer
// l - period, with experts in another order if `relabel`.
routers planted(index_t layers, index_t experts, index_t width, index_t period, double alike, bool relabel,
                std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::vector<double> column, common;
  for (index_t h = 0; h < width; ++h) {
    column.push_back(std::exp(0.7 * normal(random)));
    common.push_back(2 * normal(random));
  }
  std::vector<std::vector<double>> own;
  routers r{experts, width, {}};
  for (index_t l = 0; l < layers; ++l) {
    std::vector<double> x;
    for (index_t e = 0; e < experts; ++e) {
      double const row = std::exp(0.3 * normal(random));
      for (index_t h = 0; h < width; ++h) x.push_back(row * column[static_cast<std::size_t>(h)] * normal(random));
    }
    if (period > 0 && l >= period) {
      auto const& source = own[static_cast<std::size_t>(l - period)];
      for (index_t e = 0; e < experts; ++e)
        for (index_t h = 0; h < width; ++h)
          x[static_cast<std::size_t>(e * width + h)] +=
              alike * source[static_cast<std::size_t>((relabel ? (e * 3 + l) % experts : e) * width + h)];
    }
    own.push_back(x);
    std::vector<float> w;
    for (index_t e = 0; e < experts; ++e)
      for (index_t h = 0; h < width; ++h)
        w.push_back(
            static_cast<float>(x[static_cast<std::size_t>(e * width + h)] + common[static_cast<std::size_t>(h)]));
    r.w.push_back(w);
  }
  return r;
}

router_similarity_options quick(index_t delta_max, index_t permutations, std::uint64_t seed = 1, int threads = 1) {
  router_similarity_options o;
  o.delta_max = delta_max;
  o.permutations = permutations;
  o.seed = seed;
  o.threads = threads;
  return o;
}

double distance(xt::xtensor<double, 2> const& m, xt::xtensor<double, 2> const& sd, xt::xtensor<double, 2> const& mean,
                std::size_t i, std::size_t j) {
  return (m(i, j) - mean(i, j)) / sd(i, j);
}

}  // namespace

TEST_CASE("router_similarity: numpy, scipy and all relabellings") {
  for (auto const& c : golden("router_similarity", "routers")) {
    std::vector<std::vector<double>> w;
    auto const experts = static_cast<index_t>(c["routers"][0].size()),
               width = static_cast<index_t>(c["routers"][0][0].size());
    for (auto const& layer : c["routers"]) {
      auto& x = w.emplace_back();
      for (auto const& row : layer)
        for (auto const& v : row) x.push_back(v.get<double>());
    }
    std::vector<matrix_view<double>> views;
    for (auto const& x : w) views.emplace_back(x.data(), experts, width);
    for (bool const centred : {true, false}) {
      auto options = quick(9, 0);
      options.centred = centred;
      auto const r = router_similarity(views, options);
      auto const& want = c[centred ? "centred" : "published"];
      for (auto const& p : want["pairs"]) {
        auto const i = p["first"].get<std::size_t>(), j = p["second"].get<std::size_t>();
        auto const check = [&](char const* name, xt::xtensor<double, 2> const& m) {
          INFO(name);
          CHECK(close(m(i, j), p[name].get<double>(), 1e-12));
          CHECK(m(j, i) == m(i, j));
        };
        check("cosine", r.cosine);
        check("cosine_null_mean", r.cosine_null_mean);
        check("cosine_null_sd", r.cosine_null_sd);
        check("matched", r.matched);
        check("matched_null_mean", r.matched_null_mean);
        check("matched_null_sd", r.matched_null_sd);
        check("matched_fit", r.matched_fit);
        check("spectrum_overlap", r.spectrum_overlap);
        CHECK(close(r.norm_lags.matrix(i, j - i - 1), p["norm_correlation"].get<double>(), 1e-11));
      }
      for (std::size_t l = 0; l < w.size(); ++l) {
        CHECK(r.cosine(l, l) == 1);
        CHECK(std::isnan(r.cosine_null_sd(l, l)));
        for (std::size_t e = 0; e < static_cast<std::size_t>(experts); ++e) {
          CHECK(close(r.spectrum(l, e), want["spectrum"][l][e].get<double>(), 1e-12));
          CHECK(close(r.norm(l, e), want["norm"][l][e].get<double>(), 1e-12));
        }
      }
      CHECK(r.reference_sd == doctest::Approx(1 / std::sqrt(static_cast<double>(experts * width))));
    }
  }
}

TEST_CASE("router_similarity: bf16, f16, float and double views, transposed and strided ones") {
  auto const r = planted(3, 7, 33, 1, 0.8, false, 4);
  std::vector<std::vector<bf16>> narrow;
  std::vector<std::vector<f16>> half;
  std::vector<std::vector<float>> same_as_bf16, same_as_f16, turned;
  std::vector<std::vector<double>> wide;
  for (auto const& x : r.w) {
    narrow.emplace_back();
    half.emplace_back();
    same_as_bf16.emplace_back();
    same_as_f16.emplace_back();
    wide.emplace_back(x.begin(), x.end());
    turned.emplace_back(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      narrow.back().push_back(to_bf16(x[i]));
      half.back().push_back(to_f16(x[i]));
      same_as_bf16.back().push_back(to_float(narrow.back().back()));
      same_as_f16.back().push_back(to_float(half.back().back()));
      turned.back()[i % 33 * 7 + i / 33] = x[i];
    }
  }
  auto const of = [](auto const& layers, index_t row_stride, index_t col_stride) {
    using T = typename std::decay_t<decltype(layers[0])>::value_type;
    std::vector<matrix_view<T>> v;
    for (auto const& x : layers) v.emplace_back(x.data(), 7, 33, row_stride, col_stride);
    return router_similarity(v, quick(2, 0));
  };
  auto const plain = of(r.w, 33, 1);
  auto const expect = [](router_similarity_result const& a, router_similarity_result const& b, double tolerance) {
    for (std::size_t i = 0; i < 3; ++i)
      for (std::size_t j = 0; j < i; ++j)
        for (auto const m : {&router_similarity_result::cosine, &router_similarity_result::cosine_null_sd,
                             &router_similarity_result::matched, &router_similarity_result::matched_fit,
                             &router_similarity_result::spectrum_overlap})
          CHECK(close((a.*m)(i, j), (b.*m)(i, j), tolerance));
  };
  expect(of(narrow, 33, 1), of(same_as_bf16, 33, 1), 0);
  expect(of(half, 33, 1), of(same_as_f16, 33, 1), 0);
  expect(of(turned, 1, 7), plain, 0);
  expect(of(wide, 33, 1), plain, 1e-5);
}

TEST_CASE("router_similarity: a common row, the size of a router and one relabelling for all do not matter") {
  auto const a = planted(4, 12, 64, 1, 0.7, false, 8);
  auto b = a;
  for (std::size_t l = 0; l < 4; ++l)
    for (std::size_t e = 0; e < 12; ++e)
      for (std::size_t h = 0; h < 64; ++h)
        b.w[l][e * 64 + h] = 4 * a.w[l][(e + 5) % 12 * 64 + h] + static_cast<float>(h % 7) - static_cast<float>(l);
  auto const x = router_similarity(a.views(), quick(3, 99)), y = router_similarity(b.views(), quick(3, 99));
  for (std::size_t i = 0; i < 4; ++i)
    for (std::size_t j = 0; j < i; ++j)
      for (auto const m : {&router_similarity_result::cosine, &router_similarity_result::cosine_null_sd,
                           &router_similarity_result::matched, &router_similarity_result::matched_null_sd,
                           &router_similarity_result::spectrum_overlap})
        CHECK(close((x.*m)(i, j), (y.*m)(i, j), 1e-4));
  auto published = quick(3, 99);
  published.centred = false;
  // Without centring the common row makes any two routers alike, far beyond 1/sqrt(E H); the null knows.
  auto const raw = router_similarity(planted(4, 12, 64, 0, 0, false, 9).views(), published);
  CHECK(raw.cosine(0, 1) > 10 * raw.reference_sd);
  CHECK(std::abs(distance(raw.cosine, raw.cosine_null_sd, raw.cosine_null_mean, 0, 1)) < 4);
}

TEST_CASE("router_similarity: copies in the same order, copies in another order, no copies") {
  int found = 0, matched = 0, blind = 0;
  int const runs = 12;
  for (int i = 0; i < runs; ++i) {
    auto const seed = static_cast<std::uint64_t>(i) + 1;
    auto const same = router_similarity(planted(12, 16, 96, 4, 1.0, false, seed).views(), quick(6, 299, seed));
    auto const other = router_similarity(planted(12, 16, 96, 4, 1.0, true, seed).views(), quick(6, 299, seed));
    found += same.cosine_lags[3].p_adjusted < 1e-6 && same.matched_lags.lags[3].p_adjusted < 0.05;
    matched += other.matched_lags.lags[3].p_adjusted < 0.05 &&
               distance(other.matched, other.matched_null_sd, other.matched_null_mean, 0, 4) > 5;
    blind += other.cosine_lags[3].p_adjusted > 0.01;
    CHECK(std::abs(distance(other.matched, other.matched_null_sd, other.matched_null_mean, 0, 1)) < 5);
    CHECK(other.matched_fit(0, 1) > other.matched_null_mean(0, 1) + 3 * other.matched_null_sd(0, 1));  // noise fits too
  }
  CHECK(found == runs);
  CHECK(matched == runs);
  CHECK(blind >= runs - 1);
}

TEST_CASE("router_similarity: the same bits for every number of threads") {
  auto const w = planted(6, 9, 40, 2, 0.5, true, 3);
  auto const one = router_similarity(w.views(), quick(5, 99, 1, 1)),
             five = router_similarity(w.views(), quick(5, 99, 1, 5));
  for (auto const m :
       {&router_similarity_result::cosine, &router_similarity_result::matched, &router_similarity_result::spectrum,
        &router_similarity_result::spectrum_overlap, &router_similarity_result::norm})
    CHECK(std::equal((one.*m).begin(), (one.*m).end(), (five.*m).begin(),
                     [](double a, double b) { return std::memcmp(&a, &b, sizeof a) == 0; }));
  for (std::size_t d = 0; d < 5; ++d) {
    CHECK(one.matched_lags.lags[d].p_adjusted == five.matched_lags.lags[d].p_adjusted);
    CHECK(one.norm_lags.lags[d].p_adjusted == five.norm_lags.lags[d].p_adjusted);
    CHECK(one.cosine_lags[d].p_value == five.cosine_lags[d].p_value);
  }
}

TEST_CASE("router_similarity: nothing to compare, and what cannot be") {
  CHECK(router_similarity(std::vector<matrix_view<float>>{}).cosine.size() == 0);
  auto w = planted(3, 4, 10, 0, 0, false, 1);
  auto const alone = router_similarity(std::vector{w.views()[0]});
  CHECK(alone.cosine(0, 0) == 1);
  CHECK(alone.cosine_lags.empty());
  std::fill(w.w[1].begin(), w.w[1].end(), 0.0f);
  auto const zero = router_similarity(w.views(), quick(2, 9));
  CHECK(std::isnan(zero.cosine(0, 1)));
  CHECK(std::isnan(zero.cosine(1, 1)));
  CHECK(std::isnan(zero.matched(1, 2)));
  CHECK(std::isnan(zero.spectrum(1, 0)));
  CHECK_FALSE(std::isnan(zero.cosine(0, 2)));
  CHECK(zero.cosine_lags[0].pairs == 0);
  CHECK(std::isnan(zero.cosine_lags[0].p_adjusted));
  CHECK(zero.cosine_lags[1].pairs == 1);
  CHECK(std::isnan(zero.matched_lags.lags[0].p_value));
  CHECK(zero.norm_lags.lags[1].pairs == 1);
  for (auto& v : w.w[1]) v = 2.5f;  // equal rows: nothing is left after centring
  CHECK(std::isnan(router_similarity(w.views(), quick(2, 9)).cosine(0, 1)));
  w.w[1][3] = std::numeric_limits<float>::quiet_NaN();
  auto const broken = router_similarity(w.views(), quick(2, 9));
  CHECK(std::isnan(broken.cosine(0, 1)));
  CHECK(std::isnan(broken.cosine(1, 1)));
  for (std::size_t e = 0; e < 4; ++e) CHECK(std::isnan(broken.norm(1, e)));  // each lost a mean that is not known
  CHECK_FALSE(std::isnan(broken.norm(0, 0)));
  CHECK(std::isnan(broken.matched(0, 1)));
  CHECK(std::isnan(broken.spectrum_overlap(1, 2)));
  CHECK_FALSE(std::isnan(broken.matched(0, 2)));
  auto const thin =
      router_similarity(std::vector{matrix_view<float>(w.w[0].data(), 4, 1), matrix_view<float>(w.w[2].data(), 4, 1)});
  CHECK(std::isnan(thin.matched(0, 1)));
  CHECK_FALSE(std::isnan(thin.cosine(0, 1)));
  CHECK_THROWS_AS(
      router_similarity(std::vector{matrix_view<float>(w.w[0].data(), 4, 10), matrix_view<float>(w.w[0].data(), 4, 9)}),
      shape_error);
  CHECK_THROWS_AS(router_similarity(std::vector{matrix_view<float>(w.w[0].data(), 0, 10)}), argument_error);
  CHECK_THROWS_AS(router_similarity(w.views(), quick(0, 9)), argument_error);
  CHECK_THROWS_AS(router_similarity(w.views(), quick(2, -1)), argument_error);
}

namespace {

// Unrelated anisotropic routers with a common row.
void check_null(int runs, std::uint64_t seed) {
  int cosine = 0, family = 0, matched = 0, order = 0;
  for (int i = 0; i < runs; ++i) {
    auto const r = router_similarity(planted(8, 12, 40, 0, 0, false, seed + static_cast<std::uint64_t>(i)).views(),
                                     quick(4, 99, static_cast<std::uint64_t>(i) + 1));
    cosine += r.cosine_lags[0].p_value <= 0.05;
    family +=
        std::any_of(r.cosine_lags.begin(), r.cosine_lags.end(), [](auto const& lag) { return lag.p_adjusted <= 0.05; });
    matched += std::abs(distance(r.matched, r.matched_null_sd, r.matched_null_mean, 0, 1)) > 1.96;
    order += std::any_of(r.matched_lags.lags.begin(), r.matched_lags.lags.end(),
                         [](auto const& lag) { return lag.p_adjusted <= 0.05; });
  }
  INFO("rejected of " << runs << ": cosine " << cosine << ", any lag " << family << ", matched " << matched
                      << ", matched lags " << order);
  double const slack = 3.5 * std::sqrt(0.05 * 0.95 / runs);
  CHECK(std::abs(static_cast<double>(cosine) / runs - 0.05) < slack);
  CHECK(static_cast<double>(family) / runs < 0.05 + slack);
  CHECK(static_cast<double>(matched) / runs < 0.05 + slack);
  CHECK(std::abs(static_cast<double>(order) / runs - 0.05) < slack);
}

}  // namespace

TEST_CASE("router_similarity: unrelated anisotropic routers (quick)") { check_null(150, 1000); }

TEST_CASE("router_similarity: calibration" * doctest::test_suite("slow")) { check_null(2000, 100000); }
