// SPDX-License-Identifier: Apache-2.0
#include <moeroute/routing/activation.hpp>

#include <cmath>
#include <limits>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"
#include "support/laws.hpp"
#include "support/routing_data.hpp"

using namespace moeroute;

namespace {

float const not_a_number = std::numeric_limits<float>::quiet_NaN();

template <class L>
activation of(index_t experts, std::vector<L> const& logits, score_function score = score_function::softmax) {
  auto const rows = static_cast<index_t>(logits.size()) / experts;
  std::vector<std::int16_t> const ids(static_cast<std::size_t>(rows));
  activation a({experts, score, 1});
  a.update(make_routing_batch(experts, matrix_view<std::int16_t>(ids.data(), rows, 1), matrix_view<float>{},
                              matrix_view<L>(logits.data(), rows, experts)));
  return a;
}

// Mean probabilities in long double, straight from the definition.
std::vector<long double> naive(routing_data const& d, bool sigmoid) {
  std::vector<long double> sum(static_cast<std::size_t>(d.experts));
  long double rows = 0;
  for (index_t t = 0; t < d.tokens(); ++t) {
    auto const* z = d.logits.data() + t * d.experts;
    std::vector<long double> p;
    long double total = 0;
    for (index_t e = 0; e < d.experts; ++e) {
      p.push_back(sigmoid ? 1 / (1 + std::exp(-static_cast<long double>(z[e])))
                          : std::exp(static_cast<long double>(z[e])));
      total += p.back();
    }
    if (!std::all_of(z, z + d.experts, [](float x) { return std::isfinite(x); })) continue;
    ++rows;
    for (std::size_t e = 0; e < p.size(); ++e) sum[e] += p[e] / total;
  }
  for (auto& s : sum) s /= rows;
  return sum;
}

}  // namespace

TEST_CASE("activation: by hand") {
  float const log3 = std::log(3.0f);
  auto const r = of<float>(2, {0, log3, 0, 0, not_a_number, 0}).result();
  CHECK(r.probability[0] == doctest::Approx(0.375).epsilon(1e-7));
  CHECK(r.probability[1] == doctest::Approx(0.625).epsilon(1e-7));
  CHECK(r.probability_rows == 2);
  CHECK(r.nonfinite_rows == 1);
  CHECK(r.tokens == 3);
  CHECK(std::isnan(r.weight[0]));

  // sigmoid(0) = 1/2, sigmoid(-log 3) = 1/4
  auto const s = of<float>(2, {0, -log3}, score_function::sigmoid).result();
  CHECK(s.probability[0] == doctest::Approx(2.0 / 3).epsilon(1e-7));

  std::vector<std::int16_t> const ids{1, 0, 1, -1, 0, 1};
  std::vector<float> const weights{0.5f, 0.25f, 0.75f, 9.0f, not_a_number, 1.5f};
  activation w({2, score_function::softmax, 1});
  w.update(
      make_routing_batch(2, matrix_view<std::int16_t>(ids.data(), 3, 2), matrix_view<float>(weights.data(), 3, 2)));
  auto const x = w.result();
  CHECK(x.weight == std::vector<double>{0.25 / 3, 1.25 / 3});
  CHECK(x.refused_weights == 2);  // NaN and 1.5; the weight of a dropped slot is nobody's
  CHECK(x.weight_rows == 3);
  CHECK(std::isnan(x.probability[0]));
}

TEST_CASE("activation: laws") {
  auto const data = random_routing({}, 31);
  for (auto const score : {score_function::softmax, score_function::sigmoid, score_function::softmax_after_top_k}) {
    law_case<activation> c{{7, score, 1}, {7, score, 2}, data.size(), [&](activation& a, index_t first, index_t last) {
                             a.update(data.batch(first, last));
                           }};
    c.bad_updates = {[](activation& a) {
      std::vector<std::int16_t> const ids{0};
      a.update(routing_batch<>(6, {ids.data(), 1, 1}));
    }};
    check_accumulator_laws(c);
  }
}

TEST_CASE("activation: equals the definition in long double") {
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    auto const data = random_routing({static_cast<index_t>(1 + 37 * (seed % 4)), 1, 15, 30, 0, 0.01}, seed);
    for (bool const sigmoid : {false, true}) {
      activation a({data.experts, sigmoid ? score_function::sigmoid : score_function::softmax, 1});
      a.update(data.batch());
      auto const want = naive(data, sigmoid);
      auto const r = a.result();
      double sum = 0;
      for (std::size_t e = 0; e < want.size(); ++e) {
        CHECK(std::abs(r.probability[e] - static_cast<double>(want[e])) < 1e-6 * static_cast<double>(want[e]) + 1e-12);
        sum += r.probability[e];
      }
      CHECK(sum == doctest::Approx(1).epsilon(1e-6));
    }
  }
}

TEST_CASE("activation: equals scipy") {
  for (auto const& g : golden("gate", "gate")) {
    index_t const experts = g["experts"], tokens = static_cast<index_t>(g["logits"].size());
    std::vector<double> z;
    for (auto const& row : g["logits"]) z.insert(z.end(), row.begin(), row.end());
    std::vector<std::int16_t> const ids(static_cast<std::size_t>(tokens));
    for (auto const& [name, score] :
         {std::pair{"softmax", score_function::softmax}, std::pair{"sigmoid", score_function::sigmoid}}) {
      activation a({experts, score, 1});
      a.update(make_routing_batch(experts, matrix_view<std::int16_t>(ids.data(), tokens, 1), matrix_view<float>{},
                                  matrix_view<double>(z.data(), tokens, experts)));
      auto const want = g[name].get<std::vector<double>>();
      for (std::size_t e = 0; e < want.size(); ++e) CHECK(close(a.result().probability[e], want[e], 1e-13));
    }
  }
}

TEST_CASE("activation: the same from every container, element type by element type") {
  auto const data = random_routing({6, 2, 5, 9, 0.1, 0}, 3);
  auto const ids = matrix_view<std::int16_t>(data.ids.data(), data.tokens(), 2);
  activation want({6});
  want.update(data.batch());
  for_each_matrix(data.tokens(), 6, data.logits, [&](char const* name, auto const& logits) {
    INFO(name);
    activation got({6});
    got.update(make_routing_batch(6, ids, matrix_view<float>(data.weights.data(), data.tokens(), 2), logits));
    CHECK(got == want);
  });
  for_each_matrix(data.tokens(), 2, data.weights, [&](char const* name, auto const& weights) {
    INFO(name);
    activation got({6});
    got.update(make_routing_batch(6, ids, weights, matrix_view<float>(data.logits.data(), data.tokens(), 6)));
    CHECK(got == want);
  });
  std::vector<bf16> narrow;
  std::vector<float> widened;
  std::vector<double> wide;
  for (float const z : data.logits) {
    narrow.push_back(to_bf16(z));
    widened.push_back(to_float(narrow.back()));
    wide.push_back(static_cast<double>(widened.back()));
  }
  CHECK(of(6, narrow) == of(6, widened));  // computed as binary32, so equal to the bit
  auto const a = of(6, widened).result(), b = of(6, wide).result();
  for (std::size_t e = 0; e < 6; ++e) CHECK(a.probability[e] == doctest::Approx(b.probability[e]).epsilon(1e-6));
}

TEST_CASE("activation: a shifted row is the same row; repeated data change no mean") {
  std::vector<double> const z{0.5, -1, 2, 0, 0, 0};
  auto shifted = z;
  for (double& x : shifted) x += 1024;
  CHECK(of(3, z) == of(3, shifted));
  auto twice = of(3, z);
  twice.merge(of(3, z));
  CHECK(twice.result().probability == of(3, z).result().probability);
}

TEST_CASE("activation: extremes") {
  auto const empty = activation({2}).result();
  CHECK(std::isnan(empty.probability[1]));
  CHECK(std::isnan(empty.weight[1]));
  CHECK(of<float>(1, {-3e38f, 3e38f}).result().probability == std::vector<double>{1.0});
  auto const far = of<float>(2, {-3e38f, 3e38f}).result();
  CHECK(far.probability == std::vector<double>{0.0, 1.0});
  auto const broken = of<float>(2, {not_a_number, 0, std::numeric_limits<float>::infinity(), 0}).result();
  CHECK(broken.nonfinite_rows == 2);
  CHECK(std::isnan(broken.probability[0]));
  // Sigmoids that all underflow have no shares; the row is counted, not turned into NaN.
  auto const underflown = of<float>(2, {-200, -200, 0, 0}, score_function::sigmoid).result();
  CHECK(underflown.probability == std::vector<double>{0.5, 0.5});
  CHECK(underflown.nonfinite_rows == 1);
  CHECK(underflown.probability_rows == 1);
  Eigen::MatrixXf const no_rows(0, 256);
  Eigen::MatrixXi const no_ids(0, 8);
  activation a({256});
  a.update(make_routing_batch(256, no_ids, Eigen::MatrixXf(0, 8), no_rows));
  CHECK(a == activation({256}));
  CHECK_THROWS_AS(activation({0}), argument_error);
  CHECK_THROWS_AS(activation({2, score_function::softmax, 3.0}), argument_error);
}
