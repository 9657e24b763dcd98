// SPDX-License-Identifier: Apache-2.0
// Mean probability, mean weight and load are three different things: probability is spread over
// all experts, weight is what multiplies an output, and a token with NaN logits is counted apart.
#include <moeroute/routing/activation.hpp>

#include <cmath>
#include <cstddef>
#include <cstdio>

#include <Eigen/Core>

int main() {
  using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  float const a = std::log(2.0f);
  matrix logits(4, 4);       // four tokens, four experts
  logits << 2 * a, a, 0, 0,  // probabilities 1/2, 1/4, 1/8, 1/8
      2 * a, a, 0, 0,        //
      0, 0, a, 2 * a,        //
      NAN, 0, 0, 0;
  Eigen::Matrix<int, 4, 2, Eigen::RowMajor> ids;
  ids << 0, 1, 0, 1, 3, 2, 1, 2;
  matrix weights(4, 2);  // as the router recorded them: not renormalised, so 3/4 per token
  weights << 0.5f, 0.25f, 0.5f, 0.25f, 0.5f, 0.25f, 0.5f, 0.25f;

  moeroute::activation soft({.experts = 4});
  soft.update(moeroute::make_routing_batch(4, ids, weights, logits));
  auto const r = soft.result();
  std::printf("expert  probability  weight per token\n");
  for (std::size_t e = 0; e < r.probability.size(); ++e)
    std::printf("%6zu  %11.4f  %16.4f\n", e, r.probability[e], r.weight[e]);
  std::printf("%llu rows behind the probabilities, %llu with NaN or infinite logits\n",
              static_cast<unsigned long long>(r.probability_rows), static_cast<unsigned long long>(r.nonfinite_rows));
}
