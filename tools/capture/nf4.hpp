// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_NF4_HPP
#define MOEROUTE_CAPTURE_NF4_HPP

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace moeroute::capture {

/// Matrices in NF4: for every 64 elements of a matrix, row by row, their largest magnitude, and for each element the index of
/// a level in [-1, 1]; two indices in a byte, the first in its high half.
class nf4_weights {
 public:
  nf4_weights() = default;

  /// Packs `matrices` of equal size that stand one after another in `w`; the blocks of each begin anew.
  ///
  /// Source bitsandbytes, blockwise 4-bit quantisation of type nf4, as its CUDA kernels do it: an element times the
  ///        reciprocal of the block's largest magnitude, in float32, becomes the level whose interval holds it; the bounds
  ///        between levels belong to the lower one. Dettmers et al. 2023, arXiv:2305.14314, section 3.
  nf4_weights(at::Tensor const& w, std::int64_t matrices);

  bool defined() const { return codes_.defined(); }
  /// level * largest magnitude in float32, rounded to `type`.
  at::Tensor unpacked(at::ScalarType type) const;

 private:
  at::Tensor codes_, largest_;  // [matrices, bytes], [matrices, blocks]
  std::vector<std::int64_t> shape_;
};

}  // namespace moeroute::capture

#endif
