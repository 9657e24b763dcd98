// SPDX-License-Identifier: Apache-2.0
// Eight routers of 16 experts. Layers 5 to 8 are noisy copies of layers 1 to 4 whose experts were put into another
// order. Equal numbers have nothing in common then; paired rows have. All rows share a large common part, which softmax
// does not see.
#include <moeroute/numeric/random.hpp>
#include <moeroute/weights/router_similarity.hpp>

#include <cstddef>
#include <cstdio>
#include <vector>

int main() {
  using moeroute::index_t;
  constexpr index_t layers = 8, experts = 16, width = 128;
  moeroute::random_stream random(5, 0);
  std::vector<std::vector<float>> weights(layers);
  for (index_t l = 0; l < layers; ++l)
    for (index_t e = 0; e < experts; ++e)
      for (index_t h = 0; h < width; ++h) {
        double w = random.uniform() - 0.5;
        if (l >= 4)
          w += weights[static_cast<std::size_t>(l - 4)][static_cast<std::size_t>((e * 3 + l) % experts * width + h)];
        else
          w += static_cast<double>(h % 3);  // the common part, which the copies inherit
        weights[static_cast<std::size_t>(l)].push_back(static_cast<float>(w));
      }
  std::vector<moeroute::matrix_view<float>> routers;
  for (auto const& w : weights) routers.emplace_back(w.data(), experts, width);

  moeroute::router_similarity_options options;
  options.delta_max = 4;
  auto const r = moeroute::router_similarity(routers, options);
  options.centred = false;
  auto const published = moeroute::router_similarity(routers, options);
  std::printf("layers 1 and 5     value  by chance     sd\n");
  std::printf("cosine, published %6.3f  %9.3f  %5.3f\n", published.cosine(0, 4), published.cosine_null_mean(0, 4),
              published.cosine_null_sd(0, 4));
  std::printf("cosine, centred   %6.3f  %9.3f  %5.3f\n", r.cosine(0, 4), r.cosine_null_mean(0, 4),
              r.cosine_null_sd(0, 4));
  std::printf("paired rows       %6.3f  %9.3f  %5.3f\n", r.matched(0, 4), r.matched_null_mean(0, 4),
              r.matched_null_sd(0, 4));
  std::printf("lag  cosine  p       paired  p\n");
  for (std::size_t i = 0; i < r.cosine_lags.size(); ++i)
    std::printf("%3td  %6.3f  %.4f  %6.3f  %.4f\n", r.cosine_lags[i].delta, r.cosine_lags[i].mean,
                r.cosine_lags[i].p_adjusted, r.matched_lags.lags[i].mean, r.matched_lags.lags[i].p_adjusted);
}
