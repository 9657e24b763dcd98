// SPDX-License-Identifier: Apache-2.0
// Most logits follow one normal law, one in ten belongs to a specialist's. The centre alone tells the law of the
// many; a generalised Pareto fit goes beyond the largest logit with an error that grows.
#include <moeroute/density/tail.hpp>
#include <moeroute/density/trim.hpp>
#include <moeroute/numeric/random.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

int main() {
  moeroute::random_stream random(4, 0);
  auto const normal = [&] {
    double const radius = std::sqrt(-2 * std::log(1 - random.uniform()));
    return radius * std::cos(6.283185307179586 * random.uniform());
  };
  std::vector<double> z;
  for (int i = 0; i < 40000; ++i) z.push_back(random.uniform() < 0.9 ? -1 + 0.7 * normal() : 2.5 + 0.5 * normal());

  auto const trimmed = moeroute::trim_experts(moeroute::matrix_view<double>(z.data(), 2000, 20), 2);
  double mean = 0;
  for (double const v : trimmed.values) mean += v / static_cast<double>(trimmed.values.size());
  std::printf("trimmed_4: mean %.2f of %td of 20 experts\n", mean, trimmed.kept);
  auto const sums = moeroute::central_sums_of(z, -2.4, 0.4);
  auto const null = moeroute::central_normal(sums, -2.4, 0.4);
  std::printf("centre: location %.2f, scale %.2f, share of all logits %.2f\n", null.location, null.scale,
              null.null_share);
  std::printf("log p of a logit of 2.5 under it: %.1f\n", null.log_p(2.5));

  auto const tail = moeroute::pareto_tail_above(z, 0.98, {.design_effect = 2});
  auto const& law = tail.result();
  std::printf("%llu logits above %.2f: shape %.2f +- %.2f\n", static_cast<unsigned long long>(law.excesses),
              law.threshold, law.law.shape, law.shape_se);
  std::printf("    y   log p    95 %% bounds       beyond the data\n");
  for (double const y : {3.5, 4.0, 4.5, 5.5}) {
    auto const p = tail.p_value(y);
    std::printf("%5.1f %7.1f  [%6.1f, %6.1f]  %s\n", y, p.log_p, p.log_p_lo, p.log_p_hi, p.extrapolated ? "yes" : "no");
  }
}
