// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_ROUTING_ACTIVATION_HPP
#define MOEROUTE_ROUTING_ACTIVATION_HPP

#include <moeroute/core/accumulator.hpp>
#include <moeroute/core/batch.hpp>
#include <moeroute/core/bytes.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/router_spec.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/numeric/exact_sum.hpp>
#include <moeroute/numeric/softmax.hpp>

#include <cmath>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace moeroute {

struct activation_options {
  index_t experts = 0;
  score_function score = score_function::softmax;
  double weight_bound = 1;  ///< a power of two that no combination weight exceeds: at least the router's scale
  friend bool operator==(activation_options const&, activation_options const&) = default;
};

struct activation_result {
  std::vector<double> probability;   ///< [E] mean soft probability; sums to 1; NaN without logits
  std::vector<double> weight;        ///< [E] mean combination weight per token; NaN without weights
  std::uint64_t tokens = 0;
  std::uint64_t probability_rows = 0;  ///< rows of logits behind `probability`
  std::uint64_t nonfinite_rows = 0;    ///< rows with a NaN or infinite logit, or whose sigmoids are all 0: not in `probability`
  std::uint64_t weight_rows = 0;       ///< tokens behind `weight`
  std::uint64_t refused_weights = 0;   ///< weights that are NaN, negative or above weight_bound: not in `weight`
};

/// Mean soft probability and mean combination weight of every expert.
///
/// In     routing_batch with logits [T,E] and/or weights [T,K].
/// Out    probability: softmax of the logits over all experts; for sigmoid routers the sigmoids divided by their sum, so that layers and families
///        compare. weight: the weights as recorded; what they sum to depends on the router (1 only where it renormalises).
/// Empty  NaN.   Merge  exact: fixed-point sums, 2^-52 per value (2^-52 weight_bound for weights).
/// Cost   O(T E) time, 32 E bytes.
/// Throws argument_error if experts differ; nothing is counted then.
/// Source the expert activation map of published analyses (mean routing probability), docs/statistics/activation.md. Differs: rows with
///        non-finite logits are counted apart; combination weights are never mistaken for probabilities.
class activation {
 public:
  using options_type = activation_options;
  using result_type = activation_result;
  static constexpr merge_law law = merge_law::exact;

  explicit activation(activation_options options)
      : options_{options}, probability_{checked(options.experts), 1.0}, weight_{options.experts, options.weight_bound} {}

  template <class L, class W, class Id>
  void check(routing_batch<L, W, Id> const& batch) const {
    if (batch.experts() != options_.experts)
      detail::raise("moeroute::activation::update: batch has ", batch.experts(), " experts, options have ", options_.experts);
  }
  template <class L, class W, class Id>
  void update(routing_batch<L, W, Id> const& batch) {
    check(batch);
    if (batch.has_logits()) {
      if (options_.score == score_function::sigmoid)
        add_sigmoid(batch.logits());
      else
        nonfinite_ += softmax_accumulate(batch.logits(), probability_);
    }
    if (batch.has_weights()) {
      auto const ids = batch.ids();
      auto const weights = batch.weights();
      for (index_t t = 0; t < ids.rows(); ++t)
        for (index_t k = 0; k < ids.cols(); ++k)
          if (std::cmp_greater_equal(ids(t, k), 0))
            weight_.add_at(static_cast<index_t>(ids(t, k)), static_cast<double>(to_compute(weights(t, k))));
      weight_rows_ += static_cast<std::uint64_t>(ids.rows());
    }
    tokens_ += static_cast<std::uint64_t>(batch.tokens());
  }

  void merge(activation const& other, std::uint64_t times = 1) {
    if (other.options_ != options_) detail::raise("moeroute::activation::merge: options differ");
    auto probability = probability_;
    probability.merge(other.probability_, times);
    weight_.merge(other.weight_, times);
    probability_ = std::move(probability);
    tokens_ += times * other.tokens_;
    weight_rows_ += times * other.weight_rows_;
    nonfinite_ += times * other.nonfinite_;
  }

  activation_options options() const noexcept { return options_; }
  std::uint64_t count() const noexcept { return tokens_; }
  activation_result result() const {
    auto const e_count = static_cast<std::size_t>(options_.experts);
    activation_result r;
    r.tokens = tokens_;
    r.probability_rows = probability_.rows();
    r.nonfinite_rows = nonfinite_;
    r.weight_rows = weight_rows_;
    r.refused_weights = weight_.nan() + weight_.out_of_range();
    r.probability.assign(e_count, quiet_nan);
    r.weight.assign(e_count, quiet_nan);
    for (std::size_t e = 0; e < e_count; ++e) {
      if (r.probability_rows > 0)
        r.probability[e] = probability_.sum(static_cast<index_t>(e)) / static_cast<double>(r.probability_rows);
      if (r.weight_rows > 0) r.weight[e] = weight_.sum(static_cast<index_t>(e)) / static_cast<double>(r.weight_rows);
    }
    return r;
  }

  std::vector<std::byte> serialize() const {
    byte_writer out;
    out.put(std::uint32_t{0x41435456});  // "ACTV"
    out.put(static_cast<std::uint32_t>(options_.score));
    for (auto const n : {tokens_, weight_rows_, nonfinite_}) out.put(n);
    probability_.serialize(out);
    weight_.serialize(out);
    return std::move(out).bytes();
  }
  static activation deserialize(std::span<std::byte const> bytes) {
    byte_reader in(bytes);
    if (in.get<std::uint32_t>() != 0x41435456) in.fail("is not an activation");
    auto const score = in.get<std::uint32_t>();
    if (score > 3) in.fail("activation has an unknown score function");
    std::uint64_t const tokens = in.get<std::uint64_t>(), weight_rows = in.get<std::uint64_t>(), nonfinite = in.get<std::uint64_t>();
    auto probability = exact_sums::deserialize(in);
    auto weight = exact_sums::deserialize(in);
    in.finish();
    if (probability.size() != weight.size() || probability.size() == 0 || probability.bound() != 1) in.fail("activation has unfitting sums");
    activation a({probability.size(), static_cast<score_function>(score), weight.bound()});
    a.probability_ = std::move(probability);
    a.weight_ = std::move(weight);
    a.tokens_ = tokens;
    a.weight_rows_ = weight_rows;
    a.nonfinite_ = nonfinite;
    return a;
  }

  friend bool operator==(activation const&, activation const&) = default;

 private:
  static index_t checked(index_t experts) {
    if (experts <= 0) detail::raise("moeroute::activation: experts = ", experts, ", must be positive");
    return experts;
  }

  template <class T>
  void add_sigmoid(matrix_view<T> logits) {
    std::vector<T> row(static_cast<std::size_t>(logits.cols()));
    std::vector<double> p(row.size());
    for (index_t t = 0; t < logits.rows(); ++t) {
      bool finite = true;
      for (index_t e = 0; e < logits.cols(); ++e) {
        row[static_cast<std::size_t>(e)] = logits(t, e);
        finite = finite && is_finite(logits(t, e));
      }
      if (!finite) {
        ++nonfinite_;
        continue;
      }
      sigmoid_row(row.data(), logits.cols(), p.data());
      double sum = 0;
      for (double const x : p) sum += x;
      if (!(sum > 0)) {  // every sigmoid has underflowed
        ++nonfinite_;
        continue;
      }
      for (double& x : p) x /= sum;
      probability_.add_row(p.data(), logits.cols());
    }
  }

  activation_options options_;
  exact_sums probability_, weight_;
  std::uint64_t tokens_ = 0, weight_rows_ = 0, nonfinite_ = 0;
};

static_assert(accumulates<activation, routing_batch<>>);

}  // namespace moeroute

#endif
