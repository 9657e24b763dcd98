// SPDX-License-Identifier: Apache-2.0
#include "nf4.hpp"

#include <array>

#include <ATen/TensorOperators.h>
#include <ATen/ops/bucketize.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/nan_to_num.h>
#include <ATen/ops/stack.h>

namespace moeroute::capture {
namespace {

constexpr std::int64_t block = 64;

constexpr std::array<float, 16> levels{-1.0F,
                                       -0.6961928009986877F,
                                       -0.5250730514526367F,
                                       -0.39491748809814453F,
                                       -0.28444138169288635F,
                                       -0.18477343022823334F,
                                       -0.09105003625154495F,
                                       0.0F,
                                       0.07958029955625534F,
                                       0.16093020141124725F,
                                       0.24611230194568634F,
                                       0.33791524171829224F,
                                       0.44070982933044434F,
                                       0.5626170039176941F,
                                       0.7229568362236023F,
                                       1.0F};

// Half way between the levels, in the digits that bitsandbytes has.
constexpr std::array<float, 15> bounds{-0.8480964004993439F, -0.6106329262256622F,   -0.4599952697753906F,
                                       -0.33967943489551544F, -0.23460740596055984F, -0.13791173323988914F,
                                       -0.045525018125772476F, 0.03979014977812767F, 0.1202552504837513F,
                                       0.2035212516784668F,    0.2920137718319893F,  0.3893125355243683F,
                                       0.5016634166240692F,    0.6427869200706482F,  0.8614784181118011F};

template <std::size_t N>
at::Tensor on(at::Device device, std::array<float, N> const& values) {
  return at::from_blob(const_cast<float*>(values.data()), {static_cast<std::int64_t>(N)}, at::TensorOptions().dtype(at::kFloat))
      .to(device, at::kFloat, false, true);
}

}  // namespace

nf4_weights::nf4_weights(at::Tensor const& w, std::int64_t matrices) : shape_(w.sizes().begin(), w.sizes().end()) {
  auto const size = w.numel() / matrices, rest = (block - size % block) % block;
  auto const all = w.reshape({matrices, size});
  auto const between = on(w.device(), bounds);
  std::vector<at::Tensor> codes, largest;
  // One by one: what is needed on the way is many times what stays.
  for (std::int64_t m = 0; m < matrices; ++m) {
    auto const padded = at::constant_pad_nd(all[m].to(at::kFloat), {0, rest}).view({-1, block});
    largest.push_back(padded.abs().amax(-1));
    // A block of zeros: 0 * infinity, which no bound is below.
    auto const relative = at::nan_to_num(padded * largest.back().reciprocal().unsqueeze(-1), -1.0);
    auto const index = at::bucketize(relative, between, true).to(at::kByte).view({-1, 2});
    codes.push_back(index.select(-1, 0) * 16 + index.select(-1, 1));
  }
  codes_ = at::stack(codes);
  largest_ = at::stack(largest);
}

at::Tensor nf4_weights::unpacked(at::ScalarType type) const {
  auto const matrices = codes_.size(0);
  // The two levels of every byte.
  std::array<float, 512> pairs{};
  for (std::size_t byte = 0; byte < 256; ++byte) {
    pairs[2 * byte] = levels[byte / 16];
    pairs[2 * byte + 1] = levels[byte % 16];
  }
  auto const table = on(codes_.device(), pairs).view({256, 2});
  auto const relative = table.index_select(0, codes_.flatten().to(at::kInt)).view({matrices, -1, block});
  std::int64_t size = 1;
  for (auto const d : shape_) size *= d;
  return (relative * largest_.unsqueeze(-1)).view({matrices, -1}).narrow(1, 0, size / matrices).reshape(shape_).to(type);
}

}  // namespace moeroute::capture
