// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_ROUTING_DOCUMENT_COUNTS_HPP
#define MOEROUTE_ROUTING_DOCUMENT_COUNTS_HPP

#include <moeroute/core/accumulator.hpp>
#include <moeroute/core/adapt.hpp>
#include <moeroute/core/batch.hpp>
#include <moeroute/core/bytes.hpp>
#include <moeroute/core/error.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace moeroute {

struct document_counts_options {
  index_t experts = 0;
  index_t rows = 0;  ///< documents, or groups of documents
  friend bool operator==(document_counts_options const&, document_counts_options const&) = default;
};

struct document_counts_result {
  std::vector<std::uint64_t> counts;  ///< [R,E] row-major, slots of row r that chose expert e
  std::vector<std::uint64_t> tokens;  ///< [R]
  index_t rows = 0, experts = 0;

  matrix_view<std::uint64_t> matrix() const noexcept { return {counts.data(), rows, experts}; }
};

/// Slots per expert for every document: the sufficient sums of everything that is inferred with documents as units.
///
/// In     routing_batch, its document_spans, and rows [D]: the row that each document of the batch counts into. With few documents a row is
///        a document; with many, a group of documents of one label and one hash, so that memory is known before it is allocated.
/// Out    counts [R,E] in slots; tokens [R].   Empty  all 0.
/// Merge  exact.   Cost  O(T K) time, O(R E) memory: 8 R (E + 1) bytes.
/// Throws argument_error or shape_error if experts, tokens or rows do not fit; nothing is counted then.
/// Source ours: a contingency table; no estimate is made here.
class document_counts {
 public:
  using options_type = document_counts_options;
  using result_type = document_counts_result;
  static constexpr merge_law law = merge_law::exact;

  explicit document_counts(document_counts_options options) : options_{options} {
    if (options.experts <= 0 || options.rows < 0)
      detail::raise("moeroute::document_counts: experts = ", options.experts, ", rows = ", options.rows, "; need experts > 0, rows >= 0");
    std::size_t cells = 0;
    if (__builtin_mul_overflow(options.rows, options.experts, &cells))
      detail::raise("moeroute::document_counts: ", options.rows, " rows of ", options.experts, " experts exceed the address space");
    counts_.resize(cells);
    tokens_.resize(static_cast<std::size_t>(options.rows));
  }

  template <class L, class W, class Id>
  void check(routing_batch<L, W, Id> const& batch, document_spans const& spans, vector_view<std::int32_t> rows) const {
    if (batch.experts() != options_.experts)
      detail::raise("moeroute::document_counts::update: batch has ", batch.experts(), " experts, options have ", options_.experts);
    if (batch.tokens() != spans.tokens() || rows.size() != spans.documents())
      detail::raise<shape_error>("moeroute::document_counts::update: batch has ", batch.tokens(), " tokens, spans ", spans.tokens(), "; rows ",
                                 rows.size(), ", documents ", spans.documents());
    for (index_t d = 0; d < rows.size(); ++d)
      if (rows[d] < 0 || rows[d] >= options_.rows)
        detail::raise("moeroute::document_counts::update: row ", rows[d], " of document ", d, ", but rows = ", options_.rows);
  }
  template <class L, class W, class Id>
  void update(routing_batch<L, W, Id> const& batch, document_spans const& spans, vector_view<std::int32_t> rows) {
    check(batch, spans, rows);
    for (index_t d = 0; d < spans.documents(); ++d) {
      auto* const counts = counts_.data() + rows[d] * options_.experts;
      auto const ids = batch.ids().rows_from(spans.first(d), spans.size(d));
      for (index_t t = 0; t < ids.rows(); ++t) {
        auto const row = ids.row(t);
        for (index_t k = 0; k < row.size(); ++k)
          if (std::cmp_greater_equal(row[k], 0)) ++counts[row[k]];
      }
      tokens_[static_cast<std::size_t>(rows[d])] += static_cast<std::uint64_t>(ids.rows());
    }
  }

  void merge(document_counts const& other, std::uint64_t times = 1) {
    if (other.options_ != options_) detail::raise("moeroute::document_counts::merge: options differ");
    for (std::size_t i = 0; i < counts_.size(); ++i) counts_[i] += times * other.counts_[i];
    for (std::size_t r = 0; r < tokens_.size(); ++r) tokens_[r] += times * other.tokens_[r];
  }

  document_counts_options options() const noexcept { return options_; }
  std::uint64_t count() const noexcept {
    std::uint64_t n = 0;
    for (auto const t : tokens_) n += t;
    return n;
  }
  document_counts_result result() const { return {counts_, tokens_, options_.rows, options_.experts}; }

  std::vector<std::byte> serialize() const {
    byte_writer out;
    out.put(std::uint32_t{0x44434e54});  // "DCNT"
    out.put(static_cast<std::int64_t>(options_.experts));
    out.put(counts_);
    out.put(tokens_);
    return std::move(out).bytes();
  }
  static document_counts deserialize(std::span<std::byte const> bytes) {
    byte_reader in(bytes);
    if (in.get<std::uint32_t>() != 0x44434e54) in.fail("is not a document_counts");
    auto const experts = in.get<std::int64_t>();
    auto counts = in.get_vector<std::uint64_t>();
    auto tokens = in.get_vector<std::uint64_t>();
    in.finish();
    if (experts <= 0 || counts.size() % static_cast<std::size_t>(experts) != 0 || counts.size() / static_cast<std::size_t>(experts) != tokens.size())
      in.fail("document_counts has counts that do not fit its rows");
    document_counts a({static_cast<index_t>(experts), static_cast<index_t>(tokens.size())});
    a.counts_ = std::move(counts);
    a.tokens_ = std::move(tokens);
    return a;
  }

  friend bool operator==(document_counts const&, document_counts const&) = default;

 private:
  document_counts_options options_;
  std::vector<std::uint64_t> counts_, tokens_;
};

static_assert(accumulates<document_counts, routing_batch<>, document_spans, vector_view<std::int32_t>>);

}  // namespace moeroute

#endif
