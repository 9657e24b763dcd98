// SPDX-License-Identifier: Apache-2.0
#include "model.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <tuple>
#include <utility>

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/bincount.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/topk.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <torch/version.h>

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

struct attention_weights {
  Tensor weight, bias;
  Tensor operator()(Tensor const& x) const {
    return at::linear(x, weight, bias.defined() ? std::optional(bias) : std::nullopt);
  }
};

struct expert_weights {
  Tensor gate, up, down;
};

struct layer_weights {
  Tensor attention_norm, feed_forward_norm, q_norm, k_norm, router;
  attention_weights q, k, v, o;
  std::vector<expert_weights> experts;
};

// Documents of similar length, padded to one rectangle for the attention alone. Padding stands behind the document,
// where no real query looks under a causal mask; it repeats the document's own last token, so that nothing of another
// document is ever near.
struct attention_group {
  Tensor rows;  // [G * length] into the batch
  std::int64_t count, length;
};

struct attention_plan {
  std::vector<attention_group> groups;
  Tensor back;  // [T] into the padded rows of all groups, one after another
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
    group.rows = upload(rows);
    plan.groups.push_back(std::move(group));
    first = last;
  }
  plan.back = upload(back);
  return plan;
}

Tensor rms_norm(Tensor const& x, Tensor const& weight, double epsilon) {
  auto const wide = x.to(at::kFloat);
  auto const variance = wide.pow(2).mean(-1, true);
  return weight * (wide * at::rsqrt(variance + epsilon)).to(x.scalar_type());
}

// Pair (i, i + d/2) of each head turns by position * frequency i.
Tensor rotate(Tensor const& x, Tensor const& cos, Tensor const& sin) {
  auto const halves = x.chunk(2, -1);
  return x * cos + at::cat(std::vector<Tensor>{-halves[1], halves[0]}, -1) * sin;
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
    else if (type == "auto")
      out.type = out.device == "cpu" ? dtype::f32 : stored;
    else
      throw argument_error("--dtype " + type + ": expected auto, float32 or bfloat16");
    return out;
  });
}

std::optional<std::pair<std::uint64_t, std::uint64_t>> device_memory(execution const& where) {
  c10::Device const device(where.device);
  if (device.is_cpu()) return std::nullopt;
  auto const [free, total] = guarded([&] { return at::accelerator::getMemoryInfo(device.index()); });
  return std::pair<std::uint64_t, std::uint64_t>(free, total);
}

std::string torch_version() { return TORCH_VERSION; }

struct model::state {
  model_spec spec;
  at::Device device{at::kCPU};
  at::ScalarType type = at::kFloat;
  Tensor embedding, final_norm, head, frequencies;
  std::vector<layer_weights> layers;

  state(model_spec const& s, checkpoint const& file, execution const& where)
      : spec{s}, device{where.device}, type{torch_type(where.type)} {
    at::set_num_threads(where.threads);
    load(file);
  }

  // Zero-copy where the file has the type and the device is the CPU; the checkpoint outlives the model.
  Tensor tensor(checkpoint const& file, std::string const& name, std::vector<std::int64_t> const& shape) const {
    auto const& view = file.at(name, shape);
    // from_blob asks for a mutable pointer; nothing here writes to weights, and the mapping is read-only.
    auto* data = const_cast<std::byte*>(view.data.data());
    return at::from_blob(data, shape, at::TensorOptions().dtype(torch_type(view.type))).to(device, type);
  }

  void load(checkpoint const& file) {
    auto const& n = spec.kind->names;
    auto const hidden = spec.hidden, width = spec.expert_width, experts = spec.router.experts;
    auto const q_width = spec.heads * spec.head_width, kv_width = spec.kv_heads * spec.head_width;
    embedding = tensor(file, std::string(n.embedding), {spec.vocabulary, hidden});
    final_norm = tensor(file, std::string(n.final_norm), {hidden});
    bool const tied = spec.tied_head.value_or(!file.has(std::string(n.head)));
    head = tied ? embedding : tensor(file, std::string(n.head), {spec.vocabulary, hidden});
    for (std::int64_t l = 0; l < spec.layers; ++l) {
      auto const get = [&](std::string_view pattern, std::vector<std::int64_t> const& shape, std::int64_t e = -1) {
        return tensor(file, tensor_name(pattern, l, e), shape);
      };
      auto const linear = [&](std::string_view stem, std::int64_t out, std::int64_t in) {
        attention_weights w{get(std::string(stem) + ".weight", {out, in}), {}};
        if (spec.attention_bias) w.bias = get(std::string(stem) + ".bias", {out});
        return w;
      };
      layer_weights w;
      w.attention_norm = get(n.attention_norm, {hidden});
      w.feed_forward_norm = get(n.feed_forward_norm, {hidden});
      w.q = linear(n.q, q_width, hidden);
      w.k = linear(n.k, kv_width, hidden);
      w.v = linear(n.v, kv_width, hidden);
      w.o = linear(n.o, hidden, q_width);
      if (spec.kind->query_key_norm == qk_norm::full_projection) {
        w.q_norm = get(n.q_norm, {q_width});
        w.k_norm = get(n.k_norm, {kv_width});
      }
      w.router = get(n.router, {experts, hidden});
      if (file.has(tensor_name(n.experts_gate_up, l))) {
        auto const gate_up = get(n.experts_gate_up, {experts, 2 * width, hidden});
        auto const down = get(n.experts_down, {experts, hidden, width});
        for (std::int64_t e = 0; e < experts; ++e)
          w.experts.push_back({gate_up[e].narrow(0, 0, width), gate_up[e].narrow(0, width, width), down[e]});
      } else {
        for (std::int64_t e = 0; e < experts; ++e)
          w.experts.push_back({get(n.expert_gate, {width, hidden}, e), get(n.expert_up, {width, hidden}, e),
                               get(n.expert_down, {hidden, width}, e)});
      }
      layers.push_back(std::move(w));
    }
    auto const d = spec.head_width;
    auto const exponents = at::arange(0, d, 2, at::TensorOptions().dtype(at::kFloat)) / static_cast<double>(d);
    frequencies = (1.0 / at::pow(spec.rope_theta, exponents)).to(device);
  }

  Tensor attention(layer_weights const& w, Tensor const& x, Tensor const& cos, Tensor const& sin,
                   attention_plan const& plan) const {
    auto q = w.q(x), k = w.k(x), v = w.v(x);
    if (w.q_norm.defined()) {
      q = rms_norm(q, w.q_norm, spec.norm_epsilon);
      k = rms_norm(k, w.k_norm, spec.norm_epsilon);
    }
    if (spec.clip > 0) {
      q = at::clamp(q, -spec.clip, spec.clip);
      k = at::clamp(k, -spec.clip, spec.clip);
      v = at::clamp(v, -spec.clip, spec.clip);
    }
    auto const tokens = x.size(0), d = spec.head_width;
    q = rotate(q.view({tokens, spec.heads, d}), cos, sin);
    k = rotate(k.view({tokens, spec.kv_heads, d}), cos, sin);
    v = v.view({tokens, spec.kv_heads, d});
    std::vector<Tensor> parts;
    for (auto const& group : plan.groups) {
      auto const rectangle = [&](Tensor const& t) {
        auto r = t.index_select(0, group.rows).view({group.count, group.length, t.size(1), d}).transpose(1, 2);
        if (t.size(1) == spec.heads) return r;
        // Query heads share a key head in consecutive blocks.
        return r.unsqueeze(2)
            .expand({group.count, spec.kv_heads, spec.heads / spec.kv_heads, group.length, d})
            .reshape({group.count, spec.heads, group.length, d});
      };
      auto const mixed = at::scaled_dot_product_attention(rectangle(q), rectangle(k), rectangle(v), {}, 0.0, true,
                                                          1.0 / std::sqrt(static_cast<double>(d)));
      parts.push_back(mixed.transpose(1, 2).reshape({group.count * group.length, spec.heads * d}));
    }
    return w.o(at::cat(parts).index_select(0, plan.back));
  }

  // Tokens sorted by expert, one dense product per expert, and the results summed per token in a fixed order.
  Tensor experts(layer_weights const& w, Tensor const& x, Tensor const& ids, Tensor const& weights) const {
    auto const tokens = x.size(0), k = ids.size(1);
    auto const flat = ids.reshape({-1});
    auto const order = std::get<1>(at::sort(flat, true, 0, false));
    auto const counts = to_vector<std::int64_t>(at::bincount(flat, {}, spec.router.experts), at::kLong);
    auto const sorted = x.index_select(0, order.div(k, "floor"));
    std::vector<Tensor> parts;
    std::int64_t begin = 0;
    for (std::size_t e = 0; e < counts.size(); ++e) {
      if (counts[e] == 0) continue;
      auto const& expert = w.experts[e];
      auto const in = sorted.narrow(0, begin, counts[e]);
      parts.push_back(at::linear(at::silu(at::linear(in, expert.gate)) * at::linear(in, expert.up), expert.down));
      begin += counts[e];
    }
    auto const outputs = at::cat(parts) * weights.reshape({-1, 1}).index_select(0, order);
    auto const slots = at::empty_like(outputs).index_copy_(0, order, outputs).view({tokens, k, x.size(1)});
    return slots.sum(1);
  }

  batch_output run(std::span<std::int32_t const> ids, std::span<std::int64_t const> offsets) const {
    c10::InferenceMode const inference;
    auto const tokens = static_cast<std::int64_t>(ids.size());
    std::vector<std::int64_t> wide_ids(ids.begin(), ids.end()), positions(ids.size());
    for (std::size_t d = 0; d + 1 < offsets.size(); ++d)
      for (auto t = offsets[d]; t < offsets[d + 1]; ++t) positions[static_cast<std::size_t>(t)] = t - offsets[d];
    for (auto const id : wide_ids)
      if (id < 0 || id >= spec.vocabulary)
        throw argument_error("token " + std::to_string(id) + " is outside the model's vocabulary of " +
                             std::to_string(spec.vocabulary) + "; tokenizer and model do not belong together");
    auto const upload = [&](std::vector<std::int64_t> const& values) {
      return at::tensor(values, at::TensorOptions().dtype(at::kLong)).to(device);
    };
    auto const id_tensor = upload(wide_ids);
    auto const angles = upload(positions).to(at::kFloat).unsqueeze(1) * frequencies;
    auto const both = at::cat(std::vector<Tensor>{angles, angles}, -1).unsqueeze(1);  // [T, 1, head width]
    auto const cos = both.cos().to(type), sin = both.sin().to(type);
    auto const plan = plan_attention(offsets, device);

    struct captured {
      Tensor logits, ids, weights, nonfinite;
    };
    std::vector<captured> record;
    auto x = at::embedding(embedding, id_tensor);
    for (auto const& w : layers) {
      x = x + attention(w, rms_norm(x, w.attention_norm, spec.norm_epsilon), cos, sin, plan);
      auto const h = rms_norm(x, w.feed_forward_norm, spec.norm_epsilon);
      auto const logits = at::linear(h, w.router);
      auto [weights, chosen] = at::topk(at::softmax(logits, -1, at::kFloat), spec.router.top_k, -1);
      if (spec.router.renormalize) weights = weights / weights.sum(-1, true);
      weights = weights.to(type);
      x = x + experts(w, h, chosen, weights);
      record.push_back({logits, chosen, weights, at::isfinite(logits).logical_not().sum()});
    }
    batch_output out;
    head_output(rms_norm(x, final_norm, spec.norm_epsilon), wide_ids, offsets, out);
    for (auto const& r : record) {
      layer_output layer;
      auto const logits = r.logits.to(at::kCPU).contiguous();
      layer.logits.resize(static_cast<std::size_t>(tokens) * static_cast<std::size_t>(spec.router.experts) *
                          static_cast<std::size_t>(logits.element_size()));
      std::memcpy(layer.logits.data(), logits.const_data_ptr(), layer.logits.size());
      layer.ids = to_vector<std::int16_t>(r.ids, at::kShort);
      layer.weights = to_vector<float>(r.weights, at::kFloat);
      layer.nonfinite = static_cast<std::uint64_t>(r.nonfinite.item<std::int64_t>());
      out.layers.push_back(std::move(layer));
    }
    return out;
  }

  // The next-token distribution in slices of rows: [T, vocabulary] at once would be larger than everything else
  // together.
  void head_output(Tensor const& x, std::vector<std::int64_t> const& ids, std::span<std::int64_t const> offsets,
                   batch_output& out) const {
    auto const tokens = x.size(0);
    // Token t is predicted at t - 1; the last position of a document predicts nothing that is there, any id will do.
    std::vector<std::int64_t> next(ids.size(), 0);
    std::copy(ids.begin() + 1, ids.end(), next.begin());
    auto const next_ids = at::tensor(next, at::TensorOptions().dtype(at::kLong)).to(device).unsqueeze(1);
    auto const slice = head_rows(spec);
    std::vector<Tensor> logprob, predicted;
    for (std::int64_t begin = 0; begin < tokens; begin += slice) {
      auto const n = std::min(slice, tokens - begin);
      auto const logits = at::linear(x.narrow(0, begin, n), head).to(at::kFloat);
      auto const chosen = logits.gather(1, next_ids.narrow(0, begin, n)).squeeze(1);
      logprob.push_back(chosen - at::logsumexp(logits, {1}));
      predicted.push_back(at::argmax(logits, 1));
    }
    auto const of_next = to_vector<float>(at::cat(logprob), at::kFloat);
    out.predicted = to_vector<std::int32_t>(at::cat(predicted), at::kInt);
    out.logprob.assign(of_next.size(), std::numeric_limits<float>::quiet_NaN());
    for (std::size_t d = 0; d + 1 < offsets.size(); ++d)
      for (auto t = offsets[d] + 1; t < offsets[d + 1]; ++t)
        out.logprob[static_cast<std::size_t>(t)] = of_next[static_cast<std::size_t>(t - 1)];
    out.nonfinite = static_cast<std::uint64_t>(
        std::count_if(of_next.begin(), of_next.end(), [](float p) { return !std::isfinite(p); }));
  }
};

model::model(model_spec const& spec, checkpoint const& weights, execution const& where)
    : state_{guarded([&] { return std::make_unique<state>(spec, weights, where); })} {}
model::model(model&&) noexcept = default;
model::~model() = default;

batch_output model::run(std::span<std::int32_t const> ids, std::span<std::int64_t const> offsets) const {
  return guarded([&] { return state_->run(ids, offsets); });
}

}  // namespace moeroute::capture
