// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_NUMERIC_CONDITIONAL_BERNOULLI_HPP
#define MOEROUTE_NUMERIC_CONDITIONAL_BERNOULLI_HPP

#include <moeroute/core/error.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/core/view.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#if __has_include(<xtensor/containers/xtensor.hpp>)
#include <xtensor/containers/xtensor.hpp>
#else
#include <xtensor/xtensor.hpp>
#endif

namespace moeroute {

namespace detail {

/// Sets drawn as independent coins p [E], kept where the number of heads is the wanted one. The law of that number over
/// part of the coins is built by adding coin after coin: no difference is taken, so nothing cancels.
class coin_sets {
 public:
  coin_sets(std::vector<double> p, std::vector<double> sets_of_size)
      : p_{std::move(p)},
        sets_{std::move(sets_of_size)},
        width_{sets_.size()},
        before_((p_.size() + 1) * width_),
        after_(before_.size()) {}

  std::vector<double>& p() noexcept { return p_; }

  /// Expected number of sets that hold each class.
  void expect(std::vector<double>& expected) {
    refresh();
    for (std::size_t e = 0; e < p_.size(); ++e) expected[e] = p_[e] * weigh(before(e), after(e + 1), 1);
  }
  /// Expected number of sets that hold both, for i < j; needs a call of expect before.
  template <class Store>
  void expect_pairs(Store const& store) {
    std::vector<double> others(width_);
    for (std::size_t i = 0; i + 1 < p_.size(); ++i) {
      others.assign(before(i), before(i) + width_);
      for (std::size_t j = i + 1; j < p_.size(); ++j) {
        store(i, j, p_[i] * p_[j] * weigh(others.data(), after(j + 1), 2));
        toss(others.data(), p_[j], others.data());
      }
    }
  }

 private:
  double* before(std::size_t e) noexcept { return before_.data() + e * width_; }
  double* after(std::size_t e) noexcept { return after_.data() + e * width_; }

  void toss(double const* from, double p, double* to) const noexcept {
    for (std::size_t n = width_; n-- > 0;) to[n] = from[n] * (1 - p) + (n > 0 ? from[n - 1] * p : 0);
  }
  void refresh() noexcept {
    std::fill(before(0), before(1), 0.0);
    std::fill(after(p_.size()), after(p_.size()) + width_, 0.0);
    before(0)[0] = after(p_.size())[0] = 1;
    for (std::size_t e = 0; e < p_.size(); ++e) toss(before(e), p_[e], before(e + 1));
    for (std::size_t e = p_.size(); e-- > 0;) toss(after(e + 1), p_[e], after(e));
  }
  /// Sum over sizes s of sets * P(s - taken heads among the coins of a and b) / P(s heads among all).
  double weigh(double const* a, double const* b, std::size_t taken) const noexcept {
    double sum = 0;
    for (std::size_t s = taken; s < width_; ++s) {
      if (sets_[s] == 0) continue;
      double ways = 0;
      for (std::size_t n = 0; n + taken <= s; ++n) ways += a[n] * b[s - taken - n];
      sum += sets_[s] * ways / after_[s];
    }
    return sum;
  }

  std::vector<double> p_, sets_;
  std::size_t width_;
  std::vector<double> before_, after_;  // [E+1,S+1]: law of the heads among the coins before e, and from e on
};

}  // namespace detail

/// How often two classes share a set when nothing but their frequency decides who is in it: what choosing k of E alone
/// forces.
///
/// In     counts [E]: sets that hold each class; sets_of_size [S+1]: sets with 0..S members.
/// Out    [E,E] symmetric: expected number of sets that hold both, if every set of s classes has probability
///        proportional to the product of its members' odds, with the odds that reproduce counts. Diagonal = counts. It
///        is the law of largest entropy with these sizes and these expected counts. A class in every set, or in none,
///        has odds infinity or 0.
/// Empty  0 without sets. NaN off the diagonal if no odds reproduce the counts to 1e-9 of the number of sets.
/// Cost   O(E^2 S) per set size that occurs, O(E (E + S)) memory.
/// Throws argument_error if a count exceeds the non-empty sets, a size exceeds E, or counts do not sum to the sizes.
/// Source Chen, Dempster, Liu 1994, doi:10.1093/biomet/81.3.457 (conditional Bernoulli law; joint inclusion). Differs:
///        odds by damped steps on the logit scale; several set sizes share one vector of odds; sums of products instead
///        of differences of ratios.
inline xt::xtensor<double, 2> expected_joint_counts(std::vector<std::uint64_t> const& counts,
                                                    std::vector<std::uint64_t> const& sets_of_size) {
  auto const classes = counts.size();
  std::uint64_t sets = 0, slots = 0, counted = 0;
  for (std::size_t s = 1; s < sets_of_size.size(); ++s) {
    if (s > classes && sets_of_size[s] > 0)
      detail::raise("moeroute::expected_joint_counts: ", sets_of_size[s], " sets of ", s, " of ", classes, " classes");
    sets += sets_of_size[s];
    slots += s * sets_of_size[s];
  }
  for (auto const n : counts) {
    if (n > sets) detail::raise("moeroute::expected_joint_counts: a class is in ", n, " of ", sets, " sets");
    counted += n;
  }
  if (counted != slots)
    detail::raise("moeroute::expected_joint_counts: counts sum to ", counted, ", set sizes to ", slots);

  xt::xtensor<double, 2> joint(std::array<std::size_t, 2>{classes, classes}, 0.0);
  for (std::size_t e = 0; e < classes; ++e) joint(e, e) = static_cast<double>(counts[e]);
  if (sets == 0) return joint;

  double const total = static_cast<double>(sets);
  std::vector<double> log_odds(classes), target(classes), expected(classes), p(classes), sizes;
  for (std::size_t s = 0; s < std::min(sets_of_size.size(), classes + 1); ++s)
    sizes.push_back(s == 0 ? 0.0 : static_cast<double>(sets_of_size[s]));
  auto const logit = [total](double n) { return std::log(n / (total - n)); };
  for (std::size_t e = 0; e < classes; ++e) {
    target[e] =
        logit(static_cast<double>(counts[e]));  // -+infinity for a class in no set or in all: its coin never changes
    log_odds[e] = target[e];
    p[e] = static_cast<double>(counts[e]) / total;
  }
  detail::coin_sets law(p, sizes);
  double error = 0;
  for (int step = 0; step < 2000; ++step) {
    law.expect(expected);
    error = 0;
    for (std::size_t e = 0; e < classes; ++e) {
      double const miss = std::abs(expected[e] - static_cast<double>(counts[e]));
      error = miss <= error ? error : miss;  // NaN, once there, stays
    }
    if (!(error > 1e-13 * total)) break;
    for (std::size_t e = 0; e < classes; ++e) {
      if (std::isinf(target[e])) continue;
      // Half a step: the odds are relative, so that the full one overshoots by as much as the few classes that matter
      // push each other.
      log_odds[e] += 0.5 * (target[e] - logit(std::min(expected[e], total * (1 - 1e-16))));
      law.p()[e] = 1 / (1 + std::exp(-log_odds[e]));
    }
  }
  bool const found = error <= 1e-9 * total;
  law.expect_pairs([&](std::size_t i, std::size_t j, double n) { joint(i, j) = joint(j, i) = found ? n : quiet_nan; });
  return joint;
}

}  // namespace moeroute

#endif
