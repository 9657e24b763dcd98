// SPDX-License-Identifier: Apache-2.0
#include "model.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <tuple>
#include <utility>

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/where.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <torch/version.h>

#include "attention.hpp"
#include "experts.hpp"
#include "kv_cache.hpp"
#include "next_token.hpp"
#include "nf4.hpp"
#include "row_kernels.hpp"

namespace moeroute::capture {
namespace {

using at::Tensor;

at::ScalarType torch_type(dtype type) {
  switch (type) {
    case dtype::f32:
      return at::kFloat;
    case dtype::bf16:
      return at::kBFloat16;
    case dtype::f16:
      return at::kHalf;
    default:
      throw argument_error("moeroute::capture: no computation in " + std::string(dtype_name(type)));
  }
}

// Calls into libtorch, with its exceptions turned into ours: the first line of the text, without its stack of C++
// frames.
template <class Function>
auto guarded(Function&& f) {
  try {
    return f();
  } catch (c10::OutOfMemoryError const& e) {
    throw resource_error(std::string("out of device memory: ") + e.what_without_backtrace());
  } catch (c10::Error const& e) {
    std::string text = e.what_without_backtrace();
    text = text.substr(0, text.find('\n'));
    if (text.find("can't allocate memory") != std::string::npos) throw resource_error("out of memory: " + text);
    throw std::runtime_error("libtorch: " + text);
  }
}

struct linear_weights {
  Tensor weight, bias;
  Tensor operator()(Tensor const& x) const {
    return at::linear(x, weight, bias.defined() ? std::optional(bias) : std::nullopt);
  }
};

// Gate, up and down of a shared expert or of a dense layer.
struct unit_weights {
  linear_weights gate, up, down;
};

struct norm_weights {
  Tensor weight, bias;
};

struct layer_weights {
  norm_weights attention_norm, feed_forward_norm, q_norm, k_norm;
  linear_weights q, k, v, o;
  linear_weights q_down, kv_down;  // of latent attention; there k stands for both of k and v
  norm_weights q_down_norm, kv_down_norm;
  Tensor sinks;
  linear_weights router;
  Tensor selection_bias;  // float32
  expert_bank experts;
  unit_weights feed_forward;  // dense, or shared beside the experts
  linear_weights shared_gate;
  std::int64_t window = 0;
  std::size_t number = 0;
  bool in_nf4 = false;  // all else here is empty, and made anew when the layer runs
};

// Documents of similar length, padded to one rectangle for the attention alone. Padding stands behind the document,
// where no real query looks under a causal mask; it repeats the document's own last token, so that nothing of another
// document is ever near.
struct attention_group {
  Tensor rows;  // [G * length] into the batch; undefined if they are all of it, in order
  std::int64_t count, length;
};

struct attention_plan {
  std::vector<attention_group> groups;  // none: every token is the next one of a document in the cache
  Tensor back;  // [T] into the padded rows of all groups, one after another; undefined if they are the same
  kv_cache* cache = nullptr;  // where keys and values are kept, if they are needed again
};

// cos and sin of every token, [T, 1, rotated width].
struct rotation_table {
  Tensor cos, sin;
};

// Packed documents: what every layer needs to know of them.
struct packed {
  rotation_table by;
  attention_plan plan;
};

// What a router did.
struct routed {
  Tensor logits, ids, weights;
};

attention_plan plan_attention(std::span<std::int64_t const> offsets, at::Device device) {
  auto const documents = offsets.size() - 1;
  auto const length = [&](std::size_t d) { return offsets[d + 1] - offsets[d]; };
  std::vector<std::size_t> order(documents);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return length(a) < length(b); });

  attention_plan plan;
  std::vector<std::int64_t> back(static_cast<std::size_t>(offsets[documents]));
  std::int64_t padded = 0;
  auto const upload = [device](std::vector<std::int64_t> const& values) {
    return at::tensor(values, at::TensorOptions().dtype(at::kLong)).to(device);
  };
  for (std::size_t first = 0; first < documents;) {
    // Grow while padding stays below a quarter.
    std::size_t last = first;
    std::int64_t real = 0;
    while (last < documents) {
      auto const rectangle = length(order[last]) * static_cast<std::int64_t>(last - first + 1);
      if (last > first && 4 * rectangle > 5 * (real + length(order[last]))) break;
      real += length(order[last++]);
    }
    attention_group group{{}, static_cast<std::int64_t>(last - first), length(order[last - 1])};
    std::vector<std::int64_t> rows;
    for (std::size_t i = first; i < last; ++i) {
      auto const d = order[i];
      for (std::int64_t p = 0; p < group.length; ++p) {
        rows.push_back(offsets[d] + std::min(p, length(d) - 1));
        if (p < length(d)) back[static_cast<std::size_t>(offsets[d] + p)] = padded + p;
      }
      padded += group.length;
    }
    // Documents of one length, as a benchmark or a corpus cut into windows has them, need not be moved.
    bool const all = first == 0 && last == documents && rows.size() == back.size();
    if (all && std::is_sorted(rows.begin(), rows.end())) return {{std::move(group)}, {}};
    group.rows = upload(rows);
    plan.groups.push_back(std::move(group));
    first = last;
  }
  plan.back = upload(back);
  return plan;
}

Tensor normalized(Tensor const& x, norm_weights const& w, double epsilon, norm_kind kind = norm_kind::rms) {
  if (kind == norm_kind::layer) return at::layer_norm(x, {x.size(-1)}, w.weight, w.bias, epsilon);
  if (has_row_kernels(x)) return rms_normalized(x, w.weight, epsilon, kind == norm_kind::rms_wide);
  auto const wide = x.to(at::kFloat);
  auto const unit = wide * at::rsqrt(wide.pow(2).mean(-1, true) + epsilon);
  if (kind == norm_kind::rms_wide) return (w.weight * unit).to(x.scalar_type());
  return w.weight * unit.to(x.scalar_type());
}

// The first elements of each head turn in pairs, (i, i + d/2) or (2i, 2i + 1); the rest passes.
Tensor rotate(Tensor const& x, rotation_table const& by, bool neighbours) {
  if (has_row_kernels(x)) return rotated(x, by.cos, by.sin, neighbours);
  auto const d = by.cos.size(-1), rest = x.size(-1) - d;
  auto const turned = x.narrow(-1, 0, d);
  Tensor crossed;
  if (neighbours) {
    auto const pairs = turned.reshape({x.size(0), x.size(1), d / 2, 2});
    crossed = at::stack(std::vector<Tensor>{-pairs.select(-1, 1), pairs.select(-1, 0)}, -1).flatten(-2);
  } else {
    auto const halves = turned.chunk(2, -1);
    crossed = at::cat(std::vector<Tensor>{-halves[1], halves[0]}, -1);
  }
  auto const out = (turned * by.cos + crossed * by.sin).to(x.scalar_type());
  return rest == 0 ? out : at::cat(std::vector<Tensor>{out, x.narrow(-1, d, rest)}, -1);
}

template <class T>
std::vector<T> to_vector(Tensor const& t, at::ScalarType type) {
  auto const host = t.to(at::kCPU, type).contiguous();
  std::vector<T> out(static_cast<std::size_t>(host.numel()));
  if (!out.empty()) std::memcpy(out.data(), host.const_data_ptr(), out.size() * sizeof(T));
  return out;
}

}  // namespace

execution resolve_execution(std::string const& device, std::string const& type, int threads, dtype stored) {
  return guarded([&] {
    execution out;
    out.threads = threads;
    if (device == "auto") {
      out.device = at::hasCUDA() ? "cuda:0" : "cpu";
    } else if (device == "cpu") {
      out.device = device;
    } else if (device.rfind("cuda", 0) == 0) {
      if (!at::hasCUDA())
        throw argument_error("--device " + device + ": this libtorch sees no CUDA device; use --device cpu");
      c10::Device const parsed = [&] {
        try {
          return c10::Device(device);
        } catch (c10::Error const&) {
          throw argument_error("--device " + device + ": expected auto, cpu, cuda or cuda:N");
        }
      }();
      int const index = parsed.has_index() ? parsed.index() : 0;
      if (index >= at::accelerator::deviceCount())
        throw argument_error("--device " + device + ": there are " + std::to_string(at::accelerator::deviceCount()) +
                             " devices");
      out.device = "cuda:" + std::to_string(index);
    } else {
      throw argument_error("--device " + device + ": expected auto, cpu, cuda or cuda:N");
    }
    if (type == "float32")
      out.type = dtype::f32;
    else if (type == "bfloat16")
      out.type = dtype::bf16;
    else if (type == "float16")
      out.type = dtype::f16;
    else if (type == "auto")
      out.type = out.device == "cpu" ? dtype::f32 : stored;
    else
      throw argument_error("--dtype " + type + ": expected auto, float32, float16 or bfloat16");
    return out;
  });
}

attention_kind resolve_attention(std::string const& word, model_spec const& spec, execution const& where) {
  auto const refuse = [&](std::string const& why) { throw argument_error("--attention " + word + ": " + why); };
  bool const sinks = !spec.kind->names.sinks.empty();
  if (word == "auto") return sinks ? attention_kind::eager : attention_kind::sdpa;
  if (word == "eager") return attention_kind::eager;
  if (word != "sdpa" && word != "flash") refuse("expected auto, eager, sdpa or flash");
  if (sinks)
    refuse(std::string(spec.kind->model_type) + " has attention sinks, which only eager computes; use auto or eager");
  if (word == "sdpa") return attention_kind::sdpa;
  if (std::any_of(spec.windows.begin(), spec.windows.end(), [](auto window) { return window != 0; }))
    refuse("the model has layers with a sliding window, which libtorch's flash kernel does not take; use auto or sdpa");
  auto const width = std::max(spec.head_width, spec.value_width);
  if (!guarded([&] { return require_flash(where.device, torch_type(where.type), width); }))
    refuse("libtorch has no flash kernel on " + where.device + " for " + std::string(dtype_name(where.type)) +
           " and heads of " + std::to_string(width) + "; use auto or sdpa");
  return attention_kind::flash;
}

std::optional<std::pair<std::uint64_t, std::uint64_t>> device_memory(execution const& where) {
  c10::Device const device(where.device);
  if (device.is_cpu()) return std::nullopt;
  auto const [free, total] = guarded([&] { return at::accelerator::getMemoryInfo(device.index()); });
  return std::pair<std::uint64_t, std::uint64_t>(free, total);
}

std::vector<double> selection_bias(model_spec const& spec, checkpoint const& weights, std::int64_t layer) {
  auto const pattern = spec.kind->names.selection_bias;
  if (pattern.empty()) return {};
  auto const experts = spec.router.experts;
  auto const& view = weights.at(tensor_name(pattern, layer),
                                spec.kind->selection_bias_row ? std::vector{std::int64_t{1}, experts} : std::vector{experts});
  return guarded([&] {
    auto* data = const_cast<std::byte*>(view.data.data());
    auto const options = at::TensorOptions().dtype(torch_type(view.type));
    return to_vector<double>(at::from_blob(data, {experts}, options), at::kDouble);
  });
}

std::string_view attention_name(attention_kind kind) {
  return kind == attention_kind::eager ? "eager" : kind == attention_kind::sdpa ? "sdpa" : "flash";
}

bool has_tied_head(model_spec const& spec, checkpoint const& weights) {
  return spec.tied_head.value_or(!weights.has(std::string(spec.kind->names.head) + ".weight"));
}

std::vector<std::vector<std::string>> stage_tensors(model_spec const& spec, checkpoint const& weights) {
  auto const& n = spec.kind->names;
  auto const stem = n.attention_norm.substr(0, n.attention_norm.find("{l}"));
  bool const tied = has_tied_head(spec, weights);
  std::vector<std::vector<std::string>> out(static_cast<std::size_t>(stage_count(spec)));
  for (auto& name : weights.names()) {
    if (name.starts_with(stem)) {
      // What predicts further tokens stands in layers from `layers` on; frequencies follow from the configuration.
      auto const layer = std::strtoll(name.c_str() + stem.size(), nullptr, 10);
      if (layer < spec.layers && !name.ends_with("rotary_emb.inv_freq"))
        out[static_cast<std::size_t>(layer + 1)].push_back(std::move(name));
    } else if (name.starts_with(n.embedding)) {
      out.front().push_back(std::move(name));
    } else if (!tied || !name.starts_with(std::string(n.head) + ".weight")) {
      out.back().push_back(std::move(name));
    }
  }
  return out;
}

std::string torch_version() { return TORCH_VERSION; }

struct continuation::state {
  kv_cache cache;
  Tensor next;  // [D, vocabulary] logits of the next token
};

struct model::state {
  model_spec spec;
  at::Device device{at::kCPU};
  at::ScalarType type = at::kFloat;
  attention_kind way = attention_kind::sdpa;
  gated_activation activation;
  Tensor embedding, frequencies, long_frequencies;
  norm_weights final_norm;
  linear_weights head;
  std::vector<layer_weights> layers;
  // What the family and its configuration have is decided in expected_tensors alone; the rest stays undefined.
  std::map<std::string, std::vector<std::int64_t>> shapes;
  bool tied = false;  // the head is the embedding
  bool nf4 = false, keep_nf4 = false;
  checkpoint const* origin = nullptr;  // what is not packed of the layers in nf4_store
  std::set<std::string> linear_maps;
  mutable std::map<std::string, nf4_weights> nf4_store;

  state(model_spec const& s, checkpoint const& file, execution const& where)
      : spec{s}, device{where.device}, type{torch_type(where.type)}, way{where.attention},
        activation{s.kind->clamped_unit, s.unit_slope, s.unit_limit}, layers(static_cast<std::size_t>(s.layers)),
        nf4{where.nf4}, origin{&file} {
    at::set_num_threads(where.threads);
    for (auto& t : expected_tensors(spec)) {
      if (t.linear_map) linear_maps.insert(t.name);
      shapes.emplace(std::move(t.name), std::move(t.shape));
    }
    tied = has_tied_head(spec, file);
    if (tied) shapes.erase(std::string(spec.kind->names.head) + ".weight");
    auto const upload = [this](std::vector<double> const& values) {
      return at::tensor(values, at::TensorOptions().dtype(at::kDouble)).to(device, at::kFloat);
    };
    frequencies = upload(spec.rope.frequencies);
    if (!spec.rope.long_frequencies.empty()) long_frequencies = upload(spec.rope.long_frequencies);
  }

  // Zero-copy where the file has the type and the device is the CPU; a mapped checkpoint outlives the model, the memory of
  // one that was read lives as long as its tensors.
  Tensor tensor(checkpoint const& file, std::string const& name, std::vector<std::int64_t> const& shape,
                std::optional<at::ScalarType> as = {}) const {
    if (spec.stored.kind != quantization::none && is_quantized(file, name)) {
      auto values = dequantized(file, name, shape, spec.stored);
      return owned(values, shape, as.value_or(type));
    }
    auto const& view = file.at(name, shape);
    // from_blob asks for a mutable pointer; nothing here writes to weights, and the mapping is read-only.
    auto* data = const_cast<std::byte*>(view.data.data());
    return at::from_blob(data, shape, [keep = file.memory()](void*) {}, at::TensorOptions().dtype(torch_type(view.type)))
        .to(device, as.value_or(type));
  }

  Tensor owned(std::vector<float>& values, std::vector<std::int64_t> const& shape, at::ScalarType as) const {
    return at::from_blob(values.data(), shape, at::TensorOptions().dtype(at::kFloat)).to(device, as, false, true);
  }

  Tensor get(checkpoint const& file, std::string const& name, std::optional<at::ScalarType> as = {}) const {
    auto const found = shapes.find(name);
    if (found == shapes.end()) return {};
    if (!nf4 || !linear_maps.contains(name)) return tensor(file, name, found->second, as);
    return through_nf4(name, 1, [&] { return tensor(file, name, found->second, at::kFloat); });
  }

  // What becomes of `matrices` that stand one after another in one tensor when they are kept in NF4.
  template <class Load>
  Tensor through_nf4(std::string const& name, std::int64_t matrices, Load&& load) const {
    if (auto const known = nf4_store.find(name); known != nf4_store.end()) return known->second.unpacked(type);
    nf4_weights w(load(), matrices);
    auto out = w.unpacked(type);
    if (keep_nf4) nf4_store.emplace(name, std::move(w));
    return out;
  }

  linear_weights linear(checkpoint const& file, std::string const& stem, std::optional<at::ScalarType> as = {}) const {
    return {get(file, stem + ".weight", as), get(file, stem + ".bias", as)};
  }

  // The weights of one stage.
  void load(checkpoint const& file, std::int64_t stage) {
    auto const& n = spec.kind->names;
    if (stage == 0 || (stage > spec.layers && tied && !embedding.defined()))
      embedding = get(file, std::string(n.embedding));
    if (stage > spec.layers) {
      final_norm = {get(file, std::string(n.final_norm) + ".weight"), get(file, std::string(n.final_norm) + ".bias")};
      head = linear(file, std::string(n.head));
      if (tied) head.weight = embedding;
    } else if (stage > 0) {
      auto& w = layers[static_cast<std::size_t>(stage - 1)] = layer_of(file, stage - 1);
      if (keep_nf4) {
        w = {};
        w.number = static_cast<std::size_t>(stage - 1);
        w.in_nf4 = true;
      }
    }
  }

  layer_weights layer_of(checkpoint const& file, std::int64_t const layer) const {
    auto const& f = *spec.kind;
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
    w.window = spec.windows[static_cast<std::size_t>(layer)];
    w.number = static_cast<std::size_t>(layer);
    w.attention_norm = norm(text(n.attention_norm));
    w.feed_forward_norm = norm(text(n.feed_forward_norm));
    w.o = linear(text(n.o));
    w.q_norm = norm(text(n.q_norm));
    w.k_norm = norm(text(n.k_norm));
    w.q = linear(text(n.q));
    if (f.latent) {
      auto const stem = text(n.q.substr(0, n.q.rfind('.') + 1));
      if (spec.q_rank > 0) {
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
    if (!spec.moe[static_cast<std::size_t>(layer)]) {
      w.feed_forward = unit(text(n.dense));
      return w;
    }
    w.router = linear(text(n.router), router_type());
    w.selection_bias = get(text(n.selection_bias), at::kFloat);
    if (w.selection_bias.defined()) w.selection_bias = w.selection_bias.flatten();
    if (spec.shared_width > 0) w.feed_forward = unit(text(n.shared));
    w.shared_gate = linear(text(n.shared_gate));
    auto const in_one = tensor_name(n.experts_gate_up, layer);
    if (file.has(in_one) || is_mxfp4(file, in_one) || n.expert_gate.empty()) {
      w.experts = fused(file, layer);
    } else {
      bool const in_place = is_mapped(file, tensor_name(text(n.expert_gate), layer, 0) + ".weight");
      if (!in_place) w.experts = room();
      for (expert = 0; expert < spec.router.experts; ++expert) {
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

  void unload(std::int64_t stage) {
    if (stage == 0 ? !tied : stage > spec.layers) embedding = Tensor();
    if (stage > spec.layers) head = {}, final_norm = {};
    if (stage > 0 && stage <= spec.layers) layers[static_cast<std::size_t>(stage - 1)] = {};
  }

  // Names, types and shapes of all that will be loaded; what is packed is checked when it is unpacked.
  void check(checkpoint const& file) const {
    auto const& n = spec.kind->names;
    auto const stem = n.attention_norm.find("{l}");
    auto const in_one = [&](std::string const& name) {
      auto const layer = name.size() > stem ? std::strtoll(name.c_str() + stem, nullptr, 10) : 0;
      auto const experts = tensor_name(n.experts_gate_up, layer);
      return file.has(experts) || is_mxfp4(file, experts);
    };
    for (auto const& [name, shape, linear_map] : expected_tensors(spec)) {
      if (!shapes.contains(name) || (spec.stored.kind != quantization::none && is_quantized(file, name))) continue;
      if (!file.has(name) && name.find("expert") != std::string::npos && in_one(name)) continue;
      (void)file.at(name, shape);
    }
    refuse_unknown(file);
  }

  void refuse_unknown(checkpoint const& file) const {
    auto const& n = spec.kind->names;
    std::set<std::string> known{std::string(n.head) + ".weight"};  // a tied head may be stored all the same
    for (auto const& [name, shape] : shapes) {
      known.insert(name);
      if (spec.stored.kind == quantization::none || !is_quantized(file, name)) continue;
      for (auto& companion : quantized_companions(name)) known.insert(std::move(companion));
    }
    for (std::int64_t l = 0; l < spec.layers; ++l)
      for (auto const pattern : {n.experts_gate_up, n.experts_down})
        for (char const* part : {"", "_blocks", "_scales"}) known.insert(tensor_name(pattern, l) + part);
    file.refuse_unknown(known, spec.layers);
  }

  at::ScalarType router_type() const { return spec.kind->wide_router ? at::kFloat : type; }

  // Whether tensor() refers to the file instead of copying.
  bool is_mapped(checkpoint const& file, std::string const& name) const {
    return device.is_cpu() && !(nf4 && linear_maps.contains(name)) && !(spec.stored.kind != quantization::none && is_quantized(file, name)) &&
           torch_type(file.at(name, shapes.at(name)).type) == type;
  }

  expert_bank room() const {
    return {spec.router.experts, spec.expert_width, spec.hidden, at::TensorOptions().dtype(type).device(device)};
  }

  // The experts of a layer whose weights come in one tensor.
  expert_bank fused(checkpoint const& file, std::int64_t layer) const {
    auto const& n = spec.kind->names;
    auto const count = spec.router.experts, width = spec.expert_width, hidden = spec.hidden;
    bool const rows = spec.kind->fused == fused_experts::rows;
    auto const get = [&](std::string_view pattern, std::vector<std::int64_t> const& shape) {
      return tensor(file, tensor_name(pattern, layer), shape);
    };
    expert_bank out;
    if (nf4) {
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
      bool const packed = spec.stored.kind == quantization::mxfp4 && is_mxfp4(file, tensor_name(n.experts_gate_up, layer));
      // Packed matrices stand row by row, as a linear map has them.
      auto const unpack = [&](std::string_view pattern, std::int64_t e, std::int64_t height, std::int64_t in) {
        auto values = dequantized_mxfp4(file, tensor_name(pattern, layer), e, count, height, in);
        return owned(values, {height, in}, type);
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
    if (spec.kind->expert_biases) {
      auto const both = get(n.experts_gate_up_bias, {count, 2 * width});
      out.set_biases(rows ? both : both.view({count, width, 2}).transpose(1, 2).reshape({count, 2 * width}),
                     get(n.experts_down_bias, {count, hidden}));
    }
    return out;
  }

  struct heads {
    Tensor q, k, v;  // [T, heads, width]
  };

  heads project(layer_weights const& w, Tensor const& x, rotation_table const& by) const {
    auto const tokens = x.size(0), d = spec.head_width;
    auto q = w.q(x), k = w.k(x), v = w.v(x);
    auto const kind = spec.kind->query_key_norm;
    if (spec.query_key_norm && kind == qk_norm::full_projection) {
      q = norm(q, w.q_norm);
      k = norm(k, w.k_norm);
    }
    if (spec.clip > 0) {
      q = at::clamp(q, -spec.clip, spec.clip);
      k = at::clamp(k, -spec.clip, spec.clip);
      v = at::clamp(v, -spec.clip, spec.clip);
    }
    q = q.view({tokens, spec.heads, d});
    k = k.view({tokens, spec.kv_heads, d});
    if (spec.query_key_norm && kind == qk_norm::per_head) {
      q = norm(q, w.q_norm);
      k = norm(k, w.k_norm);
    }
    q = rotate(q, by, spec.rotate_neighbours);
    k = rotate(k, by, spec.rotate_neighbours);
    if (spec.query_key_norm && kind == qk_norm::per_head_after_rotation) {
      q = norm(q, w.q_norm);
      k = norm(k, w.k_norm);
    }
    return {q, k, v.view({tokens, spec.kv_heads, d})};
  }

  // Keys and values come from one narrow vector per token; the rotated part of the key is one for all heads.
  heads project_latent(layer_weights const& w, Tensor const& x, rotation_table const& by) const {
    constexpr double epsilon = 1e-6;  // whatever rms_norm_eps says
    auto const tokens = x.size(0), plain = spec.plain_width, turned = spec.rope.width;
    auto const q = w.q(spec.q_rank > 0 ? normalized(w.q_down(x), w.q_down_norm, epsilon) : x)
                       .view({tokens, spec.heads, plain + turned});
    auto const narrow = w.kv_down(x);
    auto const kv = w.k(normalized(narrow.narrow(1, 0, spec.kv_rank), w.kv_down_norm, epsilon))
                        .view({tokens, spec.heads, plain + spec.value_width});
    auto const key = rotate(narrow.narrow(1, spec.kv_rank, turned).unsqueeze(1), by, spec.rotate_neighbours);
    auto const query = rotate(q.narrow(2, plain, turned), by, spec.rotate_neighbours);
    return {at::cat(std::vector<Tensor>{q.narrow(2, 0, plain), query}, 2),
            at::cat(std::vector<Tensor>{kv.narrow(2, 0, plain), key.expand({tokens, spec.heads, turned})}, 2),
            kv.narrow(2, plain, spec.value_width)};
  }

  Tensor norm(Tensor const& x, norm_weights const& w) const {
    return normalized(x, w, spec.norm_epsilon, spec.kind->norm);
  }

  Tensor attention(layer_weights const& w, Tensor const& x, rotation_table const& by,
                   attention_plan const& plan) const {
    auto const [q, k, v] = spec.kind->latent ? project_latent(w, x, by) : project(w, x, by);
    if (plan.cache != nullptr) plan.cache->store(w.number, k, v);
    if (plan.groups.empty()) return w.o(plan.cache->attend(w.number, q, spec.attention_scale, w.sinks));
    std::vector<Tensor> parts;
    for (auto const& group : plan.groups) {
      auto const rectangle = [&](Tensor const& t) {
        auto const d = t.size(2);
        auto const moved = group.rows.defined() ? t.index_select(0, group.rows) : t;
        auto r = moved.view({group.count, group.length, t.size(1), d}).transpose(1, 2);
        if (t.size(1) == spec.heads) return r;
        // Query heads share a key head in consecutive blocks.
        return r.unsqueeze(2)
            .expand({group.count, spec.kv_heads, spec.heads / spec.kv_heads, group.length, d})
            .reshape({group.count, spec.heads, group.length, d});
      };
      auto const mixed = attend(rectangle(q), rectangle(k), rectangle(v), {spec.attention_scale, w.window, w.sinks}, way);
      parts.push_back(mixed.transpose(1, 2).reshape({group.count * group.length, spec.heads * spec.value_width}));
    }
    return w.o(plan.back.defined() ? at::cat(parts).index_select(0, plan.back) : parts.front());
  }

  routed route(layer_weights const& w, Tensor const& x) const {
    auto const& r = spec.router;
    auto const logits = w.router(x.to(router_type()));
    if (r.score == score_function::sparsemixer) {
      auto left = logits;
      constexpr double out = -std::numeric_limits<double>::infinity();
      std::vector<Tensor> ids, weights;
      for (index_t k = 0; k < r.top_k; ++k) {
        auto const [best, id] = left.max(-1, true);
        auto const far = (best - logits) / at::maximum(logits.abs(), best) > 2 * r.jitter_eps;
        weights.push_back(at::softmax(left.masked_fill(far, out), -1).gather(1, id));
        ids.push_back(id);
        left = left.scatter(1, id, out);
      }
      return {logits, at::cat(ids, 1), at::cat(weights, 1)};
    }
    if (r.score == score_function::softmax_after_top_k) {
      auto const [best, ids] = at::topk(logits, r.top_k, -1);
      return {logits, ids, at::softmax(best, -1, at::kFloat).to(type)};
    }
    auto const score =
        r.score == score_function::sigmoid ? at::sigmoid(logits.to(at::kFloat)) : at::softmax(logits, -1, at::kFloat);
    auto rank = w.selection_bias.defined() ? score + w.selection_bias : score;
    if (r.groups > 1) {
      auto const members = rank.view({x.size(0), r.groups, r.experts / r.groups});
      auto const of_group = r.group_rule == group_score::maximum ? members.amax(-1)
                                                                 : std::get<0>(at::topk(members, 2, -1)).sum(-1);
      auto const kept = std::get<1>(at::topk(of_group, r.groups_kept, -1));
      auto const hidden = at::ones_like(of_group, at::TensorOptions().dtype(at::kBool)).scatter_(1, kept, false);
      rank = members.masked_fill(hidden.unsqueeze(2), -std::numeric_limits<double>::infinity()).view_as(rank);
    }
    auto const ids = has_row_kernels(rank) ? largest(rank, r.top_k) : std::get<1>(at::topk(rank, r.top_k, -1));
    auto weights = score.gather(1, ids);
    if (r.renormalize) {
      auto const sum = weights.sum(-1, true);
      weights = weights / (spec.renormalize_minimum > 0 ? at::clamp(sum, spec.renormalize_minimum)
                                                        : sum + r.renormalize_epsilon);
    }
    if (r.scale != 1) weights = weights * r.scale;
    return {logits, ids, weights.to(router_type())};
  }

  Tensor gated_unit(unit_weights const& w, Tensor const& x) const {
    return w.down(activation(w.gate(x), w.up(x)));
  }

  // What stands behind the second norm.
  Tensor feed_forward(layer_weights const& w, Tensor const& x, std::vector<routed>& record) const {
    if (w.experts.empty()) return gated_unit(w.feed_forward, x);
    record.push_back(route(w, x));
    auto const mixed = w.experts(x, record.back().ids, record.back().weights, activation, w.experts.best_for(x));
    if (!w.feed_forward.gate.weight.defined()) return mixed;
    auto const shared = gated_unit(w.feed_forward, x);
    return mixed + (w.shared_gate.weight.defined() ? at::sigmoid(w.shared_gate(x)) * shared : shared);
  }

  Tensor upload(std::vector<std::int64_t> const& values) const {
    return at::tensor(values, at::TensorOptions().dtype(at::kLong)).to(device);
  }

  // `lengths` [T]: of the document that the token stands in.
  rotation_table rotations(std::vector<std::int64_t> const& positions, std::vector<std::int64_t> const& lengths) const {
    auto const& rope = spec.rope;
    auto const position = upload(positions).to(at::kFloat).unsqueeze(1);
    auto const table = [&](Tensor const& f, double scale) {
      auto const angles = position * f;
      auto const both = spec.rotate_neighbours ? angles.repeat_interleave(2, -1)
                                               : at::cat(std::vector<Tensor>{angles, angles}, -1);
      return rotation_table{both.cos() * scale, both.sin() * scale};
    };
    auto by = table(frequencies, rope.scale);
    if (long_frequencies.defined()) {
      auto const mask = (upload(lengths) > rope.long_from).unsqueeze(1);
      auto const far = table(long_frequencies, rope.long_scale);
      by = {at::where(mask, far.cos, by.cos), at::where(mask, far.sin, by.sin)};
    }
    return {by.cos.to(type).unsqueeze(1), by.sin.to(type).unsqueeze(1)};
  }

  packed pack(std::span<std::int64_t const> offsets) const {
    std::vector<std::int64_t> positions(static_cast<std::size_t>(offsets.back())), lengths(positions.size());
    for (std::size_t d = 0; d + 1 < offsets.size(); ++d)
      for (auto t = offsets[d]; t < offsets[d + 1]; ++t) {
        positions[static_cast<std::size_t>(t)] = t - offsets[d];
        lengths[static_cast<std::size_t>(t)] = offsets[d + 1] - offsets[d];
      }
    return {rotations(positions, lengths), plan_attention(offsets, device)};
  }

  Tensor embed(std::span<std::int32_t const> ids) const {
    std::vector<std::int64_t> const wide(ids.begin(), ids.end());
    for (auto const id : wide)
      if (id < 0 || id >= spec.vocabulary)
        throw argument_error("token " + std::to_string(id) + " is outside the model's vocabulary of " +
                             std::to_string(spec.vocabulary) + "; tokenizer and model do not belong together");
    auto x = at::embedding(embedding, at::tensor(wide, at::TensorOptions().dtype(at::kLong)).to(device));
    return spec.embedding_multiplier == 1 ? x : x * spec.embedding_multiplier;
  }

  Tensor run_layer(layer_weights const& w, Tensor x, packed const& batch, std::vector<routed>& record) const {
    if (w.in_nf4) return run_layer(layer_of(*origin, static_cast<std::int64_t>(w.number)), std::move(x), batch, record);
    auto const add = [&](Tensor const& y) {
      x.add_(spec.residual_multiplier == 1 ? y : y * spec.residual_multiplier);
    };
    if (spec.kind->post_norm) {
      add(norm(attention(w, x, batch.by, batch.plan), w.attention_norm));
      add(norm(feed_forward(w, x, record), w.feed_forward_norm));
    } else {
      add(attention(w, norm(x, w.attention_norm), batch.by, batch.plan));
      add(feed_forward(w, norm(x, w.feed_forward_norm), record));
    }
    return x;
  }

  layer_output on_host(routed const& r) const {
    layer_output layer;
    auto const logits = r.logits.to(at::kCPU).contiguous();
    layer.logits.resize(static_cast<std::size_t>(logits.numel()) * static_cast<std::size_t>(logits.element_size()));
    std::memcpy(layer.logits.data(), logits.const_data_ptr(), layer.logits.size());
    layer.ids = to_vector<std::int16_t>(r.ids, at::kShort);
    layer.weights = to_vector<float>(r.weights, at::kFloat);
    layer.nonfinite = static_cast<std::uint64_t>(at::isfinite(r.logits).logical_not().sum().item<std::int64_t>());
    return layer;
  }

  // Through all layers and the last norm; the routing goes into `out`.
  Tensor forward(std::span<std::int32_t const> ids, packed const& batch, batch_output& out) const {
    std::vector<routed> record;
    auto x = embed(ids);
    for (auto const& w : layers) x = run_layer(w, std::move(x), batch, record);
    for (auto const& r : record) out.layers.push_back(on_host(r));
    return norm(x, final_norm);
  }

  batch_output run(std::span<std::int32_t const> ids, std::span<std::int64_t const> offsets) const {
    c10::InferenceMode const inference;
    batch_output out;
    head_output(forward(ids, pack(offsets), out), ids, offsets, out);
    return out;
  }

  void run_stage(std::int64_t stage, std::span<std::int32_t const> ids, std::span<std::int64_t const> offsets,
                 std::vector<std::byte>& hidden, batch_output& out) const {
    c10::InferenceMode const inference;
    // Into memory of libtorch's own: how a matrix is aligned may change how its sums are cut.
    auto x = stage == 0 ? embed(ids)
                        : at::from_blob(hidden.data(), {static_cast<std::int64_t>(ids.size()), spec.hidden},
                                        at::TensorOptions().dtype(type))
                              .to(device, type, false, true);
    if (stage > spec.layers) return head_output(norm(x, final_norm), ids, offsets, out);
    if (stage > 0) {
      std::vector<routed> record;
      x = run_layer(layers[static_cast<std::size_t>(stage - 1)], std::move(x), pack(offsets), record);
      for (auto const& r : record) out.layers.push_back(on_host(r));
    }
    x = x.to(at::kCPU, type).contiguous();
    hidden.resize(static_cast<std::size_t>(x.numel()) * static_cast<std::size_t>(x.element_size()));
    std::memcpy(hidden.data(), x.const_data_ptr(), hidden.size());
  }

  batch_output begin(std::span<std::int32_t const> ids, std::span<std::int64_t const> offsets,
                     continuation::state& onward) const {
    c10::InferenceMode const inference;
    onward.cache.expect_documents(offsets);
    auto batch = pack(offsets);
    batch.plan.cache = &onward.cache;
    batch_output out;
    auto const x = forward(ids, batch, out);
    head_output(x, ids, offsets, out);
    std::vector<std::int64_t> last;
    for (auto const end : offsets.subspan(1)) last.push_back(end - 1);
    onward.next = next_logits(x.index_select(0, upload(last)));
    // Of another product than head_output's, which may round otherwise: what is said to be predicted is what follows.
    auto const any = upload(std::vector<std::int64_t>(last.size()));
    auto const predicted = to_vector<std::int32_t>(score(onward.next, any).best, at::kInt);
    for (std::size_t d = 0; d < last.size(); ++d) out.predicted[static_cast<std::size_t>(last[d])] = predicted[d];
    return out;
  }

  batch_output step(std::span<std::int32_t const> ids, continuation::state& onward) const {
    c10::InferenceMode const inference;
    onward.cache.expect_step();
    auto const& lengths = onward.cache.lengths();
    auto positions = lengths;
    for (auto& p : positions) --p;
    packed batch{rotations(positions, lengths), {}};
    batch.plan.cache = &onward.cache;
    batch_output out;
    onward.next = next_logits(forward(ids, batch, out));
    // Of any token: whether the distribution is finite does not depend on it.
    auto const scored = score(onward.next, upload(std::vector<std::int64_t>(ids.size())));
    out.predicted = to_vector<std::int32_t>(scored.best, at::kInt);
    out.logprob.assign(ids.size(), std::numeric_limits<float>::quiet_NaN());
    auto const infinite = at::isfinite(scored.logprob).logical_not();
    out.nonfinite = static_cast<std::uint64_t>(infinite.sum().item<std::int64_t>());
    return out;
  }

  Tensor next_logits(Tensor const& x) const { return divided(head(x)); }

  Tensor divided(Tensor const& output) const {
    auto const logits = output.to(at::kFloat);
    return spec.logits_divisor != 1 ? logits / spec.logits_divisor : logits;
  }

  // The next-token distribution in pieces: [T, vocabulary] at once would be larger than everything else together.
  void head_output(Tensor const& x, std::span<std::int32_t const> ids, std::span<std::int64_t const> offsets,
                   batch_output& out) const {
    auto const tokens = x.size(0);
    // Token t is predicted at t - 1; the last position of a document predicts nothing that is there, any id will do.
    std::vector<std::int64_t> next(ids.size(), 0);
    std::copy(ids.begin() + 1, ids.end(), next.begin());
    auto const next_ids = upload(next);
    next_token all;
    if (device.is_cpu()) {
      all = score_by_pieces(x, next_ids, spec.vocabulary, [&](Tensor const& rows, std::int64_t first, std::int64_t count) {
        auto const bias = head.bias.defined() ? head.bias.narrow(0, first, count) : Tensor();
        return divided(linear_weights{head.weight.narrow(0, first, count), bias}(rows));
      });
    } else {
      std::vector<Tensor> logprob, best;
      for (std::int64_t begin = 0; begin < tokens; begin += head_rows(spec)) {
        auto const n = std::min(head_rows(spec), tokens - begin);
        auto const scored = score(next_logits(x.narrow(0, begin, n)), next_ids.narrow(0, begin, n));
        logprob.push_back(scored.logprob);
        best.push_back(scored.best);
      }
      all = {at::cat(logprob), at::cat(best)};
    }
    auto const of_next = to_vector<float>(all.logprob, at::kFloat);
    out.predicted = to_vector<std::int32_t>(all.best, at::kInt);
    out.logprob.assign(of_next.size(), std::numeric_limits<float>::quiet_NaN());
    for (std::size_t d = 0; d + 1 < offsets.size(); ++d)
      for (auto t = offsets[d] + 1; t < offsets[d + 1]; ++t)
        out.logprob[static_cast<std::size_t>(t)] = of_next[static_cast<std::size_t>(t - 1)];
    out.nonfinite = static_cast<std::uint64_t>(
        std::count_if(of_next.begin(), of_next.end(), [](float p) { return !std::isfinite(p); }));
  }
};

model::model(model_spec const& spec, checkpoint const& weights, execution const& where, residency where_weights)
    : state_{guarded([&] { return std::make_unique<state>(spec, weights, where); })} {
  guarded([&] {
    if (where_weights == residency::stream) return state_->check(weights);
    state_->keep_nf4 = where.nf4;
    for (std::int64_t stage = 0; stage < stage_count(spec); ++stage) state_->load(weights, stage);
    state_->refuse_unknown(weights);
  });
}
model::model(model&&) noexcept = default;
model::~model() = default;

batch_output model::run(std::span<std::int32_t const> ids, std::span<std::int64_t const> offsets) const {
  return guarded([&] { return state_->run(ids, offsets); });
}

continuation::continuation() = default;
continuation::continuation(continuation&&) noexcept = default;
continuation::~continuation() = default;

batch_output model::begin(std::span<std::int32_t const> ids, std::span<std::int64_t const> offsets, std::int64_t more,
                          continuation& onward) const {
  std::int64_t longest = 0;
  for (std::size_t d = 0; d + 1 < offsets.size(); ++d) longest = std::max(longest, offsets[d + 1] - offsets[d]);
  return guarded([&] {
    kv_cache cache(state_->spec.windows, static_cast<std::int64_t>(offsets.size()) - 1, longest + more, state_->device);
    onward.state_ = std::make_unique<continuation::state>(continuation::state{std::move(cache), {}});
    return state_->begin(ids, offsets, *onward.state_);
  });
}

batch_output model::step(continuation& onward, std::span<std::int32_t const> ids) const {
  return guarded([&] { return state_->step(ids, *onward.state_); });
}

std::vector<float> model::probabilities(continuation const& onward, double temperature) const {
  return guarded([&] {
    c10::InferenceMode const inference;
    return to_vector<float>(at::softmax(onward.state_->next / temperature, 1), at::kFloat);
  });
}

std::vector<float> model::logprob(continuation const& onward, std::span<std::int32_t const> ids) const {
  return guarded([&] {
    c10::InferenceMode const inference;
    return to_vector<float>(score(onward.state_->next, state_->upload({ids.begin(), ids.end()})).logprob, at::kFloat);
  });
}

void model::keep(continuation& onward, std::span<std::int64_t const> documents) const {
  guarded([&] {
    c10::InferenceMode const inference;
    onward.state_->cache.keep(documents);
    onward.state_->next = onward.state_->next.index_select(0, state_->upload({documents.begin(), documents.end()}));
  });
}

void model::load(std::int64_t stage, checkpoint const& part) {
  guarded([&] { state_->load(part, stage); });
}

void model::unload(std::int64_t stage) { state_->unload(stage); }

void model::run_stage(std::int64_t stage, std::span<std::int32_t const> ids, std::span<std::int64_t const> offsets,
                      std::vector<std::byte>& hidden, batch_output& out) const {
  guarded([&] { state_->run_stage(stage, ids, offsets, hidden, out); });
}

}  // namespace moeroute::capture
