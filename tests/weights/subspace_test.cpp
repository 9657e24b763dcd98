// SPDX-License-Identifier: Apache-2.0
#include <moeroute/weights/subspace.hpp>

#include <cmath>
#include <limits>
#include <numbers>
#include <random>

#include <Eigen/QR>
#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"

using namespace moeroute;

namespace {

struct table {
  index_t rows = 0, columns = 0;
  std::vector<double> x;
  matrix_view<double> view() const { return {x.data(), rows, columns}; }
};

table read(nlohmann::json const& json) {
  table t;
  for (auto const& row : json.get<std::vector<std::vector<double>>>()) {
    ++t.rows;
    t.columns = static_cast<index_t>(row.size());
    t.x.insert(t.x.end(), row.begin(), row.end());
  }
  return t;
}

Eigen::MatrixXd normal(index_t rows, index_t columns, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> law;
  return Eigen::MatrixXd::NullaryExpr(rows, columns, [&] { return law(random); });
}

}  // namespace

TEST_CASE("subspace: spectrum, directions and effective ranks of numpy; PCA of scikit-learn") {
  for (auto const& c : golden("weights", "spectra")) {
    auto const t = read(c["matrix"]);
    for_each_matrix(t.rows, t.columns, t.x, [&](char const* name, auto const& m) {
      INFO(name);
      auto const s = singular_spectrum(m);
      auto const want = c["singular_values"].get<std::vector<double>>();
      REQUIRE(s.singular_values.size() == want.size());
      for (std::size_t i = 0; i < want.size(); ++i) {
        CHECK(close(s.singular_values[i] / want[0], want[i] / want[0], 1e-14));
        CHECK(close(s.explained[i], c["explained"][i].get<double>(), 1e-14));
      }
      CHECK(s.rank == c["rank"].get<index_t>());
      for (std::size_t i = 0; i < static_cast<std::size_t>(s.rank); ++i)
        for (std::size_t j = 0; j < static_cast<std::size_t>(t.columns); ++j)
          CHECK(close(s.directions(i, j), c["directions"][i][j].get<double>(), 1e-12));
      CHECK(close(s.effective_rank, c["effective_rank"].get<double>(), 1e-13));
      CHECK(close(s.effective_rank_roy_vetterli, c["roy_vetterli"].get<double>(), 1e-12));
      CHECK(close(s.participation_ratio, c["participation"].get<double>(), 1e-13));
      CHECK(s.above_one_percent == c["above_one_percent"].get<index_t>());
      CHECK(s.participation_ratio <= s.effective_rank * (1 + 1e-14));
      CHECK(s.effective_rank <= s.effective_rank_roy_vetterli * (1 + 1e-14));
    });
    if (!c.contains("pca_variance")) continue;
    auto const s = singular_spectrum(t.view(), true);
    for (std::size_t i = 0; i < s.singular_values.size(); ++i)
      CHECK(close(s.singular_values[i] * s.singular_values[i] / static_cast<double>(t.rows - 1),
                  c["pca_variance"][i].get<double>(), 1e-12));
  }
}

TEST_CASE("subspace: by hand") {
  std::vector<float> const m{3, 0, 0, 0, 4, 0};
  auto const s = singular_spectrum(matrix_view<float>(m.data(), 2, 3));
  CHECK(s.singular_values[0] == doctest::Approx(4));
  CHECK(s.explained[1] == doctest::Approx(9.0 / 25));
  CHECK(s.participation_ratio == doctest::Approx(625.0 / 337));
  CHECK(s.effective_rank_roy_vetterli ==
        doctest::Approx(std::exp(-(4.0 / 7) * std::log(4.0 / 7) - (3.0 / 7) * std::log(3.0 / 7))));
  CHECK(s.directions(0, 1) == doctest::Approx(1));
  CHECK(s.rank == 2);
  // k equal singular values: every notion of rank says k.
  Eigen::MatrixXd const rotation = Eigen::HouseholderQR<Eigen::MatrixXd>(normal(9, 9, 1)).householderQ();
  auto const flat = singular_spectrum(Eigen::MatrixXd(5 * rotation.topRows(4)));
  CHECK(flat.effective_rank == doctest::Approx(4));
  CHECK(flat.effective_rank_roy_vetterli == doctest::Approx(4));
  CHECK(flat.participation_ratio == doctest::Approx(4));
  CHECK(flat.above_one_percent == 4);
}

TEST_CASE("subspace: principal angles of scipy, from every scalar's own values") {
  for (auto const& c : golden("weights", "angles")) {
    auto const a = read(c["a"]), b = read(c["b"]);
    auto const r = principal_angles(subspace(a.view()), subspace(b.view())),
               turned = principal_angles(subspace(b.view()), subspace(a.view()));
    REQUIRE(r.angles.size() == c["angles"].size());
    for (std::size_t i = 0; i < r.angles.size(); ++i) {
      CHECK(close(r.angles[i], c["angles"][i].get<double>(), 2e-14));
      CHECK(close(r.angles[i], turned.angles[i], 2e-14));
    }
    CHECK(close(r.overlap, c["overlap"].get<double>(), 1e-13));
    CHECK(close(r.mean_cosine, c["mean_cosine"].get<double>(), 1e-13));
  }
  std::vector<bf16> const a{to_bf16(1), to_bf16(0), to_bf16(0)}, b{to_bf16(1), to_bf16(1), to_bf16(0)};
  CHECK(principal_angles(subspace(matrix_view<bf16>(a.data(), 1, 3)), subspace(matrix_view<bf16>(b.data(), 1, 3)))
            .angles[0] == doctest::Approx(std::numbers::pi / 4).epsilon(1e-15));
}

TEST_CASE("subspace: angles far below 1e-8, where arccos sees nothing") {
  for (auto const& c : golden("weights", "small_angles")) {
    auto const a = read(c["a"]), b = read(c["b"]);
    auto const r = principal_angles(subspace(a.view()), subspace(b.view()));
    for (std::size_t i = 0; i < 2; ++i) CHECK(std::abs(r.angles[i] - c["angles"][i].get<double>()) < 2e-15);
  }
  auto const m = normal(5, 40, 3);
  auto const mixed = Eigen::MatrixXd(normal(5, 5, 4) * m);  // other rows, the same space
  auto const r = principal_angles(subspace(m), subspace(mixed));
  for (double const angle : r.angles) CHECK(angle < 1e-12);  // the mixing has a condition number of some hundreds
  CHECK(r.overlap == doctest::Approx(1).epsilon(1e-14));
}

TEST_CASE("subspace: orthogonal spaces, nested spaces, rank deficiency, leading directions") {
  Eigen::MatrixXd const axes = Eigen::MatrixXd::Identity(6, 6);
  auto const r =
      principal_angles(subspace(Eigen::MatrixXd(axes.topRows(2))), subspace(Eigen::MatrixXd(axes.bottomRows(3))));
  CHECK(r.angles.size() == 2);
  for (double const angle : r.angles) CHECK(angle == doctest::Approx(std::numbers::pi / 2).epsilon(1e-15));
  CHECK(r.overlap == 0);
  CHECK(r.chance == 0.5);
  auto const nested =
      principal_angles(subspace(Eigen::MatrixXd(axes.topRows(4))), subspace(Eigen::MatrixXd(axes.topRows(1))));
  CHECK(nested.overlap == 1);
  CHECK(nested.angles[0] == 0);
  auto const all = principal_angles(subspace(axes), subspace(Eigen::MatrixXd(axes.topRows(2))));
  CHECK(all.overlap == doctest::Approx(1));
  CHECK(all.chance == 1);
  CHECK(all.chance_sd == 0);
  Eigen::MatrixXd twice(4, 6);
  twice << axes.topRows(2), 3 * axes.topRows(2);
  CHECK(subspace(twice).dimensions() == 2);
  CHECK(subspace(twice).ambient() == 6);
  Eigen::MatrixXd scaled = axes;
  scaled(4, 4) = 9;
  auto const leading = subspace(scaled, 1);
  CHECK(leading.dimensions() == 1);
  CHECK(std::abs(leading.basis()(4, 0)) == doctest::Approx(1));
  // The common row of all is removed by centring.
  Eigen::MatrixXd shifted = axes.topRows(3);
  shifted.rowwise() += 100 * axes.row(5);
  CHECK(principal_angles(subspace(shifted, 0, true), subspace(Eigen::MatrixXd(axes.bottomRows(1)))).overlap < 1e-20);
}

TEST_CASE("subspace: published chance levels of the mean cosine; the chance of the overlap with its sd") {
  // published-definitions: 64 dimensions of 2048 give a mean cosine of 0.151.
  auto const r = principal_angles(subspace(normal(64, 2048, 1)), subspace(normal(64, 2048, 2)));
  CHECK(r.mean_cosine == doctest::Approx(0.151).epsilon(0.03));
  CHECK(r.chance == doctest::Approx(1.0 / 32));
  CHECK(std::abs(r.overlap - r.chance) < 4 * r.chance_sd);
  for (auto const& [p, q, d] : {std::array<index_t, 3>{3, 3, 10}, {2, 5, 8}, {1, 1, 4}}) {
    int const runs = 1500;
    double sum = 0, squares = 0;
    principal_angles_result last;
    for (int i = 0; i < runs; ++i) {
      auto const seed = static_cast<std::uint64_t>(2 * i + 10000 * d);
      last = principal_angles(subspace(normal(p, d, seed)), subspace(normal(q, d, seed + 1)));
      sum += last.overlap;
      squares += (last.overlap - last.chance) * (last.overlap - last.chance);
    }
    INFO(p << ", " << q << " of " << d);
    CHECK(std::abs(sum / runs - last.chance) < 4 * last.chance_sd / std::sqrt(runs));
    CHECK(std::sqrt(squares / runs) / last.chance_sd == doctest::Approx(1).epsilon(0.08));
  }
}

TEST_CASE("subspace: a shared subspace is found, below what random spaces reach by chance") {
  // Two routers of 16 rows in 128 dimensions; in the planted ones 4 directions are common.
  int found = 0, false_alarms = 0;
  for (std::uint64_t i = 0; i < 40; ++i) {
    auto const shared = normal(4, 128, 1000 + i);
    auto const a = normal(16, 128, 2000 + i), b = normal(16, 128, 3000 + i);
    auto const plant = [&](Eigen::MatrixXd m, std::uint64_t seed) {
      return Eigen::MatrixXd(m + 3 * normal(16, 4, seed) * shared);
    };
    auto const z = [](principal_angles_result const& r) { return (r.overlap - r.chance) / r.chance_sd; };
    found += z(principal_angles(subspace(plant(a, i)), subspace(plant(b, 500 + i)))) > 5;
    false_alarms += std::abs(z(principal_angles(subspace(a), subspace(b)))) > 3;
  }
  CHECK(found == 40);
  CHECK(false_alarms <= 2);
}

TEST_CASE("subspace: rotation of the space around and mixing of the rows change nothing") {
  auto const a = normal(3, 12, 1), b = normal(5, 12, 2);
  Eigen::MatrixXd const rotation = Eigen::HouseholderQR<Eigen::MatrixXd>(normal(12, 12, 3)).householderQ();
  auto const x = principal_angles(subspace(a), subspace(b)),
             y = principal_angles(subspace(Eigen::MatrixXd(normal(3, 3, 4) * a * rotation)),
                                  subspace(Eigen::MatrixXd(1e6 * b * rotation)));
  for (std::size_t i = 0; i < 3; ++i) CHECK(x.angles[i] == doctest::Approx(y.angles[i]).epsilon(1e-12));
}

TEST_CASE("subspace: nothing, zeros, bad values") {
  auto s = singular_spectrum(Eigen::MatrixXd(0, 4));
  CHECK(s.singular_values.empty());
  CHECK(std::isnan(s.effective_rank));
  s = singular_spectrum(Eigen::MatrixXd(Eigen::MatrixXd::Zero(2, 4)));
  CHECK(s.singular_values == std::vector<double>{0, 0});
  CHECK(s.rank == 0);
  CHECK(std::isnan(s.explained[0]));
  CHECK(std::isnan(s.participation_ratio));
  CHECK(subspace(Eigen::MatrixXd(Eigen::MatrixXd::Zero(2, 4))).dimensions() == 0);
  auto const none = principal_angles(subspace(Eigen::MatrixXd(Eigen::MatrixXd::Zero(2, 4))),
                                     subspace(Eigen::MatrixXd(normal(1, 4, 1))));
  CHECK(none.angles.empty());
  CHECK(std::isnan(none.overlap));
  CHECK_THROWS_AS(principal_angles(subspace(normal(2, 4, 1)), subspace(normal(2, 5, 1))), shape_error);
  CHECK_THROWS_AS(subspace(normal(2, 4, 1), 3), argument_error);
  CHECK_THROWS_AS(subspace(normal(2, 4, 1), -1), argument_error);
  Eigen::MatrixXd bad = normal(2, 4, 1);
  bad(1, 2) = quiet_nan;
  CHECK_THROWS_WITH_AS(singular_spectrum(bad),
                       "moeroute::singular_spectrum: value nan at row 1, column 2, must be finite", argument_error);
  bad(1, 2) = std::numeric_limits<double>::infinity();
  CHECK_THROWS_AS(subspace{bad}, argument_error);
  for (double const size : {1e-300, 1e300}) {  // squares out of range
    auto const extreme = singular_spectrum(Eigen::MatrixXd(size * Eigen::MatrixXd::Identity(3, 3)));
    CHECK(extreme.participation_ratio == doctest::Approx(3));
    CHECK(extreme.rank == 3);
  }
}

TEST_CASE("subspace: overlap of random spaces is as often beyond 2 sd as its law says" * doctest::test_suite("slow")) {
  int beyond = 0;
  for (std::uint64_t i = 0; i < 2000; ++i) {
    auto const r = principal_angles(subspace(normal(12, 96, 2 * i)), subspace(normal(12, 96, 2 * i + 1)));
    beyond += std::abs(r.overlap - r.chance) > 1.96 * r.chance_sd;
  }
  MESSAGE(beyond << " of 2000");
  CHECK(std::abs(beyond / 2000.0 - 0.05) < 0.02);  // nearly normal, not quite
}
