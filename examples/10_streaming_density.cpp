// SPDX-License-Identifier: Apache-2.0
// Logits of two shards counted apart and merged: the same bytes as counted at once, and a density with any kernel and
// bandwidth afterwards. Cells bound every number; bf16 logits lose nothing.
#include <moeroute/density/streaming_kde.hpp>
#include <moeroute/numeric/random.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

// The power of ten above a width.
double power_above(double width) { return std::pow(10, std::ceil(std::log10(width))); }

int main() {
  std::vector<float> logits;
  moeroute::random_stream random(2, 0);
  for (int i = 0; i < 200000; ++i)
    logits.push_back(static_cast<float>(4 * (random.uniform() + random.uniform() + random.uniform()) - 7));

  moeroute::streaming_kde<float> one, first, second;
  one.update(logits);
  first.update(moeroute::vector_view<float>(logits.data(), 50000));
  second.update(moeroute::vector_view<float>(logits.data() + 50000, 150000));
  second.merge(first);
  std::printf("merged: %s\n", second.serialize() == one.serialize() ? "same bytes" : "different");

  auto const r = one.result();
  std::printf("%llu values in %llu cells, from %.3f to %.3f\n", static_cast<unsigned long long>(r.count),
              static_cast<unsigned long long>(r.cells), r.minimum, r.maximum);
  double const h = r.sd * std::pow(static_cast<double>(r.count), -0.2);
  auto const density = one.estimate(moeroute::kernel_kind::gaussian, h);
  auto const f = density.pdf(-1);
  std::printf("density at -1: %.6f, certain to %.0e\n", f.value, power_above(f.hi - f.lo));
  std::printf("    y    log p   certain to  beyond the data\n");
  for (double const y : {2.0, 4.5, 6.0, 10.0}) {
    auto const p = density.p_value(y);
    std::printf("%5.1f %8.2f %12.0e  %s\n", y, p.log_p, power_above(p.log_p_hi - p.log_p_lo),
                p.extrapolated ? "yes" : "no");
  }

  std::vector<moeroute::bf16> half;
  for (float const v : logits) half.push_back(moeroute::to_bf16(v));
  moeroute::streaming_kde<moeroute::bf16> counters;
  counters.update(half);
  auto const g = counters.estimate(moeroute::kernel_kind::epanechnikov, 2.2 * h).pdf(-1);
  std::printf("bf16 logits: %.6f, certain to %.0e\n", g.value, power_above(g.hi - g.lo));
}
