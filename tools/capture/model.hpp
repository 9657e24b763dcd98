// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_MODEL_HPP
#define MOEROUTE_CAPTURE_MODEL_HPP

#include <moeroute/io/safetensors.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "checkpoint.hpp"
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

/// Rows of next-token logits of the whole vocabulary that a device computes at once: enough for the matrix product, few enough
/// for the cache.
inline std::int64_t head_rows(model_spec const& spec) {
  return std::max<std::int64_t>(512, (std::int64_t{1} << 22) / spec.vocabulary);
}

/// Type of the recorded logits of a model that runs in `type`.
inline dtype logits_type(model_spec const& spec, dtype type) { return spec.kind->wide_router ? dtype::f32 : type; }

/// What is added to the scores of a layer for ranking alone; empty where the family has none.
std::vector<double> selection_bias(model_spec const& spec, checkpoint const& weights, std::int64_t layer);

/// libtorch's version, for the manifest.
std::string torch_version();

/// Stages in which a model runs: 0 embeds, 1 to `layers` are the layers, the last is the head.
inline std::int64_t stage_count(model_spec const& spec) { return spec.layers + 2; }

/// Whether the head is the embedding.
bool has_tied_head(model_spec const& spec, checkpoint const& weights);

/// Names of the tensors that each stage brings, [stages]; what the decoder does not use is in none. A tied head is the
/// embedding of stage 0.
std::vector<std::vector<std::string>> stage_tensors(model_spec const& spec, checkpoint const& weights);

/// Where the weights are while the model runs.
enum class residency {
  all,    ///< in memory, from the beginning to the end
  stream  ///< one stage after the other, as load() brings them
};

struct layer_output {
  std::vector<std::byte> logits;  ///< [T,E], of logits_type
  std::vector<std::int16_t> ids;  ///< [T,K] that the model used
  std::vector<float> weights;     ///< [T,K] that the model used
  std::uint64_t nonfinite = 0;    ///< logits that are NaN or infinite
};

struct batch_output {
  std::vector<layer_output> layers;
  std::vector<float> logprob;  ///< [T] nats of token t given those before it in its document; NaN for the first
  std::vector<std::int32_t> predicted;  ///< [T] most probable next token
  std::uint64_t nonfinite = 0;          ///< tokens whose next-token distribution is not finite
};

/// Documents that go on token by token: what `model::begin` leaves and `model::step` extends.
class continuation {
 public:
  continuation();
  continuation(continuation&&) noexcept;
  ~continuation();

 private:
  friend class model;
  struct state;
  std::unique_ptr<state> state_;
};

/// The decoder: weights of a checkpoint, used where they are if type and device allow it, converted otherwise.
class model {
 public:
  /// With residency::stream nothing is read, but names, types and shapes are checked.
  model(model_spec const& spec, checkpoint const& weights, execution const& where, residency where_weights = residency::all);
  model(model&&) noexcept;
  ~model();

  /// Runs packed documents: offsets [D+1] cut `ids`, every document attends to itself only. Throws argument_error if an
  /// id is outside the vocabulary, resource_error if memory runs out, std::runtime_error with libtorch's words
  /// otherwise.
  batch_output run(std::span<std::int32_t const> ids, std::span<std::int64_t const> offsets) const;

  /// As `run`, and keeps what it takes to go on with up to `more` tokens in each document.
  batch_output begin(std::span<std::int32_t const> ids, std::span<std::int64_t const> offsets, std::int64_t more,
                     continuation& onward) const;
  /// Runs one more token of every document. Row d of the output is that of document d; its logprob is NaN, for it was
  /// known before (`logprob`).
  batch_output step(continuation& onward, std::span<std::int32_t const> ids) const;
  /// [D, vocabulary] of the next token: softmax of logits / temperature.
  std::vector<float> probabilities(continuation const& onward, double temperature) const;
  /// [D] nats of these next tokens, at temperature 1.
  std::vector<float> logprob(continuation const& onward, std::span<std::int32_t const> ids) const;
  /// Goes on with these documents alone, in this order.
  void keep(continuation& onward, std::span<std::int64_t const> documents) const;

  /// The weights of one stage, from a checkpoint that holds at least those; a tied head also takes the embedding, if
  /// stage 0 was not loaded.
  void load(std::int64_t stage, checkpoint const& part);
  /// Frees them; an embedding that the head needs stays.
  void unload(std::int64_t stage);

  /// One stage of run(), to the same bits. `hidden` [T,H], of the type the model runs in, comes from the stage before and
  /// goes to the next; routing is added to `out.layers`, the head fills the rest of `out`.
  void run_stage(std::int64_t stage, std::span<std::int32_t const> ids, std::span<std::int64_t const> offsets,
                 std::vector<std::byte>& hidden, batch_output& out) const;

 private:
  struct state;
  std::unique_ptr<state> state_;
};

/// The machine has too little memory for what was asked.
class resource_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace moeroute::capture

#endif
