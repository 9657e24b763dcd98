// SPDX-License-Identifier: Apache-2.0
// Do two kinds of documents route differently? Documents, not tokens, are the sample.
#include <moeroute/inference/correlation.hpp>
#include <moeroute/inference/two_sample.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

int main() {
  // 60 documents of two labels over 4 experts. Every document has its own taste; label 1 also likes expert 2.
  int const documents = 60, experts = 4;
  moeroute::random_stream random(2, 1);
  std::vector<int> counts, labels;
  std::vector<double> share, length;
  for (int d = 0; d < documents; ++d) {
    int const label = d % 2, slots = 100 + static_cast<int>(random.index(200));
    std::vector<double> taste;
    double sum = 0;
    for (int e = 0; e < experts; ++e) {
      taste.push_back(std::exp(1.5 * random.uniform() + (label == 1 && e == 2 ? 0.9 : 0)));
      sum += taste.back();
    }
    for (double const t : taste) counts.push_back(static_cast<int>(slots * t / sum));
    labels.push_back(label);
    share.push_back(counts[counts.size() - 2] / static_cast<double>(slots));
    length.push_back(slots);
  }
  auto const r = moeroute::two_sample_test(moeroute::matrix_view<int>(counts.data(), documents, experts), labels);
  std::printf("expert                  0       1       2       3\n");
  std::printf("t              %8.2f%8.2f%8.2f%8.2f\n", r.t[0], r.t[1], r.t[2], r.t[3]);
  std::printf("p, family-wise %8.4f%8.4f%8.4f%8.4f\n", r.p_adjusted[0], r.p_adjusted[1], r.p_adjusted[2],
              r.p_adjusted[3]);
  std::printf("Jensen-Shannon %.4f nats, %.4f by chance, p = %.4f\n", r.jensen_shannon_nats, r.jensen_shannon_null,
              r.jensen_shannon_p);
  std::printf("energy distance %.3f, p = %.4f\n", r.energy, r.energy_p);

  // Over the same documents: does the share of expert 2 go with their length?
  auto const c = moeroute::pearson_test(share, length);
  std::printf("correlation with length %.2f (%.2f to %.2f), p = %.2f, by permutation %.2f\n", c.value, c.lower, c.upper,
              c.p_value, moeroute::permutation_correlation(share, length).p_value);
}
