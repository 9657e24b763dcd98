// SPDX-License-Identifier: Apache-2.0
#include "row_kernels.hpp"

#include <moeroute/core/scalar.hpp>
#include <moeroute/core/view.hpp>
#include <moeroute/numeric/exp.hpp>
#include <moeroute/numeric/simd.hpp>
#include <moeroute/numeric/top_k.hpp>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <type_traits>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>

namespace moeroute::capture {
namespace {

using at::Tensor;
using detail::lanes;

template <class T>
MOEROUTE_ALWAYS_INLINE T rounded(float x) {
  if constexpr (std::is_same_v<T, bf16>)
    return to_bf16(x);
  else
    return x;
}

// x as it is after it has been stored as a T.
template <class T>
MOEROUTE_ALWAYS_INLINE float through(float x) {
  return to_compute(rounded<T>(x));
}

// Loops are such as compilers turn into registers of the width that dispatch() compiles for, where nothing else is said.
struct rms_norm_kernel {
  template <simd_level, class T>
  MOEROUTE_ALWAYS_INLINE static void run(T const* x, index_t rows, index_t n, index_t row_stride, T const* weight, float epsilon,
                                         bool wide, T* out) {
    constexpr index_t sums = 32;
    for (index_t r = 0; r < rows; ++r, x += row_stride, out += n) {
      float sum[sums] = {};
      index_t i = 0;
      for (; i + sums <= n; i += sums)
        for (index_t j = 0; j < sums; ++j) {
          float const v = to_compute(x[i + j]);
          sum[j] += v * v;
        }
      for (index_t j = 0; i + j < n; ++j) {
        float const v = to_compute(x[i + j]);
        sum[j] += v * v;
      }
      for (index_t half = sums / 2; half > 0; half /= 2)
        for (index_t j = 0; j < half; ++j) sum[j] += sum[j + half];
      float const scale = 1 / std::sqrt(sum[0] / static_cast<float>(n) + epsilon);
      if (wide)
        for (index_t j = 0; j < n; ++j) out[j] = rounded<T>(to_compute(weight[j]) * (to_compute(x[j]) * scale));
      else
        for (index_t j = 0; j < n; ++j) out[j] = rounded<T>(to_compute(weight[j]) * through<T>(to_compute(x[j]) * scale));
    }
  }
};

template <class T>
struct strided_heads {
  T const* data;
  index_t tokens, heads, width, token_stride, head_stride;
};

struct rotate_kernel {
  template <simd_level, class T>
  MOEROUTE_ALWAYS_INLINE static void run(strided_heads<T> const* x, T const* cosines, T const* sines, index_t turned,
                                         bool neighbours, T* out) {
    index_t const half = turned / 2;
    for (index_t t = 0; t < x->tokens; ++t) {
      T const* const c = cosines + t * turned;
      T const* const s = sines + t * turned;
      for (index_t h = 0; h < x->heads; ++h, out += x->width) {
        T const* const in = x->data + t * x->token_stride + h * x->head_stride;
        if (neighbours) {
          for (index_t i = 0; i < turned; i += 2) {
            out[i] = turn(in, i, i + 1, -1, c, s);
            out[i + 1] = turn(in, i + 1, i, 1, c, s);
          }
        } else {
          turn_run(in, 0, half, half, -1, c, s, out);
          turn_run(in, half, turned, -half, 1, c, s, out);
        }
        for (index_t i = turned; i < x->width; ++i) out[i] = in[i];
      }
    }
  }

 private:
  template <class T>
  MOEROUTE_ALWAYS_INLINE static T turn(T const* in, index_t i, index_t crossed, float sign, T const* c, T const* s) {
    return rounded<T>(through<T>(to_compute(in[i]) * to_compute(c[i])) +
                      through<T>(sign * to_compute(in[crossed]) * to_compute(s[i])));
  }

  // Half a head is short, and often no whole number of the widest registers.
  template <class T>
  MOEROUTE_ALWAYS_INLINE static void turn_run(T const* in, index_t i, index_t end, index_t crossed, float sign, T const* c,
                                              T const* s, T* out) {
    for (; i + 16 <= end; i += 16) turn_block<16>(in, i, crossed, sign, c, s, out);
    for (; i + 8 <= end; i += 8) turn_block<8>(in, i, crossed, sign, c, s, out);
    for (; i + 4 <= end; i += 4) turn_block<4>(in, i, crossed, sign, c, s, out);
    for (; i < end; ++i) out[i] = turn(in, i, i + crossed, sign, c, s);
  }

  template <int W, class T>
  MOEROUTE_ALWAYS_INLINE static void turn_block(T const* in, index_t i, index_t crossed, float sign, T const* c, T const* s,
                                                T* out) {
    lanes<float, W> x, y, cosine, sine;
    detail::load_widened<W>(in + i, x);
    detail::load_widened<W>(in + i + crossed, y);
    detail::load_widened<W>(c + i, cosine);
    detail::load_widened<W>(s + i, sine);
    x *= cosine;
    y *= sign * sine;
    round_lanes<T, W>(x);
    round_lanes<T, W>(y);
    x += y;
    round_lanes<T, W>(x);
    if constexpr (std::is_same_v<T, bf16>) {
      lanes<std::uint32_t, W> bits;
      std::memcpy(&bits, &x, sizeof bits);
      bits >>= 16;
      detail::store<W>(__builtin_convertvector(bits, lanes<std::uint16_t, W>), reinterpret_cast<std::uint16_t*>(out + i));
    } else {
      detail::store<W>(x, out + i);
    }
  }

  template <class T, int W>
  MOEROUTE_ALWAYS_INLINE static void round_lanes(lanes<float, W>& x) {
    if constexpr (std::is_same_v<T, bf16>) {
      lanes<std::uint32_t, W> bits;
      std::memcpy(&bits, &x, sizeof bits);
      lanes<std::uint32_t, W> const nearest = bits + 0x7fffu + ((bits >> 16) & 1u);
      bits = (x != x ? bits | 0x400000u : nearest) & 0xffff0000u;
      std::memcpy(&x, &bits, sizeof bits);
    }
  }
};

struct silu_kernel {
  template <simd_level Level, class T>
  MOEROUTE_ALWAYS_INLINE static void run(T const* gate_up, index_t rows, index_t width, T* out) {
    constexpr int W = detail::lane_count<Level, float>;
    using real = lanes<float, W>;
    float g[2 * W], product[2 * W];
    for (index_t r = 0; r < rows; ++r, gate_up += 2 * width, out += width)
      for (index_t i = 0; i < width; i += 2 * W) {
        auto const n = std::min<index_t>(2 * W, width - i);
        for (index_t j = 0; j < n; ++j) g[j] = to_compute(gate_up[i + j]);
        std::fill(g + n, g + 2 * W, 0.0f);
        real v[2], e[2];
#pragma GCC unroll 2
        for (int k = 0; k < 2; ++k) {
          detail::load<W>(v[k], g + k * W);
          e[k] = v[k] > 0.0f ? -v[k] : v[k];
        }
        detail::exp_lanes<float, W>(e);
#pragma GCC unroll 2
        for (int k = 0; k < 2; ++k) {
          real const one = real{} + 1.0f;
          e[k] = v[k] * (v[k] > 0.0f ? one : e[k]) / (one + e[k]);
          detail::store<W>(e[k], product + k * W);
        }
        for (index_t j = 0; j < n; ++j) out[i + j] = rounded<T>(through<T>(product[j]) * to_compute(gate_up[width + i + j]));
      }
  }
};

struct weighted_sum_kernel {
  template <simd_level, class T, class Weight>
  MOEROUTE_ALWAYS_INLINE static void run(T const* rows, index_t n, std::int64_t const* place, Weight const* weights,
                                         index_t tokens, index_t k, T* out) {
    constexpr index_t piece = 256;
    float sum[piece];
    for (index_t t = 0; t < tokens; ++t, place += k, weights += k, out += n)
      for (index_t first = 0; first < n; first += piece) {
        auto const size = std::min(piece, n - first);
        std::fill_n(sum, size, 0.0f);
        for (index_t j = 0; j < k; ++j) {
          float const w = to_compute(weights[j]);
          T const* const row = rows + place[j] * n + first;
          for (index_t i = 0; i < size; ++i) sum[i] += w * to_compute(row[i]);
        }
        for (index_t i = 0; i < size; ++i) out[first + i] = rounded<T>(sum[i]);
      }
  }
};

template <class T>
T const* data_of(Tensor const& t) {
  return static_cast<T const*>(t.const_data_ptr());
}
template <class T>
T* data_of(Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// f(T{}) for the type of the elements of x.
template <class Function>
void with_type(Tensor const& x, Function const& f) {
  x.scalar_type() == at::kFloat ? f(float{}) : f(bf16{});
}

// f(begin, end) of `rows` rows with some n values each, by all threads.
template <class Function>
void by_rows(std::int64_t rows, std::int64_t n, Function const& f) {
  at::parallel_for(0, rows, std::max<std::int64_t>(1, 32768 / std::max<std::int64_t>(1, n)), f);
}

}  // namespace

bool has_row_kernels(Tensor const& x) {
  return x.is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16);
}

Tensor rms_normalized(Tensor const& x, Tensor const& weight, double epsilon, bool wide) {
  auto const n = x.size(-1);
  auto const flat = x.dim() == 2 && x.stride(1) == 1 ? x : x.reshape({-1, n}).contiguous();
  auto const w = weight.contiguous();
  auto out = at::empty(x.sizes(), x.options());
  with_type(x, [&]<class T>(T) {
    by_rows(flat.size(0), n, [&](std::int64_t begin, std::int64_t end) {
      detail::dispatch<rms_norm_kernel>(data_of<T>(flat) + begin * flat.stride(0), end - begin, n, flat.stride(0), data_of<T>(w),
                                        static_cast<float>(epsilon), wide, data_of<T>(out) + begin * n);
    });
  });
  return out;
}

Tensor rotated(Tensor const& x, Tensor const& cos, Tensor const& sin, bool neighbours) {
  auto const from = x.stride(2) == 1 ? x : x.contiguous();
  auto const turned = cos.size(-1), per_token = x.size(1) * x.size(2);
  auto out = at::empty(x.sizes(), x.options());
  with_type(x, [&]<class T>(T) {
    by_rows(x.size(0), per_token, [&](std::int64_t begin, std::int64_t end) {
      strided_heads<T> const heads{data_of<T>(from) + begin * from.stride(0), end - begin,    x.size(1), x.size(2),
                                   from.stride(0),                            from.stride(1)};
      detail::dispatch<rotate_kernel>(&heads, data_of<T>(cos) + begin * turned, data_of<T>(sin) + begin * turned, turned,
                                      neighbours, data_of<T>(out) + begin * per_token);
    });
  });
  return out;
}

Tensor silu_gated(Tensor const& gate_up) {
  auto const width = gate_up.size(1) / 2;
  auto const from = gate_up.contiguous();
  auto out = at::empty({gate_up.size(0), width}, gate_up.options());
  with_type(gate_up, [&]<class T>(T) {
    by_rows(gate_up.size(0), width, [&](std::int64_t begin, std::int64_t end) {
      detail::dispatch<silu_kernel>(data_of<T>(from) + begin * 2 * width, end - begin, width, data_of<T>(out) + begin * width);
    });
  });
  return out;
}

Tensor largest(Tensor const& scores, std::int64_t k) {
  auto const from = scores.contiguous();
  auto const n = scores.size(1);
  auto out = at::empty({scores.size(0), k}, scores.options().dtype(at::kLong));
  by_rows(scores.size(0), 8 * n, [&](std::int64_t begin, std::int64_t end) {
    top_k_rows(matrix_view<float>(data_of<float>(from) + begin * n, end - begin, n), k, data_of<std::int64_t>(out) + begin * k);
  });
  return out;
}

Tensor weighted_sum(Tensor const& rows, std::int64_t const* place, Tensor const& weights) {
  auto const n = rows.size(1), tokens = weights.size(0), k = weights.size(1);
  auto const w = weights.contiguous();
  auto out = at::empty({tokens, n}, rows.options());
  with_type(rows, [&]<class T>(T) {
    with_type(weights, [&]<class Weight>(Weight) {
      by_rows(tokens, n * k, [&](std::int64_t begin, std::int64_t end) {
        detail::dispatch<weighted_sum_kernel>(data_of<T>(rows), n, place + begin * k, data_of<Weight>(w) + begin * k, end - begin,
                                              k, data_of<T>(out) + begin * n);
      });
    });
  });
  return out;
}

void for_each_task(std::int64_t count, std::function<void(std::int64_t)> const& f) {
  std::int64_t const threads = at::get_num_threads();
  if (threads == 1 || count < threads) {
    for (std::int64_t i = 0; i < count; ++i) f(i);
    return;
  }
  std::atomic<std::int64_t> next = 0;
  at::parallel_for(0, threads, 1, [&](std::int64_t, std::int64_t) {
    c10::InferenceMode const inference;  // of the thread
    for (auto i = next++; i < count; i = next++) f(i);
  });
}

}  // namespace moeroute::capture
