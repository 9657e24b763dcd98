// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_MODEL_HPP
#define MOEROUTE_CAPTURE_MODEL_HPP

#include <moeroute/io/safetensors.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "checkpoint.hpp"
#include "execution.hpp"
#include "family.hpp"

namespace moeroute::capture {

/// Rows of next-token logits of the whole vocabulary that a device computes at once: enough for the matrix product, few enough
/// for the cache.
inline std::int64_t head_rows(model_spec const& spec) {
  return std::max<std::int64_t>(512, (std::int64_t{1} << 22) / spec.vocabulary);
}

/// Type of the recorded logits of a model that runs in `type`.
inline dtype logits_type(model_spec const& spec, dtype type) { return spec.kind->wide_router ? dtype::f32 : type; }

/// What is added to the scores of a layer for ranking alone; empty where the family has none.
std::vector<double> selection_bias(model_spec const& spec, checkpoint const& weights, std::int64_t layer);

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

}  // namespace moeroute::capture

#endif
