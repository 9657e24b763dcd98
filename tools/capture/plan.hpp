// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_PLAN_HPP
#define MOEROUTE_CAPTURE_PLAN_HPP

#include <moeroute/io/safetensors.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "family.hpp"

namespace moeroute::capture {

/// What a capture will need, known before it begins. All in bytes unless said otherwise.
struct capture_plan {
  std::uint64_t parameters = 0, weights = 0, activations = 0, cache = 0, shard = 0, trace = 0;
  std::uint64_t documents = 0, tokens = 0, batch_tokens = 0;
  std::uint64_t generated = 0;  ///< tokens at most
  bool stream = false;  ///< stage by stage
  std::uint64_t stages = 0;
  std::uint64_t stage = 0, stage_file = 0;  ///< the largest stage as it is computed with, and as it is stored
  std::uint64_t tied = 0;                   ///< of an embedding that stays until the head needs it
  std::uint64_t hidden = 0, hidden_memory = 0, spool = 0;  ///< states of all tokens, those kept in memory, routing on disk
  bool on_host = true;  ///< weights and activations are in host memory
  bool mapped = false;  ///< weights are used where the file is mapped, without a copy
  std::string device, type;
  std::optional<std::uint64_t> memory, device_memory, disk;  ///< free

  /// Host memory, device memory and disk at the fullest moment.
  std::uint64_t host() const;
  std::uint64_t on_device() const;
  std::uint64_t disk_needed() const;
  std::string text() const;
  bool fits_memory() const;  ///< of the host and of the device
  /// What does not fit, with what to do about it; empty if all fits.
  std::string obstacle() const;
};

/// What the program and its libraries take before any model.
inline constexpr std::uint64_t process_bytes = std::uint64_t{384} << 20;

/// "1.5 GiB"
std::string size_text(std::uint64_t bytes);

/// The stage that a tensor of `expected_tensors` belongs to: embedding, layers, and what follows them.
std::size_t stage_of(model_spec const& spec, std::string const& name);

/// Number of weights of each stage, by the configuration alone.
std::vector<std::uint64_t> stage_parameters(model_spec const& spec);

/// What `--quantize nf4` needs: all weights as they are kept, where what is not packed has `type`, and what packing or
/// unpacking the largest tensor takes on the way.
struct nf4_needs {
  std::uint64_t weights = 0, packing = 0;
};
nf4_needs nf4_bytes(model_spec const& spec, dtype type);

/// Bytes of activations of a batch: what the decoder holds at its widest place, with a margin. `whole_rows`: logits of the
/// next token are held for the whole vocabulary, as on a device and where text is generated, and not piece by piece.
std::uint64_t activation_bytes(model_spec const& spec, dtype type, std::uint64_t tokens, bool whole_rows);

/// Bytes of keys and values of documents that are continued, `tokens` positions in all, at least `shortest` in each.
std::uint64_t cache_bytes(model_spec const& spec, dtype type, std::uint64_t tokens, std::uint64_t shortest);

/// Bytes that one token takes in a trace, without the documents' text.
std::uint64_t trace_bytes_per_token(model_spec const& spec, dtype type);

/// Memory this process may still use: what the machine has free, or its control group allows.
std::optional<std::uint64_t> free_memory();

/// Free bytes of the file system that `path`, or its nearest existing parent, is on.
std::optional<std::uint64_t> free_disk(std::filesystem::path path);

}  // namespace moeroute::capture

#endif
