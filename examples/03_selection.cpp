// SPDX-License-Identifier: Apache-2.0
// One row of logits, four routers. Score, selection and weight are three steps; families of models differ in each.
#include <moeroute/routing/selection.hpp>

#include <array>
#include <cstdio>
#include <vector>

int main() {
  std::array<float, 6> const logits{2.0f, 1.5f, 1.0f, 0.5f, 0.0f, 1.0f};  // experts 2 and 5 are tied
  moeroute::matrix_view<float> const row(logits.data(), 1, 6);

  moeroute::router_spec olmoe;  // softmax, then top-k, weights as they are
  olmoe.experts = 6;
  olmoe.top_k = 3;
  auto renormalised = olmoe;
  renormalised.renormalize = true;
  auto after = olmoe;
  after.score = moeroute::score_function::softmax_after_top_k;
  auto biased = renormalised;
  biased.score = moeroute::score_function::sigmoid;
  biased.scale = 2.5;
  biased.selection_bias = {-1, 0, 0, 0, 1, 0};  // moves the choice, not the weights
  biased.groups = 3;                            // experts 0 1 | 2 3 | 4 5
  biased.groups_kept = 2;

  auto const show = [&](char const* name, moeroute::router_spec const& spec) {
    auto const r = moeroute::select(row, spec);
    std::printf("%-14s", name);
    for (std::size_t k = 0; k < r.ids.size(); ++k)
      std::printf("  expert %d weight %.3f", r.ids[k], static_cast<double>(r.weights[k]));
    std::printf("%s\n", r.tied_rows > 0 ? "  tied" : "");
  };
  show("softmax", olmoe);
  show("renormalised", renormalised);
  show("after top-k", after);
  show("bias, groups", biased);
}
