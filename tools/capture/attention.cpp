// SPDX-License-Identifier: Apache-2.0
#include "attention.hpp"

#include <algorithm>
#include <limits>
#include <vector>

#include <ATen/Context.h>
#include <ATen/SDPBackend.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/_fused_sdp_choice.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>

namespace moeroute::capture {
namespace {

using at::Tensor;

// f(queries, keys, values, hidden [queries, keys]) of blocks of queries with the keys that any of them sees, so that
// memory grows with n, not with n^2.
template <class Function>
Tensor in_blocks(Tensor const& q, Tensor const& k, Tensor const& v, std::int64_t window, Function const& f) {
  constexpr std::int64_t block = 128;
  auto const n = q.size(2);
  auto const options = at::TensorOptions().dtype(at::kLong).device(q.device());
  std::vector<Tensor> parts;
  for (std::int64_t begin = 0; begin < n; begin += block) {
    auto const rows = std::min(block, n - begin), end = begin + rows;
    auto const first = window == 0 ? std::int64_t{0} : std::max<std::int64_t>(0, begin - window + 1);
    auto const query = at::arange(begin, end, options).unsqueeze(1), key = at::arange(first, end, options);
    auto hidden = key > query;
    if (window != 0) hidden = hidden.logical_or(key <= query - window);
    parts.push_back(f(q.narrow(2, begin, rows), k.narrow(2, first, end - first), v.narrow(2, first, end - first), hidden));
  }
  return at::cat(parts, 2);
}

Tensor written_out(Tensor const& q, Tensor const& k, Tensor const& v, Tensor const& hidden, attention_rule const& rule) {
  auto logits = (at::matmul(q, k.transpose(2, 3)) * rule.scale)
                    .masked_fill_(hidden, -std::numeric_limits<double>::infinity());
  if (rule.sinks.defined()) {
    auto const sinks = rule.sinks.view({1, -1, 1, 1}).expand({q.size(0), -1, q.size(2), 1});
    logits = at::cat(std::vector<Tensor>{logits, sinks}, -1);
  }
  return at::matmul(at::softmax(logits, -1, at::kFloat).narrow(-1, 0, k.size(2)).to(v.scalar_type()), v);
}

}  // namespace

Tensor attend(Tensor const& q, Tensor const& k, Tensor const& v, attention_rule const& rule, attention_kind kind) {
  if (kind == attention_kind::eager || rule.sinks.defined())
    return in_blocks(q, k, v, rule.window, [&](auto const& qs, auto const& ks, auto const& vs, auto const& hidden) {
      return written_out(qs, ks, vs, hidden, rule);
    });
  // The fused kernels want one width; zeros change no product, and what they give is cut off again.
  auto const width = std::max(q.size(3), v.size(3));
  auto const pad = [width](Tensor const& t) {
    return t.size(3) == width ? t : at::constant_pad_nd(t, {0, width - t.size(3)});
  };
  auto const wide_q = pad(q), wide_k = pad(k), wide_v = pad(v);
  auto const out =
      rule.window == 0 || rule.window >= q.size(2)
          ? at::scaled_dot_product_attention(wide_q, wide_k, wide_v, {}, 0.0, true, rule.scale)
          : in_blocks(wide_q, wide_k, wide_v, rule.window,
                      [&](auto const& qs, auto const& ks, auto const& vs, auto const& hidden) {
                        return at::scaled_dot_product_attention(qs, ks, vs, hidden.logical_not(), 0.0, false, rule.scale);
                      });
  return out.narrow(3, 0, v.size(3));
}

bool require_flash(at::Device device, at::ScalarType type, std::int64_t width) {
  auto& context = at::globalContext();
  context.setSDPUseFlash(true);
  context.setSDPUseMath(false);
  context.setSDPUseMemEfficient(false);
  context.setSDPUseCuDNN(false);
  auto const heads = at::zeros({1, 1, 16, width}, at::TensorOptions().dtype(type).device(device));
  return at::_fused_sdp_choice(heads, heads, heads, {}, 0.0, true) ==
         static_cast<std::int64_t>(at::SDPBackend::flash_attention);
}

}  // namespace moeroute::capture
