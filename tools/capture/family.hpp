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

namespace moeroute::capture {

/// What q and k are normalised over before they are rotated.
enum class qk_norm { none, full_projection };

/// Names of tensors; "{l}" is the layer, "{e}" the expert.
struct tensor_names {
  std::string_view embedding, final_norm, head;
  std::string_view attention_norm, feed_forward_norm;
  std::string_view q, k, v, o;  ///< without ".weight" and ".bias"
  std::string_view q_norm, k_norm;
  std::string_view router;
  std::string_view expert_gate, expert_up, expert_down;  ///< one tensor per expert, or
  std::string_view experts_gate_up, experts_down;        ///< all experts in one, gate rows first
};

/// One row of the table of families: how a model_type differs from the others. The decoder has no other knowledge of
/// families.
struct family {
  std::string_view model_type;
  std::string_view experts_key, top_k_key, expert_width_key;  ///< fields of config.json
  score_function score;
  std::string_view renormalize_key;
  qk_norm query_key_norm;
  std::string_view clip_key;  ///< bound of q, k and v after the norm; null in the file = none
  tensor_names names;
};

/// All families that are built.
std::span<family const> families();

/// A model: its family and the values of its config.json.
struct model_spec {
  family const* kind = nullptr;
  std::int64_t layers = 0, hidden = 0, vocabulary = 0;
  std::int64_t heads = 0, kv_heads = 0, head_width = 0;
  std::int64_t expert_width = 0;
  std::int64_t max_positions = 0;
  double rope_theta = 10000, norm_epsilon = 1e-5;
  double clip = 0;  ///< 0 = none
  bool attention_bias = false;
  std::optional<bool> tied_head;  ///< none: the file did not say, the presence of the head's tensor decides
  std::string stored_dtype;       ///< "float32", "bfloat16", "float16"; what config.json says, may be empty
  router_spec router;
};

struct expected_tensor {
  std::string name;
  std::vector<std::int64_t> shape;
};

/// Reads config.json in `folder`. Throws format_error naming file and key for what is missing, impossible or not built.
model_spec read_config(std::filesystem::path const& folder);

/// Every tensor of the model with its shape, experts one by one; the head only where it is not tied.
std::vector<expected_tensor> expected_tensors(model_spec const& spec);

/// Number of weights.
std::uint64_t parameters(model_spec const& spec);

/// `pattern` with the numbers filled in.
std::string tensor_name(std::string_view pattern, std::int64_t layer = -1, std::int64_t expert = -1);

/// The table as text, for --families.
std::string describe_families();

}  // namespace moeroute::capture

#endif
