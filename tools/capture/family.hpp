// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_FAMILY_HPP
#define MOEROUTE_CAPTURE_FAMILY_HPP

#include <moeroute/core/router_spec.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quantized.hpp"
#include "rotation.hpp"

namespace moeroute::capture {

/// What q and k are normalised over, and when.
enum class qk_norm { none, full_projection, per_head, per_head_after_rotation };

/// rms_wide multiplies by its weight before it rounds to the model's type, rms afterwards; layer has mean and bias.
enum class norm_kind { rms, rms_wide, layer };

/// Which layers have a dense feed-forward part instead of experts.
enum class dense_layers { none, first, sparse_step, interval };

/// How the experts' weights of a layer that come in one tensor lie there.
enum class fused_experts {
  rows,                ///< [E, 2I, H], gate rows first, and [E, H, I]
  alternating_columns  ///< [E, H, 2I], gate and up in turn, and [E, I, H]
};

/// A yes-no property: a field of config.json, fixed if `key` is empty; `value` is also what a missing field means.
struct setting {
  std::string_view key = {};
  bool value = false;
};

/// Names of tensors; "{l}" is the layer, "{e}" the expert. Stems stand without ".weight" and ".bias". Empty: the family
/// has no such tensor.
struct tensor_names {
  std::string_view embedding = "model.embed_tokens.weight", final_norm = "model.norm", head = "lm_head";
  std::string_view attention_norm = "model.layers.{l}.input_layernorm";
  std::string_view feed_forward_norm = "model.layers.{l}.post_attention_layernorm";
  std::string_view q = "model.layers.{l}.self_attn.q_proj", k = "model.layers.{l}.self_attn.k_proj",
                   v = "model.layers.{l}.self_attn.v_proj", o = "model.layers.{l}.self_attn.o_proj";
  std::string_view q_norm = "model.layers.{l}.self_attn.q_norm", k_norm = "model.layers.{l}.self_attn.k_norm";
  std::string_view sinks = {};
  std::string_view router = "model.layers.{l}.mlp.gate", selection_bias = {};
  std::string_view expert_gate = "model.layers.{l}.mlp.experts.{e}.gate_proj",
                   expert_up = "model.layers.{l}.mlp.experts.{e}.up_proj",
                   expert_down = "model.layers.{l}.mlp.experts.{e}.down_proj";
  std::string_view experts_gate_up = "model.layers.{l}.mlp.experts.gate_up_proj",
                   experts_down = "model.layers.{l}.mlp.experts.down_proj";
  std::string_view experts_gate_up_bias = {}, experts_down_bias = {};
  std::string_view dense = "model.layers.{l}.mlp";  ///< its gate_proj, up_proj, down_proj
  std::string_view shared = {}, shared_gate = {};
};

/// One row of the table of families: how a model_type differs from the others. The decoder has no other knowledge of
/// families.
struct family {
  std::string_view model_type = {};
  tensor_names names = {};

  // Router.
  score_function score = score_function::softmax;
  setting renormalize = {};
  double renormalize_epsilon = 0;           ///< added to the sum, except
  std::string_view renormalize_minimum_key = {}; ///< where the sum is at least this field
  std::string_view scale_key = {};
  std::string_view jitter_key = {};  ///< jitter_eps of sparsemixer
  bool grouped = false;  ///< n_group and topk_group limit the choice
  group_score group_rule = group_score::top_two_sum;
  bool wide_router = false;  ///< logits in float32 whatever the type of the model
  bool router_bias = false;  ///< part of the logits
  bool selection_bias_row = false;  ///< stored as [1, E]

  // Experts and what stands in their place or beside them.
  std::string_view expert_width_key = "moe_intermediate_size";
  fused_experts fused = fused_experts::rows;
  bool clamped_unit = false;  ///< gpt-oss's gated unit instead of SiLU
  bool expert_biases = false;
  dense_layers dense = dense_layers::none;
  std::string_view shared_count_key = {}, shared_width_key = {};  ///< how many of an expert's width, or the width itself
  std::int64_t shared_count = 0;                        ///< where the file need not say
  setting mlp_bias = {};                                     ///< dense and shared parts

  // Attention.
  bool latent = false;  ///< multi-head latent attention of DeepSeek
  bool indexed = false;  ///< its queries see index_topk keys at most; documents up to that length are dense, and run
  qk_norm query_key_norm = qk_norm::none;
  setting query_key_norm_used{"", true};
  setting qkv_bias = {}, o_bias = {};
  std::string_view clip_key = {};  ///< bound of q, k and v after the norm; null in the file = none
  setting neighbours = {};         ///< pairs (2i, 2i + 1) are rotated instead of (i, i + d/2)
  bool window_in_all_layers = false;  ///< what sliding_window means where the file has no layer_types

  // The rest.
  norm_kind norm = norm_kind::rms;
  bool post_norm = false;  ///< the norms stand behind attention and experts instead of before them
  bool multipliers = false;  ///< embedding_, residual_, attention_multiplier and logits_scaling
  setting head_bias = {};
};

/// All families that are built.
std::span<family const> families();

/// A model: its family and the values of its config.json.
struct model_spec {
  family const* kind = nullptr;
  std::int64_t layers = 0, hidden = 0, vocabulary = 0;
  std::vector<bool> moe;              ///< [L]
  std::vector<std::int64_t> windows;  ///< [L] keys that a query sees, itself included; 0 = all before it
  std::int64_t heads = 0, kv_heads = 0, head_width = 0, value_width = 0;
  std::int64_t q_rank = 0, kv_rank = 0, plain_width = 0;  ///< of latent attention; q_rank 0 = q is projected directly
  std::int64_t index_keys = 0, index_heads = 0, index_width = 0;  ///< index_keys: longest document that runs; 0 = no bound
  std::int64_t expert_width = 0, dense_width = 0, shared_width = 0;
  std::int64_t max_positions = 0;
  double norm_epsilon = 1e-5;
  double clip = 0;  ///< 0 = none
  rotation rope;
  bool rotate_neighbours = false;
  double attention_scale = 1, embedding_multiplier = 1, residual_multiplier = 1, logits_divisor = 1;
  double renormalize_minimum = 0;
  double unit_slope = 1.702, unit_limit = 7;  ///< of gpt-oss's gated unit
  bool qkv_bias = false, o_bias = false, mlp_bias = false, head_bias = false, query_key_norm = false;
  std::optional<bool> tied_head;  ///< none: the file did not say, the presence of the head's tensor decides
  std::string stored_dtype;       ///< "float32", "bfloat16", "float16"; what config.json says, may be empty
  quantization_spec stored;
  router_spec router;

  /// Numbers of the layers with experts.
  std::vector<std::int64_t> moe_layers() const;
};

struct expected_tensor {
  std::string name;
  std::vector<std::int64_t> shape;
  bool linear_map = false;  ///< a matrix, or several, that --quantize packs: not routers, embedding and head
};

/// Reads a config.json; where that has a text_config, the language model in it. Throws format_error naming file and key for
/// what is missing, impossible or not built. `model_type`, if not empty, stands in for that of the file.
model_spec read_config(std::filesystem::path const& file, std::string const& model_type = "");

/// Every tensor of the model with its shape, experts one by one where the family stores them so; the head only where it
/// is not tied.
std::vector<expected_tensor> expected_tensors(model_spec const& spec);

/// Number of weights, selection biases included.
std::uint64_t parameters(model_spec const& spec);

/// `pattern` with the numbers filled in.
std::string tensor_name(std::string_view pattern, std::int64_t layer = -1, std::int64_t expert = -1);

/// The table as text, for --families.
std::string describe_families();

}  // namespace moeroute::capture

#endif
