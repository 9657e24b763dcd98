// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_WEIGHT_LOADER_HPP
#define MOEROUTE_CAPTURE_WEIGHT_LOADER_HPP

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include "checkpoint.hpp"
#include "experts.hpp"
#include "family.hpp"
#include "nf4.hpp"

namespace moeroute::capture {

/// x W^T + b; no weight: not there.
struct linear_weights {
  at::Tensor weight, bias;
  at::Tensor operator()(at::Tensor const& x) const;
};

/// Gate, up and down of a shared expert or of a dense layer.
struct unit_weights {
  linear_weights gate, up, down;
};

struct norm_weights {
  at::Tensor weight, bias;
};

struct layer_weights {
  norm_weights attention_norm, feed_forward_norm, q_norm, k_norm;
  linear_weights q, k, v, o;
  linear_weights q_down, kv_down;  // of latent attention; there k stands for both of k and v
  norm_weights q_down_norm, kv_down_norm;
  at::Tensor sinks;
  linear_weights router;
  at::Tensor selection_bias;  // float32
  expert_bank experts;
  unit_weights feed_forward;  // dense, or shared beside the experts
  linear_weights shared_gate;
  std::int64_t window = 0;
  std::size_t number = 0;
  bool in_nf4 = false;  // all else here is empty, and made anew when the layer runs
};

/// Makes the decoder's weights of a checkpoint's: finds them by the names of the family, unpacks, converts, and leaves in the
/// file what can be used where it is.
class weight_loader {
 public:
  /// `spec` must outlive it; `file` says whether the head is tied. `nf4`: linear maps go through NF4.
  weight_loader(model_spec const& spec, checkpoint const& file, at::Device device, at::ScalarType type, bool nf4);

  bool tied() const { return tied_; }  ///< the head is the embedding
  /// From now on what has gone through NF4 is kept, to be unpacked when a layer is asked for again.
  void keep_packed() { keep_nf4_ = true; }
  bool keeps_packed() const { return keep_nf4_; }
  at::ScalarType router_type() const { return spec_.kind->wide_router ? at::kFloat : type_; }

  at::Tensor embedding(checkpoint const& file) const;
  norm_weights final_norm(checkpoint const& file) const;
  linear_weights head(checkpoint const& file) const;
  layer_weights layer(checkpoint const& file, std::int64_t layer) const;

  /// Names, types and shapes of all that will be loaded; what is packed is checked when it is unpacked. Throws format_error.
  void check(checkpoint const& file) const;
  /// Throws format_error if the file holds weights that the model does not use.
  void refuse_unknown(checkpoint const& file) const;

 private:
  at::Tensor tensor(checkpoint const& file, std::string const& name, std::vector<std::int64_t> const& shape,
                    std::optional<at::ScalarType> as = {}) const;
  at::Tensor owned(std::vector<float>& values, std::vector<std::int64_t> const& shape, at::ScalarType as) const;
  at::Tensor get(checkpoint const& file, std::string const& name, std::optional<at::ScalarType> as = {}) const;
  template <class Load>
  at::Tensor through_nf4(std::string const& name, std::int64_t matrices, Load&& load) const;
  linear_weights linear(checkpoint const& file, std::string const& stem, std::optional<at::ScalarType> as = {}) const;
  bool is_mapped(checkpoint const& file, std::string const& name) const;
  expert_bank room() const;
  expert_bank fused(checkpoint const& file, std::int64_t layer) const;

  model_spec const& spec_;
  at::Device device_;
  at::ScalarType type_;
  // What the family and its configuration have is decided in expected_tensors alone; the rest stays undefined.
  std::map<std::string, std::vector<std::int64_t>> shapes_;
  std::set<std::string> linear_maps_;
  bool tied_, nf4_, keep_nf4_ = false;
  mutable std::map<std::string, nf4_weights> nf4_store_;
};

}  // namespace moeroute::capture

#endif
