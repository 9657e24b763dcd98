// SPDX-License-Identifier: Apache-2.0
#include <moeroute/weights/diagonal_test.hpp>
#include <moeroute/weights/neuron_match.hpp>

#include <cmath>
#include <limits>
#include <random>

#include <doctest/doctest.h>

#include "support/golden.hpp"

using namespace moeroute;

namespace {

struct expert {
  index_t hidden, width;
  std::vector<float> gate, up, down;
  swiglu_view<float> view() const {
    return {{gate.data(), hidden, width}, {up.data(), hidden, width}, {down.data(), width, hidden}};
  }
  float& down_at(index_t unit, index_t i) { return down[static_cast<std::size_t>(i * hidden + unit)]; }
};

expert random_expert(index_t hidden, index_t width, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> law;
  expert e{hidden, width, {}, {}, {}};
  for (auto* x : {&e.gate, &e.up, &e.down})
    for (index_t i = 0; i < hidden * width; ++i) x->push_back(law(random));
  return e;
}

std::vector<float> flat(nlohmann::json const& rows) {
  std::vector<float> x;
  for (auto const& row : rows.get<std::vector<std::vector<float>>>()) x.insert(x.end(), row.begin(), row.end());
  return x;
}

// The same function with its hidden units in another order, up and down rescaled with either sign.
expert disguised(expert const& e, std::vector<index_t> const& order) {
  expert d = e;
  for (index_t u = 0; u < e.hidden; ++u) {
    auto const from = order[static_cast<std::size_t>(u)];
    float const c = (u % 2 == 0 ? -1.0f : 1.0f) * static_cast<float>(1 << (u % 5));
    for (index_t i = 0; i < e.width; ++i) {
      auto const to_row = static_cast<std::size_t>(u * e.width + i),
                 from_row = static_cast<std::size_t>(from * e.width + i);
      d.gate[to_row] = e.gate[from_row];
      d.up[to_row] = c * e.up[from_row];
      d.down_at(u, i) = e.down[static_cast<std::size_t>(i * e.hidden + from)] / c;
    }
  }
  return d;
}

}  // namespace

TEST_CASE("neuron_match: units and similarity of scipy's assignment") {
  for (auto const& c : golden("weights", "matching")) {
    auto const make = [&](std::size_t which) {
      auto const rows = c["gate"][which].size();
      expert e{static_cast<index_t>(rows), 0, flat(c["gate"][which]), flat(c["up"][which]), flat(c["down"][which])};
      e.width = static_cast<index_t>(e.gate.size() / rows);
      return e;
    };
    auto const a = make(0), b = make(1);
    auto const r = match_neurons(a.view(), b.view());
    CHECK(r.neuron == c["neuron"].get<std::vector<index_t>>());
    CHECK(close(r.similarity, c["similarity"].get<double>(), 2e-6));
    CHECK(close(r.same_order, c["same_order"].get<double>(), 2e-6));
    std::vector<bf16> gate, up, down;
    for (float const v : a.gate) gate.push_back(to_bf16(v));
    for (float const v : a.up) up.push_back(to_bf16(v));
    for (float const v : a.down) down.push_back(to_bf16(v));
    swiglu_view<bf16> const narrow{
        {gate.data(), a.hidden, a.width}, {up.data(), a.hidden, a.width}, {down.data(), a.width, a.hidden}};
    CHECK(match_neurons(narrow, narrow).similarity == doctest::Approx(1).epsilon(1e-6));
  }
}

TEST_CASE("neuron_match: a disguised expert is recognised, unit by unit") {
  auto const e = random_expert(24, 40, 1);
  std::vector<index_t> order;
  for (index_t u = 0; u < 24; ++u) order.push_back((5 * u + 7) % 24);
  auto const d = disguised(e, order);
  auto const r = match_neurons(d.view(), e.view());
  CHECK(r.neuron == order);
  CHECK(r.similarity == doctest::Approx(1).epsilon(1e-6));
  CHECK(std::abs(r.same_order) < 0.2);
  CHECK(match_neurons(e.view(), random_expert(24, 40, 2).view()).similarity < 0.3);
}

TEST_CASE("neuron_match: the chance level is not 0, so pairs are compared with pairs") {
  std::vector<expert> first, second;
  for (std::uint64_t e = 0; e < 6; ++e) first.push_back(random_expert(16, 24, e));
  for (std::uint64_t e = 0; e < 6; ++e) {
    auto copy = disguised(first[e], {3, 1, 2, 0, 7, 5, 6, 4, 11, 9, 10, 8, 15, 13, 14, 12});
    auto const noise = random_expert(16, 24, 100 + e);
    for (std::size_t i = 0; i < copy.gate.size(); ++i) copy.gate[i] += noise.gate[i];
    second.push_back(copy);
  }
  std::vector<double> s;
  for (auto const& a : first)
    for (auto const& b : second) s.push_back(match_neurons(a.view(), b.view()).similarity);
  auto const r = diagonal_test(matrix_view<double>(s.data(), 6, 6));
  CHECK(r.off_diagonal > 0.1);
  CHECK(r.diagonal > r.off_diagonal + 0.3);
  CHECK(r.p_value < 0.01);
}

TEST_CASE("neuron_match: bad shapes, dead units, nothing") {
  auto const e = random_expert(4, 6, 1);
  auto bad = e.view();
  bad.down = {e.down.data(), 4, 6};
  CHECK_THROWS_AS(match_neurons(e.view(), bad), shape_error);
  CHECK_THROWS_AS(match_neurons(e.view(), random_expert(3, 6, 1).view()), shape_error);
  auto dead = e;
  for (index_t i = 0; i < 6; ++i) dead.down_at(2, i) = 0;
  CHECK_THROWS_WITH_AS(match_neurons(e.view(), dead.view()),
                       "moeroute::match_neurons: hidden unit 2 of the second expert has down weights of squared norm "
                       "0, must be positive and finite",
                       argument_error);
  dead = e;
  dead.gate[0] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_AS(match_neurons(dead.view(), e.view()), argument_error);
  auto const nothing = match_neurons(random_expert(0, 6, 1).view(), random_expert(0, 6, 1).view());
  CHECK(nothing.neuron.empty());
  CHECK(std::isnan(nothing.similarity));
}
