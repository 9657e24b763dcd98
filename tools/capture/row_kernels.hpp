// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_ROW_KERNELS_HPP
#define MOEROUTE_CAPTURE_ROW_KERNELS_HPP

#include <cstdint>
#include <functional>

#include <ATen/core/Tensor.h>

namespace moeroute::capture {

// What libtorch does in several operations, each of them through memory, in one pass over rows. For a small model that is
// most of the time besides the matrix products. In bfloat16 values are rounded where libtorch's operations would round them, so
// that both ways are equally near to what others compute; sums and the exponential function differ in their last bits.

/// Whether the functions below take x: on the CPU, in float32 or bfloat16.
bool has_row_kernels(at::Tensor const& x);

/// x / sqrt(mean(x^2) + epsilon) * weight of every row; x [..., n], weight [n]. `wide`: rounded once, behind the weight,
/// instead of also before it.
at::Tensor rms_normalized(at::Tensor const& x, at::Tensor const& weight, double epsilon, bool wide);

/// The first elements of every head turned; x [T, heads, d], cos and sin [T, 1, even number up to d]. Pairs are (2i, 2i + 1)
/// where `neighbours`, else (i, i + half).
at::Tensor rotated(at::Tensor const& x, at::Tensor const& cos, at::Tensor const& sin, bool neighbours);

/// silu(gate) * up; gate_up [n, 2 I], gate first.
at::Tensor silu_gated(at::Tensor const& gate_up);

/// The places [n, k] of the k largest of every row of float32 scores [n, E]; ties to the lowest place.
at::Tensor largest(at::Tensor const& scores, std::int64_t k);

/// sum_j weights[t, j] * rows[place[t * k + j]], in order of j and in float32; weights [T, k] of the type of `rows` or
/// float32, rows [n, H].
at::Tensor weighted_sum(at::Tensor const& rows, std::int64_t const* place, at::Tensor const& weights);

/// `rows` rounded up to what a product on the CPU should have: for types of half width oneDNN compiles a kernel for every number
/// of rows that it meets, which takes longer than a small product.
inline std::int64_t product_rows(at::ScalarType type, std::int64_t rows) {
  return type == at::kFloat ? rows : (rows + 31) / 32 * 32;
}

/// Calls f(i) for every i < count. Where there are at least as many as threads each call runs on one thread, and who is done
/// takes the next; otherwise one after the other, each with all threads. What f(i) computes must not depend on the others.
void for_each_task(std::int64_t count, std::function<void(std::int64_t)> const& f);

}  // namespace moeroute::capture

#endif
