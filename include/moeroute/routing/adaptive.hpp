// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_ROUTING_ADAPTIVE_HPP
#define MOEROUTE_ROUTING_ADAPTIVE_HPP

#include <moeroute/core/accumulator.hpp>
#include <moeroute/core/adapt.hpp>
#include <moeroute/core/batch.hpp>
#include <moeroute/core/bytes.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/inference/higher_criticism.hpp>
#include <moeroute/numeric/exact_sum.hpp>
#include <moeroute/numeric/softmax.hpp>
#include <moeroute/numeric/top_k.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

namespace moeroute {

/// How many experts a rule takes of a token; which ones is always the same: those of smallest p-value, or of largest
/// logit.
enum class adaptive_rule {
  benjamini_hochberg,   ///< p-values: largest k with p_(k) <= (k/E) parameter; a repository clips it to 1..16
  benjamini_yekutieli,  ///< p-values: the same at parameter / (1 + 1/2 + ... + 1/E), which holds under any dependence
  higher_criticism,     ///< p-values: Donoho and Jin's HC+, parameter = alpha0; none unless it exceeds critical_value
  repository_higher_criticism,       ///< p-values: see inference/higher_criticism.hpp, parameter = beta
  repository_higher_criticism_plus,  ///< p-values: its beta = 'auto'
  top_mass,                          ///< logits: fewest experts whose softmax probabilities reach parameter
  largest_gap                        ///< logits: cut at the widest gap between neighbours in order, within min_k..max_k
};

struct adaptive_options {
  adaptive_rule rule = adaptive_rule::benjamini_yekutieli;
  index_t experts = 0;
  double parameter = 0.05;
  index_t min_k = 0;  ///< fewer are raised to it. An error rate that the rule controls holds only at 0.
  index_t max_k = 0;  ///< more are cut to it; 0: no bound
  /// Of higher_criticism: higher_criticism_null has it for a level.
  double critical_value = -std::numeric_limits<double>::infinity();
  friend bool operator==(adaptive_options const&, adaptive_options const&) = default;
};

/// NaN where undefined.
struct adaptive_result {
  std::vector<std::uint64_t> tokens_by_count;  ///< [E+1] tokens for which the rule takes 0 .. E experts, bounds applied
  std::uint64_t tokens = 0, nonfinite_rows = 0;  ///< judged; left out for a score that is NaN (or an infinite logit)
  std::uint64_t raised = 0, cut = 0;             ///< tokens that min_k or max_k decided
  double mean_count = quiet_nan, sd_count = quiet_nan;  ///< of the distribution, dividing by tokens
  double recall = quiet_nan;                            ///< of the model's own experts, the share that the rule takes
  double precision = quiet_nan;  ///< of the experts that the rule takes, the share that are the model's own
  double jaccard = quiet_nan;    ///< mean over tokens of |both| / |either|
  double identical = quiet_nan;  ///< share of tokens with the model's own set
};

namespace detail {

inline bool takes_p_values(adaptive_rule rule) noexcept {
  return rule != adaptive_rule::top_mass && rule != adaptive_rule::largest_gap;
}

inline index_t bound_of(adaptive_options const& o) noexcept { return o.max_k == 0 ? o.experts : o.max_k; }

inline bool valid(adaptive_options const& o) noexcept {
  bool const repository =
      o.rule == adaptive_rule::repository_higher_criticism || o.rule == adaptive_rule::repository_higher_criticism_plus;
  return o.experts > 0 && o.min_k >= (repository ? 1 : 0) && o.max_k >= 0 && bound_of(o) <= o.experts &&
         o.min_k <= bound_of(o) && o.parameter > 0 && o.parameter <= 1 && !std::isnan(o.critical_value);
}

inline void check_adaptive(adaptive_options const& o) {
  if (!valid(o))
    raise("moeroute::adaptive: experts = ", o.experts, ", parameter = ", o.parameter, ", min_k = ", o.min_k,
          ", max_k = ", o.max_k, ", critical_value = ", o.critical_value,
          "; need experts > 0, 0 < parameter <= 1, 0 <= min_k <= max_k <= experts (1 <= min_k for a "
          "repository's rule)");
}

inline index_t step_up_count(std::vector<double> const& p, double alpha) noexcept {
  double const n = static_cast<double>(p.size());
  for (auto k = p.size(); k > 0; --k)
    if (p[k - 1] <= static_cast<double>(k) / n * alpha) return static_cast<index_t>(k);
  return 0;
}

// What the rule itself takes; s holds p-values ascending, probabilities descending (top_mass) or logits descending
// (largest_gap).
inline index_t unbounded_count(std::vector<double> const& s, adaptive_options const& o) {
  auto const n = static_cast<index_t>(s.size());
  switch (o.rule) {
    case adaptive_rule::benjamini_hochberg:
      return step_up_count(s, o.parameter);
    case adaptive_rule::benjamini_yekutieli: {
      double harmonic = 0;
      for (index_t i = n; i > 0; --i) harmonic += 1 / static_cast<double>(i);
      return step_up_count(s, o.parameter / harmonic);
    }
    case adaptive_rule::higher_criticism: {
      auto const hc = higher_criticism_of_sorted(s, {.alpha0 = o.parameter});
      return hc.statistic > o.critical_value ? hc.rank : 0;
    }
    case adaptive_rule::repository_higher_criticism:
    case adaptive_rule::repository_higher_criticism_plus: {
      bool const plus = o.rule == adaptive_rule::repository_higher_criticism_plus;
      return repository_higher_criticism(s, {.beta = o.parameter, .plus = plus, .min_k = o.min_k, .max_k = n}).rank;
    }
    case adaptive_rule::top_mass: {
      double mass = 0;
      for (index_t k = 0; k < n; ++k)
        if ((mass += s[static_cast<std::size_t>(k)]) >= o.parameter) return k + 1;
      return n;  // rounding can leave the whole row below 1
    }
    case adaptive_rule::largest_gap: {
      index_t best = std::max<index_t>(1, o.min_k);
      for (index_t k = best; k < n && k <= bound_of(o); ++k) {
        auto const gap = [&](index_t at) {
          return s[static_cast<std::size_t>(at - 1)] - s[static_cast<std::size_t>(at)];
        };
        if (gap(k) > gap(best)) best = k;
      }
      return best;
    }
  }
  return 0;
}

// Orders one row for a rule: the experts, best first, and their scores.
class adaptive_row {
 public:
  explicit adaptive_row(index_t experts)
      : experts_{experts}, order_(static_cast<std::size_t>(experts)), scores_(order_.size()), sorted_(order_.size()) {}

  std::vector<index_t> const& order() const noexcept { return order_; }
  std::vector<double> const& sorted() const noexcept { return sorted_; }

  // False for a row that cannot be ordered.
  template <real_scalar T>
  bool read(vector_view<T> row, adaptive_rule rule) {
    bool const p_values = takes_p_values(rule);
    for (index_t e = 0; e < experts_; ++e) {
      double const v = static_cast<double>(to_compute(row[e]));
      if (std::isnan(v) || std::isinf(v)) return false;
      scores_[static_cast<std::size_t>(e)] = p_values ? -v : v;
    }
    top_k_row(scores_.data(), experts_, experts_, order_.data(), sorted_.data());
    if (p_values)
      for (double& v : sorted_) v = -v;
    if (rule == adaptive_rule::top_mass) softmax_row(sorted_.data(), experts_, sorted_.data());
    return true;
  }

 private:
  index_t experts_;
  std::vector<index_t> order_;
  std::vector<double> scores_, sorted_;
};

}  // namespace detail

/// Number of experts that a rule takes of one token.
///
/// In     row [E] of p-values or of logits, as the rule says.   Out  0..E, within min_k..max_k.   Cost  O(E log E).
/// Throws argument_error for impossible options, a p-value outside [0, 1] or a score that is not finite, shape_error if
///        the row is not [E].
/// Source as adaptive.
template <real_vector Row>
index_t adaptive_count(Row const& row, adaptive_options const& options) {
  detail::check_adaptive(options);
  auto const view = detail::vector_of(row);
  if (view.size() != options.experts)
    detail::raise<shape_error>("moeroute::adaptive_count: ", view.size(), " scores, options have ", options.experts,
                               " experts");
  detail::adaptive_row ordered(options.experts);
  if (!ordered.read(view, options.rule)) detail::raise("moeroute::adaptive_count: a score is not finite");
  if (detail::takes_p_values(options.rule) && (ordered.sorted().front() < 0 || ordered.sorted().back() > 1))
    detail::raise("moeroute::adaptive_count: a p-value lies outside [0, 1]");
  return std::clamp(detail::unbounded_count(ordered.sorted(), options), options.min_k, detail::bound_of(options));
}

/// What an adaptive rule would select per token, and how it agrees with the model's own top-k.
///
/// In     routing_batch with the model's own ids, and for rules on p-values [T,E] the p-values (inference/p_value.hpp),
///        else its logits. Ties go to the lowest index; a repeated id counts once, a dropped slot is nobody's.
/// Out    adaptive_result.   Empty  NaN.   Merge  exact.   Cost  O(T E log E) time, O(E) memory.
/// Bias   BH and BY control an error rate only if the p-values are valid for a stated null and min_k is 0: raised to 1,
///        every token without signal has a false selection. HC marks where signal may begin and controls nothing; with
///        a critical_value it first tests whether there is any. A mean over tokens of dependent documents: take
///        intervals from one accumulator per group of documents.
/// Throws argument_error or shape_error if experts or shapes do not fit or a p-value lies outside [0, 1]; nothing is
///        counted then.
/// Source Benjamini, Hochberg 1995, doi:10.1111/j.2517-6161.1995.tb02031.x; Benjamini, Yekutieli 2001,
///        doi:10.1214/aos/1013699998; HC as higher_criticism.hpp. The repository AliABULIEL/MOE-with-feature-selection
///        (deprecated/bh_routing.py) is benjamini_hochberg with parameter 0.05, min_k 1, max_k 16, as given. top_mass:
///        top-p of Huang et al. 2024, arXiv:2403.07652. largest_gap: ours.
class adaptive {
 public:
  using options_type = adaptive_options;
  using result_type = adaptive_result;
  static constexpr merge_law law = merge_law::exact;

  explicit adaptive(adaptive_options options) : options_{options} {
    detail::check_adaptive(options);
    by_count_.resize(static_cast<std::size_t>(options.experts) + 1);
  }

  template <class L, class W, class Id>
  void check(routing_batch<L, W, Id> const& batch) const {
    if (detail::takes_p_values(options_.rule)) detail::raise("moeroute::adaptive::update: this rule needs p-values");
    if (!batch.has_logits()) detail::raise("moeroute::adaptive::update: batch has no logits");
    check_experts(batch);
  }
  template <class L, class W, class Id>
  void update(routing_batch<L, W, Id> const& batch) {
    check(batch);
    add(batch, batch.logits());
  }
  template <class L, class W, class Id, real_scalar P>
  void check(routing_batch<L, W, Id> const& batch, matrix_view<P> p_values) const {
    if (!detail::takes_p_values(options_.rule))
      detail::raise("moeroute::adaptive::update: this rule needs logits, not p-values");
    check_experts(batch);
    if (p_values.rows() != batch.tokens() || p_values.cols() != options_.experts)
      detail::raise<shape_error>("moeroute::adaptive::update: p-values are ", p_values.rows(), " x ", p_values.cols(),
                                 ", expected ", batch.tokens(), " x ", options_.experts);
    for (index_t t = 0; t < p_values.rows(); ++t)
      for (index_t e = 0; e < p_values.cols(); ++e)
        if (double const p = static_cast<double>(to_compute(p_values(t, e))); p < 0 || p > 1)
          detail::raise("moeroute::adaptive::update: p-value ", p, " at token ", t, ", expert ", e,
                        " must lie between 0 and 1");
  }
  template <class L, class W, class Id, real_scalar P>
  void update(routing_batch<L, W, Id> const& batch, matrix_view<P> p_values) {
    check(batch, p_values);
    add(batch, p_values);
  }

  void merge(adaptive const& other, std::uint64_t times = 1) {
    if (other.options_ != options_) detail::raise("moeroute::adaptive::merge: options differ");
    jaccard_.merge(other.jaccard_, times);
    for (std::size_t k = 0; k < by_count_.size(); ++k) by_count_[k] += times * other.by_count_[k];
    for (auto const n : numbers) this->*n += times * (other.*n);
  }

  adaptive_options options() const noexcept { return options_; }
  std::uint64_t count() const noexcept { return judged() + nonfinite_; }
  adaptive_result result() const {
    adaptive_result r;
    r.tokens_by_count = by_count_;
    r.tokens = judged();
    r.nonfinite_rows = nonfinite_;
    r.raised = raised_;
    r.cut = cut_;
    double const n = static_cast<double>(r.tokens);
    double sum = 0, squares = 0;
    for (std::size_t k = 0; k < by_count_.size(); ++k)
      sum += static_cast<double>(k) * static_cast<double>(by_count_[k]);
    r.mean_count = sum / n;
    for (std::size_t k = 0; k < by_count_.size(); ++k) {
      double const d = static_cast<double>(k) - r.mean_count;
      squares += d * d * static_cast<double>(by_count_[k]);
    }
    r.sd_count = std::sqrt(squares / n);
    r.recall = static_cast<double>(both_) / static_cast<double>(own_);
    r.precision = static_cast<double>(both_) / sum;
    r.jaccard = jaccard_.sum() / static_cast<double>(jaccard_.count());
    r.identical = static_cast<double>(same_) / n;
    return r;
  }

  std::vector<std::byte> serialize() const {
    byte_writer out;
    out.put(std::uint32_t{0x41445054});  // "ADPT"
    out.put(static_cast<std::int32_t>(options_.rule));
    for (auto const k : {options_.experts, options_.min_k, options_.max_k}) out.put(static_cast<std::int64_t>(k));
    out.put(options_.parameter);
    out.put(options_.critical_value);
    out.put(by_count_);
    for (auto const n : numbers) out.put(this->*n);
    jaccard_.serialize(out);
    return std::move(out).bytes();
  }
  static adaptive deserialize(std::span<std::byte const> bytes) {
    byte_reader in(bytes);
    if (in.get<std::uint32_t>() != 0x41445054) in.fail("is not an adaptive");
    adaptive_options o;
    auto const rule = in.get<std::int32_t>();
    if (rule < 0 || rule > static_cast<std::int32_t>(adaptive_rule::largest_gap))
      in.fail("adaptive has an unknown rule");
    o.rule = static_cast<adaptive_rule>(rule);
    for (auto* k : {&o.experts, &o.min_k, &o.max_k}) *k = static_cast<index_t>(in.get<std::int64_t>());
    o.parameter = in.get<double>();
    o.critical_value = in.get<double>();
    auto by_count = in.get_vector<std::uint64_t>();
    if (!detail::valid(o) || by_count.size() - 1 != static_cast<std::size_t>(o.experts))
      in.fail("adaptive has impossible options");
    adaptive a(o);
    a.by_count_ = std::move(by_count);
    for (auto const n : numbers) a.*n = in.get<std::uint64_t>();
    a.jaccard_ = exact_sum::deserialize(in);
    in.finish();
    std::uint64_t tokens = 0, taken = 0;
    for (std::size_t k = 0; k < a.by_count_.size(); ++k) {
      std::uint64_t product = 0;
      if (__builtin_add_overflow(tokens, a.by_count_[k], &tokens) ||
          __builtin_mul_overflow(a.by_count_[k], k, &product) || __builtin_add_overflow(taken, product, &taken) ||
          (a.by_count_[k] > 0 && (std::cmp_less(k, o.min_k) || std::cmp_greater(k, detail::bound_of(o)))))
        in.fail("adaptive has impossible counts");
    }
    if (a.raised_ > tokens || a.cut_ > tokens - a.raised_ || a.same_ > tokens || a.both_ > std::min(a.own_, taken) ||
        a.jaccard_.bound() != 1 || a.jaccard_.nan() + a.jaccard_.out_of_range() != 0 || a.jaccard_.count() > tokens)
      in.fail("adaptive has impossible counts");
    return a;
  }

  friend bool operator==(adaptive const&, adaptive const&) = default;

 private:
  template <class L, class W, class Id>
  void check_experts(routing_batch<L, W, Id> const& batch) const {
    if (batch.experts() != options_.experts)
      detail::raise("moeroute::adaptive::update: batch has ", batch.experts(), " experts, options have ",
                    options_.experts);
  }

  template <class Batch, class T>
  void add(Batch const& batch, matrix_view<T> scores) {
    detail::adaptive_row row(options_.experts);
    std::vector<index_t> own_at(static_cast<std::size_t>(options_.experts),
                                -1);  // token whose own experts include this one
    for (index_t t = 0; t < batch.tokens(); ++t) {
      if (!row.read(scores.row(t), options_.rule)) {
        ++nonfinite_;
        continue;
      }
      auto const wanted = detail::unbounded_count(row.sorted(), options_);
      auto const count = std::clamp(wanted, options_.min_k, detail::bound_of(options_));
      raised_ += wanted < count ? 1 : 0;
      cut_ += wanted > count ? 1 : 0;
      ++by_count_[static_cast<std::size_t>(count)];
      auto const ids = batch.ids().row(t);
      std::uint64_t own = 0, both = 0;
      for (index_t k = 0; k < ids.size(); ++k)
        if (std::cmp_greater_equal(ids[k], 0))
          own += std::exchange(own_at[static_cast<std::size_t>(ids[k])], t) == t ? 0 : 1;
      for (index_t k = 0; k < count; ++k)
        both += own_at[static_cast<std::size_t>(row.order()[static_cast<std::size_t>(k)])] == t ? 1 : 0;
      auto const either = own + static_cast<std::uint64_t>(count) - both;
      own_ += own;
      both_ += both;
      same_ += either == both ? 1 : 0;
      if (either > 0) jaccard_.add(static_cast<double>(both) / static_cast<double>(either));
    }
  }

  std::uint64_t judged() const noexcept {
    std::uint64_t n = 0;
    for (auto const tokens : by_count_) n += tokens;
    return n;
  }

  adaptive_options options_;
  std::vector<std::uint64_t> by_count_;
  std::uint64_t nonfinite_ = 0, raised_ = 0, cut_ = 0, own_ = 0, both_ = 0, same_ = 0;
  exact_sum jaccard_;
  static constexpr std::uint64_t adaptive::*numbers[] = {&adaptive::nonfinite_, &adaptive::raised_, &adaptive::cut_,
                                                         &adaptive::own_,       &adaptive::both_,   &adaptive::same_};
};

static_assert(accumulates<adaptive, routing_batch<>> && accumulates<adaptive, routing_batch<>, matrix_view<double>>);

}  // namespace moeroute

#endif
