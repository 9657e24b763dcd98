// SPDX-License-Identifier: Apache-2.0
// Two layers of eight experts. Everything reads a few loud axes, so all ratios are above 1. In the second layer each
// router row points where its own expert has gain.
#include <moeroute/numeric/random.hpp>
#include <moeroute/weights/alignment.hpp>

#include <cstddef>
#include <cstdio>
#include <vector>

int main() {
  moeroute::index_t const experts = 8, units = 12, width = 64;
  moeroute::random_stream random(5, 0);
  auto const noise = [&](moeroute::index_t rows) {
    std::vector<float> m;
    for (moeroute::index_t i = 0; i < rows * width; ++i)
      m.push_back(static_cast<float>((i % width < 4 ? 4 : 1) * (2 * random.uniform() - 1)));
    return m;
  };
  for (double const own : {0.0, 0.3}) {
    auto const rows = noise(experts);
    std::vector<std::vector<float>> weights;
    std::vector<moeroute::matrix_view<float>> gates;
    for (moeroute::index_t e = 0; e < experts; ++e) {
      auto& w = weights.emplace_back(noise(units));
      for (moeroute::index_t i = 0; i < units * width; ++i)
        w[static_cast<std::size_t>(i)] +=
            static_cast<float>(own) * rows[static_cast<std::size_t>(e * width + i % width)];
    }
    for (auto const& w : weights) gates.emplace_back(w.data(), units, width);
    moeroute::matrix_view<float> const router(rows.data(), experts, width);

    auto const r = moeroute::router_alignment(router, gates, {.centred = true});
    std::printf("own expert %.2f, other experts %.2f, z %.1f, p %.4f; norms of router rows %.1f ... %.1f\n",
                r.own.diagonal, r.own.off_diagonal, r.own.z, r.own.p_value, moeroute::row_norms(router, true).front(),
                moeroute::row_norms(router, true).back());
  }
}
