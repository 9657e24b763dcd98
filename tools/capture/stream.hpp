// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_STREAM_HPP
#define MOEROUTE_CAPTURE_STREAM_HPP

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint.hpp"
#include "model.hpp"
#include "progress.hpp"

namespace moeroute::capture {

/// Documents of one pass: offsets [D+1] cut `ids`.
struct stream_batch {
  std::vector<std::int32_t> ids;
  std::vector<std::int64_t> offsets;
};

/// What identifies the weights that a model uses: SHA-256 over the digests of its stages. Reads them all once.
std::string weights_sha256(model_spec const& spec, checkpoint const& weights, int threads);

/// Bytes that a token takes in the scratch files: routing of all layers and the head's output; hidden states, twice.
std::uint64_t spool_bytes_per_token(model_spec const& spec, dtype type);
std::uint64_t hidden_bytes_per_token(model_spec const& spec, dtype type);

/// Runs a model stage by stage: all batches through one stage, then the next stage's weights, read meanwhile, replace it.
///
/// What the stages give waits in scratch files of `folder` until output() asks for it: the spool holds routing and head of
/// every batch, the hidden-state file two slots, one that a stage reads and one that it writes. A mark after every stage,
/// written when both files are on the disk, says which stages are done: a new object on the same folder goes on there.
/// Hidden states are also kept in memory, as many batches as `hidden_memory` holds.
class layer_stream {
 public:
  struct work {
    std::vector<std::uint64_t> tokens;                       ///< of each batch
    std::function<stream_batch(std::size_t)> batch;          ///< its ids
    std::uint64_t hidden_memory = 0;                         ///< bytes
    std::function<void(batch_output const&)> inspect;        ///< sees what a batch gave in a stage; may throw
  };

  /// Scratch files are named after `name`: processes that write into one folder have each their own.
  /// Throws format_error if scratch files are there that other weights made.
  layer_stream(std::filesystem::path folder, std::string const& name, model_spec const& spec, checkpoint const& weights, execution const& where,
               std::size_t first_shard, work todo);

  /// Number of the first shard that the scratch files in `folder` are about; none if there are none to go on with.
  static std::optional<std::size_t> first_shard(std::filesystem::path const& folder, std::string const& name);
  /// Whether a file is one of the scratch files.
  static bool is_scratch(std::string const& file, std::string const& name);
  static void remove(std::filesystem::path const& folder, std::string const& name);

  /// Runs the stages that are not done yet, with a bar of progress if wanted. False if the user interrupted.
  bool run(bool show_progress);
  /// Of a batch, after run().
  batch_output output(std::size_t batch) const;
  /// Gives back the disk that these batches took.
  void release(std::size_t first, std::size_t last) const;

  std::int64_t stages_done() const { return static_cast<std::int64_t>(digests_.size()); }
  /// After run(): what weights_sha256() would say.
  std::string sha256() const;
  /// What was read and how long it took, for a person.
  std::string report() const;

 private:
  /// A file for reading and writing at any place.
  class scratch_file {
   public:
    scratch_file(std::filesystem::path path, std::uint64_t size);
    scratch_file(scratch_file const&) = delete;
    scratch_file& operator=(scratch_file const&) = delete;
    ~scratch_file();
    void read(std::uint64_t at, std::span<std::byte> to) const;
    void write(std::uint64_t at, std::span<std::byte const> from) const;
    void sync() const;
    void punch(std::uint64_t at, std::uint64_t size) const;

   private:
    std::string path_;
    int fd_ = -1;
  };
  struct fetched {
    checkpoint part;
    std::string digest;
    std::uint64_t bytes;
    double seconds;
  };

  bool run_stage(model const& decoder, std::int64_t stage, progress& bar);
  fetched fetch(std::int64_t stage, bool embedding_too) const;
  std::vector<std::byte> take_hidden(std::int64_t stage, std::size_t batch);
  void put_hidden(std::int64_t stage, std::size_t batch, std::vector<std::byte>&& bytes);
  void spool(std::size_t record, std::size_t batch, batch_output const& out) const;
  std::uint64_t hidden_at(std::int64_t stage, std::size_t batch) const;
  std::uint64_t spool_at(std::size_t batch, std::size_t record) const;
  void write_mark() const;

  std::filesystem::path mark_;
  model_spec const& spec_;
  checkpoint const& weights_;
  execution where_;
  std::size_t first_shard_;
  work todo_;
  std::vector<std::uint64_t> before_;  // [batches + 1] tokens
  std::vector<std::int64_t> moe_;
  std::uint64_t layer_bytes_, hidden_bytes_;  // per token
  std::vector<std::string> digests_;                         // of the stages that are done
  std::vector<std::vector<std::string>> names_;  // of tensors, by stage
  std::vector<std::vector<std::byte>> kept_;     // hidden states of the first batches
  scratch_file hidden_file_, spool_file_;
  std::uint64_t bytes_read_ = 0;
  std::int64_t stages_run_ = 0;
  double reading_ = 0, waiting_ = 0, loading_ = 0, computing_ = 0;  // seconds
};

}  // namespace moeroute::capture

#endif
