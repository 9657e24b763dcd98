// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_ROUTING_SELECTION_HPP
#define MOEROUTE_ROUTING_SELECTION_HPP

#include <moeroute/core/accumulator.hpp>
#include <moeroute/core/adapt.hpp>
#include <moeroute/core/batch.hpp>
#include <moeroute/core/bytes.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/router_spec.hpp>
#include <moeroute/numeric/softmax.hpp>
#include <moeroute/numeric/top_k.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace moeroute {

/// What one row of logits selects.
struct selected_row {
  bool finite = true;       ///< false: a logit is NaN or infinite; ids and weights are then as the arithmetic gives them
  bool tied = false;        ///< the K-th and the (K+1)-th selection score, or the last kept and the first dropped group score, are equal
  double gap = quiet_nan;   ///< the smaller of those two differences: how far the choice is from changing; NaN if there is none
};

/// Applies a router_spec to rows of logits: the experts and weights that the model itself would use.
///
/// In     row [E] of raw logits.
/// Out    ids [K] by decreasing selection score, ties to the lowest index; weights [K], the combination weights in the same order.
///        The selection score is the score function's value, plus the selection bias, minus infinity in groups that are not kept;
///        softmax scores without bias or groups are ranked by their logits, which is the same order without its rounding.
/// Cost   O(E + K log K) per row, no allocation after construction; rows() is several times as fast where logits rank.
/// Throws argument_error at construction if the spec is not valid, shape_error if a row is not [E].
/// Source transformers, the models' own routers: OLMoE and Qwen (softmax), DeepSeek-V2 and -V3 (groups, bias, scale), gpt-oss (softmax
///        after top-k), Phi-3.5-MoE (sparsemixer as it is at inference; published for K = 2, the same step repeated here). Differs: torch.topk leaves the order of ties open; here it is the lowest index, and ties are reported.
template <class Scalar = float>
class selector {
 public:
  explicit selector(router_spec spec) : spec_{std::move(spec)} {
    validate(spec_);
    auto const e = static_cast<std::size_t>(spec_.experts);
    logits_.resize(e);
    scores_.resize(e);
    ranking_.resize(e);
    ids_.resize(std::min(e, static_cast<std::size_t>(spec_.top_k) + 1));
    values_.resize(ids_.size());
    ranked_by_logits_ = spec_.score != score_function::sigmoid && spec_.selection_bias.empty() && spec_.groups == 1;
  }

  router_spec const& spec() const noexcept { return spec_; }

  template <real_scalar T, std::integral Id, class Weight>
  selected_row operator()(vector_view<T> row, Id* ids, Weight* weights) {
    if (row.size() != spec_.experts)
      detail::raise<shape_error>("moeroute::selector: row has ", row.size(), " logits, experts = ", spec_.experts);
    selected_row out;
    for (index_t e = 0; e < row.size(); ++e) {
      logits_[at(e)] = static_cast<Scalar>(to_compute(row[e]));
      out.finite = out.finite && std::isfinite(logits_[at(e)]);
    }
    if (spec_.score == score_function::sigmoid)
      sigmoid_row(logits_.data(), spec_.experts, scores_.data());
    else if (spec_.score == score_function::softmax)
      softmax_row(logits_.data(), spec_.experts, scores_.data());
    else
      scores_ = logits_;
    ranking_ = ranked_by_logits_ ? logits_ : scores_;
    for (std::size_t e = 0; e < spec_.selection_bias.size(); ++e) ranking_[e] += static_cast<Scalar>(spec_.selection_bias[e]);
    if (spec_.groups_kept < spec_.groups) {
      out.gap = static_cast<double>(drop_groups());
      out.tied = out.gap == 0;
    }

    auto const candidates = static_cast<index_t>(ids_.size());
    top_k_row(ranking_.data(), spec_.experts, candidates, ids_.data(), values_.data());
    if (spec_.top_k < spec_.groups_kept * (spec_.experts / spec_.groups)) {
      auto const last = values_[at(spec_.top_k - 1)], next = values_[at(spec_.top_k)];
      out.tied = out.tied || last == next;
      // Scores ranked by their logits: the gap is still one of scores.
      auto const& score = ranked_by_logits_ ? scores_ : ranking_;
      out.gap = std::fmin(out.gap, static_cast<double>(score[at(ids_[at(spec_.top_k - 1)])]) -
                                       static_cast<double>(score[at(ids_[at(spec_.top_k)])]));
    }
    combine();
    for (index_t k = 0; k < spec_.top_k; ++k) {
      ids[k] = static_cast<Id>(ids_[at(k)]);
      if (weights != nullptr) weights[k] = static_cast<Weight>(values_[at(k)]);
    }
    return out;
  }

  /// Many rows: ids and weights [T,K], row-major, weights unless null; finite and tied [T] as in selected_row.
  template <real_scalar T, std::integral Id, class Weight>
  void rows(matrix_view<T> logits, Id* ids, Weight* weights, bool* finite, bool* tied) {
    if (logits.rows() > 0 && logits.cols() != spec_.experts)
      detail::raise<shape_error>("moeroute::selector: rows have ", logits.cols(), " logits, experts = ", spec_.experts);
    index_t const k = spec_.top_k;
    auto const one_by_one = [&](vector_view<T> row, index_t r) {
      auto const chosen = (*this)(row, ids + r * k, weights == nullptr ? nullptr : weights + r * k);
      finite[r] = chosen.finite;
      tied[r] = chosen.tied;
    };
    if (!ranked_by_logits_ || (spec_.score == score_function::sparsemixer && weights != nullptr)) {
      for (index_t r = 0; r < logits.rows(); ++r) one_by_one(logits.row(r), r);
      return;
    }
    // Dividing by the sum of the chosen cancels the sum over all.
    bool const cancels = spec_.score == score_function::softmax && spec_.renormalize && spec_.renormalize_epsilon == 0;
    bool const over_all = spec_.score == score_function::softmax && !cancels && weights != nullptr;
    constexpr index_t block_rows = 64;
    std::vector<T> best(at(block_rows * k));
    std::vector<compute_t<T>> e(best.size());
    compute_t<T> sum[block_rows];
    detail::for_blocks(logits, block_rows, [&](matrix_view<T> z, index_t first) {
      top_k_rows(z, k, ids + first * k, best.data(), tied + first);
      detail::dispatch<detail::softmax_sum_kernel>(z.data(), z.rows(), z.cols(), z.row_stride(), over_all,
                                                   static_cast<compute_t<T>*>(sum));
      for (index_t r = 0; r < z.rows(); ++r) {
        finite[first + r] = sum[r] == sum[r];
        if (!finite[first + r]) one_by_one(z.row(r), first + r);
      }
      if (weights == nullptr) return;
      for (index_t r = 0; r < z.rows(); ++r)
        for (index_t j = 0; j < k; ++j) e[at(r * k + j)] = to_compute(best[at(r * k + j)]) - to_compute(best[at(r * k)]);
      detail::dispatch<detail::exp_kernel>(e.data(), block_rows * k);
      for (index_t r = 0; r < z.rows(); ++r)
        if (finite[first + r]) weigh(e.data() + r * k, over_all ? &sum[r] : nullptr, weights + (first + r) * k);
    });
  }

 private:
  static std::size_t at(index_t i) noexcept { return static_cast<std::size_t>(i); }

  // Weights of the chosen with e^(logit - maximum) = e; divided by the sum of those unless another one is given.
  template <class Real, class Weight>
  void weigh(Real const* e, Real const* sum_over_all, Weight* weights) const {
    auto const k = spec_.top_k;
    auto const sum_of_chosen = [&] {
      Real sum = 0;
      for (index_t j = 0; j < k; ++j) sum += e[j];
      return sum;
    };
    Real factor = 1 / (sum_over_all == nullptr ? sum_of_chosen() : *sum_over_all);
    if (spec_.renormalize && (sum_over_all != nullptr || spec_.renormalize_epsilon != 0))
      factor /= sum_of_chosen() * factor + static_cast<Real>(spec_.renormalize_epsilon);
    factor *= static_cast<Real>(spec_.scale);
    for (index_t j = 0; j < k; ++j) weights[j] = static_cast<Weight>(e[j] * factor);
  }

  // Returns the last kept minus the first dropped group score.
  Scalar drop_groups() {
    index_t const size = spec_.experts / spec_.groups;
    std::vector<Scalar>& best = group_scores_;
    best.assign(at(spec_.groups), 0);
    for (index_t g = 0; g < spec_.groups; ++g) {
      Scalar first = -std::numeric_limits<Scalar>::infinity(), second = first;
      for (index_t e = g * size; e < (g + 1) * size; ++e) {
        auto const s = ranking_[at(e)];
        if (s > first) {
          second = first;
          first = s;
        } else if (s > second) {
          second = s;
        }
      }
      best[at(g)] = spec_.group_rule == group_score::maximum ? first : first + second;
    }
    group_ids_.resize(at(spec_.groups));
    top_k_row(best.data(), spec_.groups, spec_.groups, group_ids_.data(), static_cast<Scalar*>(nullptr));
    // Masking by -inf, not by 0: a biased score can be negative, and a masked 0 would then outrank it.
    for (index_t i = spec_.groups_kept; i < spec_.groups; ++i)
      for (index_t e = group_ids_[at(i)] * size; e < (group_ids_[at(i)] + 1) * size; ++e)
        ranking_[at(e)] = -std::numeric_limits<Scalar>::infinity();
    return best[at(group_ids_[at(spec_.groups_kept - 1)])] - best[at(group_ids_[at(spec_.groups_kept)])];
  }

  // Replaces the ranking scores of the chosen by their combination weights.
  void combine() {
    auto const k = at(spec_.top_k);
    for (std::size_t i = 0; i < k; ++i) values_[i] = scores_[at(ids_[i])];
    if (spec_.score == score_function::softmax_after_top_k) softmax_row(values_.data(), spec_.top_k, values_.data());
    if (spec_.score == score_function::sparsemixer) mix();
    if (spec_.renormalize) {
      Scalar sum = 0;
      for (std::size_t i = 0; i < k; ++i) sum += values_[i];
      sum += static_cast<Scalar>(spec_.renormalize_epsilon);
      for (std::size_t i = 0; i < k; ++i) values_[i] /= sum;
    }
    if (spec_.scale != 1)
      for (std::size_t i = 0; i < k; ++i) values_[i] *= static_cast<Scalar>(spec_.scale);
  }

  // The weight of a chosen expert is its softmax over the logits that are not chosen before it and nearly as large as its own.
  void mix() {
    Scalar const bound = static_cast<Scalar>(2 * spec_.jitter_eps), out = -std::numeric_limits<Scalar>::infinity();
    for (std::size_t i = 0; i < at(spec_.top_k); ++i) {
      Scalar const best = logits_[at(ids_[i])];
      for (std::size_t e = 0; e < logits_.size(); ++e) {
        // 0 / 0 is not far: the comparison is false.
        bool const far = (best - logits_[e]) / std::max(std::abs(logits_[e]), best) > bound;
        ranking_[e] = far ? out : logits_[e];
      }
      for (std::size_t before = 0; before < i; ++before) ranking_[at(ids_[before])] = out;
      softmax_row(ranking_.data(), spec_.experts, ranking_.data());
      values_[i] = ranking_[at(ids_[i])];
    }
  }

  router_spec spec_;
  bool ranked_by_logits_ = false;
  std::vector<Scalar> logits_, scores_, ranking_, values_, group_scores_;
  std::vector<index_t> ids_, group_ids_;
};

/// Selection of every row.
///
/// In     logits [T,E].   Out  ids [T,K] row-major, weights [T,K]; tied and nonfinite rows counted.   Empty  T = 0: empty.
/// Throws as selector.
struct selection_result {
  std::vector<std::int16_t> ids;
  std::vector<float> weights;
  std::uint64_t tied_rows = 0, nonfinite_rows = 0;
};
template <real_matrix Logits>
selection_result select(Logits const& logits, router_spec const& spec) {
  auto const view = detail::matrix_of(logits);
  if (spec.experts > std::numeric_limits<std::int16_t>::max()) detail::raise("moeroute::select: ", spec.experts, " experts do not fit 16-bit ids");
  selector<compute_t<matrix_value_t<Logits>>> apply(spec);
  selection_result r;
  r.ids.resize(static_cast<std::size_t>(view.rows() * spec.top_k));
  r.weights.resize(r.ids.size());
  auto const rows = static_cast<std::size_t>(view.rows());
  auto const finite = std::make_unique<bool[]>(rows), tied = std::make_unique<bool[]>(rows);
  apply.rows(view, r.ids.data(), r.weights.data(), finite.get(), tied.get());
  for (std::size_t t = 0; t < rows; ++t) {
    r.tied_rows += tied[t] ? 1 : 0;
    r.nonfinite_rows += finite[t] ? 0 : 1;
  }
  return r;
}

struct selection_agreement_result {
  std::uint64_t rows = 0;
  std::uint64_t nonfinite_rows = 0;      ///< not compared
  std::uint64_t tied_rows = 0;
  std::uint64_t mismatched_rows = 0;     ///< a recorded expert is not among those selected; dropped slots are not compared
  double largest_mismatch_gap = 0;       ///< largest selection-score gap at the K-th place among mismatched rows that are not tied
};

/// Does a recorded routing follow from its logits and the router_spec?
///
/// In     routing_batch with logits.   Out  how many rows differ as sets, and by how wide a margin: differences at ties and at gaps of a few ulp are
///        rounding, differences at a wide gap mean that the spec is wrong or the trace is not what it says.
/// Empty  zeros.   Merge  exact.   Cost  O(T E).   Throws argument_error if the batch has no logits or other experts; nothing is counted then.
/// Source ours; what recorded ids say is the truth, this only reports.
class selection_agreement {
 public:
  using options_type = router_spec;
  using result_type = selection_agreement_result;
  static constexpr merge_law law = merge_law::exact;

  explicit selection_agreement(router_spec spec) : spec_{std::move(spec)} { validate(spec_); }

  template <class L, class W, class Id>
  void check(routing_batch<L, W, Id> const& batch) const {
    if (!batch.has_logits() || batch.experts() != spec_.experts || batch.slots() != spec_.top_k)
      detail::raise("moeroute::selection_agreement::update: needs logits of ", spec_.experts, " experts and ", spec_.top_k, " slots");
  }
  template <class L, class W, class Id>
  void update(routing_batch<L, W, Id> const& batch) {
    check(batch);
    constexpr index_t block_rows = 64;
    selector<compute_t<L>> apply(spec_);
    index_t const k = spec_.top_k;
    std::vector<std::int32_t> ours(static_cast<std::size_t>(block_rows * k));
    bool finite[block_rows], tied[block_rows];
    detail::for_blocks(batch.logits(), block_rows, [&](matrix_view<L> z, index_t first) {
      apply.rows(z, ours.data(), static_cast<float*>(nullptr), finite, tied);
      for (index_t r = 0; r < z.rows(); ++r) {
        ++r_.rows;
        r_.nonfinite_rows += finite[r] ? 0 : 1;
        r_.tied_rows += tied[r] ? 1 : 0;
        auto* const chosen = ours.data() + r * k;
        if (!finite[r] || holds(chosen, batch.ids().row(first + r))) continue;
        ++r_.mismatched_rows;
        if (!tied[r])
          r_.largest_mismatch_gap =
              std::fmax(r_.largest_mismatch_gap, apply(z.row(r), chosen, static_cast<float*>(nullptr)).gap);
      }
    });
  }
  void merge(selection_agreement const& other) {
    if (other.spec_ != spec_) detail::raise("moeroute::selection_agreement::merge: router specs differ");
    r_.rows += other.r_.rows;
    r_.nonfinite_rows += other.r_.nonfinite_rows;
    r_.tied_rows += other.r_.tied_rows;
    r_.mismatched_rows += other.r_.mismatched_rows;
    r_.largest_mismatch_gap = std::max(r_.largest_mismatch_gap, other.r_.largest_mismatch_gap);
  }

  router_spec const& options() const noexcept { return spec_; }
  std::uint64_t count() const noexcept { return r_.rows; }
  selection_agreement_result result() const { return r_; }

  std::vector<std::byte> serialize() const {
    byte_writer out;
    out.put(std::uint32_t{0x53454c41});  // "SELA"
    for (index_t const v : {spec_.experts, spec_.top_k, static_cast<index_t>(spec_.score), static_cast<index_t>(spec_.renormalize), spec_.groups,
                            spec_.groups_kept, static_cast<index_t>(spec_.group_rule), spec_.shared_experts})
      out.put(static_cast<std::int64_t>(v));
    out.put(spec_.renormalize_epsilon);
    out.put(spec_.jitter_eps);
    out.put(spec_.scale);
    out.put(spec_.selection_bias);
    for (auto const n : {r_.rows, r_.nonfinite_rows, r_.tied_rows, r_.mismatched_rows}) out.put(n);
    out.put(r_.largest_mismatch_gap);
    return std::move(out).bytes();
  }
  static selection_agreement deserialize(std::span<std::byte const> bytes) {
    byte_reader in(bytes);
    if (in.get<std::uint32_t>() != 0x53454c41) in.fail("is not a selection_agreement");
    router_spec s;
    auto const number = [&] { return static_cast<index_t>(in.get<std::int64_t>()); };
    s.experts = number();
    s.top_k = number();
    auto const choice = [&](index_t last) {
      auto const n = number();
      if (n < 0 || n > last) in.fail("selection_agreement has an unknown choice " + std::to_string(n));
      return n;
    };
    s.score = static_cast<score_function>(choice(3));
    s.renormalize = choice(1) != 0;
    s.groups = number();
    s.groups_kept = number();
    s.group_rule = static_cast<group_score>(choice(1));
    s.shared_experts = number();
    s.renormalize_epsilon = in.get<double>();
    s.jitter_eps = in.get<double>();
    s.scale = in.get<double>();
    s.selection_bias = in.get_vector<double>();
    selection_agreement_result r;
    for (auto* n : {&r.rows, &r.nonfinite_rows, &r.tied_rows, &r.mismatched_rows}) *n = in.get<std::uint64_t>();
    r.largest_mismatch_gap = in.get<double>();
    in.finish();
    if (r.nonfinite_rows > r.rows || r.tied_rows > r.rows || r.mismatched_rows > r.rows - r.nonfinite_rows ||
        !(r.largest_mismatch_gap >= 0) || std::signbit(r.largest_mismatch_gap))
      in.fail("selection_agreement has impossible counts");
    try {
      selection_agreement a(std::move(s));
      a.r_ = r;
      return a;
    } catch (argument_error const& e) {
      in.fail(e.what());
    }
  }

  friend bool operator==(selection_agreement const& a, selection_agreement const& b) { return a.serialize() == b.serialize(); }

 private:
  // Are all recorded experts, one of each, among the chosen? Sorts those unless both agree place by place.
  template <class Id>
  static bool holds(std::int32_t* chosen, vector_view<Id> recorded) {
    index_t const k = recorded.size();
    index_t same = 0;
    while (same < k && std::cmp_equal(recorded[same], chosen[same])) ++same;
    if (same == k) return true;
    std::vector<std::int32_t> kept;
    for (index_t j = 0; j < k; ++j)
      if (std::cmp_greater_equal(recorded[j], 0)) kept.push_back(static_cast<std::int32_t>(recorded[j]));
    std::sort(chosen, chosen + k);
    std::sort(kept.begin(), kept.end());
    return std::includes(chosen, chosen + k, kept.begin(), kept.end());
  }

  router_spec spec_;
  selection_agreement_result r_;
};

static_assert(accumulates<selection_agreement, routing_batch<>>);

}  // namespace moeroute

#endif
