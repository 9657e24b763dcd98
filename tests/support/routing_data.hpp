// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_TESTS_SUPPORT_ROUTING_DATA_HPP
#define MOEROUTE_TESTS_SUPPORT_ROUTING_DATA_HPP

#include <moeroute/core/batch.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

/// Random documents with the routing of one layer, which own their memory; batches of whole documents are views of it.
struct routing_data {
  moeroute::index_t experts = 0, slots = 0;
  std::vector<std::int64_t> offsets{0}, documents;
  std::vector<std::int32_t> rows;
  std::vector<std::int16_t> ids;
  std::vector<float> weights, logits;

  moeroute::index_t tokens() const { return static_cast<moeroute::index_t>(offsets.back()); }
  moeroute::index_t size() const { return static_cast<moeroute::index_t>(documents.size()); }

  moeroute::routing_batch<> batch(moeroute::index_t first, moeroute::index_t last) const {
    auto const from = offsets[static_cast<std::size_t>(first)], count = offsets[static_cast<std::size_t>(last)] - from;
    return {experts,
            {ids.data() + from * slots, count, slots},
            {weights.data() + from * slots, count, slots},
            {logits.data() + from * experts, count, experts}};
  }
  moeroute::routing_batch<> batch() const { return batch(0, size()); }

  /// Offsets of the documents first .. last-1 as their own shard would have them.
  std::vector<std::int64_t> offsets_of(moeroute::index_t first, moeroute::index_t last) const {
    std::vector<std::int64_t> out;
    for (auto d = first; d <= last; ++d)
      out.push_back(offsets[static_cast<std::size_t>(d)] - offsets[static_cast<std::size_t>(first)]);
    return out;
  }
};

struct routing_data_shape {
  moeroute::index_t experts = 7, slots = 3, documents = 23, longest = 40;
  double dropped = 0.05;    ///< share of slots with id -1
  double nonfinite = 0.02;  ///< share of rows with a NaN or infinite logit, of weights that are NaN
};

inline routing_data random_routing(routing_data_shape const& shape, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  auto const uniform = [&] { return static_cast<double>(random() >> 11) * 0x1p-53; };
  routing_data d;
  d.experts = shape.experts;
  d.slots = shape.slots;
  std::vector<std::int16_t> deck(static_cast<std::size_t>(shape.experts));
  std::iota(deck.begin(), deck.end(), std::int16_t{0});
  for (moeroute::index_t i = 0; i < shape.documents; ++i) {
    d.documents.push_back(1000 + 3 * i);
    d.rows.push_back(static_cast<std::int32_t>(i % 5));
    auto const length = static_cast<moeroute::index_t>(random() % static_cast<std::uint64_t>(shape.longest + 1));
    d.offsets.push_back(d.offsets.back() + length);
    for (moeroute::index_t t = 0; t < length; ++t) {
      std::shuffle(deck.begin(), deck.end(), random);
      for (moeroute::index_t k = 0; k < shape.slots; ++k) {
        d.ids.push_back(uniform() < shape.dropped ? std::int16_t{-1} : deck[static_cast<std::size_t>(k)]);
        d.weights.push_back(uniform() < shape.nonfinite ? std::numeric_limits<float>::quiet_NaN()
                                                        : static_cast<float>(uniform()));
      }
      bool const broken = uniform() < shape.nonfinite;
      auto const where = static_cast<moeroute::index_t>(random() % static_cast<std::uint64_t>(shape.experts));
      for (moeroute::index_t e = 0; e < shape.experts; ++e)
        d.logits.push_back(broken && e == where ? (random() % 2 ? std::numeric_limits<float>::quiet_NaN()
                                                                : std::numeric_limits<float>::infinity())
                                                : static_cast<float>(8 * uniform() - 4));
    }
  }
  return d;
}

#endif
