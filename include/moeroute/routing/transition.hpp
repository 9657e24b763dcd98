// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_ROUTING_TRANSITION_HPP
#define MOEROUTE_ROUTING_TRANSITION_HPP

#include <moeroute/core/accumulator.hpp>
#include <moeroute/core/batch.hpp>
#include <moeroute/core/bytes.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/estimate.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/numeric/contingency.hpp>
#include <moeroute/routing/detail/group_jackknife.hpp>
#include <moeroute/routing/detail/pair_counts.hpp>

#if __has_include(<xtensor/containers/xtensor.hpp>)
#include <xtensor/containers/xtensor.hpp>
#else
#include <xtensor/xtensor.hpp>
#endif

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace moeroute {

/// Which slots of a token, one in each layer, are a pair.
enum class transition_pairs : std::uint32_t {
  all,           ///< every slot with every slot: K K' per token
  first_choice,  ///< slot 0 with slot 0: one per token, slots ordered by score
  equal_ranks    ///< slot r with slot r: what OLMoE's script counts
};

struct transition_options {
  index_t from = 0, to = 0;  ///< experts of the two layers
  transition_pairs pairs = transition_pairs::all;
  index_t groups = 1;  ///< 1..256 groups of documents, counted apart: transition_information needs them
  friend bool operator==(transition_options const&, transition_options const&) = default;
};

struct transition_result {
  xt::xtensor<std::uint64_t, 2> counts;  ///< [E,F]
  xt::xtensor<double, 2>
      conditional;              ///< [E,F] P(f | e) = counts / tokens with e; rows sum to K' (to 1 for the other pairs)
  xt::xtensor<double, 2> lift;  ///< [E,F] counts / (tokens with e * tokens with f / tokens); NaN for equal_ranks
  std::uint64_t tokens = 0;     ///< that can give a pair: with first_choice, those with both first choices
  std::uint64_t dropped = 0;    ///< slots with id -1, both layers
  double mutual_information_nats = quiet_nan;            ///< of the two experts of a pair drawn at random, plug-in
  double mutual_information_corrected_nats = quiet_nan;  ///< less its value under chance; may be negative
  double chi_square = quiet_nan;
  double degrees_of_freedom =
      quiet_nan;  ///< expectation of chi_square when layers are independent: (E-K)(F-K') at full occupancy
  double cramers_v = quiet_nan;  ///< below 1 by force if K > 1
  double cramers_v_corrected = quiet_nan;
};

namespace detail {

struct transition_sums {
  std::vector<std::uint64_t> counts, from, to;
  std::uint64_t tokens = 0;
};

}  // namespace detail

/// From which experts of one layer do tokens go to which of another? Any two layers: neighbours, or Δ apart.
///
/// In     routing_batch of the two layers, the same tokens; with their document_spans if groups > 1.
/// Out    transition_result; MI and V are NaN for equal_ranks, whose pairs depend on how loads differ between ranks.
/// Empty  counts 0, ratios NaN.   Merge  exact.
/// Cost   O(K K') per token, or a sweep of bitmaps where the machine counts bits in registers; 8 G (E F + E + F + 1)
///        bytes.
/// Bias   under independent layers chi-square has expectation T/(T-1) times the sum of 1 - (share of tokens with e)
///        over the experts of one layer times the same of the other: exact for tokens permuted at random, (E-1)(F-1)
///        for first choices. Dependent tokens raise it by their design effect: see transition_information. Expect 5
///        pairs per cell at least.
/// Throws argument_error or shape_error if experts or tokens do not fit, or spans are missing; nothing is counted then.
/// Source Bergsma 2013, doi:10.1016/j.jkss.2012.10.002 (corrected V), with the expectation above instead of (E-1)(F-1),
///        equal to it for first choices. equal_ranks: OLMoE, arXiv:2409.02060, run_routing_analysis.py, as given. P(f |
///        e): ExFlow, arXiv:2401.08383.
class transition {
 public:
  using options_type = transition_options;
  using result_type = transition_result;
  static constexpr merge_law law = merge_law::exact;

  explicit transition(transition_options options) : options_{options} {
    if (options.from <= 0 || options.to <= 0 || options.groups < 1 || options.groups > 256)
      detail::raise("moeroute::transition: from = ", options.from, ", to = ", options.to,
                    " experts, groups = ", options.groups, "; need experts > 0, 1 <= groups <= 256");
    if (options.from >= index_t{1} << 24 || options.to >= index_t{1} << 24)
      detail::raise("moeroute::transition: from = ", options.from, ", to = ", options.to,
                    " experts: their pairs exceed memory");
    width_ = options.from * options.to + options.from + options.to + 1;
    state_.resize(static_cast<std::size_t>(options.groups * width_));
  }

  template <class L, class W, class Id, class L2, class W2, class Id2>
  void check(routing_batch<L, W, Id> const& from, routing_batch<L2, W2, Id2> const& to) const {
    if (options_.groups > 1)
      detail::raise("moeroute::transition::update: groups = ", options_.groups, " need document_spans");
    check_batches(from.experts(), to.experts(), from.tokens(), to.tokens());
  }
  template <class L, class W, class Id, class L2, class W2, class Id2>
  void update(routing_batch<L, W, Id> const& from, routing_batch<L2, W2, Id2> const& to) {
    check(from, to);
    add(from.ids(), to.ids(), 0);
  }
  template <class L, class W, class Id, class L2, class W2, class Id2>
  void check(routing_batch<L, W, Id> const& from, routing_batch<L2, W2, Id2> const& to,
             document_spans const& spans) const {
    check_batches(from.experts(), to.experts(), from.tokens(), to.tokens());
    if (from.tokens() != spans.tokens())
      detail::raise<shape_error>("moeroute::transition::update: batches have ", from.tokens(), " tokens, spans ",
                                 spans.tokens());
  }
  template <class L, class W, class Id, class L2, class W2, class Id2>
  void update(routing_batch<L, W, Id> const& from, routing_batch<L2, W2, Id2> const& to, document_spans const& spans) {
    check(from, to, spans);
    if (options_.groups == 1) return add(from.ids(), to.ids(), 0);
    for (index_t d = 0; d < spans.documents(); ++d)
      add(from.ids().rows_from(spans.first(d), spans.size(d)), to.ids().rows_from(spans.first(d), spans.size(d)),
          detail::document_group(spans.id(d), options_.groups));
  }

  void merge(transition const& other, std::uint64_t times = 1) {
    if (other.options_ != options_) detail::raise("moeroute::transition::merge: options differ");
    for (std::size_t i = 0; i < state_.size(); ++i) state_[i] += times * other.state_[i];
    dropped_ += times * other.dropped_;
  }

  transition_options options() const noexcept { return options_; }
  std::uint64_t count() const noexcept {
    std::uint64_t n = 0;
    for (index_t g = 0; g < options_.groups; ++g) n += group_tokens(g);
    return n;
  }
  std::uint64_t group_tokens(index_t g) const noexcept {
    return state_[static_cast<std::size_t>((g + 1) * width_ - 1)];
  }

  /// Sums over all groups but one; over all for -1.
  detail::transition_sums sums_without(index_t left_out) const {
    auto const e = static_cast<std::size_t>(options_.from), f = static_cast<std::size_t>(options_.to);
    std::vector<std::uint64_t> sum(static_cast<std::size_t>(width_));
    for (index_t g = 0; g < options_.groups; ++g) {
      if (g == left_out) continue;
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += state_[static_cast<std::size_t>(g) * sum.size() + i];
    }
    auto const piece = [&](std::size_t first, std::size_t n) {
      return std::vector<std::uint64_t>(sum.data() + first, sum.data() + first + n);
    };
    detail::transition_sums s{piece(0, e * f), piece(e * f, e), piece(e * f + e, f), sum.back()};
    if (options_.pairs == transition_pairs::first_choice) {  // tokens without one in either layer give no pair
      s.tokens = 0;
      for (auto const n : s.from) s.tokens += n;
    }
    return s;
  }
  transition_result result() const { return summarise(sums_without(-1), true); }
  /// result() of given sums; without the matrices if not asked for.
  transition_result summarise(detail::transition_sums const& s, bool matrices) const;

  std::vector<std::byte> serialize() const {
    byte_writer out;
    out.put(std::uint32_t{0x54524e53});  // "TRNS"
    out.put(static_cast<std::uint32_t>(options_.pairs));
    for (auto const n : {options_.from, options_.to, options_.groups}) out.put(static_cast<std::int64_t>(n));
    out.put(state_);
    out.put(dropped_);
    return std::move(out).bytes();
  }
  static transition deserialize(std::span<std::byte const> bytes) {
    byte_reader in(bytes);
    if (in.get<std::uint32_t>() != 0x54524e53) in.fail("is not a transition");
    auto const pairs = in.get<std::uint32_t>();
    auto const from = in.get<std::int64_t>(), to = in.get<std::int64_t>(), groups = in.get<std::int64_t>();
    auto state = in.get_vector<std::uint64_t>();
    if (pairs > 2 || from <= 0 || to <= 0 || from >= index_t{1} << 24 || to >= index_t{1} << 24 || groups < 1 ||
        groups > 256 || state.size() != static_cast<std::size_t>(groups * (from * to + from + to + 1)))
      in.fail("transition has impossible options or counts that do not fit them");
    transition a({static_cast<index_t>(from), static_cast<index_t>(to), static_cast<transition_pairs>(pairs),
                  static_cast<index_t>(groups)});
    a.state_ = std::move(state);
    a.dropped_ = in.get<std::uint64_t>();
    in.finish();
    for (index_t g = 0; g < groups; ++g)
      for (index_t i = 0; i < from + to; ++i)
        if (a.options_.pairs != transition_pairs::equal_ranks &&
            a.state_[static_cast<std::size_t>(g * a.width_ + from * to + i)] > a.group_tokens(g))
          in.fail("transition has an expert that more tokens chose than there are");
    return a;
  }

  friend bool operator==(transition const&, transition const&) = default;

 private:
  void check_batches(index_t from, index_t to, index_t tokens, index_t other_tokens) const {
    if (from != options_.from || to != options_.to)
      detail::raise("moeroute::transition::update: batches have ", from, " and ", to, " experts, options have ",
                    options_.from, " and ", options_.to);
    if (tokens != other_tokens)
      detail::raise<shape_error>("moeroute::transition::update: the layers have ", tokens, " and ", other_tokens,
                                 " tokens");
  }

  template <class Id, class Id2>
  void add(matrix_view<Id> a, matrix_view<Id2> b, index_t group) {
    auto* const counts = state_.data() + group * width_;
    auto *const of_a = counts + options_.from * options_.to, *const of_b = of_a + options_.from;
    of_b[options_.to] += static_cast<std::uint64_t>(a.rows());
    if (options_.pairs == transition_pairs::all) {
      dropped_ += detail::count_cross_pairs(a, options_.from, b, options_.to, counts, of_a, of_b).dropped;
      return;
    }
    index_t const common = std::min(a.cols(), b.cols()),
                  ranks = options_.pairs == transition_pairs::first_choice ? std::min<index_t>(1, common) : common;
    for (index_t t = 0; t < a.rows(); ++t) {
      for (index_t r = 0; r < ranks; ++r) {
        auto const e = static_cast<index_t>(a(t, r)), f = static_cast<index_t>(b(t, r));
        if (e < 0 || f < 0) continue;
        ++counts[e * options_.to + f];
        ++of_a[e];
        ++of_b[f];
      }
      for (index_t k = 0; k < a.cols(); ++k) dropped_ += a(t, k) < 0 ? 1u : 0u;
      for (index_t k = 0; k < b.cols(); ++k) dropped_ += b(t, k) < 0 ? 1u : 0u;
    }
  }

  transition_options options_;
  index_t width_ = 0;
  std::vector<std::uint64_t> state_;  // [G,E F + E + F + 1]: pairs, tokens with e, tokens with f, tokens
  std::uint64_t dropped_ = 0;
};

static_assert(accumulates<transition, routing_batch<>, routing_batch<>> &&
              accumulates<transition, routing_batch<>, routing_batch<>, document_spans>);

inline transition_result transition::summarise(detail::transition_sums const& s, bool matrices) const {
  auto const n = static_cast<std::size_t>(options_.from), m = static_cast<std::size_t>(options_.to);
  std::array<std::size_t, 2> const shape{n, m};
  transition_result r;
  r.tokens = s.tokens;
  r.dropped = dropped_;
  bool const of_sets = options_.pairs != transition_pairs::equal_ranks;
  double const tokens = static_cast<double>(s.tokens);
  auto const expected = [&](std::size_t e, std::size_t f) {
    return static_cast<double>(s.from[e]) * static_cast<double>(s.to[f]) / tokens;
  };
  if (matrices) {
    r.counts = xt::xtensor<std::uint64_t, 2>(shape);
    r.conditional = xt::xtensor<double, 2>(shape);
    r.lift = xt::xtensor<double, 2>(shape, quiet_nan);
    for (std::size_t e = 0; e < n; ++e)
      for (std::size_t f = 0; f < m; ++f) {
        r.counts(e, f) = s.counts[e * m + f];
        r.conditional(e, f) = static_cast<double>(s.counts[e * m + f]) / static_cast<double>(s.from[e]);
        if (of_sets) r.lift(e, f) = static_cast<double>(s.counts[e * m + f]) / expected(e, f);
      }
  }
  double pairs = 0;
  for (auto const c : s.counts) pairs += static_cast<double>(c);
  if (!of_sets || pairs == 0) return r;

  r.chi_square = 0;
  for (std::size_t e = 0; e < n; ++e)
    for (std::size_t f = 0; f < m; ++f)
      if (double const x = expected(e, f); x > 0) {
        double const d = static_cast<double>(s.counts[e * m + f]) - x;
        r.chi_square += d * d / x;
      }
  double occupied[2] = {0, 0}, free[2] = {0, 0};
  for (std::size_t side = 0; side < 2; ++side)
    for (auto const load : side == 0 ? s.from : s.to)
      if (load > 0) {
        occupied[side] += 1;
        free[side] += 1 - static_cast<double>(load) / tokens;
      }
  r.degrees_of_freedom = tokens > 1 ? free[0] * free[1] * (tokens / (tokens - 1)) : quiet_nan;
  r.mutual_information_nats =
      mutual_information_nats(matrix_view<std::uint64_t>(s.counts.data(), options_.from, options_.to));
  // To second order the information is chi-square over twice the pairs, so its value under chance follows.
  r.mutual_information_corrected_nats = r.mutual_information_nats - r.degrees_of_freedom / (2 * pairs);
  double const least = std::min(occupied[0], occupied[1]);
  if (least < 2) return r;
  r.cramers_v = std::sqrt(r.chi_square / pairs / (least - 1));
  double const reduced = least - (least - 1) * (least - 1) / (tokens - 1);
  // With as few tokens as experts the corrected number of experts is 1 and V is undefined.
  if (reduced > 1)
    r.cramers_v_corrected = std::sqrt(std::max(0.0, r.chi_square - r.degrees_of_freedom) / pairs / (reduced - 1));
  return r;
}

struct transition_information_result {
  estimate mutual_information_nats;  ///< plug-in less the bias that leaving out groups shows, with Student's interval
  index_t groups = 0;                ///< with tokens
};

/// Mutual information of two layers with documents as the sample: how much does the choice in one say about the other?
///
/// In     a transition with several groups of documents, 32 or more; level of the interval.
/// Out    estimate; its bias correction holds whatever the dependence of tokens within a document. Bounds may be
///        negative: then the layers are not told apart from independent ones.
/// Empty  NaN for equal_ranks, and below two groups.   Cost  O(G E F).
/// Bias   under independence the interval is wider than it need be: the jackknife doubles the variance of a quadratic
///        statistic there. Topics that differ between documents are information: experts of both layers follow the
///        topic.
/// Throws argument_error if level is outside (0, 1).
/// Source jackknife: Efron, Stein 1981, doi:10.1214/aos/1176345462. Differs: groups of documents are left out, not
///        tokens.
inline transition_information_result transition_information(transition const& a, double level = 0.95) {
  detail::check_level(level, "moeroute::transition_information");
  std::vector<double> left_out;
  for (index_t g = 0; g < a.options().groups; ++g)
    if (a.group_tokens(g) > 0) left_out.push_back(a.summarise(a.sums_without(g), false).mutual_information_nats);
  transition_information_result r;
  r.groups = static_cast<index_t>(left_out.size());
  r.mutual_information_nats = detail::group_interval(a.result().mutual_information_nats, left_out, level, true);
  return r;
}

}  // namespace moeroute

#endif
