// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_LAYERS_PERIODICITY_HPP
#define MOEROUTE_LAYERS_PERIODICITY_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/parallel.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/inference/bootstrap.hpp>
#include <moeroute/inference/permutation.hpp>
#include <moeroute/layers/lag_correlation.hpp>
#include <moeroute/numeric/mass.hpp>
#include <moeroute/numeric/random.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

namespace moeroute {

struct periodicity_options {
  lag_correlation_options correlation{};  ///< also the seed and the threads of everything else
  index_t flips = 9999;                   ///< sign flips for the test of peaks
  double level = 0.05;                    ///< family-wise, at which a lag is called periodic
};

/// One lag Δ. p_value and p_adjusted of lag_summary are those of permuted expert labels.
struct periodicity_lag : lag_summary {
  double rise = quiet_nan;             ///< mean correlation at Δ minus the larger one at the neighbouring lags
  double peak = quiet_nan;             ///< the smaller of the two differences in units of its spread over experts
  double p_peak = quiet_nan;           ///< that a decay with Δ, of any shape, shows such a peak at this lag
  double p_peak_adjusted = quiet_nan;  ///< or at any lag: family-wise
  index_t harmonics = 0;               ///< multiples 2Δ, 3Δ, .. that have both neighbours, also beyond delta_max
  double harmonic_rise = quiet_nan;    ///< the smaller of the mean differences over them, weighted by pairs
  double p_harmonics = quiet_nan;      ///< that a decay shows such peaks at the multiples together; not adjusted
  bool periodic = false;               ///< mean > 0 and both adjusted p-values are at most `level`
};

struct periodicity_result {
  lag_correlation_result correlation;
  std::vector<periodicity_lag> lags;  ///< Δ = 1..Δmax
  std::vector<index_t> periodic_at;   ///< those that are called periodic
};

namespace detail {

inline constexpr std::uint64_t purpose_expert_flip = 0x7065726d666c6970u;

/// What each expert adds to the mean correlation of each lag that has pairs: share [lags][E], rows sum to the mean.
struct lag_shares {
  std::vector<index_t> delta, pairs;
  std::vector<std::vector<double>> share;

  lag_shares(unit_profiles const& unit, std::vector<index_t> const& number) {
    auto const all = lag_pairs_of(number, unit.defined, std::numeric_limits<index_t>::max());
    for (index_t lag = 0; lag < all.lags(); ++lag) {
      if (all.count(lag) == 0) continue;
      delta.push_back(lag + 1);
      pairs.push_back(all.count(lag));
      auto& s = share.emplace_back(static_cast<std::size_t>(unit.experts));
      for (auto p = all.first[static_cast<std::size_t>(lag)]; p < all.first[static_cast<std::size_t>(lag) + 1]; ++p)
        for (index_t e = 0; e < unit.experts; ++e)
          s[static_cast<std::size_t>(e)] += unit.row(all.from[p])[e] * unit.row(all.to[p])[e];
      for (double& v : s) v /= static_cast<double>(pairs.back());
    }
  }

  /// a[e] += weight * (share at lag i - share at lag j)
  void add_difference(std::vector<double>& a, std::size_t i, std::size_t j, double weight) const {
    for (std::size_t e = 0; e < a.size(); ++e) a[e] += weight * (share[i][e] - share[j][e]);
  }
};

/// A sum over experts and the sum in units of its spread.
struct self_normalised {
  double sum = 0, statistic = quiet_nan;
  std::vector<double> unit;  // the summands at length 1

  explicit self_normalised(std::vector<double> const& x) : unit(x) {
    double square = 0;
    for (double const v : x) {
      sum += v;
      square += v * v;
    }
    double const length = std::sqrt(square), n = static_cast<double>(x.size());
    if (!(length > 1e-14)) return;
    for (double& v : unit) v /= length;
    // Profiles are centred, which makes a sum over E permuted experts vary E/(E-1) times as much as its squares say.
    statistic = sum / length * std::sqrt((n - 1) / n);
  }
};

/// A peak is as high as the lower of its two sides.
struct peak_of_lag {
  self_normalised left, right;
  double rise() const noexcept { return std::min(left.sum, right.sum); }
  double statistic() const noexcept {
    return std::isnan(left.statistic) || std::isnan(right.statistic) ? quiet_nan
                                                                     : std::min(left.statistic, right.statistic);
  }
};

/// Counts, for every peak, the sign flips of its left side that reach it.
inline max_statistic flip_experts(std::vector<peak_of_lag> const& peaks, index_t experts, index_t flips,
                                  std::uint64_t seed, int threads) {
  auto const n = peaks.size();
  std::vector<double> observed, step(static_cast<std::size_t>(experts) * n);  // [E][peaks]
  for (std::size_t j = 0; j < n; ++j) {
    observed.push_back(peaks[j].statistic());
    for (std::size_t e = 0; e < static_cast<std::size_t>(experts); ++e) step[e * n + j] = peaks[j].left.unit[e];
  }
  max_statistic const empty(observed);
  index_t const part = 256, parts = (flips + part - 1) / part;
  std::vector<max_statistic> families(static_cast<std::size_t>(parts), empty);
  parallel_for(parts, threads, [&](index_t i) {
    std::vector<double> t(n);
    for (index_t b = i * part; b < std::min(flips, (i + 1) * part); ++b) {
      random_stream random(seed, purpose_expert_flip, static_cast<std::uint64_t>(b));
      std::fill(t.begin(), t.end(), 0.0);
      std::uint64_t bits = 0;
      for (std::size_t e = 0; e < static_cast<std::size_t>(experts); ++e, bits >>= 1) {
        if (e % 64 == 0) bits = random();
        double const sign = (bits & 1) != 0 ? 1.0 : -1.0;
        double const* const s = step.data() + e * n;
        for (std::size_t j = 0; j < n; ++j) t[j] += sign * s[j];
      }
      families[static_cast<std::size_t>(i)].update(t);
    }
  });
  max_statistic family = empty;
  for (auto const& f : families) family.merge(f);
  return family;
}

inline periodicity_result periodicity_of(unit_profiles const& unit, std::vector<index_t> const& number,
                                         periodicity_options const& options) {
  periodicity_result result;
  result.correlation = lag_correlation_of(unit, number, options.correlation);
  for (auto const& lag : result.correlation.lags) static_cast<lag_summary&>(result.lags.emplace_back()) = lag;
  lag_shares const shares(unit, number);
  auto const experts = static_cast<std::size_t>(unit.experts), occupied = shares.delta.size();
  std::vector<peak_of_lag> peaks, combs;
  std::vector<std::size_t> peak_lag, comb_lag;  // into result.lags
  for (std::size_t i = 1; i + 1 < occupied; ++i) {
    auto const delta = shares.delta[i];
    if (delta > static_cast<index_t>(result.lags.size())) break;
    auto& lag = result.lags[static_cast<std::size_t>(delta - 1)];
    std::vector<double> left(experts), right(experts), comb_left(experts), comb_right(experts);
    shares.add_difference(left, i, i - 1, 1);
    shares.add_difference(right, i, i + 1, 1);
    peaks.push_back({self_normalised(left), self_normalised(right)});
    peak_lag.push_back(static_cast<std::size_t>(delta - 1));
    lag.rise = peaks.back().rise();
    lag.peak = peaks.back().statistic();
    double weight = 0;
    for (std::size_t m = i + 1; m + 1 < occupied; ++m) {
      if (shares.delta[m] % delta != 0) continue;
      double const w = static_cast<double>(shares.pairs[m]);
      shares.add_difference(comb_left, m, m - 1, w);
      shares.add_difference(comb_right, m, m + 1, w);
      weight += w;
      ++lag.harmonics;
    }
    if (lag.harmonics == 0) continue;
    combs.push_back({self_normalised(comb_left), self_normalised(comb_right)});
    comb_lag.push_back(static_cast<std::size_t>(delta - 1));
    lag.harmonic_rise = combs.back().rise() / weight;
  }
  if (options.flips > 0) {
    auto const seed = options.correlation.seed;
    auto const threads = options.correlation.threads;
    auto const tested = flip_experts(peaks, unit.experts, options.flips, seed, threads).result();
    for (std::size_t j = 0; j < peaks.size(); ++j) {
      result.lags[peak_lag[j]].p_peak = tested.p_value[j];
      result.lags[peak_lag[j]].p_peak_adjusted = tested.p_adjusted[j];
    }
    auto const supported = flip_experts(combs, unit.experts, options.flips, seed, threads).result();
    for (std::size_t j = 0; j < combs.size(); ++j) result.lags[comb_lag[j]].p_harmonics = supported.p_value[j];
  }
  for (auto& lag : result.lags) {
    lag.periodic = lag.mean > 0 && lag.p_adjusted <= options.level && lag.p_peak_adjusted <= options.level;
    if (lag.periodic) result.periodic_at.push_back(lag.delta);
  }
  return result;
}

template <class T>
unit_profiles checked_periodicity(matrix_view<T> profiles, periodicity_options const& options) {
  if (options.flips < 0 || options.flips > index_t{std::numeric_limits<std::uint32_t>::max()} ||
      !(options.level > 0 && options.level < 1))
    raise("moeroute::periodicity: flips = ", options.flips, ", level = ", options.level);
  return checked_profiles(profiles, options.correlation, "moeroute::periodicity");
}

}  // namespace detail

/// Do layers repeat with a period? A lag is called periodic if equal expert numbers mean something there, and if its
/// correlation stands out from both neighbouring lags, which no decay with depth does.
///
/// In     profiles [L,E] as for lag_correlation; optionally layers [L], the number of each MoE layer in the model.
/// Out    see periodicity_lag. Expert e adds d_e to mean r at Δ minus mean r at the lag before, and likewise at the lag
///        after. Under a correlation that does not rise with Δ the d_e have no positive mean; sign flips of whole
///        experts give the law of sum d / |d|, with every dependence between layers and lags in it. The lower side of
///        the peak counts.
/// Empty  the peak's fields are NaN at the first lag, at the last lag that has pairs, and where a lag has no pairs.
///        Neighbours are the nearest lags that have pairs.
/// Cost   lag_correlation, and O(flips Δmax E) time over all threads.
/// Bias   conservative: where the correlation is flat in Δ, both sides must exceed by chance what one may, and a test at
///        5 % rejects in less than 1 %. The flips need experts whose d_e are symmetric or many; with fewer than 9 none
///        of 20 lags can pass. A broad wave over depth has no sharp peak and is not found.
/// Throws as lag_correlation; argument_error if flips is negative or level is outside (0, 1).
/// Source ours; sign flips Fisher 1935, The Design of Experiments, section 21; self-normalised sums Efron 1969,
///        JASA 64, 1278; both sides: intersection-union, Berger 1982, Technometrics 24, 295.
///        Differs: the published analysis calls mean r > 0.7 at a Δ chosen beforehand strong.
template <numeric_matrix Profiles>
periodicity_result periodicity(Profiles const& profiles, periodicity_options const& options = {}) {
  auto const unit = detail::checked_periodicity(detail::matrix_of(profiles), options);
  return detail::periodicity_of(unit, detail::layer_numbers(unit.layers), options);
}

template <numeric_matrix Profiles, index_vector Layers>
periodicity_result periodicity(Profiles const& profiles, Layers const& layers,
                               periodicity_options const& options = {}) {
  auto const unit = detail::checked_periodicity(detail::matrix_of(profiles), options);
  return detail::periodicity_of(
      unit, detail::layer_numbers(detail::vector_of(layers), unit.layers, "moeroute::periodicity"), options);
}

namespace detail {

template <class T, class R>
std::vector<replicate_estimate> lag_intervals_of(matrix_view<T> profiles, matrix_view<R> rows,
                                                 std::vector<index_t> const& number,
                                                 lag_correlation_options const& options, double level,
                                                 char const* name) {
  auto const unit = checked_profiles(profiles, options, name);
  if (rows.cols() != unit.layers * unit.experts)
    raise<shape_error>(name, ": replicates have ", rows.cols(), " columns, profiles are [", unit.layers, ",",
                       unit.experts, "]");
  auto const means = [&](unit_profiles const& u) {
    auto const pairs = lag_pairs_of(number, u.defined, options.delta_max);
    std::vector<double> mean;
    for (index_t lag = 0; lag < pairs.lags(); ++lag) {
      double sum = 0;
      for (auto p = pairs.first[static_cast<std::size_t>(lag)]; p < pairs.first[static_cast<std::size_t>(lag) + 1]; ++p)
        sum += std::inner_product(u.row(pairs.from[p]), u.row(pairs.from[p]) + u.experts, u.row(pairs.to[p]), 0.0);
      mean.push_back(std::clamp(sum / static_cast<double>(pairs.count(lag)), -1.0, 1.0));
    }
    return mean;
  };
  auto const value = means(unit);
  std::vector<double> replicate(value.size() * static_cast<std::size_t>(rows.rows()));  // [lags][B]
  parallel_for(rows.rows(), options.threads, [&](index_t b) {
    std::vector<double> x;
    for (index_t i = 0; i < rows.cols(); ++i) x.push_back(as_double(rows(b, i)));
    auto const r =
        means(unit_profiles_of(matrix_view<double>(x.data(), unit.layers, unit.experts), options.method, name));
    for (std::size_t lag = 0; lag < r.size(); ++lag)
      replicate[lag * static_cast<std::size_t>(rows.rows()) + static_cast<std::size_t>(b)] = r[lag];
  });
  std::vector<replicate_estimate> intervals;
  for (std::size_t lag = 0; lag < value.size(); ++lag) {
    vector_view<double> const r(replicate.data() + static_cast<index_t>(lag) * rows.rows(), rows.rows());
    auto e = percentile_interval(value[lag], r, level);
    auto const turned = [&](double quantile) { return std::clamp(2 * value[lag] - quantile, -1.0, 1.0); };
    auto const lower = turned(e.upper);
    e.upper = turned(e.lower);
    e.lower = lower;
    intervals.push_back(e);
  }
  return intervals;
}

}  // namespace detail

/// Intervals of the mean correlation at each lag, from replicates of the profiles with documents as units.
///
/// In     profiles [L,E]; replicates [B,L*E]: row b holds replicate b of the profiles, row by row, for instance
///        replicate_totals of the counts of each document, or any other replicates [B,L,E]. Optionally layers [L] as for
///        lag_correlation.
/// Out    per lag of lag_correlation the mean r and its interval: the value minus the quantiles of (replicate -
///        value), cut at -1 and 1, the basic bootstrap. Noise of variance s in a profile of variance 1 divides r by
///        1 + s, and a replicate has it twice: r / (1 + 2s). Turning the quantiles round takes out most of the loss, so
///        the interval is for the r of profiles without noise; the value may lie outside, below it.
/// Empty  NaN for a lag without pairs; bounds NaN if no replicate has a defined r there; such replicates are left out
///        and counted.
/// Cost   O(B L Δmax E) time over all threads, O(B Δmax) memory.
/// Bias   with 20 documents 95 % intervals cover 85 to 95 %, with 60 at least 92 %. Percentiles of the replicates would
///        nearly always lie below the true r.
/// Throws shape_error if replicates do not have L*E columns; argument_error for what lag_correlation refuses or a level
///        outside (0, 1).
/// Source Davison, Hinkley 1997, Bootstrap Methods and their Application, section 5.2; attenuation: Spearman 1904,
///        doi:10.2307/1412159. Differs: as given.
template <numeric_matrix Profiles, numeric_matrix Replicates>
std::vector<replicate_estimate> lag_intervals(Profiles const& profiles, Replicates const& replicates,
                                              lag_correlation_options const& options = {}, double level = 0.95) {
  auto const view = detail::matrix_of(profiles);
  return detail::lag_intervals_of(view, detail::matrix_of(replicates), detail::layer_numbers(view.rows()), options,
                                  level, "moeroute::lag_intervals");
}

template <numeric_matrix Profiles, numeric_matrix Replicates, index_vector Layers>
std::vector<replicate_estimate> lag_intervals(Profiles const& profiles, Replicates const& replicates,
                                              Layers const& layers, lag_correlation_options const& options = {},
                                              double level = 0.95) {
  constexpr auto name = "moeroute::lag_intervals";
  auto const view = detail::matrix_of(profiles);
  return detail::lag_intervals_of(view, detail::matrix_of(replicates),
                                  detail::layer_numbers(detail::vector_of(layers), view.rows(), name), options, level,
                                  name);
}

}  // namespace moeroute

#endif
