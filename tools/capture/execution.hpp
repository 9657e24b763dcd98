// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_EXECUTION_HPP
#define MOEROUTE_CAPTURE_EXECUTION_HPP

#include <moeroute/io/safetensors.hpp>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "family.hpp"

namespace moeroute::capture {

/// How softmax(q k) v is computed.
enum class attention_kind {
  eager,  ///< written out: products, softmax in float32
  sdpa,   ///< libtorch's scaled_dot_product_attention, with the kernel that it chooses
  flash   ///< the same, with its flash kernel or not at all
};

/// Where and how the model runs. libtorch stays behind this header, so that only one source pays for it.
struct execution {
  std::string device;  ///< "cpu", "cuda:0"
  dtype type = dtype::f32;
  int threads = 1;
  attention_kind attention = attention_kind::sdpa;
  bool nf4 = false;  ///< linear maps go through NF4; weights that stay in memory are kept so, unpacked when their layer runs
};

/// Resolves what the user asked for ("auto", "cpu", "cuda", "cuda:1"; "auto", "float32", "bfloat16").
/// Throws argument_error if there is no such device or word.
execution resolve_execution(std::string const& device, std::string const& type, int threads, dtype stored);

/// Resolves "auto", "eager", "sdpa" or "flash". "auto" is sdpa, and eager for a family with attention sinks. Throws
/// argument_error for another word and for what the family, the device or the type does not have.
attention_kind resolve_attention(std::string const& word, model_spec const& spec, execution const& where);

/// "eager", "sdpa", "flash".
std::string_view attention_name(attention_kind kind);

/// Free and total bytes of an accelerator's memory; none for the CPU.
std::optional<std::pair<std::uint64_t, std::uint64_t>> device_memory(execution const& where);

/// libtorch's version, for the manifest.
std::string torch_version();

/// The machine has too little memory for what was asked.
class resource_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace moeroute::capture

#endif
