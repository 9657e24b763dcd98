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
/// Cost   O(E + K log K) per row, no allocation after construction.
/// Throws argument_error at construction if the spec is not valid, shape_error if a row is not [E].
/// Source transformers, the models' own routers: OLMoE and Qwen (softmax), DeepSeek-V2 and -V3 (groups, bias, scale), gpt-oss (softmax
///        after top-k). Differs: torch.topk leaves the order of ties open; here it is the lowest index, and ties are reported.
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
    bool const rank_by_logits = spec_.score != score_function::sigmoid && spec_.selection_bias.empty() && spec_.groups == 1;
    if (spec_.score == score_function::sigmoid)
      for (index_t e = 0; e < row.size(); ++e) scores_[at(e)] = 1 / (1 + std::exp(-logits_[at(e)]));
    else if (spec_.score == score_function::softmax)
      softmax_row(logits_.data(), spec_.experts, scores_.data());
    else
      scores_ = logits_;
    ranking_ = rank_by_logits ? logits_ : scores_;
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
      auto const& score = rank_by_logits ? scores_ : ranking_;
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

 private:
  static std::size_t at(index_t i) noexcept { return static_cast<std::size_t>(i); }

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
    if (spec_.renormalize) {
      Scalar sum = 0;
      for (std::size_t i = 0; i < k; ++i) sum += values_[i];
      sum += static_cast<Scalar>(spec_.renormalize_epsilon);
      for (std::size_t i = 0; i < k; ++i) values_[i] /= sum;
    }
    if (spec_.scale != 1)
      for (std::size_t i = 0; i < k; ++i) values_[i] *= static_cast<Scalar>(spec_.scale);
  }

  router_spec spec_;
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
  for (index_t t = 0; t < view.rows(); ++t) {
    auto const row = apply(view.row(t), r.ids.data() + t * spec.top_k, r.weights.data() + t * spec.top_k);
    r.tied_rows += row.tied ? 1 : 0;
    r.nonfinite_rows += row.finite ? 0 : 1;
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
    selector<compute_t<L>> apply(spec_);
    std::vector<index_t> ours(static_cast<std::size_t>(spec_.top_k)), recorded;
    for (index_t t = 0; t < batch.tokens(); ++t) {
      auto const row = apply(batch.logits().row(t), ours.data(), static_cast<float*>(nullptr));
      ++r_.rows;
      r_.nonfinite_rows += row.finite ? 0 : 1;
      r_.tied_rows += row.tied ? 1 : 0;
      if (!row.finite) continue;
      auto const ids = batch.ids().row(t);
      recorded.clear();
      for (index_t k = 0; k < ids.size(); ++k)
        if (std::cmp_greater_equal(ids[k], 0)) recorded.push_back(static_cast<index_t>(ids[k]));
      std::sort(ours.begin(), ours.end());
      std::sort(recorded.begin(), recorded.end());
      if (std::includes(ours.begin(), ours.end(), recorded.begin(), recorded.end())) continue;
      ++r_.mismatched_rows;
      if (!row.tied && row.gap > r_.largest_mismatch_gap) r_.largest_mismatch_gap = row.gap;
    }
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
    s.score = static_cast<score_function>(choice(2));
    s.renormalize = choice(1) != 0;
    s.groups = number();
    s.groups_kept = number();
    s.group_rule = static_cast<group_score>(choice(1));
    s.shared_experts = number();
    s.renormalize_epsilon = in.get<double>();
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
  router_spec spec_;
  selection_agreement_result r_;
};

static_assert(accumulates<selection_agreement, routing_batch<>>);

}  // namespace moeroute

#endif
