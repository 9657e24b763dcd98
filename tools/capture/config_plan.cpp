// SPDX-License-Identifier: Apache-2.0
#include "config_plan.hpp"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "plan.hpp"

namespace moeroute::capture {
namespace {

std::string column(std::string text, std::size_t width) {
  text.append(width > text.size() ? width - text.size() : 1, ' ');
  return text;
}

}  // namespace

std::string describe_config(model_spec const& spec) {
  auto const parameters = stage_parameters(spec);
  auto const all = std::accumulate(parameters.begin(), parameters.end(), std::uint64_t{0});
  auto const moe = spec.moe_layers().size();
  std::string out = std::string(spec.kind->model_type) + ": " + std::to_string(all) + " parameters, " + std::to_string(moe) +
                    " layers with experts, " + std::to_string(parameters.size() - 2 - moe) + " dense; " +
                    std::to_string(spec.router.top_k) + " of " + std::to_string(spec.router.experts) + " experts, " +
                    std::to_string(spec.max_positions) + " positions\n";

  // One stage of each kind; all layers with experts have the same tensors, and all dense ones.
  struct part {
    std::string title, tensors = {};
    std::size_t stage;
  };
  std::vector<part> parts{{.title = "embedding", .stage = 0}};
  auto const add_layer = [&](bool with_experts, std::string const& title) {
    auto const at = std::find(spec.moe.begin(), spec.moe.end(), with_experts);
    if (at == spec.moe.end()) return;
    auto const layer = static_cast<std::size_t>(at - spec.moe.begin());
    parts.push_back({.title = title + ", such as " + std::to_string(layer), .stage = layer + 1});
  };
  add_layer(false, "a dense layer");
  add_layer(true, "a layer with experts");
  parts.push_back({.title = "final norm and head", .stage = parameters.size() - 1});

  for (auto const& t : expected_tensors(spec)) {
    constexpr std::string_view experts = ".experts.";
    auto const expert = t.name.find(experts);
    bool const one_of_many = expert != std::string::npos && t.name[expert + experts.size()] >= '0' && t.name[expert + experts.size()] <= '9';
    if (one_of_many && t.name.compare(expert + experts.size(), 2, "0.") != 0) continue;
    auto const stage = stage_of(spec, t.name);
    for (auto& p : parts)
      if (p.stage == stage)
        p.tensors += "    " + column(t.name, 66) + shape_text(t.shape) +
                     (one_of_many ? " x " + std::to_string(spec.router.experts) : "") + '\n';
  }
  for (auto const& p : parts) out += "  " + p.title + '\n' + p.tensors;

  auto const row = [&out](std::string const& title, std::uint64_t n) {
    out += "    " + column(title, 34) + column(size_text(4 * n), 14) + size_text(2 * n) + '\n';
  };
  out += "  " + column("bytes", 36) + column("float32", 14) + "bfloat16\n";
  for (auto const& p : parts) row(p.title, parameters[p.stage]);
  row("all", all);
  return out;
}

}  // namespace moeroute::capture
