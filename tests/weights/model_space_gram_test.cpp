// SPDX-License-Identifier: Apache-2.0
#include <moeroute/weights/expert_similarity.hpp>
#include <moeroute/weights/model_space_gram.hpp>

#include <algorithm>
#include <cmath>
#include <random>

#include <Eigen/Core>
#include <Eigen/QR>
#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"

using namespace moeroute;

namespace {

using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

matrix normal(index_t rows, index_t columns, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> law;
  matrix m(rows, columns);
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < columns; ++j)
      m(i, j) = law(random) * (j < 3 ? 3.0f : 1.0f);  // every expert reads three axes loudly
  return m;
}

xt::xtensor<double, 3> cosines(std::vector<matrix> const& experts, int threads = 1) {
  expert_gram g({.layers = 1, .experts = static_cast<index_t>(experts.size())});
  add_model_space_gram(g, experts, threads);
  return expert_cosines(g.result());
}

}  // namespace

TEST_CASE("model_space_gram: cosines of numpy's W^T W without trace, in every container and through bf16") {
  for (auto const& c : golden("weights", "model_space")) {
    std::vector<std::vector<float>> flat;
    std::vector<std::vector<bf16>> narrow;
    index_t rows = 0, columns = 0;
    for (auto const& expert : c["weights"].get<std::vector<std::vector<std::vector<float>>>>()) {
      auto& x = flat.emplace_back();
      rows = static_cast<index_t>(expert.size());
      for (auto const& row : expert) x.insert(x.end(), row.begin(), row.end());
      columns = static_cast<index_t>(x.size()) / rows;
      auto& y = narrow.emplace_back();
      for (float const v : x) y.push_back(to_bf16(v));
    }
    auto const experts = static_cast<index_t>(flat.size());
    auto const check = [&](auto const& weights) {
      expert_gram g({.layers = 1, .experts = experts});
      add_model_space_gram(g, weights);
      CHECK(g.count() == static_cast<std::uint64_t>(columns * columns));
      auto const got = expert_cosines(g.result());
      for (std::size_t i = 0; i < flat.size(); ++i)
        for (std::size_t j = 0; j < flat.size(); ++j) CHECK(close(got(0, i, j), c["cosine"][i][j].get<double>(), 2e-6));
    };
    std::vector<matrix_view<float>> views;
    std::vector<matrix_view<bf16>> narrow_views;
    for (auto const& x : flat) views.emplace_back(x.data(), rows, columns);
    for (auto const& x : narrow) narrow_views.emplace_back(x.data(), rows, columns);
    check(views);
    check(narrow_views);
    for_each_matrix(rows, columns, flat[0], [&](char const* name, auto const& first) {
      INFO(name);
      auto mixed = views;
      mixed[0] = detail::matrix_of(first);
      check(mixed);
    });
  }
}

TEST_CASE("model_space_gram: order, rotation and sign of hidden units do not matter; flattened weights see nothing") {
  auto const a = normal(20, 150, 1), b = normal(20, 150, 2);  // 150 model dimensions: more than one block
  matrix shuffled = a;
  for (index_t i = 0; i < 20; ++i) shuffled.row(i) = (i % 3 == 0 ? -1 : 1) * a.row((7 * i + 3) % 20);
  matrix const rotation = Eigen::HouseholderQR<matrix>(normal(20, 20, 3)).householderQ();
  auto const c = cosines({a, shuffled, rotation * a, b});
  CHECK(c(0, 0, 1) == doctest::Approx(1).epsilon(1e-6));
  CHECK(c(0, 0, 2) == doctest::Approx(1).epsilon(1e-6));
  CHECK(c(0, 0, 3) < 0.5);
  expert_gram g({.layers = 1, .experts = 2});
  g.update(std::vector<std::vector<float>>{{a.data(), a.data() + a.size()},
                                           {shuffled.data(), shuffled.data() + shuffled.size()}});
  CHECK(std::abs(expert_cosines(g.result())(0, 0, 1)) < 0.1);
}

TEST_CASE("model_space_gram: more hidden units than one block") {
  std::vector<Eigen::MatrixXd> const w{normal(1033, 5, 1).cast<double>(), normal(1033, 5, 2).cast<double>()};
  expert_gram g({.layers = 1, .experts = 2});
  add_model_space_gram(g, w);
  std::vector<Eigen::MatrixXd> s;
  for (auto const& m : w) s.push_back(m.transpose() * m - m.squaredNorm() / 5 * Eigen::MatrixXd::Identity(5, 5));
  for (std::size_t i = 0; i < 2; ++i)
    for (std::size_t j = 0; j < 2; ++j)
      CHECK(close(g.result().dots(0, i, j) / s[0].squaredNorm(),
                  (s[i].array() * s[j].array()).sum() / s[0].squaredNorm(), 1e-12));
}

TEST_CASE("model_space_gram: unrelated isotropic experts have cosine 0 with the stated spread") {
  index_t const width = 40;
  std::mt19937_64 random(5);
  std::normal_distribution<float> law;
  std::vector<matrix> experts;
  for (int e = 0; e < 40; ++e) experts.push_back(matrix::NullaryExpr(30, width, [&] { return law(random); }));
  auto const c = cosines(experts);
  double sum = 0, squares = 0, n = 40 * 39 / 2;
  for (std::size_t i = 0; i < 40; ++i)
    for (std::size_t j = 0; j < i; ++j) sum += c(0, i, j), squares += c(0, i, j) * c(0, i, j);
  double const sd = std::sqrt(2.0) / static_cast<double>(width);
  CHECK(std::abs(sum / n) < 4 * sd / std::sqrt(n));
  CHECK(std::sqrt(squares / n) / sd == doctest::Approx(1).epsilon(0.1));
}

TEST_CASE("model_space_gram: shuffled copies between layers are found by index") {
  std::vector<matrix> experts;
  for (std::uint64_t e = 0; e < 12; ++e) experts.push_back(normal(16, 30, 10 + e));
  for (std::size_t e = 0; e < 6; ++e)  // layer 1 = layer 0 with its hidden units turned around, and noise
    experts[6 + e] = (experts[e].colwise().reverse() + 0.7f * experts[6 + e]).eval();
  expert_gram flattened({.layers = 2, .experts = 6, .deltas = {1}}), invariant = flattened;
  std::vector<vector_view<float>> rows;
  for (auto const& e : experts) rows.emplace_back(e.data(), e.size());
  flattened.update(rows);
  add_model_space_gram(invariant, experts);
  CHECK(expert_similarity(flattened.result()).lags[0].p_value > 0.05);
  CHECK(expert_similarity(invariant.result()).lags[0].p_value < 0.01);
}

TEST_CASE("model_space_gram: threads, transposed down projections, bad shapes") {
  std::vector<matrix> experts{normal(10, 140, 1), normal(10, 140, 2)}, down;
  for (auto const& e : experts) down.push_back(e.transpose());
  std::vector<matrix_view<float>> turned;
  for (auto const& d : down) turned.emplace_back(d.data(), 10, 140, 1, 10);
  expert_gram a({.layers = 1, .experts = 2}), b = a, c = a;
  add_model_space_gram(a, experts, 1);
  add_model_space_gram(b, experts, 3);
  add_model_space_gram(c, turned);
  CHECK(a == b);
  CHECK(a == c);
  CHECK_THROWS_AS(add_model_space_gram(a, std::vector<matrix>{normal(3, 4, 1)}), shape_error);
  CHECK_THROWS_AS(add_model_space_gram(a, std::vector<matrix>{normal(3, 4, 1), normal(4, 3, 1)}), shape_error);
  CHECK(a == b);
  // The identity has no direction.
  expert_gram g({.layers = 1, .experts = 2});
  add_model_space_gram(g, std::vector<matrix>{matrix::Identity(5, 5), normal(5, 5, 1)});
  CHECK(std::isnan(expert_cosines(g.result())(0, 0, 0)));
  std::vector<Eigen::MatrixXd> const doubles{normal(4, 6, 1).cast<double>(), normal(4, 6, 2).cast<double>()};
  expert_gram d({.layers = 1, .experts = 2});
  add_model_space_gram(d, doubles);
  Eigen::MatrixXd const x = doubles[0].transpose() * doubles[0] -
                            doubles[0].squaredNorm() / 6 * Eigen::MatrixXd::Identity(6, 6),
                        y = doubles[1].transpose() * doubles[1] -
                            doubles[1].squaredNorm() / 6 * Eigen::MatrixXd::Identity(6, 6);
  CHECK(close(expert_cosines(d.result())(0, 0, 1), (x.array() * y.array()).sum() / x.norm() / y.norm(), 1e-13));
}
