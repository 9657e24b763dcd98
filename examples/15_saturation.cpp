// SPDX-License-Identifier: Apache-2.0
// An early checkpoint and the final one route the same tokens. In truth 40 % of the tokens are routed as at the end and
// the others by popularity alone, which is far from even: popular experts are shared by chance.
#include <moeroute/numeric/random.hpp>
#include <moeroute/routing/overlap.hpp>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

int main() {
  moeroute::index_t const experts = 16, slots = 2, documents = 60, length = 50;
  moeroute::random_stream random(5, 0);
  auto const choose = [&](std::vector<std::int16_t>& ids) {  // two distinct experts, the low numbers more often
    auto const draw = [&] { return static_cast<std::int16_t>(16 * random.uniform() * random.uniform()); };
    auto const first = draw();
    auto second = draw();
    while (second == first) second = draw();
    ids.push_back(first);
    ids.push_back(second);
  };
  std::vector<std::int16_t> early, final;
  std::vector<std::int64_t> offsets{0}, ids;
  std::vector<std::int32_t> rows;
  for (moeroute::index_t d = 0; d < documents; ++d) {
    for (moeroute::index_t t = 0; t < length; ++t) {
      choose(final);
      if (random.uniform() < 0.4)
        early.insert(early.end(), {final[final.size() - 2], final[final.size() - 1]});
      else
        choose(early);
    }
    offsets.push_back(offsets.back() + length);
    ids.push_back(d);
    rows.push_back(static_cast<std::int32_t>(d));
  }
  moeroute::document_spans const spans({offsets.data(), documents + 1}, {ids.data(), documents});
  auto const batch = [&](std::vector<std::int16_t> const& of) {
    return moeroute::routing_batch<>(experts, {of.data(), documents * length, slots});
  };

  moeroute::overlap overlap({experts, documents});
  overlap.update(batch(early), batch(final), spans, {rows.data(), documents});
  auto const r = overlap.result();
  auto const bounds = moeroute::overlap_intervals(r, ids);
  for (std::size_t f = 0; f < bounds.size(); ++f) {
    if (std::isnan(bounds[f].value)) continue;  // weighted: these routings have no weights
    std::printf("%-12s  %6.3f  (%.3f to %.3f)\n", moeroute::overlap_field_names[f], bounds[f].value, bounds[f].lower,
                bounds[f].upper);
  }
}
