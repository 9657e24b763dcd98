// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_SESSION_HPP
#define MOEROUTE_CAPTURE_SESSION_HPP

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <string>

#include "generate.hpp"
#include "inputs.hpp"
#include "part.hpp"

namespace moeroute::capture {

/// Everything the command line says.
struct capture_options {
  std::string model;
  std::string tokenizer;  ///< folder of tokenizer.json; empty: that of the model
  std::string model_type;  ///< family instead of that of config.json; empty: as there
  input_options inputs;
  std::filesystem::path out;
  std::string keep = "logits";  ///< or topk, counts
  capture_part part;
  std::string quantize = "none";  ///< or "nf4"
  std::string device = "auto", dtype = "auto", attention = "auto";
  std::string residency = "auto";
  std::uint64_t host_memory = 0;  ///< bytes; 0: what is free
  int threads = 0;               ///< 0: all processors
  std::uint64_t max_tokens = 0;  ///< per document; 0: what the model allows
  std::uint64_t batch_tokens = 4096;
  std::uint64_t shard_tokens = 65536;
  generation_options generate;
  bool resume = false, overwrite = false, quiet = false, plan_only = false, fail_on_nonfinite = false;
  bool offline = false;  ///< use the Hugging Face cache as it is
};

/// Set by the signal handler; the session stops after the batch at hand.
extern std::atomic<bool> interrupted;

/// Wrong use of the program rather than wrong data.
class usage_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Runs the model over the documents and writes the trace, or prints the plan. Returns the exit code.
///
/// Killed at any moment it leaves a folder that does not read as a finished trace and that `resume` completes to the
/// same bytes: shards appear whole, manifest.partial.json names those that are done, manifest.json comes last.
int capture(capture_options const& options);

/// Prints the ids and pieces of every document as JSON lines.
int tokenize(capture_options const& options);

}  // namespace moeroute::capture

#endif
