// SPDX-License-Identifier: Apache-2.0
// Is this logit unusual? It depends on the null hypothesis, and on what counts as one observation.
#include <moeroute/inference/combine.hpp>
#include <moeroute/inference/goodness_of_fit.hpp>
#include <moeroute/inference/higher_criticism.hpp>
#include <moeroute/inference/order_statistic.hpp>
#include <moeroute/inference/p_value.hpp>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

int main() {
  // 440 documents of 25 tokens, 4 experts: expert 3 is popular in all of them, a document's tokens are much alike.
  moeroute::index_t const documents = 440, tokens = 25, experts = 4;
  moeroute::random_stream random(1, 1);
  std::vector<float> logits;
  std::vector<std::int64_t> offsets{0}, ids;
  for (moeroute::index_t d = 0; d < documents; ++d) {
    double const topic[] = {random.uniform(), random.uniform(), random.uniform(), 2 + random.uniform()};
    for (moeroute::index_t t = 0; t < tokens; ++t)
      for (double const m : topic) logits.push_back(static_cast<float>(m + 0.1 * random.uniform()));
    offsets.push_back(offsets.back() + tokens);
    ids.push_back(d);
  }
  // 400 are the reference, 40 are held out.
  moeroute::index_t const known = 400, rest = documents - known;
  moeroute::matrix_view<float> const reference(logits.data(), known * tokens, experts);
  moeroute::document_spans const spans({offsets.data(), known + 1}, {ids.data(), known}),
      few({offsets.data(), rest + 1}, {ids.data(), rest});

  // A new token: experts 0 to 2 are ordinary, expert 3 is at its usual height, expert 2 is a little above all it ever
  // was.
  std::vector<float> const token{0.5f, 0.4f, 1.2f, 2.5f};
  moeroute::matrix_view<float> const test(token.data(), 1, experts);
  auto const show = [&](char const* name, auto const& p) {
    std::printf("%-34s%8.4f%8.4f%8.4f%8.4f\n", name, p(0, 0), p(0, 1), p(0, 2), p(0, 3));
  };
  show("pooled, tokens as units", moeroute::logit_reference(moeroute::pooled_null, reference).p_values(test));
  show("per expert, tokens as units", moeroute::logit_reference(moeroute::expert_null, reference).p_values(test));
  auto const p = moeroute::logit_reference(moeroute::expert_null, reference, spans).p_values(test);
  show("per expert, documents as units", p);
  show("rank within the token", moeroute::label_permutation_p_values(test));

  std::vector<double> log_p;
  for (double const v : p) log_p.push_back(std::log(v));
  std::printf("all four together: Bonferroni %.3f, Simes %.3f, Cauchy %.3f\n",
              moeroute::combine_bonferroni(log_p).p_value, moeroute::combine_simes(log_p).p_value,
              moeroute::combine_cauchy(log_p).p_value);

  // Are p-values of held-out tokens uniform, as they should be? Their tokens are no independent values.
  moeroute::matrix_view<float> const held_out(logits.data() + known * tokens * experts, rest * tokens, experts);
  auto const all = moeroute::logit_reference(moeroute::expert_null, reference, spans).p_values(held_out);
  std::vector<double> first;
  for (std::size_t t = 0; t < all.shape()[0]; ++t) first.push_back(all(t, 0));
  std::printf("expert 0 uniform? Kolmogorov-Smirnov over tokens p = %.4f, over documents p = %.2f\n",
              moeroute::kolmogorov_smirnov_test(first).p_value,
              moeroute::order_statistic_test(first, 1, 1, few).p_value);

  // Six of 64 p-values are too small, none of them enough for Bonferroni.
  std::vector<double> many{0.003, 0.006, 0.019, 0.02, 0.021, 0.022};
  for (int i = 6; i < 64; ++i) many.push_back((i + 0.5) / 64);
  auto const hc = moeroute::higher_criticism(many);
  moeroute::higher_criticism_null const null(64);
  std::printf("higher criticism %.2f at rank %td, p = %.3f\n", hc.statistic, hc.rank, null.p_value(hc.statistic));
}
