// SPDX-License-Identifier: Apache-2.0
// Tokens of one document are not a sample: 60 documents of 100 slots each, of which some love expert 0. What 6000 slots
// are worth, an interval, and p-values of five tests adjusted in four ways.
#include <moeroute/inference/bootstrap.hpp>
#include <moeroute/inference/interval.hpp>
#include <moeroute/inference/multiplicity.hpp>

#include <cstdint>
#include <cstdio>
#include <vector>

int main() {
  moeroute::index_t const documents = 60;
  std::vector<std::uint64_t> slots, hits, table;
  std::vector<std::int64_t> clusters;
  for (moeroute::index_t d = 0; d < documents; ++d) {
    clusters.push_back(d);
    slots.push_back(100);
    hits.push_back(d % 4 == 0 ? 40 : 10);
    table.insert(table.end(), {hits.back(), slots.back()});
  }
  auto const r = moeroute::ratio_of_totals(hits, slots, clusters);
  std::printf("share %.3f, design effect %.1f: 6000 slots are worth %.0f\n", r.value, r.design_effect, r.effective_n);

  auto const tokens = moeroute::wilson_interval(1050, 6000);
  std::printf("slots as units      %.3f to %.3f\n", tokens.lower, tokens.upper);
  auto const totals =
      moeroute::replicate_totals(moeroute::matrix_view<std::uint64_t>(table.data(), documents, 2), clusters, {});
  std::vector<double> replicates;
  for (std::size_t b = 0; b < totals.shape()[0]; ++b) replicates.push_back(totals(b, 0) / totals(b, 1));
  auto const bootstrap = moeroute::percentile_interval(r.value, replicates);
  std::printf("documents as units  %.3f to %.3f\n", bootstrap.lower, bootstrap.upper);

  std::vector<double> const p{0.001, 0.008, 0.012, 0.2, 0.6};
  auto const show = [](char const* name, std::vector<double> const& adjusted) {
    std::printf("%-20s", name);
    for (double const x : adjusted) std::printf("%7.3f", x);
    std::printf("\n");
  };
  show("p", p);
  show("Bonferroni", moeroute::bonferroni(p));
  show("Holm", moeroute::holm(p));
  show("Benjamini-Hochberg", moeroute::benjamini_hochberg(p));
  show("Benjamini-Yekutieli", moeroute::benjamini_yekutieli(p));
}
