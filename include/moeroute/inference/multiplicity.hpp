// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_INFERENCE_MULTIPLICITY_HPP
#define MOEROUTE_INFERENCE_MULTIPLICITY_HPP

#include <moeroute/core/adapt.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

namespace moeroute {

namespace detail {

struct ordered_p_values {
  std::vector<double> adjusted;    // the input; NaN entries are final
  std::vector<std::size_t> order;  // indices of the defined p-values, ascending
};

template <class T>
ordered_p_values order_p_values(vector_view<T> p, char const* function) {
  ordered_p_values r;
  for (index_t i = 0; i < p.size(); ++i) {
    double const v = static_cast<double>(to_compute(p[i]));
    if (v < 0 || v > 1) raise(function, ": p-value ", v, " at ", i, " must lie between 0 and 1");
    if (!std::isnan(v)) r.order.push_back(r.adjusted.size());
    r.adjusted.push_back(v);
  }
  std::stable_sort(r.order.begin(), r.order.end(), [&](auto a, auto b) { return r.adjusted[a] < r.adjusted[b]; });
  return r;
}

// Step-up: each p-value times factor / rank, then no smaller than its successors allow.
inline std::vector<double> step_up(ordered_p_values r, double factor) {
  double bound = 1;
  for (std::size_t rank = r.order.size(); rank > 0; --rank) {
    double& p = r.adjusted[r.order[rank - 1]];
    bound = std::min(bound, p * factor / static_cast<double>(rank));
    p = bound;
  }
  return std::move(r.adjusted);
}

}  // namespace detail

/// p-values adjusted for the family-wise error rate under any dependence, in one step.
///
/// In     p [m] in [0, 1]; NaN stays NaN and does not count as a test.
/// Out    min(1, m p) in the order of the input.
/// Empty  empty in, empty out.
/// Cost   O(m log m).
/// Throws argument_error if a p-value lies outside [0, 1].
/// Source Dunn 1961, doi:10.1080/01621459.1961.10482090. Differs: as given.
template <real_vector P>
std::vector<double> bonferroni(P const& p) {
  auto r = detail::order_p_values(detail::vector_of(p), "moeroute::bonferroni");
  for (auto const i : r.order) r.adjusted[i] = std::min(1.0, r.adjusted[i] * static_cast<double>(r.order.size()));
  return std::move(r.adjusted);
}

/// p-values adjusted for the family-wise error rate under any dependence; never larger than Bonferroni's.
///
/// In     p [m] in [0, 1]; NaN stays NaN and does not count as a test.
/// Out    max over the j smallest of min(1, (m - j + 1) p_(j)), in the order of the input.
/// Empty  empty in, empty out.
/// Cost   O(m log m).
/// Throws argument_error if a p-value lies outside [0, 1].
/// Source Holm 1979, Scandinavian Journal of Statistics 6:65. Differs: as given.
template <real_vector P>
std::vector<double> holm(P const& p) {
  auto r = detail::order_p_values(detail::vector_of(p), "moeroute::holm");
  double bound = 0;
  for (std::size_t j = 0; j < r.order.size(); ++j) {
    double& v = r.adjusted[r.order[j]];
    bound = std::max(bound, std::min(1.0, v * static_cast<double>(r.order.size() - j)));
    v = bound;
  }
  return std::move(r.adjusted);
}

/// p-values adjusted for the false discovery rate; needs independence or positive regression dependence.
///
/// Experts of one token compete, so this dependence cannot be shown for them: prefer benjamini_yekutieli there.
/// In     p [m] in [0, 1]; NaN stays NaN and does not count as a test.
/// Out    min over the ranks i >= own of min(1, m p_(i) / i), in the order of the input.
/// Empty  empty in, empty out.
/// Cost   O(m log m).
/// Throws argument_error if a p-value lies outside [0, 1].
/// Source Benjamini, Hochberg 1995, doi:10.1111/j.2517-6161.1995.tb02031.x. Differs: as given.
template <real_vector P>
std::vector<double> benjamini_hochberg(P const& p) {
  auto r = detail::order_p_values(detail::vector_of(p), "moeroute::benjamini_hochberg");
  auto const m = static_cast<double>(r.order.size());
  return detail::step_up(std::move(r), m);
}

/// p-values adjusted for the false discovery rate under any dependence: the default across experts.
///
/// In     p [m] in [0, 1]; NaN stays NaN and does not count as a test.
/// Out    benjamini_hochberg with m replaced by m (1 + 1/2 + ... + 1/m), in the order of the input.
/// Empty  empty in, empty out.
/// Cost   O(m log m).
/// Throws argument_error if a p-value lies outside [0, 1].
/// Source Benjamini, Yekutieli 2001, doi:10.1214/aos/1013699998, theorem 1.3. Differs: as given.
template <real_vector P>
std::vector<double> benjamini_yekutieli(P const& p) {
  auto r = detail::order_p_values(detail::vector_of(p), "moeroute::benjamini_yekutieli");
  double harmonic = 0;
  for (std::size_t i = r.order.size(); i > 0; --i) harmonic += 1 / static_cast<double>(i);
  auto const m = static_cast<double>(r.order.size());
  return detail::step_up(std::move(r), m * harmonic);
}

/// Share of true null hypotheses among m tests, from the p-values that are too large to come from anything else.
///
/// In     p [m] in [0, 1], NaN is left out; lambda in (0, 1).
/// Out    min(1, (1 + #{p > lambda}) / (m (1 - lambda))).
/// Empty  NaN.
/// Cost   O(m).
/// Bias   upward, by construction; further if p-values are discrete or conservative. Needs null p-values that are
///        uniform and at most weakly
///        dependent: the experts of one token are not, documents' tests may be.
/// Throws argument_error if a p-value lies outside [0, 1] or lambda outside (0, 1).
/// Source Storey 2002, doi:10.1111/1467-9868.00346; the + 1: Storey, Taylor, Siegmund 2004,
///        doi:10.1111/j.1467-9868.2004.00439.x, section 3.
///        Differs: capped at 1; lambda is given, not searched.
template <real_vector P>
double storey_null_share(P const& p, double lambda = 0.5) {
  if (!(lambda > 0 && lambda < 1))
    detail::raise("moeroute::storey_null_share: lambda = ", lambda, " must lie between 0 and 1");
  auto const r = detail::order_p_values(detail::vector_of(p), "moeroute::storey_null_share");
  if (r.order.empty()) return quiet_nan;
  auto const above = std::count_if(r.adjusted.begin(), r.adjusted.end(), [&](double v) { return v > lambda; });
  return std::min(1.0, (1 + static_cast<double>(above)) / (static_cast<double>(r.order.size()) * (1 - lambda)));
}

/// q-values: p-values adjusted for the false discovery rate with the estimated share of true nulls instead of 1.
///
/// In     p [m] in [0, 1], NaN stays NaN and does not count as a test; lambda in (0, 1).
/// Out    benjamini_hochberg times storey_null_share for p <= lambda, 1 for larger p, in the order of the input.
/// Empty  empty in, empty out.
/// Cost   O(m log m).
/// Throws argument_error if a p-value lies outside [0, 1] or lambda outside (0, 1).
/// Source Storey, Taylor, Siegmund 2004, theorem 3: the rate is controlled for independent tests. Differs: as given.
template <real_vector P>
std::vector<double> storey_q_values(P const& p, double lambda = 0.5) {
  double const share = storey_null_share(p, lambda);
  auto r = detail::order_p_values(detail::vector_of(p), "moeroute::storey_q_values");
  auto const m = static_cast<double>(r.order.size());
  while (!r.order.empty() && r.adjusted[r.order.back()] > lambda) {
    r.adjusted[r.order.back()] = 1;
    r.order.pop_back();
  }
  return detail::step_up(std::move(r), m * share);
}

}  // namespace moeroute

#endif
