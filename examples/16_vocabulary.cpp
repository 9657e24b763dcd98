// SPDX-License-Identifier: Apache-2.0
// Vocabulary specialisation of two routers: one never looks at the token, the other sends it to its own expert half of
// the time. The published mean of maxima is high for both, since most token ids are rare.
#include <moeroute/numeric/random.hpp>
#include <moeroute/routing/vocabulary_summary.hpp>

#include <cstdint>
#include <cstdio>
#include <vector>

int main() {
  moeroute::index_t const experts = 8, documents = 60, length = 40, tokens = documents * length;
  moeroute::random_stream random(7, 0);
  std::vector<std::int32_t> text;
  std::vector<std::int16_t> blind, looking;
  std::vector<std::int64_t> offsets{0}, ids;
  for (moeroute::index_t t = 0; t < tokens; ++t) {
    auto const u = random.uniform();
    auto const x = static_cast<std::int32_t>(3000 * u * u * u * u * u);  // few ids are frequent, many occur once
    auto const e = static_cast<std::int16_t>(random.index(8));
    text.push_back(x);
    blind.push_back(e);
    looking.push_back(random.uniform() < 0.5 ? static_cast<std::int16_t>(x % 8) : e);
    if ((t + 1) % length == 0) {
      offsets.push_back(t + 1);
      ids.push_back(t / length);
    }
  }
  moeroute::document_spans const spans({offsets.data(), documents + 1}, {ids.data(), documents});

  std::printf("router   mean of max  no token effect  excess     p   min count 10  split sample\n");
  for (auto const* router : {&blind, &looking}) {
    moeroute::routing_batch<> const batch(experts, {router->data(), tokens, 1});
    auto const count = [&](std::vector<std::int32_t> const& of) {
      moeroute::vocabulary v({experts});
      v.update(batch, spans, {of.data(), tokens});
      return v.result();
    };
    auto const seen = count(text);
    std::vector<double> null;
    for (std::uint32_t b = 0; b < 99; ++b)
      null.push_back(
          moeroute::vocabulary_mean_of_max(count(moeroute::rotated_tokens({text.data(), tokens}, spans, 1, b))).mean);
    auto const e = moeroute::vocabulary_excess(moeroute::vocabulary_mean_of_max(seen).mean, null);
    std::printf("%-8s %11.3f  %15.3f  %6.3f  %.2f  %13.3f  %12.3f\n", router == &blind ? "blind" : "looking", e.value,
                e.null_mean, e.excess, e.p_value, moeroute::vocabulary_mean_of_max(seen, 10).mean,
                moeroute::vocabulary_split_sample(seen, 10).weighted_mean);
  }
}
