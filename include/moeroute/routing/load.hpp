// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_ROUTING_LOAD_HPP
#define MOEROUTE_ROUTING_LOAD_HPP

#include <moeroute/core/accumulator.hpp>
#include <moeroute/core/adapt.hpp>
#include <moeroute/core/batch.hpp>
#include <moeroute/core/bytes.hpp>
#include <moeroute/core/error.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace moeroute {

struct load_options {
  index_t experts = 0;
  friend bool operator==(load_options const&, load_options const&) = default;
};

struct load_result {
  std::vector<std::uint64_t> counts;  ///< [E] slots that chose each expert
  std::vector<double> share;          ///< [E] counts over kept slots
  std::uint64_t tokens = 0;
  std::uint64_t dropped = 0;          ///< slots with id -1
};

/// Share of slots that each expert received (its hard load).
///
/// In     routing_batch, or ids [T,K]: expert of each slot, 0..E-1; -1 = dropped.
/// Out    counts [E] in slots; share [E], sums to 1 over kept slots; dropped in slots; tokens.
/// Empty  share is NaN, counts are 0.
/// Merge  exact.   Cost  O(T K) time, O(E) memory.
/// Throws argument_error if an id is >= E or < -1, or the experts of batch and options differ; nothing is counted then.
/// Source Shazeer et al. 2017, arXiv:1701.06538, section 4 (assignments per expert). As given; the k choices of a token count as k slots.
class load {
 public:
  using options_type = load_options;
  using result_type = load_result;
  static constexpr merge_law law = merge_law::exact;

  explicit load(load_options options) : options_{options} {
    if (options.experts <= 0) detail::raise("moeroute::load: experts = ", options.experts, ", must be positive");
    counts_.resize(static_cast<std::size_t>(options.experts));
  }

  template <class L, class W, class Id>
  void check(routing_batch<L, W, Id> const& batch) const {
    if (batch.experts() != options_.experts)
      detail::raise("moeroute::load::update: batch has ", batch.experts(), " experts, options have ", options_.experts);
  }
  template <class L, class W, class Id>
  void update(routing_batch<L, W, Id> const& batch) {
    check(batch);
    auto const ids = batch.ids();
    // One cell below the experts takes the dropped slots, so that nothing has to be asked; neighbouring slots count into
    // tables of their own, because adding to a cell has to wait for the addition before.
    auto const cells = counts_.size() + 1;
    std::vector<std::uint64_t> tables(4 * cells);
    auto const count = [&](vector_view<Id> slots) {
      std::uint64_t* const table[4] = {tables.data() + 1, tables.data() + 1 + cells, tables.data() + 1 + 2 * cells,
                                       tables.data() + 1 + 3 * cells};
      index_t const n = slots.size(), step = slots.stride();
      Id const* id = slots.data();
      index_t k = 0;
      for (; k + 4 <= n; k += 4, id += 4 * step)
        for (index_t i = 0; i < 4; ++i) ++table[i][static_cast<index_t>(id[i * step])];
      for (; k < n; ++k, id += step) ++table[0][static_cast<index_t>(*id)];
    };
    if (ids.col_stride() == 1 && ids.row_stride() == ids.cols())
      count({ids.data(), ids.rows() * ids.cols()});
    else
      for (index_t t = 0; t < ids.rows(); ++t) count(ids.row(t));
    for (std::size_t e = 0; e < counts_.size(); ++e)
      for (std::size_t i = 0; i < 4; ++i) counts_[e] += tables[i * cells + 1 + e];
    for (std::size_t i = 0; i < 4; ++i) dropped_ += tables[i * cells];
    tokens_ += static_cast<std::uint64_t>(ids.rows());
  }
  template <index_matrix Ids>
  void update(Ids const& ids) {
    update(make_routing_batch(options_.experts, ids));
  }

  void merge(load const& other, std::uint64_t times = 1) {
    if (other.options_ != options_)
      detail::raise("moeroute::load::merge: ", other.options_.experts, " experts into ", options_.experts);
    for (std::size_t e = 0; e < counts_.size(); ++e) counts_[e] += times * other.counts_[e];
    tokens_ += times * other.tokens_;
    dropped_ += times * other.dropped_;
  }

  load_options options() const noexcept { return options_; }
  std::uint64_t count() const noexcept { return tokens_; }
  load_result result() const {
    std::uint64_t kept = 0;
    for (auto const c : counts_) kept += c;
    load_result r{counts_, std::vector<double>(counts_.size()), tokens_, dropped_};
    for (std::size_t e = 0; e < counts_.size(); ++e) r.share[e] = static_cast<double>(counts_[e]) / static_cast<double>(kept);
    return r;
  }

  std::vector<std::byte> serialize() const {
    byte_writer out;
    out.put(std::uint32_t{0x4c4f4144});  // "LOAD"
    out.put(counts_);
    out.put(tokens_);
    out.put(dropped_);
    return std::move(out).bytes();
  }
  static load deserialize(std::span<std::byte const> bytes) {
    byte_reader in(bytes);
    if (in.get<std::uint32_t>() != 0x4c4f4144) in.fail("is not a load");
    auto counts = in.get_vector<std::uint64_t>();
    if (counts.empty()) in.fail("load has no experts");
    load a({static_cast<index_t>(counts.size())});
    a.counts_ = std::move(counts);
    a.tokens_ = in.get<std::uint64_t>();
    a.dropped_ = in.get<std::uint64_t>();
    in.finish();
    return a;
  }

  friend bool operator==(load const&, load const&) = default;

 private:
  load_options options_;
  std::vector<std::uint64_t> counts_;
  std::uint64_t tokens_ = 0, dropped_ = 0;
};

static_assert(accumulates<load, routing_batch<>>);

/// load of one array of ids. Throws and empty as load.
template <index_matrix Ids>
load_result load_of(Ids const& ids, index_t experts) {
  load a({experts});
  a.update(ids);
  return a.result();
}

}  // namespace moeroute

#endif
