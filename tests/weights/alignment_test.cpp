// SPDX-License-Identifier: Apache-2.0
#include <moeroute/weights/alignment.hpp>

#include <cmath>
#include <limits>
#include <random>

#include <Eigen/Core>
#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"

using namespace moeroute;

namespace {

using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

std::vector<float> flat(nlohmann::json const& rows) {
  std::vector<float> x;
  for (auto const& row : rows.get<std::vector<std::vector<float>>>()) x.insert(x.end(), row.begin(), row.end());
  return x;
}

// Router rows and maps that all like the same few axes, with unequal norms; `own` of each router row enters its
// expert's map.
struct layer {
  matrix router;
  std::vector<matrix> maps;
};
layer random_layer(index_t experts, index_t units, index_t width, float own, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> law;
  auto const normal = [&](index_t rows) {
    matrix m(rows, width);
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = 0; j < width; ++j) m(i, j) = law(random) * (j % 8 == 0 ? 3.0f : 1.0f);
    return m;
  };
  layer l;
  l.router = normal(experts);
  l.router.rowwise() += normal(1).row(0);
  for (index_t e = 0; e < experts; ++e) {
    matrix m = (0.5f + std::abs(law(random))) * normal(units);
    matrix const gains = own * normal(units).leftCols(1);
    m += gains * l.router.row(e).normalized() * m.norm() / std::sqrt(static_cast<float>(units));
    l.maps.push_back(m);
  }
  return l;
}

alignment_options quick(index_t permutations, std::uint64_t seed = 1) {
  return {.permutations = permutations, .seed = seed, .threads = 1};
}

}  // namespace

TEST_CASE("alignment: ratios and published norms of numpy, in every container and through bf16") {
  for (auto const& c : golden("weights", "alignment")) {
    auto const router = flat(c["router"]);
    auto const experts = static_cast<index_t>(c["published"].size()),
               width = static_cast<index_t>(router.size()) / experts;
    std::vector<std::vector<float>> maps;
    std::vector<std::vector<bf16>> narrow;
    std::vector<matrix_view<float>> views;
    std::vector<matrix_view<bf16>> narrow_views;
    for (auto const& m : c["maps"]) {
      maps.push_back(flat(m));
      auto& n = narrow.emplace_back();
      for (float const v : maps.back()) n.push_back(to_bf16(v));
    }
    for (std::size_t e = 0; e < maps.size(); ++e) {
      views.emplace_back(maps[e].data(), static_cast<index_t>(maps[e].size()) / width, width);
      narrow_views.emplace_back(narrow[e].data(), static_cast<index_t>(maps[e].size()) / width, width);
    }
    for (bool const centred : {false, true}) {
      auto options = quick(0);
      options.centred = centred;
      auto const check = [&](alignment_result const& r) {
        for (std::size_t e = 0; e < maps.size(); ++e) {
          CHECK(close(r.published_norms[e], c["published"][e].get<double>(), 4e-6));
          for (std::size_t f = 0; f < maps.size(); ++f)
            CHECK(close(r.ratio(e, f), c[centred ? "centred" : "ratio"][e][f].get<double>(), 1e-5));
        }
        CHECK(r.own.diagonal ==
              doctest::Approx((r.ratio(0, 0) + r.ratio(1, 1) + r.ratio(2, 2) + (experts > 3 ? r.ratio(3, 3) : 0)) /
                              static_cast<double>(experts)));
      };
      for_each_matrix(experts, width, router, [&](char const* name, auto const& m) {
        INFO(name);
        check(router_alignment(m, views, options));
      });
      check(router_alignment(matrix_view<float>(router.data(), experts, width), narrow_views,
                             options));  // f32 router, bf16 experts
      std::vector<double> const wide(router.begin(), router.end());
      check(router_alignment(matrix_view<double>(wide.data(), experts, width), narrow_views, options));
    }
  }
}

TEST_CASE("alignment: a random direction has ratio 1 on average; norms do not matter") {
  auto l = random_layer(6, 30, 400, 0, 1);
  std::mt19937_64 random(2);
  std::normal_distribution<float> law;
  l.router = matrix::NullaryExpr(6, 400, [&] { return law(random); });
  auto const r = router_alignment(l.router, l.maps, quick(0));
  double mean = 0;
  for (double const v : r.ratio) mean += v / 36;
  CHECK(mean == doctest::Approx(1).epsilon(0.15));
  l.router.row(2) *= 50;
  l.maps[3] *= 0.01f;
  auto const scaled = router_alignment(l.router, l.maps, quick(0));
  for (std::size_t i = 0; i < 36; ++i) CHECK(scaled.ratio.flat(i) == doctest::Approx(r.ratio.flat(i)).epsilon(1e-5));
  CHECK(scaled.published_norms[2] == doctest::Approx(50 * r.published_norms[2]).epsilon(1e-5));
}

TEST_CASE("alignment: a router that points into its own experts is found, the same one with other experts is not") {
  int found = 0, mixed_up = 0;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    auto l = random_layer(10, 20, 60, 0.4f, seed);
    auto const r = router_alignment(l.router, l.maps, quick(199));
    found += r.own.p_value <= 0.01 && r.own.diagonal > r.own.off_diagonal;
    // Names sorted as text, 0 1 10 2, pair router rows with other experts; here with the next one.
    std::rotate(l.maps.begin(), l.maps.begin() + 1, l.maps.end());
    mixed_up += router_alignment(l.router, l.maps, quick(199)).own.p_value <= 0.05;
  }
  CHECK(found == 20);
  CHECK(mixed_up <= 10);  // the shifted diagonal is lower than chance, since the high values are elsewhere
}

TEST_CASE("alignment: down projections transposed, threads, centring") {
  auto const l = random_layer(5, 7, 70, 0.3f, 3);
  std::vector<matrix> down;
  for (auto const& m : l.maps) down.push_back(m.transpose());
  std::vector<matrix_view<float>> turned;
  for (auto const& m : down) turned.emplace_back(m.data(), 7, 70, 1, 7);
  auto const a = router_alignment(l.router, l.maps, quick(99));
  auto options = quick(99);
  options.threads = 4;
  auto const b = router_alignment(l.router, turned, options);
  for (std::size_t i = 0; i < 25; ++i) CHECK(a.ratio.flat(i) == b.ratio.flat(i));
  CHECK(a.own.p_value == b.own.p_value);
  // Centred: a row common to all experts does not count.
  options.centred = true;
  auto const c = router_alignment(l.router, l.maps, options);
  matrix shifted = l.router;
  shifted.rowwise() += 3 * l.router.row(0);
  auto const d = router_alignment(shifted, l.maps, options);
  for (std::size_t i = 0; i < 25; ++i) CHECK(c.ratio.flat(i) == doctest::Approx(d.ratio.flat(i)).epsilon(1e-4));
}

TEST_CASE("alignment: undefined rows and maps, bad shapes") {
  auto l = random_layer(4, 5, 9, 0, 4);
  l.router.row(1).setZero();
  l.maps[2].setZero();
  auto r = router_alignment(l.router, l.maps, quick(99));
  CHECK(std::isnan(r.ratio(1, 0)));
  CHECK(std::isnan(r.ratio(0, 2)));
  CHECK_FALSE(std::isnan(r.ratio(0, 3)));
  CHECK(r.published_norms[1] == 0);
  CHECK(std::isnan(r.own.p_value));
  l.maps[0](1, 1) = std::numeric_limits<float>::quiet_NaN();
  l.maps[3](1, 1) = std::numeric_limits<float>::infinity();
  r = router_alignment(l.router, l.maps, quick(99));
  CHECK(std::isnan(r.ratio(0, 0)));
  CHECK(std::isnan(r.ratio(2, 3)));
  CHECK_FALSE(std::isnan(r.ratio(0, 1)));
  matrix const alike = matrix::Constant(4, 9, 0.1f);
  auto options = quick(9);
  options.centred = true;
  CHECK(std::isnan(router_alignment(alike, random_layer(4, 5, 9, 0, 4).maps, options).ratio(0, 0)));
  CHECK_THROWS_AS(router_alignment(alike, std::vector<matrix>(3, matrix(5, 9))), shape_error);
  CHECK_THROWS_AS(router_alignment(alike, std::vector<matrix>(4, matrix(9, 5))), shape_error);
  CHECK_THROWS_AS(router_alignment(l.router, l.maps, quick(-1)), argument_error);
  CHECK(router_alignment(matrix(0, 9), std::vector<matrix>{}, quick(9)).ratio.size() == 0);
}

namespace {

void check_null(int runs, std::uint64_t seed) {
  int rejected = 0;
  for (int i = 0; i < runs; ++i) {
    auto const l = random_layer(8, 6, 24, 0, seed + static_cast<std::uint64_t>(i));
    auto options = quick(199, seed + static_cast<std::uint64_t>(i));
    options.centred = i % 2 == 1;
    rejected += router_alignment(l.router, l.maps, options).own.p_value <= 0.05;
  }
  MESSAGE("rejected " << rejected << " of " << runs);
  CHECK(std::abs(static_cast<double>(rejected) / runs - 0.05) < 3.5 * std::sqrt(0.05 * 0.95 / runs));
}

}  // namespace

TEST_CASE("alignment: routers unrelated to anisotropic maps are rejected as often as the level says (quick)") {
  check_null(300, 1);
}
TEST_CASE("alignment: calibration" * doctest::test_suite("slow")) { check_null(2000, 100000); }
