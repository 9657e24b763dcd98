// SPDX-License-Identifier: Apache-2.0
#include "family.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <initializer_list>
#include <limits>

#include "json_view.hpp"

namespace moeroute::capture {
namespace {

// Mixtral's names, which MiniMax-M2 and others took over: w1 gate, w3 up, w2 down.
constexpr tensor_names mixtral_names{
    .router = "model.layers.{l}.block_sparse_moe.gate",
    .selection_bias = "model.layers.{l}.block_sparse_moe.e_score_correction_bias",
    .expert_gate = "model.layers.{l}.block_sparse_moe.experts.{e}.w1",
    .expert_up = "model.layers.{l}.block_sparse_moe.experts.{e}.w3",
    .expert_down = "model.layers.{l}.block_sparse_moe.experts.{e}.w2",
    .experts_gate_up = "model.layers.{l}.mlp.experts.gate_up_proj",
    .experts_down = "model.layers.{l}.mlp.experts.down_proj"};

// DeepSeek's names, with a selection bias from V3 on.
constexpr tensor_names deepseek_names{.selection_bias = "model.layers.{l}.mlp.gate.e_score_correction_bias",
                                      .shared = "model.layers.{l}.mlp.shared_experts"};

constexpr tensor_names changed(tensor_names names, auto change) {
  change(names);
  return names;
}
constexpr tensor_names without_selection_bias(tensor_names names) {
  names.selection_bias = {};
  return names;
}

// DeepSeek-V3: Kimi-K2 is the same; GLM-4.5 and dots.llm1 have its router on an ordinary attention.
constexpr family deepseek_v3{.model_type = "deepseek_v3",
                             .names = deepseek_names,
                             .score = score_function::sigmoid,
                             .renormalize = {"norm_topk_prob"},
                             .renormalize_epsilon = 1e-20,
                             .scale_key = "routed_scaling_factor",
                             .grouped = true,
                             .wide_router = true,
                             .dense = dense_layers::first,
                             .shared_count_key = "n_shared_experts",
                             .latent = true,
                             .qkv_bias = {"attention_bias"},
                             .o_bias = {"attention_bias"},
                             .neighbours = {"rope_interleave", true}};

constexpr family changed(family row, auto change) {
  change(row);
  return row;
}

constexpr std::array table{
    family{.model_type = "olmoe",
           .renormalize = {"norm_topk_prob"},
           .expert_width_key = "intermediate_size",
           .query_key_norm = qk_norm::full_projection,
           .qkv_bias = {"attention_bias"},
           .o_bias = {"attention_bias"},
           .clip_key = "clip_qkv"},
    family{.model_type = "flex_olmo",
           .names = changed(tensor_names{},
                            [](tensor_names& n) {
                              n.attention_norm = "model.layers.{l}.post_attention_layernorm";
                              n.feed_forward_norm = "model.layers.{l}.post_feedforward_layernorm";
                            }),
           .renormalize = {"norm_topk_prob"},
           .expert_width_key = "intermediate_size",
           .query_key_norm = qk_norm::full_projection,
           .qkv_bias = {"attention_bias"},
           .o_bias = {"attention_bias"},
           .norm = norm_kind::rms_wide,
           .post_norm = true},
    family{.model_type = "qwen2_moe",
           .names = changed(tensor_names{},
                            [](tensor_names& n) {
                              n.shared = "model.layers.{l}.mlp.shared_expert";
                              n.shared_gate = "model.layers.{l}.mlp.shared_expert_gate";
                            }),
           .renormalize = {"norm_topk_prob"},
           .dense = dense_layers::sparse_step,
           .shared_width_key = "shared_expert_intermediate_size",
           .qkv_bias = {"qkv_bias", true}},
    family{.model_type = "qwen3_moe",
           .renormalize = {"norm_topk_prob"},
           .dense = dense_layers::sparse_step,
           .query_key_norm = qk_norm::per_head,
           .qkv_bias = {"attention_bias"},
           .o_bias = {"attention_bias"},
           .window_in_all_layers = true},
    family{.model_type = "mixtral",
           .names = without_selection_bias(mixtral_names),
           .renormalize = {"", true},
           .expert_width_key = "intermediate_size",
           .window_in_all_layers = true},
    family{.model_type = "phimoe",
           .names = without_selection_bias(mixtral_names),
           .score = score_function::sparsemixer,
           .jitter_key = "router_jitter_noise",
           .expert_width_key = "intermediate_size",
           .qkv_bias = {"attention_bias"},
           .o_bias = {"attention_bias"},
           .window_in_all_layers = true,
           .norm = norm_kind::layer,
           .head_bias = {"lm_head_bias"}},
    family{.model_type = "minimax_m2",
           .names = mixtral_names,
           .score = score_function::sigmoid,
           .renormalize = {"", true},
           .wide_router = true,
           .expert_width_key = "intermediate_size",
           .query_key_norm = qk_norm::full_projection},
    family{.model_type = "granitemoe",
           .names = changed(tensor_names{},
                            [](tensor_names& n) {
                              n.router = "model.layers.{l}.block_sparse_moe.router.layer";
                              n.expert_gate = n.expert_up = n.expert_down = {};
                              n.experts_gate_up = "model.layers.{l}.block_sparse_moe.input_linear.weight";
                              n.experts_down = "model.layers.{l}.block_sparse_moe.output_linear.weight";
                            }),
           .score = score_function::softmax_after_top_k,
           .expert_width_key = "intermediate_size",
           .qkv_bias = {"attention_bias"},
           .o_bias = {"attention_bias"},
           .multipliers = true},
    family{.model_type = "gpt_oss",
           .names = changed(tensor_names{},
                            [](tensor_names& n) {
                              n.sinks = "model.layers.{l}.self_attn.sinks";
                              n.router = "model.layers.{l}.mlp.router";
                              n.expert_gate = n.expert_up = n.expert_down = {};
                              n.experts_gate_up_bias = "model.layers.{l}.mlp.experts.gate_up_proj_bias";
                              n.experts_down_bias = "model.layers.{l}.mlp.experts.down_proj_bias";
                            }),
           .score = score_function::softmax_after_top_k,
           .router_bias = true,
           .expert_width_key = "intermediate_size",
           .fused = fused_experts::alternating_columns,
           .clamped_unit = true,
           .expert_biases = true,
           .qkv_bias = {"attention_bias", true},
           .o_bias = {"attention_bias", true},
           .norm = norm_kind::rms_wide},
    family{.model_type = "deepseek_v2",
           .names = without_selection_bias(deepseek_names),
           .scale_key = "routed_scaling_factor",
           .grouped = true,
           .group_rule = group_score::maximum,
           .wide_router = true,
           .dense = dense_layers::first,
           .shared_count_key = "n_shared_experts",
           .mlp_bias = {"mlp_bias"},
           .latent = true,
           .qkv_bias = {"attention_bias"},
           .o_bias = {"attention_bias"},
           .neighbours = {"", true}},
    deepseek_v3,
    changed(deepseek_v3, [](family& f) { f.model_type = "kimi_k2"; }),
    changed(deepseek_v3,
            [](family& f) {
              f.model_type = "deepseek_v32";
              f.indexed = true;
              f.neighbours = {"", true};
            }),
    changed(deepseek_v3,
            [](family& f) {
              f.model_type = "glm4_moe";
              f.latent = false;
              f.query_key_norm = qk_norm::per_head;
              f.query_key_norm_used = {"use_qk_norm"};
              f.o_bias = {};
              f.neighbours = {};
            }),
    changed(deepseek_v3,
            [](family& f) {
              f.model_type = "dots1";
              f.latent = false;
              f.query_key_norm = qk_norm::per_head;
              f.neighbours = {};
            }),
    family{.model_type = "ernie4_5_moe",
           .names = changed(deepseek_names,
                            [](tensor_names& n) {
                              n.selection_bias = "model.layers.{l}.mlp.moe_statics.e_score_correction_bias";
                            }),
           .renormalize = {"", true},
           .renormalize_minimum_key = "moe_norm_min",
           .wide_router = true,
           .selection_bias_row = true,
           .dense = dense_layers::interval,
           .shared_count_key = "moe_num_shared_experts",
           .mlp_bias = {"use_bias"},
           .qkv_bias = {"use_bias"},
           .o_bias = {"use_bias"},
           .neighbours = {"", true},
           .head_bias = {"use_bias"}},
    family{.model_type = "hunyuan_v1_moe",
           .names = changed(tensor_names{},
                            [](tensor_names& n) {
                              n.q_norm = "model.layers.{l}.self_attn.query_layernorm";
                              n.k_norm = "model.layers.{l}.self_attn.key_layernorm";
                              n.router = "model.layers.{l}.mlp.gate.wg";
                              n.shared = "model.layers.{l}.mlp.shared_mlp";
                            }),
           .renormalize = {"", true},
           .wide_router = true,
           .expert_width_key = "intermediate_size",
           .shared_count_key = "num_shared_expert",
           .shared_count = 1,
           .query_key_norm = qk_norm::per_head_after_rotation,
           .qkv_bias = {"attention_bias"},
           .o_bias = {"attention_bias"}},
    family{.model_type = "flame_moe",
           .names = without_selection_bias(deepseek_names),
           .wide_router = true,
           .dense = dense_layers::first,
           .shared_count_key = "n_shared_experts"},
};

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

// Reads the fields of one config.json into a model_spec.
class config_reader {
 public:
  // `whole` is the file, `config` what describes the language model: the file itself, or a part of it.
  config_reader(json_view const& whole, json_view const& config, std::string const& model_type)
      : whole_{whole}, config_{config} {
    auto const& name = model_type.empty() ? config.at("model_type").string() : model_type;
    for (auto const& f : table)
      if (f.model_type == name) spec_.kind = &f;
    if (spec_.kind != nullptr) return;
    auto const text = "\"" + name + "\" is not a family this program knows; known: " + known_families();
    if (!model_type.empty()) throw argument_error("--model-type " + text);
    config.at("model_type").refuse(text);
  }

  model_spec read() {
    shape();
    attention();
    feed_forward();
    router();
    if (family_().multipliers) {
      spec_.embedding_multiplier = positive(config_.at("embedding_multiplier"));
      spec_.residual_multiplier = positive(config_.at("residual_multiplier"));
      spec_.attention_scale = positive(config_.at("attention_multiplier"));
      spec_.logits_divisor = positive(config_.at("logits_scaling"));
    }
    spec_.head_bias = value_of(family_().head_bias);
    if (family_().clamped_unit && config_.has("swiglu_alpha")) spec_.unit_slope = positive(config_.at("swiglu_alpha"));
    if (family_().clamped_unit && config_.has("swiglu_limit")) spec_.unit_limit = positive(config_.at("swiglu_limit"));
    if (auto const& at = either("tie_word_embeddings"); at.has("tie_word_embeddings"))
      spec_.tied_head = at.at("tie_word_embeddings").boolean();
    if (config_.has("hidden_act") && config_.at("hidden_act").string() != "silu")
      config_.at("hidden_act").refuse("\"" + config_.at("hidden_act").string() + "\" is not built yet; known: silu");
    spec_.stored = read_quantization(either("quantization_config"));
    for (char const* key : {"dtype", "torch_dtype"})
      if (either(key).has(key) && spec_.stored_dtype.empty()) spec_.stored_dtype = either(key).at(key).string();
    return std::move(spec_);
  }

 private:
  family const& family_() const { return *spec_.kind; }

  // What a file with a text_config may say in it or beside it.
  json_view const& either(std::string const& key) const { return config_.has(key) ? config_ : whole_; }

  // Bounds for untrusted numbers: far above any model, low enough that products of a few stay in 64 bits.
  std::int64_t size(std::string_view key, std::int64_t high) const {
    auto const value = config_.at(std::string(key));
    if (!value.raw().is_array()) return value.integer(1, high);
    // One number per layer (Hunyuan): the decoder has one for all.
    auto const list = value.elements();
    if (list.empty()) value.refuse("is empty");
    auto const first = list[0].integer(1, high);
    for (auto const& entry : list)
      if (entry.integer(1, high) != first) entry.refuse("differs from that of the first layer, which is not built yet");
    return first;
  }
  // The first of several names of the same field.
  std::string_view present(std::initializer_list<std::string_view> keys) const {
    for (auto const key : keys)
      if (config_.has(std::string(key))) return key;
    return *keys.begin();
  }
  bool value_of(setting const& s) const {
    std::string const key(s.key);
    return !key.empty() && config_.has(key) ? config_.at(key).boolean() : s.value;
  }

  void shape() {
    spec_.layers = size("num_hidden_layers", 10'000);
    spec_.hidden = size("hidden_size", 1'000'000);
    spec_.vocabulary = size("vocab_size", 100'000'000);
    spec_.max_positions = size("max_position_embeddings", 1'000'000'000);
    spec_.norm_epsilon = config_.has("rms_norm_eps") ? positive(config_.at("rms_norm_eps")) : 1e-5;
  }

  void attention() {
    auto const& f = family_();
    spec_.heads = size("num_attention_heads", 100'000);
    spec_.qkv_bias = value_of(f.qkv_bias);
    spec_.o_bias = value_of(f.o_bias);
    spec_.query_key_norm = f.query_key_norm != qk_norm::none && value_of(f.query_key_norm_used);
    spec_.rotate_neighbours = value_of(f.neighbours);
    if (f.latent) {
      spec_.kv_heads = spec_.heads;
      if (config_.has("q_lora_rank")) spec_.q_rank = size("q_lora_rank", 1'000'000);
      spec_.kv_rank = size("kv_lora_rank", 1'000'000);
      spec_.plain_width = size("qk_nope_head_dim", 100'000);
      auto const rotated = size("qk_rope_head_dim", 100'000);
      spec_.head_width = spec_.plain_width + rotated;
      spec_.value_width = size("v_head_dim", 100'000);
      spec_.rope = read_rotation(config_, rotated);
      if (spec_.rope.width != rotated)
        config_.at("qk_rope_head_dim").refuse("must be rotated whole, not " + std::to_string(spec_.rope.width));
    } else {
      spec_.kv_heads = config_.has("num_key_value_heads") ? size("num_key_value_heads", 100'000) : spec_.heads;
      if (spec_.heads % spec_.kv_heads != 0)
        config_.at("num_key_value_heads").refuse("does not divide num_attention_heads");
      if (config_.has("head_dim"))
        spec_.head_width = size("head_dim", 100'000);
      else if (spec_.hidden % spec_.heads != 0)
        config_.at("num_attention_heads").refuse("does not divide hidden_size");
      else
        spec_.head_width = spec_.hidden / spec_.heads;
      if (spec_.head_width % 2 != 0)
        config_.at("num_attention_heads").refuse("gives an odd head width, which cannot be rotated");
      spec_.value_width = spec_.head_width;
      spec_.rope = read_rotation(config_, spec_.head_width);
    }
    spec_.attention_scale = spec_.rope.attention_scale / std::sqrt(static_cast<double>(spec_.head_width));
    if (f.indexed) {
      spec_.index_keys = size("index_topk", 1'000'000'000);
      spec_.index_heads = size("index_n_heads", 100'000);
      spec_.index_width = size("index_head_dim", 100'000);
      if (spec_.q_rank == 0) config_.at("q_lora_rank").refuse("must be a number, which the indexer reads");
    }
    if (!f.latent) spec_.attention_scale = 1 / std::sqrt(static_cast<double>(spec_.head_width));
    if (!f.clip_key.empty() && config_.has(std::string(f.clip_key)))
      spec_.clip = positive(config_.at(std::string(f.clip_key)));
    windows();
  }

  void windows() {
    spec_.windows.assign(static_cast<std::size_t>(spec_.layers), 0);
    if (config_.has("use_sliding_window") && !config_.at("use_sliding_window").boolean()) return;
    auto const width = [&] { return size("sliding_window", 1'000'000'000); };
    if (config_.has("layer_types")) {
      auto const types = config_.at("layer_types").elements();
      if (types.size() != spec_.windows.size())
        config_.at("layer_types").refuse("has " + std::to_string(types.size()) + " entries for " +
                                         std::to_string(spec_.layers) + " layers");
      for (std::size_t l = 0; l < types.size(); ++l) {
        if (types[l].string() == "sliding_attention")
          spec_.windows[l] = width();
        else if (types[l].string() != "full_attention" && !(family_().indexed && types[l].string() == "indexed_attention"))
          types[l].refuse("\"" + types[l].string() + "\" is not built yet; known: full_attention, sliding_attention");
      }
    } else if (config_.has("sliding_window") && family_().window_in_all_layers) {
      spec_.windows.assign(spec_.windows.size(), width());
    } else if (config_.has("sliding_window") && config_.has("use_sliding_window")) {
      // Before layer_types, Qwen2 counted the layers that keep full attention.
      auto const full = config_.at("max_window_layers").integer(0, 10'000);
      for (auto l = full; l < spec_.layers; ++l) spec_.windows[static_cast<std::size_t>(l)] = width();
    }
  }

  void feed_forward() {
    auto const& f = family_();
    spec_.expert_width = size(f.expert_width_key, 1'000'000);
    spec_.mlp_bias = value_of(f.mlp_bias);
    if (!f.shared_width_key.empty()) {
      spec_.shared_width = size(f.shared_width_key, 1'000'000);
    } else {
      std::string const key(f.shared_count_key);
      auto count = f.shared_count;
      if (!key.empty() && config_.has(key))
        count = config_.at(key).raw().is_array() ? size(key, 1000) : config_.at(key).integer(0, 1000);
      spec_.shared_width = count * spec_.expert_width;
      spec_.router.shared_experts = count;
    }
    if (!f.shared_width_key.empty()) spec_.router.shared_experts = 1;

    spec_.moe.assign(static_cast<std::size_t>(spec_.layers), true);
    auto const dense = [&](std::int64_t l) { spec_.moe[static_cast<std::size_t>(l)] = false; };
    if (f.dense == dense_layers::first && config_.has("mlp_layer_types")) {
      auto const types = config_.at("mlp_layer_types").elements();
      if (types.size() != spec_.moe.size())
        config_.at("mlp_layer_types").refuse("has " + std::to_string(types.size()) + " entries for " +
                                             std::to_string(spec_.layers) + " layers");
      for (std::size_t l = 0; l < types.size(); ++l) {
        if (types[l].string() == "dense")
          dense(static_cast<std::int64_t>(l));
        else if (types[l].string() != "sparse")
          types[l].refuse("\"" + types[l].string() + "\" is not dense or sparse");
      }
    } else if (f.dense == dense_layers::first) {
      auto const first = config_.at("first_k_dense_replace").integer(0, spec_.layers);
      for (std::int64_t l = 0; l < first; ++l) dense(l);
      if (config_.has("moe_layer_freq") && config_.at("moe_layer_freq").raw() != 1)
        config_.at("moe_layer_freq").refuse("other than 1 is not built yet");
    } else if (f.dense == dense_layers::sparse_step) {
      auto const step = config_.has("decoder_sparse_step") ? size("decoder_sparse_step", 10'000) : 1;
      for (std::int64_t l = 0; l < spec_.layers; ++l)
        if ((l + 1) % step != 0) dense(l);
      if (config_.has("mlp_only_layers"))
        for (auto const& entry : config_.at("mlp_only_layers").elements()) dense(entry.integer(0, spec_.layers - 1));
    } else if (f.dense == dense_layers::interval) {
      auto const step = size("moe_layer_interval", 10'000);
      auto const first = config_.at("moe_layer_start_index").integer(0, spec_.layers);
      auto last = config_.has("moe_layer_end_index") ? config_.at("moe_layer_end_index").integer(-1, 10'000) : -1;
      if (last < 0) last = spec_.layers - 1;
      for (std::int64_t l = 0; l < spec_.layers; ++l)
        if ((l + 1) % step != 0 || l < first || l > last) dense(l);
    }
    if (spec_.moe_layers().empty()) config_.refuse("describes a model without a layer of experts");
    if (static_cast<std::int64_t>(spec_.moe_layers().size()) < spec_.layers)
      spec_.dense_width = size("intermediate_size", 10'000'000);
  }

  void router() {
    auto const& f = family_();
    auto& r = spec_.router;
    auto const experts = present({"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"});
    r.score = f.score;
    r.experts = size(experts, std::numeric_limits<std::int16_t>::max());
    if (spec_.layers * r.experts > 2'000'000) config_.at("num_hidden_layers").refuse("times experts exceeds 2000000");
    r.top_k = size(present({"num_experts_per_tok", "moe_k", "moe_topk", "experts_per_token"}), r.experts);
    r.renormalize = value_of(f.renormalize);
    if (r.score == score_function::sparsemixer) {
      if (r.top_k != 2) config_.at("num_experts_per_tok").refuse("must be 2, which sparsemixer is made for");
      std::string const key(f.jitter_key);
      r.jitter_eps = config_.has(key) ? config_.at(key).number() : 0.01;
      if (!(r.jitter_eps >= 0) || !std::isfinite(r.jitter_eps)) config_.at(key).refuse("must not be negative");
    }
    if (r.renormalize) r.renormalize_epsilon = f.renormalize_epsilon;
    if (!f.renormalize_minimum_key.empty())
      spec_.renormalize_minimum = positive(config_.at(std::string(f.renormalize_minimum_key)));
    if (!f.scale_key.empty() && config_.has(std::string(f.scale_key)))
      r.scale = positive(config_.at(std::string(f.scale_key)));
    if (f.group_rule == group_score::maximum && f.grouped) {
      // DeepSeek-V2: transformers leaves norm_topk_prob out, the authors' code does not; no release sets it.
      if (config_.has("norm_topk_prob") && config_.at("norm_topk_prob").boolean())
        config_.at("norm_topk_prob").refuse("true has two meanings for this family and is not built");
      if (config_.has("topk_method") && config_.at("topk_method").string() == "greedy") return;
    }
    if (f.grouped && config_.has("n_group")) {
      r.groups = size("n_group", r.experts);
      r.groups_kept = size("topk_group", r.groups);
      r.group_rule = f.group_rule;
      if (r.experts % r.groups != 0) config_.at("n_group").refuse("does not divide the number of experts");
      if (r.groups > 1 && f.group_rule == group_score::top_two_sum && r.experts / r.groups < 2)
        config_.at("n_group").refuse("leaves groups of one expert, which have no two best");
      if (r.top_k > r.groups_kept * (r.experts / r.groups))
        config_.at("topk_group").refuse("keeps fewer experts than a token chooses");
      if (r.groups_kept == r.groups) r.groups = r.groups_kept = 1;
    }
  }

  json_view const& whole_;
  json_view const& config_;
  model_spec spec_;
};

}  // namespace

std::span<family const> families() { return table; }

std::vector<std::int64_t> model_spec::moe_layers() const {
  std::vector<std::int64_t> numbers;
  for (std::int64_t l = 0; l < layers; ++l)
    if (moe[static_cast<std::size_t>(l)]) numbers.push_back(l);
  return numbers;
}

model_spec read_config(std::filesystem::path const& file, std::string const& model_type) {
  auto const json = read_json(file);
  json_view const whole(json, file.string());
  if (!whole.has("text_config")) return config_reader(whole, whole, model_type).read();
  auto const text = whole.at("text_config");
  return config_reader(whole, text, model_type).read();
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
  auto const& f = *s.kind;
  auto const& n = f.names;
  std::vector<expected_tensor> all;
  std::int64_t layer = -1, expert = -1;
  auto const add = [&](std::string_view pattern, std::vector<std::int64_t> shape) {
    all.push_back({tensor_name(pattern, layer, expert), std::move(shape)});
  };
  auto const linear = [&](std::string const& stem, std::int64_t out, std::int64_t in, bool bias = false,
                          bool packs = true) {
    add(stem + ".weight", {out, in});
    all.back().linear_map = packs;
    if (bias) add(stem + ".bias", {out});
  };
  auto const norm = [&](std::string_view stem, std::int64_t width) {
    add(std::string(stem) + ".weight", {width});
    if (f.norm == norm_kind::layer) add(std::string(stem) + ".bias", {width});
  };
  auto const gated_unit = [&](std::string_view stem, std::int64_t width) {
    linear(std::string(stem) + ".gate_proj", width, s.hidden, s.mlp_bias);
    linear(std::string(stem) + ".up_proj", width, s.hidden, s.mlp_bias);
    linear(std::string(stem) + ".down_proj", s.hidden, width, s.mlp_bias);
  };

  add(n.embedding, {s.vocabulary, s.hidden});
  norm(n.final_norm, s.hidden);
  if (!s.tied_head.value_or(false)) add(std::string(n.head) + ".weight", {s.vocabulary, s.hidden});
  if (s.head_bias) add(std::string(n.head) + ".bias", {s.vocabulary});
  for (layer = 0; layer < s.layers; ++layer) {
    norm(n.attention_norm, s.hidden);
    norm(n.feed_forward_norm, s.hidden);
    auto const q_width = s.heads * s.head_width, kv_width = s.kv_heads * s.head_width;
    if (f.latent) {
      std::string const stem(n.q.substr(0, n.q.rfind('.') + 1));
      if (s.q_rank == 0) {
        linear(std::string(n.q), q_width, s.hidden);
      } else {
        linear(stem + "q_a_proj", s.q_rank, s.hidden, s.qkv_bias);
        add(stem + "q_a_layernorm.weight", {s.q_rank});
        linear(stem + "q_b_proj", q_width, s.q_rank);
      }
      linear(stem + "kv_a_proj_with_mqa", s.kv_rank + s.rope.width, s.hidden, s.qkv_bias);
      add(stem + "kv_a_layernorm.weight", {s.kv_rank});
      linear(stem + "kv_b_proj", s.heads * (s.plain_width + s.value_width), s.kv_rank);
      if (f.indexed) {
        linear(stem + "indexer.wq_b", s.index_heads * s.index_width, s.q_rank, false, false);
        linear(stem + "indexer.wk", s.index_width, s.hidden, false, false);
        add(stem + "indexer.k_norm.weight", {s.index_width});
        add(stem + "indexer.k_norm.bias", {s.index_width});
        linear(stem + "indexer.weights_proj", s.index_heads, s.hidden, false, false);
      }
    } else {
      linear(std::string(n.q), q_width, s.hidden, s.qkv_bias);
      linear(std::string(n.k), kv_width, s.hidden, s.qkv_bias);
      linear(std::string(n.v), kv_width, s.hidden, s.qkv_bias);
    }
    linear(std::string(n.o), s.hidden, s.heads * s.value_width, s.o_bias);
    if (s.query_key_norm) {
      bool const full = f.query_key_norm == qk_norm::full_projection;
      add(std::string(n.q_norm) + ".weight", {full ? q_width : s.head_width});
      add(std::string(n.k_norm) + ".weight", {full ? kv_width : s.head_width});
    }
    if (!n.sinks.empty()) add(n.sinks, {s.heads});
    if (!s.moe[static_cast<std::size_t>(layer)]) {
      gated_unit(n.dense, s.dense_width);
      continue;
    }
    auto const experts = s.router.experts, width = s.expert_width;
    linear(std::string(n.router), experts, s.hidden, f.router_bias, false);
    if (!n.selection_bias.empty()) add(n.selection_bias, f.selection_bias_row ? std::vector{std::int64_t{1}, experts} : std::vector{experts});
    if (s.shared_width > 0) gated_unit(n.shared, s.shared_width);
    if (!n.shared_gate.empty()) linear(std::string(n.shared_gate), 1, s.hidden, false, false);
    if (n.expert_gate.empty()) {
      bool const rows = f.fused == fused_experts::rows;
      add(n.experts_gate_up, rows ? std::vector{experts, 2 * width, s.hidden} : std::vector{experts, s.hidden, 2 * width});
      all.back().linear_map = true;
      add(n.experts_down, rows ? std::vector{experts, s.hidden, width} : std::vector{experts, width, s.hidden});
      all.back().linear_map = true;
      if (f.expert_biases) {
        add(n.experts_gate_up_bias, {experts, 2 * width});
        add(n.experts_down_bias, {experts, s.hidden});
      }
    } else {
      for (expert = 0; expert < experts; ++expert) {
        linear(std::string(n.expert_gate), width, s.hidden);
        linear(std::string(n.expert_up), width, s.hidden);
        linear(std::string(n.expert_down), s.hidden, width);
      }
      expert = -1;
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
      "model_type      score                weights        choice           q/k norm          attention  beside the "
      "experts\n";
  for (auto const& f : table) {
    auto const column = [&text](std::string const& value, std::size_t width) {
      text += value;
      text.append(width > value.size() ? width - value.size() : 1, ' ');
    };
    column(std::string(f.model_type), 16);
    column(f.score == score_function::softmax   ? "softmax"
           : f.score == score_function::sigmoid ? "sigmoid"
           : f.score == score_function::sparsemixer ? "sparsemixer"
                                                    : "softmax_after_top_k",
           21);
    column(f.score == score_function::softmax_after_top_k ? "sum to 1"
           : !f.renormalize.key.empty()                   ? std::string(f.renormalize.key)
           : f.renormalize.value                          ? "sum to 1"
                                                          : "as scored",
           15);
    std::string choice = f.names.selection_bias.empty() ? "" : "bias";
    if (f.grouped) choice += choice.empty() ? "groups" : ", groups";
    if (f.router_bias) choice = "biased logits";
    column(choice.empty() ? "score" : choice, 17);
    column(f.query_key_norm == qk_norm::full_projection ? "full projection"
           : f.query_key_norm == qk_norm::per_head      ? "per head"
           : f.query_key_norm == qk_norm::none          ? "none"
                                                        : "after rotation",
           18);
    column(f.indexed ? "latent, *" : f.latent ? "latent" : f.names.sinks.empty() ? "grouped" : "sinks", 11);
    std::string beside;
    if (f.dense != dense_layers::none) beside = "dense layers";
    if (!f.names.shared.empty()) beside += beside.empty() ? "shared expert" : ", shared expert";
    text += (beside.empty() ? "nothing" : beside) + '\n';
  }
  return text + "* documents up to index_topk tokens\n";
}

}  // namespace moeroute::capture
