// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_ROUTING_COACTIVATION_HPP
#define MOEROUTE_ROUTING_COACTIVATION_HPP

#include <moeroute/core/accumulator.hpp>
#include <moeroute/core/batch.hpp>
#include <moeroute/core/bytes.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/parallel.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/inference/bootstrap.hpp>
#include <moeroute/inference/multiplicity.hpp>
#include <moeroute/numeric/conditional_bernoulli.hpp>
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

/// Which two slots of a token are a pair.
enum class coactivation_pairs : std::uint32_t {
  all,            ///< any two: K(K-1)/2 per token
  adjacent_ranks  ///< slots r and r+1 only, K-1 per token: what OLMoE's script counts
};

struct coactivation_options {
  index_t experts = 0;
  coactivation_pairs pairs = coactivation_pairs::all;
  index_t groups = 1;  ///< 1..256 groups of documents, counted apart: committee_test needs them
  friend bool operator==(coactivation_options const&, coactivation_options const&) = default;
};

/// Matrices are [E,E]; NaN where a factor is 0.
struct coactivation_result {
  xt::xtensor<std::uint64_t, 2> counts;  ///< tokens that chose both; diagonal: that chose the expert
  xt::xtensor<double, 2> conditional;    ///< P(j | i) = counts(i,j) / counts(i,i)
  xt::xtensor<double, 2> lift;  ///< counts(i,j) tokens / (counts(i,i) counts(j,j)); below 1 by force, see forced_lift
  xt::xtensor<double, 2>
      phi;  ///< correlation of the two choices over tokens; negative by force, -1/(E-1) at equal loads
  xt::xtensor<double, 2> expected;  ///< counts if only loads and the number of slots decide
  xt::xtensor<double, 2> excess;    ///< counts / expected: 1 where nothing but the loads is at work
  double forced_lift = quiet_nan;   ///< lift of equally loaded experts: (K-1) E / (K (E-1)) without dropped slots
  std::uint64_t tokens = 0;
  std::uint64_t dropped = 0;   ///< slots with id -1
  std::uint64_t repeated = 0;  ///< slots with an expert that the token has already chosen: count once
};

namespace detail {

/// Counts of one group of documents, or of several.
struct pair_sums {
  std::vector<std::uint64_t> triangle, sizes;
};

}  // namespace detail

/// Which experts of a layer are chosen together, against what choosing K of E forces.
///
/// In     routing_batch; with its document_spans if groups > 1.
/// Out    coactivation_result. `expected` follows expected_joint_counts: sets of the sizes that occurred, with the
///        loads that occurred. With adjacent_ranks there are counts and conditional only; its rows then sum to about 2
///        (K-1)/K instead of K - 1.
/// Empty  counts 0, ratios NaN.   Merge  exact.
/// Cost   per token K(K+1)/2 increments, or a sweep of bitmaps where the machine counts bits in registers: E^2/1024 of
///        them; result() O(E^2 K). Memory 8 G (E(E+1)/2 + E + 1) bytes.
/// Bias   lift and phi compare with independent choices, which K slots without replacement never are. Topics that
///        differ between documents are coactivation too.
/// Throws argument_error or shape_error if experts or tokens do not fit, or spans are missing; nothing is counted then.
/// Source conditional: OLMoE, arXiv:2409.02060, section 5.2, N_ij / N_i. Differs: their script (run_moe_analysis.py)
///        counts adjacent ranks only, which is adjacent_ranks here; expected: conditional Bernoulli, ours for routers.
class coactivation {
 public:
  using options_type = coactivation_options;
  using result_type = coactivation_result;
  static constexpr merge_law law = merge_law::exact;

  explicit coactivation(coactivation_options options) : options_{options} {
    if (options.experts <= 0 || options.groups < 1 || options.groups > 256)
      detail::raise("moeroute::coactivation: experts = ", options.experts, ", groups = ", options.groups,
                    "; need experts > 0, 1 <= groups <= 256");
    if (options.experts >= index_t{1} << 24)
      detail::raise("moeroute::coactivation: experts = ", options.experts, ": E^2 counts exceed memory");
    triangle_ = options.experts * (options.experts + 1) / 2;
    counts_.resize(static_cast<std::size_t>(options.groups * triangle_));
    sizes_.resize(static_cast<std::size_t>(options.groups * (options.experts + 1)));
  }

  template <class L, class W, class Id>
  void check(routing_batch<L, W, Id> const& batch) const {
    if (options_.groups > 1)
      detail::raise("moeroute::coactivation::update: groups = ", options_.groups, " need document_spans");
    check_experts(batch.experts());
  }
  template <class L, class W, class Id>
  void update(routing_batch<L, W, Id> const& batch) {
    check(batch);
    add(batch.ids(), 0);
  }
  template <class L, class W, class Id>
  void check(routing_batch<L, W, Id> const& batch, document_spans const& spans) const {
    check_experts(batch.experts());
    if (batch.tokens() != spans.tokens())
      detail::raise<shape_error>("moeroute::coactivation::update: batch has ", batch.tokens(), " tokens, spans ",
                                 spans.tokens());
  }
  template <class L, class W, class Id>
  void update(routing_batch<L, W, Id> const& batch, document_spans const& spans) {
    check(batch, spans);
    if (options_.groups == 1) return add(batch.ids(), 0);
    for (index_t d = 0; d < spans.documents(); ++d)
      add(batch.ids().rows_from(spans.first(d), spans.size(d)), detail::document_group(spans.id(d), options_.groups));
  }

  void merge(coactivation const& other, std::uint64_t times = 1) {
    if (other.options_ != options_) detail::raise("moeroute::coactivation::merge: options differ");
    for (std::size_t i = 0; i < counts_.size(); ++i) counts_[i] += times * other.counts_[i];
    for (std::size_t i = 0; i < sizes_.size(); ++i) sizes_[i] += times * other.sizes_[i];
    dropped_ += times * other.dropped_;
    repeated_ += times * other.repeated_;
  }

  coactivation_options options() const noexcept { return options_; }
  std::uint64_t count() const noexcept {
    std::uint64_t n = 0;
    for (auto const t : sizes_) n += t;
    return n;
  }
  coactivation_result result() const;

  /// Sums over all groups but one; over all for -1.
  detail::pair_sums sums_without(index_t left_out) const {
    detail::pair_sums s{std::vector<std::uint64_t>(static_cast<std::size_t>(triangle_)),
                        std::vector<std::uint64_t>(static_cast<std::size_t>(options_.experts) + 1)};
    for (index_t g = 0; g < options_.groups; ++g) {
      if (g == left_out) continue;
      for (std::size_t i = 0; i < s.triangle.size(); ++i)
        s.triangle[i] += counts_[static_cast<std::size_t>(g) * s.triangle.size() + i];
      for (std::size_t i = 0; i < s.sizes.size(); ++i)
        s.sizes[i] += sizes_[static_cast<std::size_t>(g) * s.sizes.size() + i];
    }
    return s;
  }
  std::uint64_t group_tokens(index_t g) const noexcept {
    std::uint64_t n = 0;
    for (index_t s = 0; s <= options_.experts; ++s)
      n += sizes_[static_cast<std::size_t>(g * (options_.experts + 1) + s)];
    return n;
  }

  std::vector<std::byte> serialize() const {
    byte_writer out;
    out.put(std::uint32_t{0x434f4143});  // "COAC"
    out.put(static_cast<std::uint32_t>(options_.pairs));
    out.put(static_cast<std::int64_t>(options_.experts));
    out.put(static_cast<std::int64_t>(options_.groups));
    out.put(counts_);
    out.put(sizes_);
    out.put(dropped_);
    out.put(repeated_);
    return std::move(out).bytes();
  }
  static coactivation deserialize(std::span<std::byte const> bytes) {
    byte_reader in(bytes);
    if (in.get<std::uint32_t>() != 0x434f4143) in.fail("is not a coactivation");
    auto const pairs = in.get<std::uint32_t>();
    auto const experts = in.get<std::int64_t>(), groups = in.get<std::int64_t>();
    auto counts = in.get_vector<std::uint64_t>(), sizes = in.get_vector<std::uint64_t>();
    // The lengths are believed only after they fit what was read: they decide how much is allocated.
    if (pairs > 1 || experts <= 0 || experts >= index_t{1} << 24 || groups < 1 || groups > 256 ||
        counts.size() != static_cast<std::size_t>(groups * (experts * (experts + 1) / 2)) ||
        sizes.size() != static_cast<std::size_t>(groups * (experts + 1)))
      in.fail("coactivation has impossible options or counts that do not fit them");
    coactivation a(
        {static_cast<index_t>(experts), static_cast<coactivation_pairs>(pairs), static_cast<index_t>(groups)});
    a.counts_ = std::move(counts);
    a.sizes_ = std::move(sizes);
    a.dropped_ = in.get<std::uint64_t>();
    a.repeated_ = in.get<std::uint64_t>();
    in.finish();
    for (index_t g = 0; g < groups; ++g) {
      std::uint64_t chosen = 0, slots = 0;
      for (index_t e = 0; e < experts; ++e) {
        auto const n = a.counts_[static_cast<std::size_t>(g * a.triangle_ + detail::triangle_row(experts, e) + e)];
        if (n > a.group_tokens(g) - a.sizes_[static_cast<std::size_t>(g * (experts + 1))])
          in.fail("coactivation has an expert that more tokens chose than have experts");
        chosen += n;
        slots += static_cast<std::uint64_t>(e + 1) * a.sizes_[static_cast<std::size_t>(g * (experts + 1) + e + 1)];
      }
      if (chosen != slots) in.fail("coactivation has loads that do not fit the numbers of slots");
    }
    return a;
  }

  friend bool operator==(coactivation const&, coactivation const&) = default;

 private:
  void check_experts(index_t experts) const {
    if (experts != options_.experts)
      detail::raise("moeroute::coactivation::update: batch has ", experts, " experts, options have ", options_.experts);
  }

  template <class Id>
  void add(matrix_view<Id> ids, index_t group) {
    auto* const triangle = counts_.data() + group * triangle_;
    auto* const sizes = sizes_.data() + group * (options_.experts + 1);
    detail::set_tally tally;
    if (options_.pairs == coactivation_pairs::all)
      tally = detail::count_pairs(ids, options_.experts, triangle, sizes);
    else
      tally = count_adjacent(ids, triangle, sizes);
    dropped_ += tally.dropped;
    repeated_ += tally.repeated;
  }

  template <class Id>
  detail::set_tally count_adjacent(matrix_view<Id> ids, std::uint64_t* triangle, std::uint64_t* sizes) const {
    detail::set_tally tally;
    index_t const n = options_.experts;
    detail::sorted_set set(n, ids.cols());
    for (index_t t = 0; t < ids.rows(); ++t) {
      auto const row = ids.row(t);
      auto const size = set.read(row, tally);
      ++sizes[size];
      for (std::size_t a = 0; a < size; ++a) ++triangle[detail::triangle_row(n, set.chosen()[a]) + set.chosen()[a]];
      for (index_t k = 0; k + 1 < row.size(); ++k) {
        auto const a = static_cast<index_t>(row[k]), b = static_cast<index_t>(row[k + 1]);
        if (a >= 0 && b >= 0 && a != b) ++triangle[detail::triangle_row(n, std::min(a, b)) + std::max(a, b)];
      }
    }
    return tally;
  }

  coactivation_options options_;
  index_t triangle_ = 0;
  std::vector<std::uint64_t> counts_;  // [G,E(E+1)/2]
  std::vector<std::uint64_t> sizes_;   // [G,E+1]: tokens with so many distinct experts
  std::uint64_t dropped_ = 0, repeated_ = 0;
};

static_assert(accumulates<coactivation, routing_batch<>> && accumulates<coactivation, routing_batch<>, document_spans>);

namespace detail {

inline xt::xtensor<double, 2> expected_pairs(pair_sums const& sums, index_t experts) {
  std::vector<std::uint64_t> loads;
  for (index_t e = 0; e < experts; ++e)
    loads.push_back(sums.triangle[static_cast<std::size_t>(triangle_row(experts, e) + e)]);
  return expected_joint_counts(loads, sums.sizes);
}

}  // namespace detail

inline coactivation_result coactivation::result() const {
  auto const sums = sums_without(-1);
  auto const n = static_cast<std::size_t>(options_.experts);
  std::array<std::size_t, 2> const shape{n, n};
  auto const at = [&](std::size_t i, std::size_t j) {
    return sums.triangle[static_cast<std::size_t>(detail::triangle_row(options_.experts, static_cast<index_t>(i))) + j];
  };
  coactivation_result r;
  r.tokens = count();
  r.dropped = dropped_;
  r.repeated = repeated_;
  r.counts = xt::xtensor<std::uint64_t, 2>(shape);
  for (auto* m : {&r.conditional, &r.lift, &r.phi, &r.expected, &r.excess})
    *m = xt::xtensor<double, 2>(shape, quiet_nan);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = i; j < n; ++j) r.counts(i, j) = r.counts(j, i) = at(i, j);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j)
      r.conditional(i, j) = static_cast<double>(r.counts(i, j)) / static_cast<double>(r.counts(i, i));
  if (options_.pairs == coactivation_pairs::adjacent_ranks) return r;

  r.expected = detail::expected_pairs(sums, options_.experts);
  double const tokens = static_cast<double>(r.tokens), experts = static_cast<double>(options_.experts);
  double slots = 0, ordered_pairs = 0;
  for (std::size_t s = 1; s <= n; ++s) {
    double const rows = static_cast<double>(sums.sizes[s]), size = static_cast<double>(s);
    slots += rows * size;
    ordered_pairs += rows * size * (size - 1);
  }
  r.forced_lift = tokens * experts * ordered_pairs / ((experts - 1) * slots * slots);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) {
      double const both = static_cast<double>(r.counts(i, j)), a = static_cast<double>(r.counts(i, i)),
                   b = static_cast<double>(r.counts(j, j));
      r.lift(i, j) = both * tokens / (a * b);
      r.phi(i, j) = (both * tokens - a * b) / (std::sqrt(a * (tokens - a)) * std::sqrt(b * (tokens - b)));
      r.excess(i, j) = both / r.expected(i, j);
    }
  return r;
}

/// Matrices are [E,E], symmetric, NaN on the diagonal.
struct committee_test_result {
  index_t groups = 0;                     ///< with tokens
  xt::xtensor<double, 2> difference;      ///< (counts - expected) / tokens
  xt::xtensor<double, 2> standard_error;  ///< by leaving out one group of documents at a time
  xt::xtensor<double, 2> p_value;         ///< two-sided, Student's law with groups - 1 degrees of freedom
  xt::xtensor<double, 2> q_value;         ///< Benjamini-Yekutieli over all pairs
};

/// Which pairs are chosen together more, or less, often than the loads force? Documents are the sample, not tokens.
///
/// In     a coactivation with several groups of documents and all pairs; 32 groups or more.
/// Out    committee_test_result. `expected` is fitted anew without each group, so that the error of the loads is in it.
/// Empty  NaN below two groups with tokens, and for a pair with an expert that a single group chose.
/// Cost   G times O(E^2 K), any number of threads (0: all) gives the same bits.
/// Bias   p-values of pairs that are expected in few documents are rough; tests/routing/coactivation_test.cpp says how
///        rough.
/// Throws argument_error for adjacent_ranks, whose expectation depends on how ranks are dealt out.
/// Source delete-a-group jackknife: Efron, Stein 1981, doi:10.1214/aos/1176345462. Differs: on the difference to a
///        fitted expectation.
inline committee_test_result committee_test(coactivation const& a, int threads = 1) {
  if (a.options().pairs != coactivation_pairs::all)
    detail::raise("moeroute::committee_test: needs coactivation_pairs::all");
  auto const n = static_cast<std::size_t>(a.options().experts);
  committee_test_result r;
  for (auto* m : {&r.difference, &r.standard_error, &r.p_value, &r.q_value})
    *m = xt::xtensor<double, 2>(std::array<std::size_t, 2>{n, n}, quiet_nan);
  std::vector<index_t> occupied;
  for (index_t g = 0; g < a.options().groups; ++g)
    if (a.group_tokens(g) > 0) occupied.push_back(g);
  r.groups = static_cast<index_t>(occupied.size());

  std::size_t const pairs = n * (n - 1) / 2;
  auto const differences = [&](index_t left_out, double* to) {
    auto const sums = a.sums_without(left_out);
    auto const expected = detail::expected_pairs(sums, a.options().experts);
    std::uint64_t tokens = 0;
    for (auto const s : sums.sizes) tokens += s;
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = i + 1; j < n; ++j) {
        auto const both =
            sums.triangle[static_cast<std::size_t>(detail::triangle_row(a.options().experts, static_cast<index_t>(i))) +
                          j];
        // An expert that nothing chooses any more says nothing about its pairs.
        *to++ = expected(i, i) > 0 && expected(j, j) > 0
                    ? (static_cast<double>(both) - expected(i, j)) / static_cast<double>(tokens)
                    : quiet_nan;
      }
  };
  std::vector<double> value(pairs), left_out(pairs * occupied.size());
  differences(-1, value.data());
  parallel_for(r.groups, threads, [&](index_t g) {
    differences(occupied[static_cast<std::size_t>(g)], left_out.data() + static_cast<std::size_t>(g) * pairs);
  });

  std::vector<double> p(pairs, quiet_nan), one_pair(occupied.size());
  std::size_t at = 0;
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = i + 1; j < n; ++j, ++at) {
      r.difference(i, j) = r.difference(j, i) = value[at];
      for (std::size_t g = 0; g < occupied.size(); ++g) one_pair[g] = left_out[g * pairs + at];
      double const error = jackknife(value[at], one_pair).standard_error;
      if (!(error > 0)) continue;
      r.standard_error(i, j) = r.standard_error(j, i) = error;
      p[at] = detail::student_two_sided(value[at] / error, static_cast<double>(r.groups - 1));
      r.p_value(i, j) = r.p_value(j, i) = p[at];
    }
  auto const q = benjamini_yekutieli(p);
  at = 0;
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = i + 1; j < n; ++j, ++at) r.q_value(i, j) = r.q_value(j, i) = q[at];
  return r;
}

}  // namespace moeroute

#endif
