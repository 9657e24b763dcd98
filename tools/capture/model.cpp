// SPDX-License-Identifier: Apache-2.0
#include "model.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <tuple>
#include <utility>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/where.h>
#include <c10/core/InferenceMode.h>

#include "attention.hpp"
#include "attention_plan.hpp"
#include "experts.hpp"
#include "kv_cache.hpp"
#include "libtorch.hpp"
#include "next_token.hpp"
#include "row_kernels.hpp"
#include "weight_loader.hpp"

namespace moeroute::capture {
namespace {

using at::Tensor;

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

}  // namespace

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
  weight_loader loader;
  checkpoint const* origin = nullptr;  // what is not packed of the layers that the loader keeps

  state(model_spec const& s, checkpoint const& file, execution const& where)
      : spec{s}, device{where.device}, type{torch_type(where.type)}, way{where.attention},
        activation{s.kind->clamped_unit, s.unit_slope, s.unit_limit}, layers(static_cast<std::size_t>(s.layers)),
        loader{spec, file, device, type, where.nf4}, origin{&file} {
    at::set_num_threads(where.threads);
    auto const upload = [this](std::vector<double> const& values) {
      return at::tensor(values, at::TensorOptions().dtype(at::kDouble)).to(device, at::kFloat);
    };
    frequencies = upload(spec.rope.frequencies);
    if (!spec.rope.long_frequencies.empty()) long_frequencies = upload(spec.rope.long_frequencies);
  }

  // The weights of one stage.
  void load(checkpoint const& file, std::int64_t stage) {
    if (stage == 0 || (stage > spec.layers && loader.tied() && !embedding.defined())) embedding = loader.embedding(file);
    if (stage > spec.layers) {
      final_norm = loader.final_norm(file);
      head = loader.head(file);
      if (loader.tied()) head.weight = embedding;
    } else if (stage > 0) {
      auto& w = layers[static_cast<std::size_t>(stage - 1)] = loader.layer(file, stage - 1);
      if (loader.keeps_packed()) {
        w = {};
        w.number = static_cast<std::size_t>(stage - 1);
        w.in_nf4 = true;
      }
    }
  }

  void unload(std::int64_t stage) {
    if (stage == 0 ? !loader.tied() : stage > spec.layers) embedding = Tensor();
    if (stage > spec.layers) head = {}, final_norm = {};
    if (stage > 0 && stage <= spec.layers) layers[static_cast<std::size_t>(stage - 1)] = {};
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
    auto const logits = w.router(x.to(loader.router_type()));
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
    return {logits, ids, weights.to(loader.router_type())};
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
    if (w.in_nf4) return run_layer(loader.layer(*origin, static_cast<std::int64_t>(w.number)), std::move(x), batch, record);
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
    if (where_weights == residency::stream) return state_->loader.check(weights);
    if (where.nf4) state_->loader.keep_packed();
    for (std::int64_t stage = 0; stage < stage_count(spec); ++stage) state_->load(weights, stage);
    state_->loader.refuse_unknown(weights);
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
