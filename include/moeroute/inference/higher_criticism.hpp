// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_INFERENCE_HIGHER_CRITICISM_HPP
#define MOEROUTE_INFERENCE_HIGHER_CRITICISM_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/parallel.hpp>
#include <moeroute/inference/permutation.hpp>
#include <moeroute/numeric/random.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

namespace moeroute {

/// Which ranks are searched.
struct higher_criticism_options {
  double alpha0 = 0.5;    ///< ranks 1 .. floor(alpha0 N)
  bool above_1_n = true;  ///< HC+: only p_(i) > 1/N. Without it (HC*) one tiny p-value decides alone, at rank 1.
  friend bool operator==(higher_criticism_options const&, higher_criticism_options const&) = default;
};

struct higher_criticism_result {
  double statistic = quiet_nan;
  index_t rank = 0;  ///< at which the maximum is reached: so many p-values stand out; 0 if no rank qualifies
  double threshold = quiet_nan;  ///< the p-value of that rank
};

namespace detail {

inline constexpr std::uint64_t purpose_higher_criticism = 0x6869676863726974u;

inline void check_higher_criticism(higher_criticism_options const& options, char const* function) {
  if (!(options.alpha0 > 0 && options.alpha0 <= 1))
    raise(function, ": alpha0 = ", options.alpha0, " must lie in (0, 1]");
}

inline higher_criticism_result higher_criticism_of_sorted(std::vector<double> const& p,
                                                          higher_criticism_options const& options) {
  double const n = static_cast<double>(p.size());
  auto const last = static_cast<std::size_t>(std::floor(options.alpha0 * n + 1e-9));  // 0.29 * 100 is below 29
  higher_criticism_result r;
  for (std::size_t i = 0; i < last; ++i) {
    if (options.above_1_n && !(p[i] > 1 / n)) continue;
    double const rank = static_cast<double>(i + 1),
                 hc = std::sqrt(n) * (rank / n - p[i]) / std::sqrt(p[i] * (1 - p[i]));
    if (std::isnan(hc) || hc <= r.statistic) continue;  // 0/0 at p = 1, i = N
    r = {hc, static_cast<index_t>(i + 1), p[i]};
  }
  return r;
}

inline std::vector<double> sorted_p_values(auto const& p, char const* function) {
  std::vector<double> sorted;
  for (index_t i = 0; i < p.size(); ++i) {
    double const v = as_double(p[i]);
    if (v < 0 || v > 1) raise(function, ": p-value ", v, " at ", i, " must lie between 0 and 1");
    if (!std::isnan(v)) sorted.push_back(v);
  }
  std::sort(sorted.begin(), sorted.end());
  return sorted;
}

}  // namespace detail

/// Higher criticism: are there a few small p-values more among N than chance explains?
///
/// In     p [N] in [0, 1]; NaN is left out of N.
/// Out    maximum over the searched ranks of sqrt(N) (i/N - p_(i)) / sqrt(p_(i) (1 - p_(i))), its rank (the smallest at
///        ties) and p-value.
/// Empty  NaN and rank 0 if no rank qualifies. HC* is infinite if a p-value is 0.
/// Cost   O(N log N).
/// Bias   its null law converges far too slowly for tables: use higher_criticism_null, and its replicates for dependent
///        p-values.
/// Throws argument_error if a p-value lies outside [0, 1] or alpha0 outside (0, 1].
/// Source Donoho, Jin 2004, doi:10.1214/009053604000000265, HC* and HC+. Differs: as given.
template <real_vector P>
higher_criticism_result higher_criticism(P const& p, higher_criticism_options const& options = {}) {
  detail::check_higher_criticism(options, "moeroute::higher_criticism");
  return detail::higher_criticism_of_sorted(detail::sorted_p_values(detail::vector_of(p), "moeroute::higher_criticism"),
                                            options);
}

/// The law of higher criticism under the null hypothesis, drawn once for an N and kept by the caller.
///
/// In     N and options: replicates of N independent uniform p-values, a function of the seed alone; or replicates of
///        the statistic that keep
///        the dependence of the data, e.g. of tokens whose expert labels were permuted.
/// Out    p_value = (1 + #{replicate >= statistic})/(B + 1), 1 for NaN; critical_value(alpha): statistic above it <=>
///        p_value <= alpha.
/// Empty  p_value 1 without replicates.
/// Cost   O(B N log N) once, any number of threads (0: all) gives the same bits; O(log B) per p-value; O(B) memory.
/// Throws argument_error for N < 1, a negative number of replicates, alpha0 outside (0, 1], or an alpha outside (0, 1)
///        or below 1/(B + 1).
/// Source simulation in place of the asymptotics of Donoho, Jin 2004; (1 + r)/(B + 1): Phipson, Smyth 2010. Differs:
///        nothing.
class higher_criticism_null {
 public:
  explicit higher_criticism_null(index_t n, higher_criticism_options const& options = {}, index_t replicates = 9999,
                                 std::uint64_t seed = 1, int threads = 1) {
    detail::check_higher_criticism(options, "moeroute::higher_criticism_null");
    if (n < 1 || replicates < 0 || replicates > index_t{std::numeric_limits<std::uint32_t>::max()})
      detail::raise("moeroute::higher_criticism_null: n = ", n, ", replicates = ", replicates,
                    "; need n >= 1, replicates in 0..2^32 - 1");
    statistics_.resize(static_cast<std::size_t>(replicates));
    parallel_for(replicates, threads, [&](index_t b) {
      random_stream random(seed, detail::purpose_higher_criticism, static_cast<std::uint64_t>(n),
                           static_cast<std::uint32_t>(b));
      std::vector<double> p(static_cast<std::size_t>(n));
      for (double& v : p) v = 1 - random.uniform();
      std::sort(p.begin(), p.end());
      statistics_[static_cast<std::size_t>(b)] = detail::higher_criticism_of_sorted(p, options).statistic;
    });
    order();
  }
  explicit higher_criticism_null(std::vector<double> replicates) : statistics_{std::move(replicates)} { order(); }

  double p_value(double statistic) const noexcept {
    if (std::isnan(statistic)) return 1;
    auto const extreme =
        statistics_.end() - std::lower_bound(statistics_.begin(), statistics_.end(), detail::tie_floor(statistic));
    return (1 + static_cast<double>(extreme)) / (1 + static_cast<double>(statistics_.size()));
  }
  double critical_value(double alpha) const {
    double const rank = std::floor(alpha * static_cast<double>(statistics_.size() + 1) * (1 + 1e-12));
    if (!(alpha > 0 && alpha < 1 && rank >= 1))
      detail::raise("moeroute::higher_criticism_null::critical_value: alpha = ", alpha, " is out of reach of ",
                    statistics_.size(), " replicates");
    return statistics_[statistics_.size() - static_cast<std::size_t>(rank)];
  }
  index_t replicates() const noexcept { return static_cast<index_t>(statistics_.size()); }

 private:
  void order() {
    for (double& s : statistics_)
      if (std::isnan(s))
        s = -std::numeric_limits<double>::infinity();  // no rank qualified: such a sample never rejects
    std::sort(statistics_.begin(), statistics_.end());
  }

  std::vector<double> statistics_;
};

struct repository_higher_criticism_options {
  double beta = 0.5;  ///< below 1: ranks 1 .. max(1, floor(N beta)); 1: all
  bool plus = false;  ///< the repository's beta = 'auto': ranks with p_(i) < i/N. That is not Donoho and Jin's HC+.
  index_t min_k = 1;  ///< ranks below are not searched, and so many experts are selected at least
  index_t max_k = 16;
};
struct repository_higher_criticism_result {
  double statistic = quiet_nan;
  index_t rank = 0;   ///< 0 if no rank qualifies
  index_t count = 0;  ///< experts selected: rank, clipped to min_k..max_k
};

/// Higher criticism as the repository AliABULIEL/MOE-with-feature-selection computes it (hc_routing.py), to reproduce
/// its numbers.
///
/// In     p [N] in [0, 1]; NaN is left out of N.
/// Out    maximum of sqrt(N) (i/N - p_(i)) / sqrt(p_(i) (1 - p_(i)) + 1e-10), p clamped to [1e-10, 1 - 1e-10], its
///        first rank, and the count.
/// Empty  NaN, rank 0 and count min_k if no rank qualifies.
/// Cost   O(N log N).
/// Bias   without the guard p_(i) > 1/N the most certain tokens reach the maximum at rank 1 and select the fewest
///        experts.
/// Throws argument_error if a p-value lies outside [0, 1], beta outside (0, 1], or not 1 <= min_k <= max_k.
/// Source that code at commit 1da7ae7. Differs: as given; for a test use higher_criticism.
template <real_vector P>
repository_higher_criticism_result repository_higher_criticism(
    P const& p, repository_higher_criticism_options const& options = {}) {
  if (!(options.beta > 0 && options.beta <= 1) || options.min_k < 1 || options.max_k < options.min_k)
    detail::raise("moeroute::repository_higher_criticism: beta = ", options.beta, ", min_k = ", options.min_k,
                  ", max_k = ", options.max_k);
  auto const sorted = detail::sorted_p_values(detail::vector_of(p), "moeroute::repository_higher_criticism");
  double const n = static_cast<double>(sorted.size());
  double const last = options.plus || options.beta == 1 ? n : std::max(1.0, std::floor(n * options.beta));
  repository_higher_criticism_result r;
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    double const rank = static_cast<double>(i + 1), v = std::clamp(sorted[i], 1e-10, 1 - 1e-10);
    if (rank > last || rank < static_cast<double>(options.min_k) || (options.plus && !(v < rank / n))) continue;
    double const hc = std::sqrt(n) * (rank / n - v) / std::sqrt(v * (1 - v) + 1e-10);
    if (hc <= r.statistic) continue;
    r.statistic = hc;
    r.rank = static_cast<index_t>(i + 1);
  }
  r.count = std::clamp(r.rank, options.min_k, options.max_k);
  return r;
}

}  // namespace moeroute

#endif
