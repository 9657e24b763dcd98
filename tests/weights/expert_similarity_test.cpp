// SPDX-License-Identifier: Apache-2.0
#include <moeroute/numeric/random.hpp>
#include <moeroute/weights/expert_similarity.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>

#include <doctest/doctest.h>

#include "support/golden.hpp"

using namespace moeroute;

namespace {

struct model {
  index_t layers, experts, weights;
  std::vector<float> w;  // [layers, experts, weights]
  float* expert(index_t l, index_t e) { return w.data() + (l * experts + e) * weights; }
  expert_gram_result gram(std::vector<index_t> deltas) const {
    expert_gram g({.layers = layers, .experts = experts, .deltas = std::move(deltas)});
    g.update(matrix_view<float>(w.data(), layers * experts, weights));
    return g.result();
  }
};

// Independent experts with a real model's habits: few loud coordinates, a part that all experts of all layers share,
// unequal norms.
model anisotropic(index_t layers, index_t experts, index_t weights, std::uint64_t seed, double shared = 0.7) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::exponential_distribution<double> size;
  std::vector<double> loud, common;
  for (index_t i = 0; i < weights; ++i) {
    loud.push_back(i % 16 == 0 ? 4 : 0.5);
    common.push_back(shared * normal(random));
  }
  model m{layers, experts, weights, {}};
  for (index_t r = 0; r < layers * experts; ++r) {
    double const norm = 0.5 + size(random);
    for (std::size_t i = 0; i < loud.size(); ++i)
      m.w.push_back(static_cast<float>(norm * (common[i] + loud[i] * normal(random))));
  }
  return m;
}

// Layer l becomes the layer `delta` before it plus noise of `noise` times its own size.
void copy_layers(model& m, index_t delta, double noise, std::uint64_t seed) {
  auto const own = anisotropic(m.layers, m.experts, m.weights, seed);
  for (index_t l = delta; l < m.layers; ++l)
    for (index_t i = 0; i < m.experts * m.weights; ++i)
      m.expert(l, 0)[i] = m.expert(l - delta, 0)[i] +
                          static_cast<float>(noise) * own.w[static_cast<std::size_t>(l * m.experts * m.weights + i)];
}

expert_similarity_options quick(index_t permutations, int threads = 1) {
  return {.permutations = permutations, .threads = threads};
}

std::vector<index_t> every(index_t layers) {
  std::vector<index_t> deltas(static_cast<std::size_t>(layers - 1));
  std::iota(deltas.begin(), deltas.end(), index_t{1});
  return deltas;
}

bool same(double a, double b) { return std::memcmp(&a, &b, sizeof a) == 0; }

}  // namespace

TEST_CASE("expert_similarity: cosines of scikit-learn, plain and centred; published mean, sd, median") {
  for (auto const& c : golden("weights", "similarity")) {
    model m{c["layers"], c["experts"], 0, {}};
    for (auto const& row : c["weights"].get<std::vector<std::vector<float>>>()) {
      m.weights = static_cast<index_t>(row.size());
      m.w.insert(m.w.end(), row.begin(), row.end());
    }
    auto const gram = m.gram(every(m.layers));
    for (bool const centred : {false, true}) {
      auto const cosines = expert_cosines(gram, centred);
      auto const& want = c[centred ? "centred" : "cosine"];
      for (std::size_t p = 0; p < gram.pairs.size(); ++p)
        for (std::size_t i = 0; i < static_cast<std::size_t>(m.experts); ++i)
          for (std::size_t j = 0; j < static_cast<std::size_t>(m.experts); ++j)
            CHECK(close(cosines(p, i, j),
                        want[static_cast<std::size_t>(gram.pairs[p].first)]
                            [static_cast<std::size_t>(gram.pairs[p].second)][i][j]
                                .get<double>(),
                        2e-6));
    }
    auto const r = expert_similarity(gram, quick(0));
    CHECK(r.isotropic_sd == doctest::Approx(1 / std::sqrt(static_cast<double>(m.weights))));
    REQUIRE(r.lags.size() == c["lags"].size());
    for (std::size_t d = 0; d < r.lags.size(); ++d) {
      auto const& lag = r.lags[d];
      auto const n = static_cast<double>(lag.pairs * m.experts);
      CHECK(lag.delta == static_cast<index_t>(d) + 1);
      CHECK(lag.pairs == m.layers - lag.delta);
      CHECK(close(lag.same_index, c["lags"][d]["mean"].get<double>(), 2e-6));
      CHECK(close(lag.sd * std::sqrt((n - 1) / n), c["lags"][d]["sd_published"].get<double>(), 2e-6));
      CHECK(close(lag.median, c["lags"][d]["median"].get<double>(), 2e-6));
      CHECK(std::isnan(lag.p_value));  // no permutations asked for
      double other = 0;
      for (std::size_t p = 0; p < r.pairs.size(); ++p)
        if (r.pairs[p].second - r.pairs[p].first == lag.delta)
          for (std::size_t i = 0; i < static_cast<std::size_t>(m.experts); ++i)
            for (std::size_t j = 0; j < static_cast<std::size_t>(m.experts); ++j)
              other += i == j ? 0 : r.cosines(p, i, j);
      CHECK(lag.other_index == doctest::Approx(other / (n * static_cast<double>(m.experts - 1))));
    }
  }
}

TEST_CASE("expert_similarity: the p-values equal a slow permutation test written out") {
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    auto m = anisotropic(5, 6, 40, seed);
    copy_layers(m, 2, 2.5, seed + 50);
    auto const gram = m.gram({1, 2, 4});
    auto const cosines = expert_cosines(gram);
    auto const mean_at = [&](index_t delta, std::vector<std::vector<index_t>> const& order) {
      long double sum = 0;
      for (std::size_t p = 0; p < gram.pairs.size(); ++p) {
        auto const [a, b] = gram.pairs[p];
        if (b - a != delta) continue;
        for (std::size_t e = 0; e < 6; ++e)
          sum += cosines(p, static_cast<std::size_t>(order[static_cast<std::size_t>(a)][e]),
                         static_cast<std::size_t>(order[static_cast<std::size_t>(b)][e]));
      }
      return sum;
    };
    std::vector<index_t> identity{0, 1, 2, 3, 4, 5};
    std::vector<std::vector<index_t>> const given(5, identity);
    index_t const draws = 199;
    std::vector<std::vector<std::vector<index_t>>> orders;
    for (std::uint32_t b = 0; b < draws; ++b) {
      auto& order = orders.emplace_back();
      for (std::uint32_t l = 0; l < 5; ++l) order.push_back(expert_permutation(1, b, l, 6));
    }
    std::vector<index_t> const deltas{1, 2, 4};
    std::vector<std::vector<long double>> z(deltas.size());
    std::vector<long double> observed;
    for (std::size_t d = 0; d < deltas.size(); ++d) {
      // Mean and variance over all 720 relabellings of each pair.
      long double mean = 0, variance = 0;
      for (std::size_t p = 0; p < gram.pairs.size(); ++p) {
        if (gram.pairs[p].second - gram.pairs[p].first != deltas[d]) continue;
        long double sum = 0, squares = 0;
        auto order = identity;
        do {
          long double v = 0;
          for (std::size_t e = 0; e < 6; ++e) v += cosines(p, e, static_cast<std::size_t>(order[e]));
          sum += v / 720;
          squares += v * v / 720;
        } while (std::next_permutation(order.begin(), order.end()));
        mean += sum;
        variance += squares - sum * sum;
      }
      for (auto const& order : orders)
        z[d].push_back(std::abs((mean_at(deltas[d], order) - mean) / std::sqrt(variance)));
      observed.push_back((mean_at(deltas[d], given) - mean) / std::sqrt(variance));
    }
    auto const r = expert_similarity(gram, quick(draws));
    for (std::size_t d = 0; d < deltas.size(); ++d) {
      CHECK(r.lags[d].z == doctest::Approx(static_cast<double>(observed[d])).epsilon(1e-9));
      int own = 1, any = 1;
      for (std::size_t b = 0; b < z[d].size(); ++b) {
        own += z[d][b] >= std::abs(observed[d]);
        any += std::max({z[0][b], z[1][b], z[2][b]}) >= std::abs(observed[d]);
      }
      CHECK(r.lags[d].p_value == doctest::Approx(own / 200.0).epsilon(1e-12));
      CHECK(r.lags[d].p_adjusted == doctest::Approx(any / 200.0).epsilon(1e-12));
    }
  }
}

TEST_CASE("expert_similarity: copied experts with noise are found at their own distance") {
  int found = 0, beside = 0, runs = 40;
  for (int i = 0; i < runs; ++i) {
    auto m = anisotropic(7, 8, 600, static_cast<std::uint64_t>(i));
    copy_layers(m, 3, 2, static_cast<std::uint64_t>(1000 + i));  // noise twice as large as what was copied
    auto const r = expert_similarity(m.gram({1, 2, 3, 4}), quick(199));
    bool any = false;
    for (auto const& lag : r.lags) {
      CHECK(lag.p_adjusted >= lag.p_value);
      if (lag.delta == 3) {
        found += lag.p_adjusted <= 0.01;
        CHECK(lag.same_index > lag.other_index + 0.1);
      } else {
        any = any || lag.p_adjusted <= 0.05;
      }
    }
    beside += any;
  }
  INFO("found " << found << " of " << runs << ", beside it " << beside);
  CHECK(found == runs);
  CHECK(beside <= runs / 3);  // a chance resemblance of two layers is repeated by their copies, as in lag_correlation
}

TEST_CASE("expert_similarity: exact copies have cosine 1; what all share is no copy") {
  auto m = anisotropic(4, 5, 3000, 9);
  copy_layers(m, 2, 0, 10);
  auto r = expert_similarity(m.gram({2}), quick(999));
  CHECK(r.lags[0].same_index == doctest::Approx(1).epsilon(1e-15));
  CHECK(r.lags[0].sd < 1e-12);
  CHECK(r.lags[0].p_value < 0.01);
  // A common part ten times larger than what is each expert's own: every cosine is near 1, and no index is special.
  auto const shared = anisotropic(4, 5, 3000, 11, 10);
  r = expert_similarity(shared.gram({1}), quick(999));
  CHECK(r.lags[0].same_index > 0.9);
  CHECK(r.within[0] > 0.9);
  CHECK(r.lags[0].same_index >
        100 * r.isotropic_sd * 0.5);  // "50 sigma" by the yardstick that real weights do not obey
  CHECK(r.lags[0].p_value > 0.05);
  auto const centred = expert_similarity(shared.gram({1}), {.centred = true, .permutations = 999, .threads = 1});
  CHECK(std::abs(centred.lags[0].same_index) < 0.5);
  CHECK(centred.lags[0].p_value > 0.05);
}

TEST_CASE("expert_similarity: relabelling all layers alike, scaling experts and threads change nothing") {
  auto m = anisotropic(4, 6, 100, 3);
  copy_layers(m, 1, 3, 4);
  auto const a = expert_similarity(m.gram({1, 3}), quick(299, 1)), b = expert_similarity(m.gram({1, 3}), quick(299, 4));
  auto other = m;
  for (index_t l = 0; l < 4; ++l)
    for (index_t e = 0; e < 6; ++e)
      for (index_t i = 0; i < 100; ++i) other.expert(l, e)[i] = 8 * m.expert(l, 5 - e)[i];
  auto const c = expert_similarity(other.gram({1, 3}), quick(0));
  for (std::size_t d = 0; d < 2; ++d) {
    CHECK(same(a.lags[d].p_value, b.lags[d].p_value));
    CHECK(same(a.lags[d].p_adjusted, b.lags[d].p_adjusted));
    CHECK(a.lags[d].z == doctest::Approx(c.lags[d].z).epsilon(1e-9));
    CHECK(a.lags[d].same_index == doctest::Approx(c.lags[d].same_index).epsilon(1e-12));
  }
}

TEST_CASE("expert_similarity: undefined experts, one expert, no deltas") {
  auto m = anisotropic(4, 3, 20, 5);
  std::fill(m.expert(1, 2), m.expert(1, 2) + 20, 0.0f);
  auto r = expert_similarity(m.gram({1, 2, 3}), quick(99));
  CHECK(std::isnan(r.cosines(1, 2, 2)));
  CHECK(std::isnan(r.within[1]));
  CHECK_FALSE(std::isnan(r.within[0]));
  CHECK(r.lags[0].pairs == 1);  // only layers 2 and 3
  CHECK(r.lags[1].pairs == 1);
  CHECK(r.lags[2].pairs == 1);
  CHECK_FALSE(std::isnan(r.lags[0].p_value));
  for (index_t l = 0; l < 4; ++l) m.expert(l, 0)[3] = std::numeric_limits<float>::quiet_NaN();
  r = expert_similarity(m.gram({1}), quick(99));
  CHECK(r.lags[0].pairs == 0);
  CHECK(std::isnan(r.lags[0].same_index));
  CHECK(std::isnan(r.lags[0].p_adjusted));
  auto const lonely = anisotropic(3, 1, 20, 6);
  r = expert_similarity(lonely.gram({1}), quick(99));
  CHECK(std::abs(r.lags[0].same_index) <= 1);
  CHECK(std::isnan(r.lags[0].other_index));
  CHECK(std::isnan(r.lags[0].p_value));
  CHECK(std::isnan(r.within[0]));
  CHECK(expert_similarity(m.gram({}), quick(99)).lags.empty());
  CHECK(std::isnan(expert_similarity(expert_gram({.layers = 2, .experts = 2, .deltas = {1}}).result()).isotropic_sd));
  CHECK_THROWS_AS(expert_similarity(m.gram({1}), quick(-1)), argument_error);
  auto broken = m.gram({1});
  broken.pairs.pop_back();
  CHECK_THROWS_AS(expert_similarity(broken), argument_error);
}

TEST_CASE("expert_similarity: centring leaves nothing of equal experts") {
  model m{2, 3, 30, {}};
  auto const one = anisotropic(1, 1, 30, 1);
  for (int r = 0; r < 6; ++r) m.w.insert(m.w.end(), one.w.begin(), one.w.end());
  auto const c = expert_cosines(m.gram({1}), true);
  for (double const v : c) CHECK(std::isnan(v));
  for (double const v : expert_cosines(m.gram({1}))) CHECK(v == doctest::Approx(1).epsilon(1e-15));
}

namespace {

// Independent anisotropic experts that share a part: rejections at 5 % of Δ = 1 alone, and of any Δ.
void check_null(int runs, std::uint64_t seed) {
  int alone = 0, family = 0;
  for (int i = 0; i < runs; ++i) {
    auto const m = anisotropic(6, 7, 60, seed + static_cast<std::uint64_t>(i));
    auto options = quick(199);
    options.seed = seed + static_cast<std::uint64_t>(i);
    options.centred = i % 2 == 1;
    auto const r = expert_similarity(m.gram(every(6)), options);
    alone += r.lags[0].p_value <= 0.05;
    bool any = false;
    for (auto const& lag : r.lags) any = any || lag.p_adjusted <= 0.05;
    family += any;
  }
  MESSAGE("of " << runs << " rejected: Δ = 1 " << alone << ", any Δ " << family);
  double const slack = 3.5 * std::sqrt(0.05 * 0.95 / runs);
  CHECK(std::abs(static_cast<double>(alone) / runs - 0.05) < slack);
  CHECK(std::abs(static_cast<double>(family) / runs - 0.05) < slack);
}

}  // namespace

TEST_CASE("expert_similarity: independent anisotropic experts are rejected as often as the level says (quick)") {
  check_null(200, 1);
}
TEST_CASE("expert_similarity: calibration" * doctest::test_suite("slow")) { check_null(2000, 100000); }
