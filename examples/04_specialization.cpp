// SPDX-License-Identifier: Apache-2.0
// Does Korean go to other experts than English? Forty passages, each in both languages, 100 slots a document. A passage
// has a taste for expert 0 that its translations share, and Korean sends ten slots from expert 3 to expert 0.
#include <moeroute/numeric/random.hpp>
#include <moeroute/routing/specialization.hpp>

#include <cstdint>
#include <cstdio>
#include <vector>

int main() {
  moeroute::index_t const passages = 40, experts = 4;
  std::vector<std::uint64_t> counts;  // [documents, experts]
  std::vector<std::int32_t> labels;
  std::vector<std::int64_t> blocks;
  moeroute::random_stream random(1, 0);
  for (moeroute::index_t p = 0; p < passages; ++p) {
    auto const taste = random.index(10);
    for (int const korean : {0, 1}) {
      auto const moved = korean != 0 ? std::uint64_t{10} : 0, a = random.index(8), b = random.index(8);
      counts.insert(counts.end(), {12 + taste + a + moved, 25 + b, 37 - taste - b, 26 - a - moved});
      labels.push_back(korean);
      blocks.push_back(p);
    }
  }
  moeroute::matrix_view<std::uint64_t> const layer(counts.data(), 2 * passages, experts);
  auto const r = moeroute::specialization({layer}, labels, blocks, 2);

  auto const& l = r.layers[0];
  std::printf("expert  P(e|Korean)  95 %% interval    lift  family-wise p\n");
  for (std::size_t e = 0; e < 4; ++e)
    std::printf("%6zu  %11.3f  %.2f to %.2f  %6.2f  %13.4f\n", e, l.share(1, e), l.lower(1, e), l.upper(1, e),
                l.lift(1, e), l.p_adjusted(1, e));
  std::printf("mutual information %.4f nats, 95 %% of permutations below %.4f\n", l.information.nats,
              l.information.null_q95);
  auto const& d = r.differences[0];  // label 0 minus label 1
  std::printf("effective experts: English %.2f, Korean %.2f, difference %.2f (%.2f to %.2f)\n",
              r.effective_experts[0].value, r.effective_experts[1].value, d.value.value, d.value.lower, d.value.upper);
}
