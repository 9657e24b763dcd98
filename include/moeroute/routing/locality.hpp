// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_ROUTING_LOCALITY_HPP
#define MOEROUTE_ROUTING_LOCALITY_HPP

#include <moeroute/core/accumulator.hpp>
#include <moeroute/core/batch.hpp>
#include <moeroute/core/bytes.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/estimate.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/routing/detail/group_jackknife.hpp>
#include <moeroute/routing/detail/pair_counts.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace moeroute {

struct locality_options {
  index_t experts = 0;
  index_t slots = 0;      ///< K
  index_t groups = 64;    ///< 1..256 groups of documents, behind the intervals
  index_t run_bins = 64;  ///< run lengths 1..run_bins-1 and longer
  friend bool operator==(locality_options const&, locality_options const&) = default;
};

/// How alike consecutive tokens are, beside what chance gives. NaN where undefined.
struct locality_rate {
  estimate observed;                   ///< mean over consecutive tokens of a document
  double chance_uniform = quiet_nan;   ///< of tokens that choose K of E at random
  double chance_loads = quiet_nan;     ///< of two tokens drawn from all documents
  double chance_shuffled = quiet_nan;  ///< of the same documents with their tokens in random order
  estimate over_loads;                 ///< observed - chance_loads: order, and topics that differ between documents
  estimate over_shuffled;              ///< observed - chance_shuffled: order alone
};

/// Maximal runs of tokens, ended by the document.
struct locality_runs {
  std::vector<std::uint64_t> lengths;  ///< [run_bins] runs of length 1, 2, ..; the last bin holds all longer ones too
  std::vector<double> chance;  ///< [run_bins] share of each under independent tokens of these loads, in long documents
  double mean = quiet_nan;     ///< tokens
  double mean_chance = quiet_nan;
  std::vector<double> of_expert;         ///< [E] mean length of its runs, tokens
  std::vector<double> of_expert_chance;  ///< [E] 1 / (1 - its load)
};

struct locality_result {
  locality_rate first_choice;       ///< same first choice
  locality_rate overlap;            ///< share of a token's experts that the next token keeps
  locality_rate any_overlap;        ///< at least one kept; chance_uniform only
  locality_rate jaccard;            ///< |both| / |either|, mean over pairs; chance_uniform only
  locality_runs first_choice_runs;  ///< the same first choice again
  locality_runs active_runs;        ///< an expert stays among the K
  std::uint64_t tokens = 0, documents = 0;
  std::uint64_t pairs = 0;    ///< consecutive tokens, both with an expert
  std::uint64_t dropped = 0;  ///< slots with id -1
  index_t groups = 0;         ///< with tokens
};

/// Do consecutive tokens go to the same experts, and more than loads and topics explain?
///
/// In     routing_batch with slots ordered by score (slot 0 is the first choice), and its document_spans. No pair spans
///        two documents.
/// Out    locality_result; intervals by Student's law over groups of documents left out one at a time, 32 or more.
/// Empty  NaN.   Merge  exact: counts; expectations and Jaccard in units of 2^-24, rounded once per document or pair.
/// Cost   O(T K + D E) time; 8 (G (2 E + 13) + 2 run_bins + 2 E) bytes.
/// Bias   an expert that is popular in one document repeats there without any memory from token to token: only
///        over_shuffled is free of it.
/// Throws argument_error or shape_error if experts, slots or tokens do not fit; nothing is counted then.
/// Source Mixtral, arXiv:2401.04088, table 5: first choice (chance 1/E) and any overlap of top-2 sets (chance 1 -
///        C(E-K,K)/C(E,K)), as given. Differs: chance at the loads and in shuffled documents, and the intervals, are
///        ours.
class locality {
 public:
  using options_type = locality_options;
  using result_type = locality_result;
  static constexpr merge_law law = merge_law::exact;

  explicit locality(locality_options options) : options_{options} {
    if (options.experts <= 0 || options.slots <= 0 || options.slots > options.experts || options.groups < 1 ||
        options.groups > 256 || options.run_bins < 1 || options.run_bins > 65536)
      detail::raise("moeroute::locality: experts = ", options.experts, ", slots = ", options.slots,
                    ", groups = ", options.groups, ", run_bins = ", options.run_bins,
                    "; need 0 < slots <= experts, groups in 1..256, run_bins in 1..65536");
    if (options.experts >= index_t{1} << 32)
      detail::raise("moeroute::locality: experts = ", options.experts, ": the loads exceed memory");
    sums_.resize(static_cast<std::size_t>(options.groups * width()));
    for (auto* runs : {&first_runs_, &active_runs_}) runs->resize(static_cast<std::size_t>(options.run_bins));
    for (auto* runs : {&first_runs_of_, &active_runs_of_}) runs->resize(static_cast<std::size_t>(options.experts));
  }

  template <class L, class W, class Id>
  void check(routing_batch<L, W, Id> const& batch, document_spans const& spans) const {
    if (batch.experts() != options_.experts || batch.slots() != options_.slots)
      detail::raise("moeroute::locality::update: batch has ", batch.slots(), " slots of ", batch.experts(),
                    " experts, options have ", options_.slots, " of ", options_.experts);
    if (batch.tokens() != spans.tokens())
      detail::raise<shape_error>("moeroute::locality::update: batch has ", batch.tokens(), " tokens, spans ",
                                 spans.tokens());
  }
  template <class L, class W, class Id>
  void update(routing_batch<L, W, Id> const& batch, document_spans const& spans) {
    check(batch, spans);
    detail::sorted_set set(options_.experts, options_.slots);
    std::vector<std::uint64_t> loads(static_cast<std::size_t>(2 * options_.experts));
    std::vector<index_t> before, began(static_cast<std::size_t>(options_.experts));
    for (index_t d = 0; d < spans.documents(); ++d)
      add_document(batch.ids().rows_from(spans.first(d), spans.size(d)),
                   sums_.data() + detail::document_group(spans.id(d), options_.groups) * width(), set, loads, before,
                   began);
  }

  void merge(locality const& other, std::uint64_t times = 1) {
    if (other.options_ != options_) detail::raise("moeroute::locality::merge: options differ");
    auto const add = [times](std::vector<std::uint64_t>& to, std::vector<std::uint64_t> const& from) {
      for (std::size_t i = 0; i < to.size(); ++i) to[i] += times * from[i];
    };
    add(sums_, other.sums_);
    add(first_runs_, other.first_runs_);
    add(active_runs_, other.active_runs_);
    add(first_runs_of_, other.first_runs_of_);
    add(active_runs_of_, other.active_runs_of_);
    dropped_ += times * other.dropped_;
  }

  locality_options options() const noexcept { return options_; }
  std::uint64_t count() const noexcept { return total(tokens); }
  locality_result result(double level = 0.95) const;

  std::vector<std::byte> serialize() const {
    byte_writer out;
    out.put(std::uint32_t{0x4c4f4341});  // "LOCA"
    for (auto const n : {options_.experts, options_.slots, options_.groups, options_.run_bins})
      out.put(static_cast<std::int64_t>(n));
    for (auto const* v : {&sums_, &first_runs_, &active_runs_, &first_runs_of_, &active_runs_of_}) out.put(*v);
    out.put(dropped_);
    return std::move(out).bytes();
  }
  static locality deserialize(std::span<std::byte const> bytes) {
    byte_reader in(bytes);
    if (in.get<std::uint32_t>() != 0x4c4f4341) in.fail("is not a locality");
    std::int64_t n[4];
    for (auto& x : n) x = in.get<std::int64_t>();
    std::vector<std::uint64_t> read[5];
    for (auto& v : read) v = in.get_vector<std::uint64_t>();
    auto const dropped = in.get<std::uint64_t>();
    in.finish();
    // The lengths are compared with what was read before anything of their size is allocated.
    if (n[0] <= 0 || n[0] >= index_t{1} << 32 || n[1] <= 0 || n[1] > n[0] || n[2] < 1 || n[2] > 256 || n[3] < 1 ||
        n[3] > 65536 || read[0].size() != static_cast<std::size_t>(n[2] * (scalars + 2 * n[0])) ||
        read[1].size() != static_cast<std::size_t>(n[3]) || read[2].size() != read[1].size() ||
        read[3].size() != static_cast<std::size_t>(n[0]) || read[4].size() != read[3].size())
      in.fail("locality has impossible options or counts that do not fit them");
    locality a({static_cast<index_t>(n[0]), static_cast<index_t>(n[1]), static_cast<index_t>(n[2]),
                static_cast<index_t>(n[3])});
    std::vector<std::uint64_t>* const to[] = {&a.sums_, &a.first_runs_, &a.active_runs_, &a.first_runs_of_,
                                              &a.active_runs_of_};
    for (std::size_t i = 0; i < 5; ++i) *to[i] = std::move(read[i]);
    a.dropped_ = dropped;
    for (index_t g = 0; g < n[2]; ++g) {
      auto const* s = a.sums_.data() + g * a.width();
      if (s[repeats] > s[first_pairs] || s[first_pairs] > s[firsts] || s[firsts] > s[tokens] || s[any] > s[set_pairs] ||
          s[set_pairs] > s[sets] || s[sets] > s[tokens])
        in.fail("locality has more of something than tokens");
    }
    return a;
  }

  friend bool operator==(locality const&, locality const&) = default;

 private:
  /// Sums of a group of documents; the loads of first choices [E] and of sets [E] follow them.
  enum : index_t {
    documents,
    tokens,
    firsts,
    first_pairs,
    repeats,
    repeats_shuffled,  // tokens with a first choice, pairs of them
    sets,
    set_pairs,
    sizes,
    kept,
    kept_shuffled,
    any,
    jaccard,  // tokens with an expert, pairs of them; sizes of the earlier sets
    scalars
  };
  static constexpr double unit = 0x1p-24;  // of the expectations and of Jaccard

  index_t width() const noexcept { return scalars + 2 * options_.experts; }
  std::uint64_t total(index_t what) const noexcept {
    std::uint64_t n = 0;
    for (index_t g = 0; g < options_.groups; ++g) n += sums_[static_cast<std::size_t>(g * width() + what)];
    return n;
  }
  void end_run(std::vector<std::uint64_t>& lengths, std::vector<std::uint64_t>& of, index_t expert,
               index_t length) const noexcept {
    ++lengths[static_cast<std::size_t>(std::min(length, options_.run_bins) - 1)];
    ++of[static_cast<std::size_t>(expert)];
  }
  /// pairs * sum n (n - 1) / (m (m - 1)) in units, rounded: what `pairs` pairs share when m tokens are in random order.
  static std::uint64_t shuffled(std::uint64_t pairs, std::uint64_t m, std::span<std::uint64_t const> loads) noexcept {
    if (m < 2) return 0;
    __extension__ using wide = unsigned __int128;
    wide together = 0;
    for (auto const n : loads) together += static_cast<wide>(n) * (n - (n > 0 ? 1 : 0));
    wide const all = static_cast<wide>(m) * (m - 1), scaled = (together * pairs << 24) + all / 2;
    return static_cast<std::uint64_t>(scaled / all);
  }

  template <class Id>
  void add_document(matrix_view<Id> ids, std::uint64_t* sum, detail::sorted_set& set, std::vector<std::uint64_t>& loads,
                    std::vector<index_t>& before, std::vector<index_t>& began);

  struct rates {
    double first, overlap, any, jaccard, first_loads, overlap_loads, first_shuffled, overlap_shuffled;
  };
  rates rates_of(std::vector<std::uint64_t> const& s) const noexcept;
  locality_runs runs_of(std::vector<std::uint64_t> const& lengths, std::vector<std::uint64_t> const& of,
                        std::vector<std::uint64_t> const& sums, index_t first_load, std::uint64_t of_tokens) const;

  locality_options options_;
  std::vector<std::uint64_t> sums_;  // [G,scalars+2E]
  std::vector<std::uint64_t> first_runs_, active_runs_, first_runs_of_, active_runs_of_;
  std::uint64_t dropped_ = 0;
};

static_assert(accumulates<locality, routing_batch<>, document_spans>);

template <class Id>
void locality::add_document(matrix_view<Id> ids, std::uint64_t* sum, detail::sorted_set& set,
                            std::vector<std::uint64_t>& loads, std::vector<index_t>& before,
                            std::vector<index_t>& began) {
  auto const experts = static_cast<std::size_t>(options_.experts);
  std::fill(loads.begin(), loads.end(), 0u);
  before.clear();
  detail::set_tally tally;
  std::uint64_t of_document[scalars] = {};
  auto& n = of_document;
  n[documents] = 1;
  n[tokens] = static_cast<std::uint64_t>(ids.rows());
  index_t last = -1, run = 0;
  for (index_t t = 0; t < ids.rows(); ++t) {
    auto const row = ids.row(t);
    auto const first = static_cast<index_t>(row[0]);
    if (first >= 0) {
      ++n[firsts];
      ++loads[static_cast<std::size_t>(first)];
      if (last >= 0) {
        ++n[first_pairs];
        if (first == last) ++n[repeats];
      }
    }
    if (first != last && last >= 0) end_run(first_runs_, first_runs_of_, last, run);
    run = first == last ? run + 1 : 1;
    last = first;

    auto const size = set.read(row, tally);
    auto const* const now = set.chosen();
    // Both lists ascend: who is in one only begins or ends a run.
    std::size_t i = 0, j = 0, both = 0;
    while (i < before.size() || j < size) {
      if (j == size || (i < before.size() && before[i] < now[j])) {
        end_run(active_runs_, active_runs_of_, before[i], t - began[static_cast<std::size_t>(before[i])]);
        ++i;
      } else if (i == before.size() || now[j] < before[i]) {
        began[static_cast<std::size_t>(now[j++])] = t;
      } else {
        ++i, ++j, ++both;
      }
    }
    for (std::size_t k = 0; k < size; ++k) ++loads[experts + static_cast<std::size_t>(now[k])];
    if (size > 0) ++n[sets];
    if (size > 0 && !before.empty()) {
      std::uint64_t const either = before.size() + size - both;
      ++n[set_pairs];
      n[sizes] += before.size();
      n[kept] += both;
      n[any] += both > 0 ? 1 : 0;
      n[jaccard] += ((static_cast<std::uint64_t>(both) << 24) + either / 2) / either;
    }
    before.assign(now, now + size);
  }
  if (last >= 0) end_run(first_runs_, first_runs_of_, last, run);
  for (auto const e : before)
    end_run(active_runs_, active_runs_of_, e, ids.rows() - began[static_cast<std::size_t>(e)]);
  n[repeats_shuffled] = shuffled(n[first_pairs], n[firsts], std::span(loads).first(experts));
  n[kept_shuffled] = shuffled(n[set_pairs], n[sets], std::span(loads).last(experts));
  dropped_ += tally.dropped;
  for (index_t i = 0; i < scalars; ++i) sum[i] += of_document[i];
  for (std::size_t e = 0; e < loads.size(); ++e) sum[scalars + static_cast<index_t>(e)] += loads[e];
}

inline locality::rates locality::rates_of(std::vector<std::uint64_t> const& s) const noexcept {
  auto const x = [&](index_t i) { return static_cast<double>(s[static_cast<std::size_t>(i)]); };
  double square[2] = {0, 0}, slots = 0;
  for (index_t e = 0; e < options_.experts; ++e) {
    square[0] += x(scalars + e) * x(scalars + e);
    square[1] += x(scalars + options_.experts + e) * x(scalars + options_.experts + e);
    slots += x(scalars + options_.experts + e);
  }
  return {x(repeats) / x(first_pairs),
          x(kept) / x(sizes),
          x(any) / x(set_pairs),
          x(jaccard) * unit / x(set_pairs),
          square[0] / (x(firsts) * x(firsts)),
          square[1] / (x(sets) * slots),
          x(repeats_shuffled) * unit / x(first_pairs),
          x(kept_shuffled) * unit / x(sizes)};
}

inline locality_runs locality::runs_of(std::vector<std::uint64_t> const& lengths, std::vector<std::uint64_t> const& of,
                                       std::vector<std::uint64_t> const& sums, index_t first_load,
                                       std::uint64_t of_tokens) const {
  locality_runs r;
  r.lengths = lengths;
  r.chance.assign(lengths.size(), 0);
  double runs = 0, slots = 0, ends = 0;
  for (std::size_t e = 0; e < of.size(); ++e) {
    double const load = static_cast<double>(sums[static_cast<std::size_t>(first_load) + e]),
                 p = load / static_cast<double>(of_tokens);
    runs += static_cast<double>(of[e]);
    slots += load;
    ends += p * (1 - p);
    double still = p;  // a run of this expert has begun and lasted so long
    for (std::size_t length = 0; length + 1 < lengths.size(); ++length, still *= p)
      r.chance[length] += still * (1 - p) * (1 - p);
    r.chance.back() += still * (1 - p);
    r.of_expert.push_back(load / static_cast<double>(of[e]));
    r.of_expert_chance.push_back(1 / (1 - p));
  }
  for (double& c : r.chance) c /= ends;
  r.mean = slots / runs;
  r.mean_chance = slots / static_cast<double>(of_tokens) / ends;
  return r;
}

inline locality_result locality::result(double level) const {
  detail::check_level(level, "moeroute::locality::result");
  std::vector<std::uint64_t> all(static_cast<std::size_t>(width()));
  for (std::size_t i = 0; i < sums_.size(); ++i) all[i % all.size()] += sums_[i];
  rates const value = rates_of(all);
  std::vector<rates> left_out;
  for (index_t g = 0; g < options_.groups; ++g) {
    auto const* const group = sums_.data() + g * width();
    if (group[tokens] == 0) continue;
    auto rest = all;
    for (std::size_t i = 0; i < rest.size(); ++i) rest[i] -= group[i];
    left_out.push_back(rates_of(rest));
  }
  auto const interval = [&](auto const& f, bool correct) {
    std::vector<double> v;
    for (auto const& r : left_out) v.push_back(f(r));
    return detail::group_interval(f(value), v, level, correct);
  };
  locality_result r;
  r.tokens = all[tokens];
  r.documents = all[documents];
  r.pairs = all[set_pairs];
  r.dropped = dropped_;
  r.groups = static_cast<index_t>(left_out.size());
  double const experts = static_cast<double>(options_.experts), slots = static_cast<double>(options_.slots);

  r.first_choice.observed = interval([](rates const& x) { return x.first; }, false);
  r.first_choice.chance_uniform = 1 / experts;
  r.first_choice.chance_loads = value.first_loads;
  r.first_choice.chance_shuffled = value.first_shuffled;
  // The squares of estimated loads are too large by their variance; leaving out groups shows by how much.
  r.first_choice.over_loads = interval([](rates const& x) { return x.first - x.first_loads; }, true);
  r.first_choice.over_shuffled = interval([](rates const& x) { return x.first - x.first_shuffled; }, false);
  r.overlap.observed = interval([](rates const& x) { return x.overlap; }, false);
  r.overlap.chance_uniform = slots / experts;
  r.overlap.chance_loads = value.overlap_loads;
  r.overlap.chance_shuffled = value.overlap_shuffled;
  r.overlap.over_loads = interval([](rates const& x) { return x.overlap - x.overlap_loads; }, true);
  r.overlap.over_shuffled = interval([](rates const& x) { return x.overlap - x.overlap_shuffled; }, false);
  r.any_overlap.observed = interval([](rates const& x) { return x.any; }, false);
  r.jaccard.observed = interval([](rates const& x) { return x.jaccard; }, false);
  // The second set draws without replacement beside the first: hypergeometric, built up from no overlap by the ratio of
  // neighbours.
  double none = 1;
  for (double k = 0; k < slots; ++k) none *= std::max(0.0, experts - slots - k) / (experts - k);
  r.any_overlap.chance_uniform = 1 - none;
  double const least = std::max(0.0, 2 * slots - experts);
  double weight = 1, weights = 0, similarity = 0;
  for (double both = least; both <= slots; ++both) {
    weights += weight;
    similarity += weight * both / (2 * slots - both);
    weight *= (slots - both) * (slots - both) / ((both + 1) * (experts - 2 * slots + both + 1));
  }
  r.jaccard.chance_uniform = similarity / weights;
  r.first_choice_runs = runs_of(first_runs_, first_runs_of_, all, scalars, all[firsts]);
  r.active_runs = runs_of(active_runs_, active_runs_of_, all, scalars + options_.experts, all[sets]);
  return r;
}

}  // namespace moeroute

#endif
