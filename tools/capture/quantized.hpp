// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_QUANTIZED_HPP
#define MOEROUTE_CAPTURE_QUANTIZED_HPP

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint.hpp"
#include "json_view.hpp"

namespace moeroute::capture {

/// How a checkpoint stores some of its matrices.
enum class quantization {
  none,
  fp8_blocks,       ///< e4m3, a factor for each block of rows and columns (DeepSeek-V3, Kimi-K2, MiniMax-M2)
  mxfp4,            ///< pairs of 4-bit floats, a power of two for each 32 of a row (gpt-oss)
  bitsandbytes_4bit ///< 4-bit indices into a table, a factor for each 64 elements, the factors themselves quantised
};

/// quantization_config of config.json.
struct quantization_spec {
  quantization kind = quantization::none;
  std::array<std::int64_t, 2> block{128, 128};  ///< rows, columns of fp8_blocks
};

/// Throws format_error naming the key for a method that is not built.
quantization_spec read_quantization(json_view const& config);

/// Whether the tensor `name` ("... .weight") is stored quantised: by what stands beside it, not by what a list says.
bool is_quantized(checkpoint const& file, std::string const& name);

/// The values of a quantised matrix, row by row.
///
/// fp8: code * factor in float32. 4-bit: table[code] * factor in float32, rounded to the type that the tensor names.
/// Throws format_error naming file and tensor if its parts are missing or of sizes that do not belong together.
/// Source formats of DeepSeek-V3's inference/kernel.py and of bitsandbytes' functional.py, written from their description.
std::vector<float> dequantized(checkpoint const& file, std::string const& name, std::vector<std::int64_t> const& shape,
                               quantization_spec const& how);

/// Whether the experts' matrices `stem` of a layer are stored as stem_blocks and stem_scales.
bool is_mxfp4(checkpoint const& file, std::string const& stem);

/// Matrix of one expert, [rows, columns]: values are exact in bfloat16.
/// Source OCP Microscaling Formats (MX) v1.0, section 5.3: the low nibble comes first.
std::vector<float> dequantized_mxfp4(checkpoint const& file, std::string const& stem, std::int64_t expert,
                                     std::int64_t experts, std::int64_t rows, std::int64_t columns);

/// What may stand beside the tensor `name` when it is quantised.
std::vector<std::string> quantized_companions(std::string const& name);

}  // namespace moeroute::capture

#endif
