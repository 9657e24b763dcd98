// SPDX-License-Identifier: Apache-2.0
#include <moeroute/routing/gate.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"
#include "support/laws.hpp"
#include "support/routing_data.hpp"

using namespace moeroute;

namespace {

template <class L>
gate of(index_t experts, index_t top_k, std::vector<L> const& logits) {
  auto const rows = static_cast<index_t>(logits.size()) / experts;
  std::vector<std::int16_t> const ids(static_cast<std::size_t>(rows));
  gate a({experts, top_k});
  a.update(make_routing_batch(experts, matrix_view<std::int16_t>(ids.data(), rows, 1), matrix_view<float>{},
                              matrix_view<L>(logits.data(), rows, experts)));
  return a;
}

}  // namespace

TEST_CASE("gate: by hand") {
  // Probabilities 1/8, 1/8, 1/4, 1/2.
  double const l = std::log(2.0);
  auto const r = of<double>(4, 2, {0, 0, l, 2 * l}).result();
  CHECK(r.entropy_nats == doctest::Approx(1.75 * l).epsilon(1e-14));
  CHECK(r.top1_probability == doctest::Approx(0.5).epsilon(1e-14));
  CHECK(r.top_k_mass == doctest::Approx(0.75).epsilon(1e-14));
  CHECK(r.margin == doctest::Approx(0.125).epsilon(1e-14));
  CHECK(r.z_loss == doctest::Approx(9 * l * l).epsilon(1e-11));  // counted in units of 2^-36
  CHECK(r.tokens == 1);
}

TEST_CASE("gate: equals scipy") {
  for (auto const& g : golden("gate", "gate")) {
    std::vector<double> z;
    for (auto const& row : g["logits"]) z.insert(z.end(), row.begin(), row.end());
    auto const r = of<double>(g["experts"], g["top_k"], z).result();
    CHECK(close(r.entropy_nats, g["entropy_nats"], 1e-13));
    CHECK(close(r.top1_probability, g["top1_probability"], 1e-13));
    CHECK(close(r.top_k_mass, g["top_k_mass"], 1e-13));
    CHECK(close(r.margin, g["margin"], 1e-13));
    CHECK(close(r.z_loss, g["z_loss"], 1e-10));
  }
}

TEST_CASE("gate: laws") {
  auto const data = random_routing({}, 41);
  law_case<gate> c{
      {7, 3}, {7, 2}, data.size(), [&](gate& a, index_t first, index_t last) { a.update(data.batch(first, last)); }};
  std::vector<std::int16_t> const ids{0};
  std::vector<float> const logits(6);
  c.bad_updates = {[&](gate& a) {
                     a.update(routing_batch<>(7, {ids.data(), 1, 1}));
                   },
                   [&](gate& a) {
                     a.update(routing_batch<>(6, {ids.data(), 1, 1}, {}, {logits.data(), 1, 6}));
                   }};
  check_accumulator_laws(c);
}

TEST_CASE("gate: equals the definitions in long double") {
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    auto const data = random_routing({static_cast<index_t>(3 + 31 * (seed % 5)), 2, 12, 20, 0, 0.02}, seed);
    gate a({data.experts, 2});
    a.update(data.batch());
    long double entropy = 0, top1 = 0, mass = 0, margin = 0, square = 0, rows = 0;
    for (index_t t = 0; t < data.tokens(); ++t) {
      std::vector<long double> p(data.logits.begin() + t * data.experts, data.logits.begin() + (t + 1) * data.experts);
      if (!std::all_of(p.begin(), p.end(), [](auto x) { return std::isfinite(x); })) continue;
      long double total = 0;
      for (auto& x : p) total += x = std::exp(x);
      for (auto& x : p) entropy -= x / total * std::log(x / total);
      std::sort(p.begin(), p.end(), std::greater<>());
      top1 += p[0] / total;
      mass += (p[0] + p[1]) / total;
      margin += (p[1] - p[2]) / total;
      square += std::log(total) * std::log(total);
      ++rows;
    }
    auto const r = a.result();
    CHECK(static_cast<long double>(r.tokens) == rows);
    CHECK(r.tokens + r.nonfinite_rows == static_cast<std::uint64_t>(data.tokens()));
    auto const near = [&](double got, long double sum) {
      return std::abs(got - static_cast<double>(sum / rows)) < 2e-6 * (1 + std::abs(got));
    };
    CHECK(near(r.entropy_nats, entropy));
    CHECK(near(r.top1_probability, top1));
    CHECK(near(r.top_k_mass, mass));
    CHECK(near(r.margin, margin));
    CHECK(near(r.z_loss, square));
  }
}

TEST_CASE("gate: the same from every container and for relabelled experts") {
  auto const data = random_routing({6, 2, 5, 9, 0, 0.05}, 3);
  gate want({6, 2});
  want.update(data.batch());
  auto const ids = matrix_view<std::int16_t>(data.ids.data(), data.tokens(), 2);
  for_each_matrix(data.tokens(), 6, data.logits, [&](char const* name, auto const& logits) {
    INFO(name);
    gate got({6, 2});
    got.update(make_routing_batch(6, ids, matrix_view<float>{}, logits));
    CHECK(got == want);
  });
  auto mirrored = data.logits;
  for (std::size_t t = 0; t < mirrored.size(); t += 6)
    std::reverse(mirrored.begin() + static_cast<std::ptrdiff_t>(t),
                 mirrored.begin() + static_cast<std::ptrdiff_t>(t) + 6);
  CHECK(of(6, 2, mirrored).result().entropy_nats == doctest::Approx(want.result().entropy_nats).epsilon(1e-6));
  CHECK(of(6, 2, mirrored).result().margin == doctest::Approx(want.result().margin).epsilon(1e-6));
}

TEST_CASE("gate: extremes") {
  auto const empty = gate({4, 2}).result();
  for (double const x : {empty.entropy_nats, empty.top1_probability, empty.top_k_mass, empty.margin, empty.z_loss})
    CHECK(std::isnan(x));
  auto const one = of<float>(1, 1, {5.0f}).result();
  CHECK(one.entropy_nats == 0);
  CHECK(one.top_k_mass == 1);
  CHECK(one.z_loss == 25);
  // K = E: nothing is left to compare the last with.
  CHECK(of<double>(2, 2, {0, 0}).result().margin == 0.5);
  CHECK(of<double>(2, 2, {0, 0}).result().top_k_mass == 1);
  auto const uniform = of<float>(256, 8, std::vector<float>(256, 3.0f)).result();
  CHECK(uniform.entropy_nats == doctest::Approx(std::log(256.0)).epsilon(1e-6));
  CHECK(uniform.margin == 0);
  // Logits that no double arithmetic can shift: decided, not NaN; the z-loss is refused and said so.
  double const most = std::numeric_limits<double>::max();
  auto const far = of<double>(2, 1, {most, -most}).result();
  CHECK(far.entropy_nats == 0);
  CHECK(far.top1_probability == 1);
  CHECK(std::isnan(far.z_loss));
  CHECK(far.z_loss_refused == 1);
  auto const broken =
      of<float>(2, 1, {std::numeric_limits<float>::quiet_NaN(), 0, 0, -std::numeric_limits<float>::infinity()})
          .result();
  CHECK(broken.nonfinite_rows == 2);
  CHECK(broken.tokens == 0);
  Eigen::MatrixXf const no_rows(0, 4);
  gate a({4, 2});
  a.update(make_routing_batch(4, Eigen::MatrixXi(0, 2), Eigen::MatrixXf(0, 2), no_rows));
  CHECK(a == gate({4, 2}));
  for (gate_options const bad : {gate_options{0, 1}, gate_options{4, 0}, gate_options{4, 5}})
    CHECK_THROWS_AS(gate{bad}, argument_error);
}
