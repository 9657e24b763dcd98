// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_TESTS_SUPPORT_ROUTING_MODELS_HPP
#define MOEROUTE_TESTS_SUPPORT_ROUTING_MODELS_HPP

#include <moeroute/core/batch.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels.hpp"

/// Documents of several layers drawn from a router whose truth is known.
struct simulated_routing {
  moeroute::index_t experts = 0, slots = 0;
  std::vector<std::int64_t> offsets{0}, documents;
  std::vector<std::vector<std::int16_t>> layers;  // [L] of ids [T,K], best first

  moeroute::document_spans spans() const {
    return {{offsets.data(), static_cast<moeroute::index_t>(offsets.size())},
            {documents.data(), static_cast<moeroute::index_t>(documents.size())}};
  }
  moeroute::routing_batch<> batch(std::size_t layer = 0) const {
    return {experts, {layers[layer].data(), static_cast<moeroute::index_t>(offsets.back()), slots}};
  }
};

struct router_model {
  moeroute::index_t experts = 16, slots = 4, documents = 64, tokens = 40, layers = 1;
  double skew = 0.8;     ///< spread of the log odds of experts: unequal loads
  double topic = 0;      ///< the same, drawn for every document: its own favourites
  double sticky = 0;     ///< a token repeats the whole choice of the one before with this probability: dependent tokens
  double committee = 0;  ///< experts 0, 1, 2 gain so much log odds together, in half of the tokens
  bool coins =
      false;  ///< sets of the conditional Bernoulli law instead of top-k of noisy odds; members in ascending order
  double follow =
      0;  ///< probability that a token's choice in layer l > 0 is that of layer 0, experts renumbered by one
};

/// Probabilities of coins with these odds up to a common factor, so that k heads are expected.
inline std::vector<double> coins_of(std::vector<double> const& log_odds, double k) {
  double low = -60, high = 60;
  std::vector<double> p(log_odds.size());
  for (int i = 0; i < 60; ++i) {
    double const shift = (low + high) / 2;
    double sum = 0;
    for (std::size_t e = 0; e < p.size(); ++e) sum += p[e] = 1 / (1 + std::exp(-log_odds[e] - shift));
    (sum < k ? low : high) = shift;
  }
  return p;
}

/// Choices are top-k of log odds plus Gumbel noise: k draws without replacement.
inline simulated_routing simulate(router_model const& m, std::uint64_t seed) {
  plain_random random(seed);
  simulated_routing r;
  r.experts = m.experts;
  r.slots = m.slots;
  r.layers.resize(static_cast<std::size_t>(m.layers));
  auto const n = static_cast<std::size_t>(m.experts), k = static_cast<std::size_t>(m.slots);
  std::vector<std::vector<double>> odds(r.layers.size(), std::vector<double>(n));
  for (auto& layer : odds)
    for (double& w : layer) w = m.skew * random.bell();
  std::vector<double> key(n), topic(n);
  std::vector<std::int16_t> order(n);
  for (moeroute::index_t d = 0; d < m.documents; ++d) {
    r.documents.push_back(17 * d + static_cast<std::int64_t>(seed % 1000) * 100000);
    std::vector<std::vector<double>> topics;
    for (std::size_t l = 0; l < r.layers.size(); ++l) {
      for (double& w : topic) w = m.topic == 0 ? 0 : m.topic * random.bell();
      topics.push_back(topic);
    }
    std::vector<std::vector<double>> coins;
    for (moeroute::index_t t = 0; t < m.tokens; ++t) {
      for (std::size_t l = 0; l < r.layers.size(); ++l) {
        auto& ids = r.layers[l];
        if (t > 0 && m.sticky > 0 && random.uniform() < m.sticky) {
          for (std::size_t j = 0; j < k; ++j) ids.push_back(ids[ids.size() - k]);
          continue;
        }
        if (l > 0 && m.follow > 0 && random.uniform() < m.follow) {
          auto const* const first = r.layers[0].data() + r.layers[0].size() - k;
          for (std::size_t j = 0; j < k; ++j) ids.push_back(static_cast<std::int16_t>((first[j] + 1) % m.experts));
          continue;
        }
        double const together = m.committee > 0 ? (random.uniform() < 0.5 ? m.committee : -m.committee) / 2 : 0;
        for (std::size_t e = 0; e < n; ++e) {
          key[e] = odds[l][e] + topics[l][e] + (e < 3 ? together : 0);
          order[e] = static_cast<std::int16_t>(e);
        }
        if (m.coins) {
          coins.resize(r.layers.size());
          if (coins[l].empty() || m.committee > 0) coins[l] = coins_of(key, static_cast<double>(k));
          std::size_t heads = 0;
          while (heads != k) {  // tossed until there are k heads
            heads = 0;
            for (std::size_t e = 0; e < n; ++e)
              if (random.uniform() < coins[l][e]) order[heads++] = static_cast<std::int16_t>(e);
          }
          ids.insert(ids.end(), order.begin(), order.begin() + static_cast<std::ptrdiff_t>(k));
          continue;
        }
        for (double& x : key) x -= std::log(-std::log(random.uniform() + 1e-18));
        std::partial_sort(
            order.begin(), order.begin() + static_cast<std::ptrdiff_t>(k), order.end(),
            [&](auto a, auto b) { return key[static_cast<std::size_t>(a)] > key[static_cast<std::size_t>(b)]; });
        ids.insert(ids.end(), order.begin(), order.begin() + static_cast<std::ptrdiff_t>(k));
      }
    }
    r.offsets.push_back(r.offsets.back() + m.tokens);
  }
  return r;
}

#endif
