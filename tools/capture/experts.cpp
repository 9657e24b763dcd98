// SPDX-License-Identifier: Apache-2.0
#include "experts.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <numeric>
#include <span>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/_grouped_mm.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/embedding_bag.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/sort.h>

#include "row_kernels.hpp"

namespace moeroute::capture {

using at::Tensor;

Tensor gated_activation::operator()(Tensor const& gate_up) const {
  if (!clamped && has_row_kernels(gate_up)) return silu_gated(gate_up);
  auto const width = gate_up.size(1) / 2;
  return (*this)(gate_up.narrow(1, 0, width), gate_up.narrow(1, width, width));
}

Tensor gated_activation::operator()(Tensor const& gate, Tensor const& up) const {
  if (!clamped) return at::silu(gate).mul_(up);
  auto const g = at::clamp(gate, {}, limit), u = at::clamp(up, -limit, limit);
  return (u + 1) * g * at::sigmoid(slope * g);
}

expert_bank::expert_bank(std::int64_t count, std::int64_t width, std::int64_t hidden, at::TensorOptions const& options)
    : expert_bank(at::empty({count, 2 * width, hidden}, options), at::empty({count, hidden, width}, options)) {}

expert_bank::expert_bank(Tensor gate_up, Tensor down)
    : width_{down.size(2)}, hidden_{down.size(1)}, gate_up_{std::move(gate_up)}, down_{std::move(down)} {
  for (std::int64_t e = 0; e < down_.size(0); ++e) experts_.push_back({gate_up_[e], down_[e], {}, {}});
}

void expert_bank::copy(std::int64_t expert, Tensor const& gate, Tensor const& up, Tensor const& down) {
  auto const& to = experts_[static_cast<std::size_t>(expert)];
  to.gate_up.narrow(0, 0, width_).copy_(gate);
  to.gate_up.narrow(0, width_, width_).copy_(up);
  to.down.copy_(down);
}

void expert_bank::add(Tensor const& gate, Tensor const& up, Tensor const& down) {
  width_ = down.size(1);
  hidden_ = down.size(0);
  // safetensors sorts tensors by name, so that gate_proj is followed by up_proj.
  auto* const begin = static_cast<std::byte*>(gate.data_ptr());
  if (gate.is_contiguous() && up.is_contiguous() && up.data_ptr() == begin + gate.nbytes()) {
    auto const keep = [gate, up](void*) {};
    experts_.push_back({at::from_blob(begin, {2 * width_, hidden_}, keep, gate.options()), down, {}, {}});
  } else {
    experts_.push_back({{}, down, gate, up});
  }
}

void expert_bank::set_biases(Tensor gate_up, Tensor down) {
  gate_up_bias_ = std::move(gate_up);
  down_bias_ = std::move(down);
}

expert_products expert_bank::best_for(Tensor const& x) const {
  // Elsewhere the operation is a loop like ours, and refuses rows that are no multiple of 16 bytes.
  bool const aligned = hidden_ * x.element_size() % 16 == 0 && width_ * x.element_size() % 16 == 0;
  bool const has_it = x.is_cuda() && x.scalar_type() == at::kBFloat16;
  return has_it && aligned && gate_up_.defined() ? expert_products::grouped : expert_products::one_by_one;
}

Tensor expert_bank::operator()(Tensor const& x, Tensor const& ids, Tensor const& weights,
                               gated_activation const& activation, expert_products how) const {
  if (x.is_cpu() && how == expert_products::one_by_one) return by_tasks(x, ids, weights, activation);
  auto const count = static_cast<std::int64_t>(experts_.size()), k = ids.size(1), slots = ids.numel();
  auto const integers = at::TensorOptions().dtype(at::kLong).device(x.device());
  auto const [expert, order] = at::sort(ids.reshape({-1}), true, 0, false);
  // Where the slots of each expert end, found without the device having to say how many there are.
  auto const ends = at::searchsorted(expert, at::arange(count, integers), true, true);
  auto const token = order.div(k, "floor");

  Tensor outer;
  if (how == expert_products::grouped) {
    auto inner = at::_grouped_mm(x.index_select(0, token), gate_up_.transpose(1, 2), ends);
    if (gate_up_bias_.defined()) inner.add_(gate_up_bias_.index_select(0, expert));
    inner = activation(inner);
    outer = at::_grouped_mm(inner, down_.transpose(1, 2), ends);
    if (down_bias_.defined()) outer.add_(down_bias_.index_select(0, expert));
  } else {
    outer = at::empty({slots, hidden_}, x.options());
    auto const host = ends.to(at::kCPU);
    auto const* const end = host.const_data_ptr<std::int32_t>();
    std::int64_t begin = 0;
    for (std::int64_t e = 0; e < count; begin = end[e++])
      if (end[e] > begin)
        run(e, x.index_select(0, token.narrow(0, begin, end[e] - begin)), activation, outer.narrow(0, begin, end[e] - begin));
  }
  return combined(outer, at::empty_like(order).index_copy_(0, order, at::arange(slots, integers)), weights).to(x.scalar_type());
}

Tensor expert_bank::by_tasks(Tensor const& tokens, Tensor const& ids, Tensor const& weights,
                             gated_activation const& activation) const {
  // Rows enough for a product at full speed, few enough that what stands between the products stays in the cache and that
  // the experts of a small batch keep all threads busy.
  constexpr std::int64_t most_rows = 256;
  struct task {
    std::int64_t expert, first, rows, place;  // first of `slots`, first row of the results
  };

  auto const x = tokens.contiguous(), chosen = ids.contiguous();
  auto const k = ids.size(1), count = static_cast<std::int64_t>(experts_.size());
  std::span const expert(chosen.const_data_ptr<std::int64_t>(), static_cast<std::size_t>(ids.numel()));
  std::vector<std::int64_t> next(experts_.size() + 1);
  for (auto const e : expert) ++next[static_cast<std::size_t>(e) + 1];
  std::partial_sum(next.begin(), next.end(), next.begin());
  std::vector<task> tasks;
  std::int64_t results = 0;
  for (std::int64_t e = 0; e < count; ++e)
    for (auto first = next[static_cast<std::size_t>(e)], end = next[static_cast<std::size_t>(e) + 1]; first < end;) {
      auto const rows = std::min(most_rows, end - first);
      tasks.push_back({e, first, rows, results});
      results += product_rows(tokens.scalar_type(), rows);
      first += rows;
    }
  std::vector<std::int64_t> slots(expert.size()), place(expert.size());
  for (std::size_t s = 0; s < expert.size(); ++s)
    slots[static_cast<std::size_t>(next[static_cast<std::size_t>(expert[s])]++)] = static_cast<std::int64_t>(s);

  auto outer = at::empty({results, hidden_}, x.options());
  auto const bytes = static_cast<std::size_t>(x.size(1) * x.element_size());
  for_each_task(static_cast<std::int64_t>(tasks.size()), [&](std::int64_t i) {
    auto const& t = tasks[static_cast<std::size_t>(i)];
    auto const rows = product_rows(x.scalar_type(), t.rows);
    auto in = at::empty({rows, x.size(1)}, x.options());
    auto* const to = static_cast<std::byte*>(in.mutable_data_ptr());
    auto const* const from = static_cast<std::byte const*>(x.const_data_ptr());
    for (std::int64_t r = 0; r < t.rows; ++r) {
      auto const slot = slots[static_cast<std::size_t>(t.first + r)];
      std::memcpy(to + static_cast<std::size_t>(r) * bytes, from + static_cast<std::size_t>(slot / k) * bytes, bytes);
      place[static_cast<std::size_t>(slot)] = t.place + r;
    }
    std::memset(to + static_cast<std::size_t>(t.rows) * bytes, 0, static_cast<std::size_t>(rows - t.rows) * bytes);
    run(t.expert, in, activation, outer.narrow(0, t.place, rows));
  });
  if (has_row_kernels(x)) return weighted_sum(outer, place.data(), weights);
  auto const places = at::from_blob(place.data(), {ids.numel()}, at::TensorOptions().dtype(at::kLong));
  return combined(outer, places, weights).to(x.scalar_type());
}

void expert_bank::run(std::int64_t expert, Tensor const& in, gated_activation const& activation, Tensor out) const {
  auto const multiply = [](Tensor to, Tensor const& from, Tensor const& weight) { at::mm_out(to, from, weight.t()); };
  auto const& m = experts_[static_cast<std::size_t>(expert)];
  auto const inner = at::empty({in.size(0), 2 * width_}, in.options());
  if (m.gate_up.defined()) {
    multiply(inner, in, m.gate_up);
  } else {
    multiply(inner.narrow(1, 0, width_), in, m.gate);
    multiply(inner.narrow(1, width_, width_), in, m.up);
  }
  if (gate_up_bias_.defined()) inner.add_(gate_up_bias_[expert]);
  multiply(out, activation(inner), m.down);
  if (down_bias_.defined()) out.add_(down_bias_[expert]);
}

// Every token is a bag of k rows: gathered, weighted and summed in one pass.
Tensor expert_bank::combined(Tensor const& outer, Tensor const& place, Tensor const& weights) {
  constexpr std::int64_t sum = 0;
  return std::get<0>(at::embedding_bag(outer.to(weights.scalar_type()), place,
                                       at::arange(0, place.numel(), weights.size(1), place.options()), false, sum, false,
                                       weights.reshape({-1}), false));
}

}  // namespace moeroute::capture
