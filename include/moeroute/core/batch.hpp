// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CORE_BATCH_HPP
#define MOEROUTE_CORE_BATCH_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/error.hpp>

#include <concepts>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace moeroute {

/// Routing of T tokens in one layer: ids [T,K], combination weights [T,K] or none, raw logits [T,E] or none.
///
/// Views only; the owner of the memory outlives the batch. The shapes and every id are checked once, here, so that accumulators
/// need not check them again: an id is an expert 0..E-1 or no_expert (-1), a dropped slot.
/// Throws shape_error or argument_error naming token and slot.   Cost  O(T K).
template <real_scalar Logit = float, real_scalar Weight = float, std::integral Id = std::int16_t>
class routing_batch {
 public:
  using logit_type = Logit;
  using weight_type = Weight;
  using id_type = Id;

  routing_batch() = default;
  routing_batch(index_t experts, matrix_view<Id> ids, matrix_view<Weight> weights = {}, matrix_view<Logit> logits = {})
      : experts_{experts}, ids_{ids}, weights_{weights}, logits_{logits} {
    if (experts <= 0) detail::raise("moeroute::routing_batch: experts = ", experts, ", must be positive");
    auto const shape = [](auto const& m) { return std::to_string(m.rows()) + " x " + std::to_string(m.cols()); };
    if (has_weights() && (weights.rows() != ids.rows() || weights.cols() != ids.cols()))
      detail::raise<shape_error>("moeroute::routing_batch: weights are ", shape(weights), ", ids are ", shape(ids));
    if (has_logits() && (logits.rows() != ids.rows() || logits.cols() != experts))
      detail::raise<shape_error>("moeroute::routing_batch: logits are ", shape(logits), ", ids are ", shape(ids), ", experts = ", experts);
    for (index_t t = 0; t < ids.rows(); ++t) {
      auto const row = ids.row(t);
      for (index_t k = 0; k < row.size(); ++k)
        if (std::cmp_less(row[k], no_expert) || std::cmp_greater_equal(row[k], experts))
          detail::raise("moeroute::routing_batch: id ", +row[k], " at token ", t, ", slot ", k, ", but experts = ", experts);
    }
  }

  index_t experts() const noexcept { return experts_; }
  index_t tokens() const noexcept { return ids_.rows(); }
  index_t slots() const noexcept { return ids_.cols(); }
  matrix_view<Id> ids() const noexcept { return ids_; }
  matrix_view<Weight> weights() const noexcept { return weights_; }
  matrix_view<Logit> logits() const noexcept { return logits_; }
  // A container without elements may have no memory; its width still says that it was given.
  bool has_weights() const noexcept { return weights_.data() != nullptr || weights_.cols() > 0; }
  bool has_logits() const noexcept { return logits_.data() != nullptr || logits_.cols() > 0; }
  /// Tokens first .. first+count-1; nothing is checked again.
  routing_batch slice(index_t first, index_t count) const noexcept {
    routing_batch part;
    part.experts_ = experts_;
    part.ids_ = ids_.rows_from(first, count);
    if (has_weights()) part.weights_ = weights_.rows_from(first, count);
    if (has_logits()) part.logits_ = logits_.rows_from(first, count);
    return part;
  }

 private:
  index_t experts_ = 0;
  matrix_view<Id> ids_;
  matrix_view<Weight> weights_;
  matrix_view<Logit> logits_;
};

/// routing_batch of any containers that the library can see: Eigen, xtensor, mdspan, matrix_view.
template <index_matrix Ids>
auto make_routing_batch(index_t experts, Ids const& ids) {
  return routing_batch<float, float, matrix_value_t<Ids>>(experts, detail::matrix_of(ids));
}
template <index_matrix Ids, real_matrix Weights>
auto make_routing_batch(index_t experts, Ids const& ids, Weights const& weights) {
  return routing_batch<float, matrix_value_t<Weights>, matrix_value_t<Ids>>(experts, detail::matrix_of(ids), detail::matrix_of(weights));
}
template <index_matrix Ids, real_matrix Weights, real_matrix Logits>
auto make_routing_batch(index_t experts, Ids const& ids, Weights const& weights, Logits const& logits) {
  return routing_batch<matrix_value_t<Logits>, matrix_value_t<Weights>, matrix_value_t<Ids>>(
      experts, detail::matrix_of(ids), detail::matrix_of(weights), detail::matrix_of(logits));
}

/// Which tokens belong to which document: the unit of inference.
///
/// offsets [D+1]: document d has the tokens offsets[d] .. offsets[d+1]-1.   ids [D]: global document ids, the same in every shard.
/// Throws shape_error or argument_error if offsets do not start at 0, decrease, or do not fit the ids.
class document_spans {
 public:
  document_spans() = default;
  document_spans(vector_view<std::int64_t> offsets, vector_view<std::int64_t> ids) : offsets_{offsets}, ids_{ids} {
    if (offsets.size() != ids.size() + 1)
      detail::raise<shape_error>("moeroute::document_spans: ", offsets.size(), " offsets for ", ids.size(), " documents, expected one more");
    if (offsets[0] != 0) detail::raise("moeroute::document_spans: offsets start at ", offsets[0], ", expected 0");
    for (index_t d = 0; d < ids.size(); ++d)
      if (offsets[d + 1] < offsets[d]) detail::raise("moeroute::document_spans: offsets decrease at document ", d);
  }

  index_t documents() const noexcept { return ids_.size(); }
  index_t tokens() const noexcept { return offsets_.empty() ? 0 : static_cast<index_t>(offsets_[offsets_.size() - 1]); }
  index_t first(index_t d) const noexcept { return static_cast<index_t>(offsets_[d]); }
  index_t size(index_t d) const noexcept { return static_cast<index_t>(offsets_[d + 1] - offsets_[d]); }
  std::int64_t id(index_t d) const noexcept { return ids_[d]; }

 private:
  vector_view<std::int64_t> offsets_;
  vector_view<std::int64_t> ids_;
};

/// Whole documents with the routing of every MoE layer.
template <real_scalar Logit = float, real_scalar Weight = float, std::integral Id = std::int16_t>
struct trace_batch {
  document_spans documents;
  vector_view<std::int32_t> token_ids;                            ///< [T] or empty
  std::vector<index_t> layer_numbers;                             ///< the model's own numbers of its MoE layers
  std::vector<routing_batch<Logit, Weight, Id>> layers;           ///< one per layer number
};

/// Throws shape_error unless every layer has the tokens that the documents have.
template <real_scalar Logit, real_scalar Weight, std::integral Id>
void validate(trace_batch<Logit, Weight, Id> const& batch) {
  if (batch.layer_numbers.size() != batch.layers.size())
    detail::raise<shape_error>("moeroute::trace_batch: ", batch.layers.size(), " layers, ", batch.layer_numbers.size(), " layer numbers");
  for (std::size_t l = 0; l < batch.layers.size(); ++l)
    if (batch.layers[l].tokens() != batch.documents.tokens())
      detail::raise<shape_error>("moeroute::trace_batch: layer ", batch.layer_numbers[l], " has ", batch.layers[l].tokens(),
                                 " tokens, the documents have ", batch.documents.tokens());
}

}  // namespace moeroute

#endif
