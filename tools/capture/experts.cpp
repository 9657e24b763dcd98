// SPDX-License-Identifier: Apache-2.0
#include "experts.hpp"

#include <algorithm>
#include <cstddef>
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

namespace moeroute::capture {

using at::Tensor;

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
  auto const count = static_cast<std::int64_t>(experts_.size()), k = ids.size(1), slots = ids.numel();
  auto const integers = at::TensorOptions().dtype(at::kLong).device(x.device());
  auto const [expert, order] = at::sort(ids.reshape({-1}), true, 0, false);
  // Where the slots of each expert end, found without the device having to say how many there are.
  auto const ends = at::searchsorted(expert, at::arange(count, integers), true, true);
  auto const token = order.div(k, "floor");
  auto const activated = [&](Tensor const& inner) {
    return activation(inner.narrow(1, 0, width_), inner.narrow(1, width_, width_));
  };

  Tensor outer;
  if (how == expert_products::grouped) {
    auto inner = at::_grouped_mm(x.index_select(0, token), gate_up_.transpose(1, 2), ends);
    if (gate_up_bias_.defined()) inner.add_(gate_up_bias_.index_select(0, expert));
    inner = activated(inner);
    outer = at::_grouped_mm(inner, down_.transpose(1, 2), ends);
    if (down_bias_.defined()) outer.add_(down_bias_.index_select(0, expert));
  } else {
    // For types of half width oneDNN compiles a kernel for every number of rows that it meets, which takes longer than a
    // small product: rows are rounded up. What is too much falls on rows of later experts, which overwrite it.
    std::int64_t const step = x.is_cpu() && x.scalar_type() != at::kFloat ? 32 : 1;
    auto const multiply = [](Tensor out, Tensor const& in, Tensor const& weight) { at::mm_out(out, in, weight.t()); };
    outer = at::empty({slots, hidden_}, x.options());
    auto const host = ends.to(at::kCPU);
    auto const* const end = host.const_data_ptr<std::int32_t>();
    std::int64_t begin = 0;
    for (std::int64_t e = 0; e < count; begin = end[e++]) {
      if (end[e] == begin) continue;
      auto const rows = std::min((end[e] - begin + step - 1) / step * step, slots - begin);
      auto const& m = experts_[static_cast<std::size_t>(e)];
      auto const in = x.index_select(0, token.narrow(0, begin, rows));
      auto const inner = at::empty({rows, 2 * width_}, x.options()), out = outer.narrow(0, begin, rows);
      if (m.gate_up.defined()) {
        multiply(inner, in, m.gate_up);
      } else {
        multiply(inner.narrow(1, 0, width_), in, m.gate);
        multiply(inner.narrow(1, width_, width_), in, m.up);
      }
      if (gate_up_bias_.defined()) inner.add_(gate_up_bias_[e]);
      multiply(out, activated(inner), m.down);
      if (down_bias_.defined()) out.add_(down_bias_[e]);
    }
  }

  // Every token is a bag of k rows: gathered, weighted and summed in one pass.
  auto const place = at::empty_like(order).index_copy_(0, order, at::arange(slots, integers));
  constexpr std::int64_t sum = 0;
  return std::get<0>(at::embedding_bag(outer.to(weights.scalar_type()), place, at::arange(0, slots, k, integers), false,
                                       sum, false, weights.reshape({-1}), false))
      .to(x.scalar_type());
}

}  // namespace moeroute::capture
