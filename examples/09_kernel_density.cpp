// SPDX-License-Identifier: Apache-2.0
// Two shards of router logits become one sample; one sample serves every kernel and bandwidth. The last column is a
// logit far beyond all others: its p-value leaves the range of double, its logarithm does not.
#include <moeroute/density/bandwidth.hpp>
#include <moeroute/density/kde.hpp>
#include <moeroute/numeric/random.hpp>

#include <cstdint>
#include <cstdio>
#include <vector>

// About normal: the sum of twelve uniform numbers.
std::vector<float> logits(std::uint64_t shard, int n, float centre, float sd) {
  moeroute::random_stream random(5, shard);
  std::vector<float> z;
  for (int i = 0; i < n; ++i) {
    double sum = -6;
    for (int k = 0; k < 12; ++k) sum += random.uniform();
    z.push_back(centre + sd * static_cast<float>(sum));
  }
  return z;
}

int main() {
  moeroute::kde sample, shard;
  sample.update(logits(0, 3000, -1, 0.5f));
  shard.update(logits(1, 1000, 2, 0.3f));
  sample.merge(shard);

  auto const h = moeroute::silverman_bandwidth(sample.values());
  auto const isj = moeroute::improved_sheather_jones_bandwidth(sample.values());
  std::printf("n = %.0f, Silverman h = %.3f, ISJ h = %.3f\n", sample.result().weight, h, isj.bandwidth);

  std::vector<double> const y{-1, 0.5, 2, 4, 12};
  std::printf("%-13s %6s", "kernel", "h");
  for (double const v : y) std::printf("  f(%4.1f)", v);
  std::printf("  ln P(> 12)\n");
  using enum moeroute::kernel_kind;
  for (auto const kernel : {gaussian, epanechnikov, exponential}) {
    double const width = moeroute::convert_bandwidth(isj.bandwidth, gaussian, kernel);
    auto const density = sample.estimate(kernel, width);
    std::printf("%-13s %6.3f", moeroute::visit_kernel(kernel, [](auto k) { return k.name; }), width);
    for (double const f : density.pdf(y)) std::printf("  %7.1e", f);
    std::printf("  %10.1f\n", density.log_survival(12));
  }
  auto const quantiles = sample.estimate(gaussian, isj.bandwidth).quantile(std::vector<double>{0.5, 0.75, 0.99});
  std::printf("quantiles .5 .75 .99: %.2f %.2f %.2f\n", quantiles[0], quantiles[1], quantiles[2]);
}
