// SPDX-License-Identifier: Apache-2.0
#include "weight_loader.hpp"

#include <cstdlib>
#include <utility>

#include <ATen/ops/from_blob.h>
#include <ATen/ops/linear.h>

#include "libtorch.hpp"
#include "model.hpp"
#include "quantized.hpp"

namespace moeroute::capture {

using at::Tensor;

Tensor linear_weights::operator()(Tensor const& x) const {
  return at::linear(x, weight, bias.defined() ? std::optional(bias) : std::nullopt);
}

weight_loader::weight_loader(model_spec const& spec, checkpoint const& file, at::Device device, at::ScalarType type, bool nf4)
    : spec_{spec}, device_{device}, type_{type}, tied_{has_tied_head(spec, file)}, nf4_{nf4} {
  for (auto& t : expected_tensors(spec)) {
    if (t.linear_map) linear_maps_.insert(t.name);
    shapes_.emplace(std::move(t.name), std::move(t.shape));
  }
  if (tied_) shapes_.erase(std::string(spec.kind->names.head) + ".weight");
}

Tensor weight_loader::embedding(checkpoint const& file) const { return get(file, std::string(spec_.kind->names.embedding)); }

norm_weights weight_loader::final_norm(checkpoint const& file) const {
  auto const stem = std::string(spec_.kind->names.final_norm);
  return {get(file, stem + ".weight"), get(file, stem + ".bias")};
}

linear_weights weight_loader::head(checkpoint const& file) const { return linear(file, std::string(spec_.kind->names.head)); }

// Zero-copy where the file has the type and the device is the CPU; a mapped checkpoint outlives the model, the memory of
// one that was read lives as long as its tensors.
Tensor weight_loader::tensor(checkpoint const& file, std::string const& name, std::vector<std::int64_t> const& shape,
                             std::optional<at::ScalarType> as) const {
  if (spec_.stored.kind != quantization::none && is_quantized(file, name)) {
    auto values = dequantized(file, name, shape, spec_.stored);
    return owned(values, shape, as.value_or(type_));
  }
  auto const& view = file.at(name, shape);
  // from_blob asks for a mutable pointer; nothing here writes to weights, and the mapping is read-only.
  auto* data = const_cast<std::byte*>(view.data.data());
  return at::from_blob(data, shape, [keep = file.memory()](void*) {}, at::TensorOptions().dtype(torch_type(view.type)))
      .to(device_, as.value_or(type_));
}

Tensor weight_loader::owned(std::vector<float>& values, std::vector<std::int64_t> const& shape, at::ScalarType as) const {
  return at::from_blob(values.data(), shape, at::TensorOptions().dtype(at::kFloat)).to(device_, as, false, true);
}

Tensor weight_loader::get(checkpoint const& file, std::string const& name, std::optional<at::ScalarType> as) const {
  auto const found = shapes_.find(name);
  if (found == shapes_.end()) return {};
  if (!nf4_ || !linear_maps_.contains(name)) return tensor(file, name, found->second, as);
  return through_nf4(name, 1, [&] { return tensor(file, name, found->second, at::kFloat); });
}

// What becomes of `matrices` that stand one after another in one tensor when they are kept in NF4.
template <class Load>
Tensor weight_loader::through_nf4(std::string const& name, std::int64_t matrices, Load&& load) const {
  if (auto const known = nf4_store_.find(name); known != nf4_store_.end()) return known->second.unpacked(type_);
  nf4_weights w(load(), matrices);
  auto out = w.unpacked(type_);
  if (keep_nf4_) nf4_store_.emplace(name, std::move(w));
  return out;
}

linear_weights weight_loader::linear(checkpoint const& file, std::string const& stem, std::optional<at::ScalarType> as) const {
  return {get(file, stem + ".weight", as), get(file, stem + ".bias", as)};
}

layer_weights weight_loader::layer(checkpoint const& file, std::int64_t layer) const {
  auto const& f = *spec_.kind;
  auto const& n = f.names;
  std::int64_t expert = -1;
  auto const get = [&](std::string const& pattern, std::optional<at::ScalarType> as = {}) {
    return this->get(file, tensor_name(pattern, layer, expert), as);
  };
  auto const linear = [&](std::string const& stem, std::optional<at::ScalarType> as = {}) {
    return this->linear(file, tensor_name(stem, layer, expert), as);
  };
  auto const norm = [&](std::string const& stem) { return norm_weights{get(stem + ".weight"), get(stem + ".bias")}; };
  auto const unit = [&](std::string const& stem) {
    return unit_weights{linear(stem + ".gate_proj"), linear(stem + ".up_proj"), linear(stem + ".down_proj")};
  };
  auto const text = [](std::string_view name) { return std::string(name); };

  layer_weights w;
  w.window = spec_.windows[static_cast<std::size_t>(layer)];
  w.number = static_cast<std::size_t>(layer);
  w.attention_norm = norm(text(n.attention_norm));
  w.feed_forward_norm = norm(text(n.feed_forward_norm));
  w.o = linear(text(n.o));
  w.q_norm = norm(text(n.q_norm));
  w.k_norm = norm(text(n.k_norm));
  w.q = linear(text(n.q));
  if (f.latent) {
    auto const stem = text(n.q.substr(0, n.q.rfind('.') + 1));
    if (spec_.q_rank > 0) {
      w.q_down = linear(stem + "q_a_proj");
      w.q_down_norm = norm(stem + "q_a_layernorm");
      w.q = linear(stem + "q_b_proj");
    }
    w.kv_down = linear(stem + "kv_a_proj_with_mqa");
    w.kv_down_norm = norm(stem + "kv_a_layernorm");
    w.k = linear(stem + "kv_b_proj");
  } else {
    w.k = linear(text(n.k));
    w.v = linear(text(n.v));
  }
  w.sinks = get(text(n.sinks));
  if (!spec_.moe[static_cast<std::size_t>(layer)]) {
    w.feed_forward = unit(text(n.dense));
    return w;
  }
  w.router = linear(text(n.router), router_type());
  w.selection_bias = get(text(n.selection_bias), at::kFloat);
  if (w.selection_bias.defined()) w.selection_bias = w.selection_bias.flatten();
  if (spec_.shared_width > 0) w.feed_forward = unit(text(n.shared));
  w.shared_gate = linear(text(n.shared_gate));
  auto const in_one = tensor_name(n.experts_gate_up, layer);
  if (file.has(in_one) || is_mxfp4(file, in_one) || n.expert_gate.empty()) {
    w.experts = fused(file, layer);
  } else {
    bool const in_place = is_mapped(file, tensor_name(text(n.expert_gate), layer, 0) + ".weight");
    if (!in_place) w.experts = room();
    for (expert = 0; expert < spec_.router.experts; ++expert) {
      auto const part = [&](std::string_view stem) { return get(text(stem) + ".weight"); };
      auto const gate = part(n.expert_gate), up = part(n.expert_up), down = part(n.expert_down);
      if (in_place)
        w.experts.add(gate, up, down);
      else
        w.experts.copy(expert, gate, up, down);
    }
  }
  return w;
}

// Names, types and shapes of all that will be loaded; what is packed is checked when it is unpacked.
void weight_loader::check(checkpoint const& file) const {
  auto const& n = spec_.kind->names;
  auto const stem = n.attention_norm.find("{l}");
  auto const in_one = [&](std::string const& name) {
    auto const layer = name.size() > stem ? std::strtoll(name.c_str() + stem, nullptr, 10) : 0;
    auto const experts = tensor_name(n.experts_gate_up, layer);
    return file.has(experts) || is_mxfp4(file, experts);
  };
  for (auto const& [name, shape, linear_map] : expected_tensors(spec_)) {
    if (!shapes_.contains(name) || (spec_.stored.kind != quantization::none && is_quantized(file, name))) continue;
    if (!file.has(name) && name.find("expert") != std::string::npos && in_one(name)) continue;
    (void)file.at(name, shape);
  }
  refuse_unknown(file);
}

void weight_loader::refuse_unknown(checkpoint const& file) const {
  auto const& n = spec_.kind->names;
  std::set<std::string> known{std::string(n.head) + ".weight"};  // a tied head may be stored all the same
  for (auto const& [name, shape] : shapes_) {
    known.insert(name);
    if (spec_.stored.kind == quantization::none || !is_quantized(file, name)) continue;
    for (auto& companion : quantized_companions(name)) known.insert(std::move(companion));
  }
  for (std::int64_t l = 0; l < spec_.layers; ++l)
    for (auto const pattern : {n.experts_gate_up, n.experts_down})
      for (char const* part : {"", "_blocks", "_scales"}) known.insert(tensor_name(pattern, l) + part);
  file.refuse_unknown(known, spec_.layers);
}

// Whether tensor() refers to the file instead of copying.
bool weight_loader::is_mapped(checkpoint const& file, std::string const& name) const {
  bool const packed = spec_.stored.kind != quantization::none && is_quantized(file, name);
  bool const to_pack = nf4_ && linear_maps_.contains(name);
  return device_.is_cpu() && !to_pack && !packed && torch_type(file.at(name, shapes_.at(name)).type) == type_;
}

expert_bank weight_loader::room() const {
  return {spec_.router.experts, spec_.expert_width, spec_.hidden, at::TensorOptions().dtype(type_).device(device_)};
}

// The experts of a layer whose weights come in one tensor.
expert_bank weight_loader::fused(checkpoint const& file, std::int64_t layer) const {
  auto const& n = spec_.kind->names;
  auto const count = spec_.router.experts, width = spec_.expert_width, hidden = spec_.hidden;
  bool const rows = spec_.kind->fused == fused_experts::rows;
  auto const get = [&](std::string_view pattern, std::vector<std::int64_t> const& shape) {
    return tensor(file, tensor_name(pattern, layer), shape);
  };
  expert_bank out;
  if (nf4_) {
    auto const wide = [&](std::string_view pattern, std::vector<std::int64_t> const& shape) {
      return tensor(file, tensor_name(pattern, layer), shape, at::kFloat);
    };
    // Gate and up are matrices of their own, and every matrix is packed row by row.
    auto const gate_up = through_nf4(tensor_name(n.experts_gate_up, layer), 2 * count, [&] {
      if (rows) return wide(n.experts_gate_up, {count, 2 * width, hidden});
      return wide(n.experts_gate_up, {count, hidden, 2 * width}).view({count, hidden, width, 2}).permute({0, 3, 2, 1});
    });
    auto const down = through_nf4(tensor_name(n.experts_down, layer), count, [&] {
      if (rows) return wide(n.experts_down, {count, hidden, width});
      return wide(n.experts_down, {count, width, hidden}).transpose(1, 2);
    });
    out = {gate_up.reshape({count, 2 * width, hidden}), down};
  } else if (rows) {
    out = {get(n.experts_gate_up, {count, 2 * width, hidden}), get(n.experts_down, {count, hidden, width})};
  } else {
    bool const packed = spec_.stored.kind == quantization::mxfp4 && is_mxfp4(file, tensor_name(n.experts_gate_up, layer));
    // Packed matrices stand row by row, as a linear map has them.
    auto const unpack = [&](std::string_view pattern, std::int64_t e, std::int64_t height, std::int64_t in) {
      auto values = dequantized_mxfp4(file, tensor_name(pattern, layer), e, count, height, in);
      return owned(values, {height, in}, type_);
    };
    Tensor gate_up, down;
    if (!packed) {
      gate_up = get(n.experts_gate_up, {count, hidden, 2 * width});
      down = get(n.experts_down, {count, width, hidden});
    }
    out = room();
    for (std::int64_t e = 0; e < count; ++e) {
      auto const both = packed ? unpack(n.experts_gate_up, e, 2 * width, hidden) : gate_up[e].t();
      auto const pairs = both.reshape({width, 2, hidden});
      out.copy(e, pairs.select(1, 0), pairs.select(1, 1),
               packed ? unpack(n.experts_down, e, hidden, width) : down[e].t());
    }
  }
  if (spec_.kind->expert_biases) {
    auto const both = get(n.experts_gate_up_bias, {count, 2 * width});
    out.set_biases(rows ? both : both.view({count, width, 2}).transpose(1, 2).reshape({count, 2 * width}),
                   get(n.experts_down_bias, {count, hidden}));
  }
  return out;
}

}  // namespace moeroute::capture
