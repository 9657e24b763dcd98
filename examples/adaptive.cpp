// SPDX-License-Identifier: Apache-2.0
// A router takes 4 of 32 experts. In truth 1 to 6 of them have a signal in each token. How many would other rules take,
// and how many of these have a signal? The noise is standard normal, so that the p-values are valid.
#include <moeroute/numeric/random.hpp>
#include <moeroute/numeric/top_k.hpp>
#include <moeroute/routing/adaptive.hpp>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <numbers>
#include <vector>

int main() {
  using enum moeroute::adaptive_rule;
  moeroute::index_t const experts = 32, slots = 4, tokens = 2000;
  moeroute::random_stream random(11, 0);
  std::vector<float> logits;
  std::vector<double> p;
  std::vector<std::int16_t> own(static_cast<std::size_t>(tokens * slots)), signal;
  for (moeroute::index_t t = 0; t < tokens; ++t) {
    auto const planted = static_cast<moeroute::index_t>(1 + random.index(6));
    for (std::int16_t e = 0; e < experts; ++e) {
      double const radius = std::sqrt(-2 * std::log(1 - random.uniform()));
      double const z = radius * std::cos(2 * std::numbers::pi * random.uniform()) + (e < planted ? 4 : 0);
      logits.push_back(static_cast<float>(z));
      p.push_back(std::erfc(z / std::numbers::sqrt2) / 2);
      if (e < 6) signal.push_back(e < planted ? e : std::int16_t{-1});
    }
  }
  moeroute::matrix_view<float> const z(logits.data(), tokens, experts);
  moeroute::top_k_rows(z, slots, own.data());

  struct row {
    char const* name;
    moeroute::adaptive_rule rule;
    double parameter;
    moeroute::index_t min_k, max_k;
  };
  std::printf("rule                    experts  sd   has a signal  signals found  as the router\n");
  for (auto const& [name, rule, parameter, min_k, max_k] :
       {row{"BH 0.05", benjamini_hochberg, 0.05, 0, 0}, row{"BY 0.05", benjamini_yekutieli, 0.05, 0, 0},
        row{"half of the mass", top_mass, 0.5, 0, 0}, row{"largest gap, 1 to 8", largest_gap, 1, 1, 8}}) {
    moeroute::adaptive of_router({rule, experts, parameter, min_k, max_k}), of_signal(of_router.options());
    moeroute::routing_batch<> const router(experts, {own.data(), tokens, slots}, {}, z);
    moeroute::routing_batch<> const truth(experts, {signal.data(), tokens, 6}, {}, z);
    if (rule == top_mass || rule == largest_gap) {
      of_router.update(router);
      of_signal.update(truth);
    } else {
      of_router.update(router, moeroute::matrix_view<double>(p.data(), tokens, experts));
      of_signal.update(truth, moeroute::matrix_view<double>(p.data(), tokens, experts));
    }
    auto const a = of_router.result(), b = of_signal.result();
    std::printf("%-22s  %7.2f  %.2f  %12.3f  %13.3f  %13.3f\n", name, a.mean_count, a.sd_count, b.precision, b.recall,
                a.jaccard);
  }
}
