// SPDX-License-Identifier: Apache-2.0
#include "family.hpp"

#include <array>
#include <cmath>
#include <limits>

#include "json_view.hpp"

namespace moeroute::capture {
namespace {

constexpr std::array<family, 1> table{{{
    .model_type = "olmoe",
    .experts_key = "num_experts",
    .top_k_key = "num_experts_per_tok",
    .expert_width_key = "intermediate_size",
    .score = score_function::softmax,
    .renormalize_key = "norm_topk_prob",
    .query_key_norm = qk_norm::full_projection,
    .clip_key = "clip_qkv",
    .names = {.embedding = "model.embed_tokens.weight",
              .final_norm = "model.norm.weight",
              .head = "lm_head.weight",
              .attention_norm = "model.layers.{l}.input_layernorm.weight",
              .feed_forward_norm = "model.layers.{l}.post_attention_layernorm.weight",
              .q = "model.layers.{l}.self_attn.q_proj",
              .k = "model.layers.{l}.self_attn.k_proj",
              .v = "model.layers.{l}.self_attn.v_proj",
              .o = "model.layers.{l}.self_attn.o_proj",
              .q_norm = "model.layers.{l}.self_attn.q_norm.weight",
              .k_norm = "model.layers.{l}.self_attn.k_norm.weight",
              .router = "model.layers.{l}.mlp.gate.weight",
              .expert_gate = "model.layers.{l}.mlp.experts.{e}.gate_proj.weight",
              .expert_up = "model.layers.{l}.mlp.experts.{e}.up_proj.weight",
              .expert_down = "model.layers.{l}.mlp.experts.{e}.down_proj.weight",
              .experts_gate_up = "model.layers.{l}.mlp.experts.gate_up_proj",
              .experts_down = "model.layers.{l}.mlp.experts.down_proj"},
}}};

std::string known_families() {
  std::string text;
  for (auto const& f : table) text += (text.empty() ? "" : ", ") + std::string(f.model_type);
  return text;
}

double positive(json_view const& value) {
  double const x = value.number();
  if (!(x > 0) || !std::isfinite(x)) value.refuse("must be positive");
  return x;
}

// Newer files keep rope_theta inside rope_parameters, older ones beside rope_scaling.
double rope_theta(json_view const& config) {
  for (char const* key : {"rope_parameters", "rope_scaling"}) {
    if (!config.has(key)) continue;
    auto const rope = config.at(key);
    for (char const* kind : {"rope_type", "type"})
      if (rope.has(kind) && rope.at(kind).string() != "default")
        rope.at(kind).refuse("\"" + rope.at(kind).string() + "\" is not built yet; known: default");
    if (rope.has("partial_rotary_factor") && rope.at("partial_rotary_factor").number() != 1)
      rope.at("partial_rotary_factor").refuse("partial rotation is not built yet");
    if (rope.has("rope_theta")) return positive(rope.at("rope_theta"));
  }
  return config.has("rope_theta") ? positive(config.at("rope_theta")) : 10000.0;
}

}  // namespace

std::span<family const> families() { return table; }

model_spec read_config(std::filesystem::path const& folder) {
  auto const path = folder / "config.json";
  auto const json = read_json(path);
  json_view const config(json, path.string());
  auto const type = config.at("model_type");
  model_spec spec;
  for (auto const& f : table)
    if (f.model_type == type.string()) spec.kind = &f;
  if (spec.kind == nullptr)
    type.refuse("\"" + type.string() + "\" is not a family this program knows; known: " + known_families());

  // Bounds for untrusted numbers: far above any model, low enough that products of a few stay in 64 bits.
  auto const size = [&](std::string_view key, std::int64_t high) {
    return config.at(std::string(key)).integer(1, high);
  };
  auto const flag = [&](std::string_view key) {
    return !key.empty() && config.has(std::string(key)) && config.at(std::string(key)).boolean();
  };
  spec.layers = size("num_hidden_layers", 10'000);
  spec.hidden = size("hidden_size", 1'000'000);
  spec.vocabulary = size("vocab_size", 100'000'000);
  spec.heads = size("num_attention_heads", 100'000);
  spec.kv_heads = config.has("num_key_value_heads") ? size("num_key_value_heads", 100'000) : spec.heads;
  if (spec.heads % spec.kv_heads != 0) config.at("num_key_value_heads").refuse("does not divide num_attention_heads");
  if (config.has("head_dim"))
    spec.head_width = size("head_dim", 100'000);
  else if (spec.hidden % spec.heads != 0)
    config.at("num_attention_heads").refuse("does not divide hidden_size");
  else
    spec.head_width = spec.hidden / spec.heads;
  if (spec.head_width % 2 != 0)
    config.at("num_attention_heads").refuse("gives an odd head width, which cannot be rotated");
  spec.expert_width = size(spec.kind->expert_width_key, 1'000'000);
  spec.max_positions = size("max_position_embeddings", 1'000'000'000);
  spec.rope_theta = rope_theta(config);
  spec.norm_epsilon = config.has("rms_norm_eps") ? positive(config.at("rms_norm_eps")) : 1e-5;
  if (config.has(std::string(spec.kind->clip_key))) spec.clip = positive(config.at(std::string(spec.kind->clip_key)));
  spec.attention_bias = flag("attention_bias");
  if (config.has("tie_word_embeddings")) spec.tied_head = config.at("tie_word_embeddings").boolean();
  if (config.has("hidden_act") && config.at("hidden_act").string() != "silu")
    config.at("hidden_act").refuse("\"" + config.at("hidden_act").string() + "\" is not built yet; known: silu");
  if (config.has("quantization_config"))
    config.at("quantization_config").refuse("quantised checkpoints are not built yet");
  for (char const* key : {"dtype", "torch_dtype"})
    if (config.has(key) && spec.stored_dtype.empty()) spec.stored_dtype = config.at(key).string();

  spec.router.score = spec.kind->score;
  spec.router.experts = size(spec.kind->experts_key, std::numeric_limits<std::int16_t>::max());
  if (spec.layers * spec.router.experts > 2'000'000)
    config.at("num_hidden_layers").refuse("times experts exceeds 2000000");
  spec.router.top_k = size(spec.kind->top_k_key, spec.router.experts);
  spec.router.renormalize = flag(spec.kind->renormalize_key);
  return spec;
}

std::string tensor_name(std::string_view pattern, std::int64_t layer, std::int64_t expert) {
  std::string name;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    auto const mark = pattern.substr(i, 3);
    if (mark == "{l}" || mark == "{e}") {
      name += std::to_string(mark == "{l}" ? layer : expert);
      i += 2;
    } else {
      name += pattern[i];
    }
  }
  return name;
}

std::vector<expected_tensor> expected_tensors(model_spec const& s) {
  auto const& n = s.kind->names;
  auto const q_width = s.heads * s.head_width, kv_width = s.kv_heads * s.head_width;
  std::vector<expected_tensor> all{{std::string(n.embedding), {s.vocabulary, s.hidden}},
                                   {std::string(n.final_norm), {s.hidden}}};
  if (!s.tied_head.value_or(false)) all.push_back({std::string(n.head), {s.vocabulary, s.hidden}});
  for (std::int64_t l = 0; l < s.layers; ++l) {
    auto const add = [&](std::string_view pattern, std::vector<std::int64_t> shape, std::int64_t expert = -1) {
      all.push_back({tensor_name(pattern, l, expert), std::move(shape)});
    };
    auto const linear = [&](std::string_view stem, std::int64_t out, std::int64_t in) {
      add(std::string(stem) + ".weight", {out, in});
      if (s.attention_bias) add(std::string(stem) + ".bias", {out});
    };
    add(n.attention_norm, {s.hidden});
    add(n.feed_forward_norm, {s.hidden});
    linear(n.q, q_width, s.hidden);
    linear(n.k, kv_width, s.hidden);
    linear(n.v, kv_width, s.hidden);
    linear(n.o, s.hidden, q_width);
    if (s.kind->query_key_norm == qk_norm::full_projection) {
      add(n.q_norm, {q_width});
      add(n.k_norm, {kv_width});
    }
    add(n.router, {s.router.experts, s.hidden});
    for (std::int64_t e = 0; e < s.router.experts; ++e) {
      add(n.expert_gate, {s.expert_width, s.hidden}, e);
      add(n.expert_up, {s.expert_width, s.hidden}, e);
      add(n.expert_down, {s.hidden, s.expert_width}, e);
    }
  }
  return all;
}

std::uint64_t parameters(model_spec const& spec) {
  std::uint64_t total = 0;
  for (auto const& t : expected_tensors(spec)) {
    std::uint64_t n = 1;
    for (auto const d : t.shape) n *= static_cast<std::uint64_t>(d);
    total += n;
  }
  return total;
}

std::string describe_families() {
  std::string text =
      "model_type  experts      top-k                score    weights renormalised  q/k norm         clip\n";
  for (auto const& f : table) {
    auto const column = [&text](std::string_view value, std::size_t width) {
      text += value;
      text.append(width > value.size() ? width - value.size() : 1, ' ');
    };
    column(f.model_type, 12);
    column(f.experts_key, 13);
    column(f.top_k_key, 21);
    column(f.score == score_function::softmax   ? "softmax"
           : f.score == score_function::sigmoid ? "sigmoid"
                                                : "softmax_after_top_k",
           9);
    column(f.renormalize_key, 22);
    column(f.query_key_norm == qk_norm::full_projection ? "full projection" : "none", 17);
    text += std::string(f.clip_key) + '\n';
  }
  return text;
}

}  // namespace moeroute::capture
