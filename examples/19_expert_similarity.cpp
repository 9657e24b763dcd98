// SPDX-License-Identifier: Apache-2.0
// Six layers of eight experts; layers 3 to 5 began as copies of layers 0 to 2 and have drifted away since. All experts
// read a few axes loudly, as those of real models do. In the second model the copies' hidden units stand in another
// order: the same functions, but flattened weights no longer show it.
#include <moeroute/numeric/random.hpp>
#include <moeroute/weights/expert_similarity.hpp>
#include <moeroute/weights/model_space_gram.hpp>

#include <cstddef>
#include <cstdio>
#include <vector>

int main() {
  moeroute::index_t const layers = 6, experts = 8, units = 16, width = 48, period = 3;
  moeroute::random_stream random(4, 0);
  std::vector<std::vector<float>> in_order, shuffled;  // gate projections [units, width]
  for (moeroute::index_t r = 0; r < layers * experts; ++r) {
    auto& w = in_order.emplace_back();
    auto& s = shuffled.emplace_back();
    for (moeroute::index_t i = 0; i < units * width; ++i) {
      double const loud = i % width < 3 ? 3 : 1;
      w.push_back(static_cast<float>(loud * (2 * random.uniform() - 1)));
      if (r >= period * experts)
        w.back() += 0.8f * in_order[static_cast<std::size_t>(r - period * experts)][static_cast<std::size_t>(i)];
    }
    for (moeroute::index_t i = 0; i < units * width; ++i) {
      auto const turned = (units - 1 - i / width) * width + i % width;  // hidden units from last to first
      s.push_back(w[static_cast<std::size_t>(r < period * experts ? i : turned)]);
    }
  }

  auto const print = [](char const* name, moeroute::expert_gram const& gram) {
    auto const r = moeroute::expert_similarity(gram.result());
    std::printf("%s\nlag  same number  other number      z  family-wise p\n", name);
    for (auto const& lag : r.lags)
      std::printf("%3td  %11.3f  %12.3f  %5.1f  %13.3f\n", lag.delta, lag.same_index, lag.other_index, lag.z,
                  lag.p_adjusted);
  };
  moeroute::expert_gram const empty({.layers = layers, .experts = experts, .deltas = {1, 2, 3, 4}});
  auto flattened = empty, disguised = empty, by_space = empty;
  flattened.update(in_order);
  disguised.update(shuffled);
  std::vector<moeroute::matrix_view<float>> gates;
  for (auto const& w : shuffled) gates.emplace_back(w.data(), units, width);
  moeroute::add_model_space_gram(by_space, gates);
  print("copies in order, flattened", flattened);
  print("copies shuffled, flattened", disguised);
  print("copies shuffled, by model space", by_space);
}
