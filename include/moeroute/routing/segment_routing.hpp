// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_ROUTING_SEGMENT_ROUTING_HPP
#define MOEROUTE_ROUTING_SEGMENT_ROUTING_HPP

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
#include <tuple>
#include <utility>
#include <vector>

namespace moeroute {

struct segment_routing_options {
  index_t experts = 0;
  index_t window = 16;  ///< tokens of a segment, 1..4096
  index_t groups = 32;  ///< 1..256 groups of documents, behind the interval
  friend bool operator==(segment_routing_options const&, segment_routing_options const&) = default;
};

struct segment_routing_result {
  estimate srp;                       ///< best F1 of one threshold for all experts, 0..1
  index_t threshold = 0;              ///< of srp: an expert is kept for segments in which it is active so often
  double chance = quiet_nan;          ///< srp of independent tokens with these loads
  std::vector<double> of_expert;      ///< [E] best F1 of a threshold of its own; NaN if never active
  std::vector<index_t> threshold_of;  ///< [E]
  std::uint64_t windows = 0, tokens = 0;
  index_t groups = 0;  ///< with windows
};

/// Segment routing best performance (SRP): if experts could be chosen once per segment of tokens, how well could that
/// serve what every token chose?
///
/// In     routing_batch and its document_spans. A segment is any run of `window` consecutive tokens of a document.
/// Out    segment_routing_result. For threshold c an expert is kept in the segments where it is active in c tokens or
///        more; F1 weighs the active tokens that this covers against the tokens that it keeps the expert for.
/// Empty  NaN without segments.   Merge  exact.
/// Cost   O(T K) time, 8 G E (window + 1) + 8 G bytes.
/// Bias   grows with the loads and with short windows: compare with `chance`. Overlapping segments are dependent; the
///        interval is that of groups of documents left out one at a time.
/// Throws argument_error or shape_error if experts or tokens do not fit; nothing is counted then.
/// Source arXiv:2505.16056 as in its code, github.com/ljcleo/moe-lrc, src/30_srp_calc.py, 31_srp_refine.py. Differs:
///        chance and the interval (theirs resamples positions) are ours.
class segment_routing {
 public:
  using options_type = segment_routing_options;
  using result_type = segment_routing_result;
  static constexpr merge_law law = merge_law::exact;

  explicit segment_routing(segment_routing_options options) : options_{options} {
    if (options.experts <= 0 || options.experts >= index_t{1} << 24 || options.window < 1 || options.window > 4096 ||
        options.groups < 1 || options.groups > 256)
      detail::raise("moeroute::segment_routing: experts = ", options.experts, ", window = ", options.window,
                    ", groups = ", options.groups, "; need experts in 1..2^24, window in 1..4096, groups in 1..256");
    histogram_.resize(static_cast<std::size_t>(options.groups * cells()));
    tokens_.resize(static_cast<std::size_t>(options.groups));
  }

  template <class L, class W, class Id>
  void check(routing_batch<L, W, Id> const& batch, document_spans const& spans) const {
    if (batch.experts() != options_.experts)
      detail::raise("moeroute::segment_routing::update: batch has ", batch.experts(), " experts, options have ",
                    options_.experts);
    if (batch.tokens() != spans.tokens())
      detail::raise<shape_error>("moeroute::segment_routing::update: batch has ", batch.tokens(), " tokens, spans ",
                                 spans.tokens());
  }
  template <class L, class W, class Id>
  void update(routing_batch<L, W, Id> const& batch, document_spans const& spans) {
    check(batch, spans);
    detail::sorted_set set(options_.experts, batch.slots());
    std::vector<index_t> active(static_cast<std::size_t>(options_.experts)), since(active.size());
    for (index_t d = 0; d < spans.documents(); ++d) {
      auto const g = detail::document_group(spans.id(d), options_.groups);
      add_document(batch.ids().rows_from(spans.first(d), spans.size(d)), histogram_.data() + g * cells(), set, active,
                   since);
      tokens_[static_cast<std::size_t>(g)] += static_cast<std::uint64_t>(spans.size(d));
    }
  }

  void merge(segment_routing const& other, std::uint64_t times = 1) {
    if (other.options_ != options_) detail::raise("moeroute::segment_routing::merge: options differ");
    for (std::size_t i = 0; i < histogram_.size(); ++i) histogram_[i] += times * other.histogram_[i];
    for (std::size_t g = 0; g < tokens_.size(); ++g) tokens_[g] += times * other.tokens_[g];
  }

  segment_routing_options options() const noexcept { return options_; }
  std::uint64_t count() const noexcept {
    std::uint64_t n = 0;
    for (auto const t : tokens_) n += t;
    return n;
  }

  segment_routing_result result(double level = 0.95) const {
    detail::check_level(level, "moeroute::segment_routing::result");
    auto const experts = static_cast<std::size_t>(options_.experts),
               bins = static_cast<std::size_t>(options_.window) + 1;
    std::vector<std::uint64_t> all(experts * bins);
    for (std::size_t i = 0; i < histogram_.size(); ++i) all[i % all.size()] += histogram_[i];
    auto const pooled = [&](auto const& cell) {
      std::vector<double> sum(bins);
      for (std::size_t e = 0; e < experts; ++e)
        for (std::size_t c = 0; c < bins; ++c) sum[c] += static_cast<double>(cell(e * bins + c));
      return sum;
    };
    segment_routing_result r;
    r.tokens = count();
    for (std::size_t c = 0; c < bins; ++c) r.windows += all[c];  // every window is in some bin of expert 0
    r.of_expert.assign(experts, quiet_nan);
    r.threshold_of.assign(experts, 0);
    std::vector<double> chance(bins);
    for (std::size_t e = 0; e < experts; ++e) {
      std::vector<double> const own(all.begin() + static_cast<std::ptrdiff_t>(e * bins),
                                    all.begin() + static_cast<std::ptrdiff_t>((e + 1) * bins));
      std::tie(r.of_expert[e], r.threshold_of[e]) = best_f1(own);
      double sum = 0;
      for (std::size_t c = 0; c < bins; ++c) sum += static_cast<double>(c) * own[c];
      double const p = sum / (static_cast<double>(options_.window) * static_cast<double>(r.windows));
      add_binomial(p, chance);
    }
    double value;
    std::tie(value, r.threshold) = best_f1(pooled([&](std::size_t i) { return all[i]; }));
    r.chance = best_f1(chance).first;
    std::vector<double> left_out;
    for (index_t g = 0; g < options_.groups; ++g) {
      auto const* const group = histogram_.data() + g * cells();
      if (std::all_of(group, group + bins, [](auto n) { return n == 0; })) continue;
      left_out.push_back(best_f1(pooled([&](std::size_t i) { return all[i] - group[i]; })).first);
    }
    r.groups = static_cast<index_t>(left_out.size());
    r.srp = detail::group_interval(value, left_out, level, false);
    return r;
  }

  std::vector<std::byte> serialize() const {
    byte_writer out;
    out.put(std::uint32_t{0x53524f55});  // "SROU"
    for (auto const n : {options_.experts, options_.window, options_.groups}) out.put(static_cast<std::int64_t>(n));
    out.put(histogram_);
    out.put(tokens_);
    return std::move(out).bytes();
  }
  static segment_routing deserialize(std::span<std::byte const> bytes) {
    byte_reader in(bytes);
    if (in.get<std::uint32_t>() != 0x53524f55) in.fail("is not a segment_routing");
    auto const experts = in.get<std::int64_t>(), window = in.get<std::int64_t>(), groups = in.get<std::int64_t>();
    auto histogram = in.get_vector<std::uint64_t>(), tokens = in.get_vector<std::uint64_t>();
    in.finish();
    // The lengths are compared with what was read before anything of their size is allocated.
    if (experts <= 0 || experts >= index_t{1} << 24 || window < 1 || window > 4096 || groups < 1 || groups > 256 ||
        histogram.size() != static_cast<std::size_t>(groups * experts * (window + 1)) ||
        tokens.size() != static_cast<std::size_t>(groups))
      in.fail("segment_routing has impossible options or counts that do not fit them");
    segment_routing a({static_cast<index_t>(experts), static_cast<index_t>(window), static_cast<index_t>(groups)});
    a.histogram_ = std::move(histogram);
    a.tokens_ = std::move(tokens);
    for (std::size_t row = 0; row < static_cast<std::size_t>(groups * experts); ++row) {
      std::uint64_t windows = 0, first = 0;
      for (std::size_t c = 0; c <= static_cast<std::size_t>(window); ++c) {
        windows += a.histogram_[row * static_cast<std::size_t>(window + 1) + c];
        first += a.histogram_[row / static_cast<std::size_t>(experts) * static_cast<std::size_t>(a.cells()) + c];
      }
      if (windows != first) in.fail("segment_routing has experts with unequal numbers of segments");
    }
    return a;
  }

  friend bool operator==(segment_routing const&, segment_routing const&) = default;

 private:
  index_t cells() const noexcept { return options_.experts * (options_.window + 1); }

  template <class Id>
  void add_document(matrix_view<Id> ids, std::uint64_t* histogram, detail::sorted_set& set,
                    std::vector<index_t>& active, std::vector<index_t>& since) {
    index_t const bins = options_.window + 1, segments = ids.rows() - options_.window + 1;
    if (segments <= 0) return;
    std::fill(active.begin(), active.end(), 0);
    std::fill(since.begin(), since.end(), 0);
    detail::set_tally ignored;
    // Segment s ends at token s + window - 1. A count holds from one change to the next; only then it is written down.
    auto const change = [&](index_t e, index_t segment, index_t by) {
      auto const at = static_cast<std::size_t>(e);
      if (segment > since[at]) {
        histogram[e * bins + active[at]] += static_cast<std::uint64_t>(segment - since[at]);
        since[at] = segment;
      }
      active[at] += by;
    };
    for (index_t t = 0; t < ids.rows(); ++t) {
      index_t const segment = std::max<index_t>(0, t - options_.window + 1);
      if (segment > 0) {
        auto const n = set.read(ids.row(segment - 1), ignored);
        for (std::size_t i = 0; i < n; ++i) change(set.chosen()[i], segment, -1);
      }
      auto const n = set.read(ids.row(t), ignored);
      for (std::size_t i = 0; i < n; ++i) change(set.chosen()[i], segment, 1);
    }
    for (index_t e = 0; e < options_.experts; ++e) change(e, segments, 0);
  }

  /// Largest F1 over thresholds, and the smallest threshold that has it, of segments by how often they are active.
  std::pair<double, index_t> best_f1(std::vector<double> const& segments) const noexcept {
    double total = 0, covered = 0, kept = 0;
    for (std::size_t c = 0; c < segments.size(); ++c) total += static_cast<double>(c) * segments[c];
    std::pair<double, index_t> best{quiet_nan, 0};
    if (!(total > 0)) return best;
    for (std::size_t c = segments.size(); c-- > 0;) {
      covered += static_cast<double>(c) * segments[c];
      kept += static_cast<double>(options_.window) * segments[c];
      double const f1 = 2 * covered / (kept + total);
      if (!(f1 < best.first)) best = {f1, static_cast<index_t>(c)};
    }
    return best;
  }
  /// Adds the law of the number of active tokens in a segment of independent tokens, each active with probability p.
  void add_binomial(double p, std::vector<double>& chances) const noexcept {
    double const n = static_cast<double>(options_.window);
    double log_ways = 0;
    for (std::size_t c = 0; c < chances.size(); ++c) {
      double const k = static_cast<double>(c);
      if (c > 0) log_ways += std::log((n - k + 1) / k);
      double const hits = c == 0 ? 0 : k * std::log(p), misses = k == n ? 0 : (n - k) * std::log1p(-p);  // 0 log 0 = 0
      chances[c] += std::exp(log_ways + hits + misses);
    }
  }

  segment_routing_options options_;
  std::vector<std::uint64_t> histogram_;  // [G,E,window+1]: segments in which the expert is active so often
  std::vector<std::uint64_t> tokens_;     // [G]
};

static_assert(accumulates<segment_routing, routing_batch<>, document_spans>);

}  // namespace moeroute

#endif
