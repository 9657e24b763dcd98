// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_ROTATION_HPP
#define MOEROUTE_CAPTURE_ROTATION_HPP

#include <cstdint>
#include <vector>

#include "json_view.hpp"

namespace moeroute::capture {

/// Rotary position embedding: pair i of a head turns by position * frequency i.
struct rotation {
  std::int64_t width = 0;           ///< elements of a head that are rotated, from the first on
  std::vector<double> frequencies;  ///< [width / 2]
  double scale = 1;                 ///< multiplies cosine and sine
  // "longrope" has another set for documents longer than `long_from`.
  std::vector<double> long_frequencies;  ///< empty: none
  double long_scale = 1;
  std::int64_t long_from = 0;
  double attention_scale = 1;  ///< multiplies the scale of latent attention (DeepSeek's squared mscale)
};

/// Reads the rope_parameters (transformers 5) or rope_theta and rope_scaling (before) of a config.json.
///
/// In     the width of the rotated part of a head where the file has no partial_rotary_factor.
/// Throws format_error naming the key for an unknown type, and for values that make no sense.
/// Source Su et al. 2021, arXiv:2104.09864; yarn: Peng et al. 2023, arXiv:2309.00071; longrope: Ding et al. 2024,
///        arXiv:2402.13753; constants and rounding as in transformers' modeling_rope_utils.
rotation read_rotation(json_view const& config, std::int64_t width);

}  // namespace moeroute::capture

#endif
