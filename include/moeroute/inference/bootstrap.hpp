// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_INFERENCE_BOOTSTRAP_HPP
#define MOEROUTE_INFERENCE_BOOTSTRAP_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/estimate.hpp>
#include <moeroute/core/parallel.hpp>
#include <moeroute/inference/detail/normal.hpp>
#include <moeroute/numeric/mass.hpp>
#include <moeroute/numeric/random.hpp>
#include <moeroute/numeric/simd.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <vector>

#if __has_include(<xtensor/containers/xtensor.hpp>)
#include <xtensor/containers/xtensor.hpp>
#else
#include <xtensor/xtensor.hpp>
#endif

namespace moeroute {

/// How often a cluster enters a replicate.
enum class resampling {
  poisson,  ///< Poisson(1) for each cluster on its own: needs no knowledge of the others, so shards and machines agree
  multinomial  ///< as many clusters as there are, drawn with replacement: for few clusters, all of them at hand
};

struct bootstrap_options {
  std::uint64_t seed = 1;
  index_t replicates = 2000;
  resampling scheme = resampling::poisson;
  friend bool operator==(bootstrap_options const&, bootstrap_options const&) = default;
};

namespace detail {

inline constexpr std::uint64_t purpose_poisson = 0x706f6973736f6e31u, purpose_multinomial = 0x6d756c74696e6f6du;

// Cluster of each document as an index into the sorted distinct ids.
template <class T>
std::vector<std::size_t> cluster_index(vector_view<T> clusters, std::vector<std::uint64_t>& ids) {
  std::map<T, std::size_t> index;
  for (index_t d = 0; d < clusters.size(); ++d) index.emplace(clusters[d], 0);
  for (auto& [id, i] : index) {
    i = ids.size();
    ids.push_back(static_cast<std::uint64_t>(id));
  }
  std::vector<std::size_t> of_document;
  for (index_t d = 0; d < clusters.size(); ++d) of_document.push_back(index[clusters[d]]);
  return of_document;
}

// Linear interpolation between order statistics (type 7 of Hyndman and Fan), the default of numpy and scipy.
inline double quantile_of_sorted(std::vector<double> const& sorted, double p) {
  double const position = p * static_cast<double>(sorted.size() - 1), below = std::floor(position);
  auto const i = static_cast<std::size_t>(below), j = std::min(i + 1, sorted.size() - 1);
  return sorted[i] + (position - below) * (sorted[j] - sorted[i]);
}

}  // namespace detail

/// Weight of a cluster in a replicate: Poisson(1), the same number in every shard, thread and process.
inline unsigned poisson_weight(std::uint64_t seed, std::uint64_t cluster, std::uint32_t replicate) {
  return poisson_one(random_stream(seed, detail::purpose_poisson, cluster, replicate)());
}

namespace detail {

/// poisson_weight of one cluster in replicates first, first + 1, ...
inline void poisson_weights(std::uint64_t seed, std::uint64_t cluster, std::uint32_t first, index_t replicates,
                            std::uint32_t* weights) {
  constexpr index_t block = 16;
  std::uint32_t words[4 * block];
  auto const key = mix64(mix64(seed) + purpose_poisson);
  for (index_t b = 0; b < replicates; b += block) {  // as random_stream has it: the first two words of its first block
    index_t const n = std::min(block, replicates - b);
    std::uint32_t const counter[4] = {0, first + static_cast<std::uint32_t>(b), static_cast<std::uint32_t>(cluster),
                                      static_cast<std::uint32_t>(cluster >> 32)};
    dispatch<philox_kernel<1>>(static_cast<std::uint32_t const*>(counter), key, n, static_cast<std::uint32_t*>(words));
    for (index_t i = 0; i < n; ++i)
      weights[b + i] = poisson_one(words[4 * i] | std::uint64_t{words[4 * i + 1]} << 32);
  }
}

/// totals [replicates,columns] += weights [cluster,replicates] x values [documents,columns], in the order of documents.
struct weighted_totals_kernel {
  template <simd_level Level>
  MOEROUTE_ALWAYS_INLINE static void run(double const* values, std::size_t const* cluster, std::size_t documents,
                                         std::size_t columns, std::uint32_t const* weights, std::size_t replicates,
                                         double* totals) {
    constexpr std::size_t W = lane_count<Level, double>;
    for (std::size_t d = 0; d < documents; ++d) {
      double const* const document = values + d * columns;
      for (std::size_t b = 0; b < replicates; ++b) {
        std::uint32_t const weight = weights[cluster[d] * replicates + b];
        if (weight == 0) continue;
        double const w = weight;
        double* const row = totals + b * columns;
        std::size_t m = 0;
        for (; m + W <= columns; m += W) {
          lanes<double, W> x, sum;
          load<W>(x, document + m);
          load<W>(sum, row + m);
          x *= w;
          round_here(x);
          sum += x;
          store<W>(sum, row + m);
        }
        for (; m < columns; ++m) {
          double x = w * document[m];
          round_here(x);
          row[m] += x;
        }
      }
    }
  }
};

}  // namespace detail

/// How often each of `clusters` clusters is drawn in a replicate; sums to `clusters`.
/// Throws argument_error if it is negative.
inline std::vector<std::uint32_t> multinomial_weights(std::uint64_t seed, index_t clusters, std::uint32_t replicate) {
  if (clusters < 0) detail::raise("moeroute::multinomial_weights: clusters = ", clusters, " must not be negative");
  random_stream random(seed, detail::purpose_multinomial, 0, replicate);
  std::vector<std::uint32_t> weights(static_cast<std::size_t>(clusters));
  for (index_t i = 0; i < clusters; ++i)
    ++weights[static_cast<std::size_t>(random.index(static_cast<std::uint64_t>(clusters)))];
  return weights;
}

/// Totals of a cluster bootstrap: what every statistic that is a function of sums needs.
///
/// In     sums [D,M] of each document; clusters [D]: ids, documents of one id are drawn together (a document id, or the
///        passage that parallel documents share: separate calls with the same ids then draw alike, and differences are
///        paired).
/// Out    [B,M]: row b is the sum over documents of weight(cluster, b) * sums. Whole numbers below 2^53 are exact.
/// Empty  zeros.
/// Cost   O(B D M) time, O(B M + D M) memory; any number of threads (0: all) gives the same bits.
/// Throws shape_error if the lengths differ, argument_error if replicates is negative or exceeds 2^32.
/// Source Efron 1979, doi:10.1214/aos/1176344552, on clusters; Poisson weights: Hanley, MacGibbon 2006,
///        doi:10.1016/j.cmpb.2006.04.006. Differs: weights come from a counter-based generator keyed by cluster id and
///        replicate.
template <numeric_matrix Sums, index_vector Clusters>
xt::xtensor<double, 2> replicate_totals(Sums const& sums, Clusters const& clusters, bootstrap_options const& options,
                                        int threads = 1) {
  auto const x = detail::matrix_of(sums);
  auto const c = detail::vector_of(clusters);
  if (x.rows() != c.size())
    detail::raise<shape_error>("moeroute::replicate_totals: ", x.rows(), " documents but ", c.size(), " cluster ids");
  if (options.replicates < 0 || options.replicates > index_t{std::numeric_limits<std::uint32_t>::max()})
    detail::raise("moeroute::replicate_totals: replicates = ", options.replicates, " must lie in 0..2^32 - 1");
  std::vector<std::uint64_t> ids;
  auto const cluster = detail::cluster_index(c, ids);
  auto const columns = static_cast<std::size_t>(x.cols());
  std::vector<double> values;
  values.reserve(static_cast<std::size_t>(x.rows()) * columns);
  for (index_t d = 0; d < x.rows(); ++d)
    for (index_t m = 0; m < x.cols(); ++m) values.push_back(detail::as_double(x(d, m)));
  xt::xtensor<double, 2> totals(std::array<std::size_t, 2>{static_cast<std::size_t>(options.replicates), columns}, 0.0);
  constexpr index_t together = 16;  // replicates that share a pass over the documents
  parallel_for((options.replicates + together - 1) / together, threads, [&](index_t part) {
    auto const first = static_cast<std::uint32_t>(part * together);
    index_t const n = std::min(together, options.replicates - part * together);
    std::vector<std::uint32_t> weights(ids.size() * static_cast<std::size_t>(n));
    if (options.scheme == resampling::multinomial) {
      for (index_t b = 0; b < n; ++b) {
        auto const drawn = multinomial_weights(options.seed, static_cast<index_t>(ids.size()),
                                               first + static_cast<std::uint32_t>(b));
        for (std::size_t i = 0; i < drawn.size(); ++i)
          weights[i * static_cast<std::size_t>(n) + static_cast<std::size_t>(b)] = drawn[i];
      }
    } else {
      for (std::size_t i = 0; i < ids.size(); ++i)
        detail::poisson_weights(options.seed, ids[i], first, n, weights.data() + i * static_cast<std::size_t>(n));
    }
    detail::dispatch<detail::weighted_totals_kernel>(
        static_cast<double const*>(values.data()), cluster.data(), cluster.size(), columns,
        static_cast<std::uint32_t const*>(weights.data()), static_cast<std::size_t>(n),
        totals.data() + static_cast<std::size_t>(first) * columns);
  });
  return totals;
}

/// An interval from replicates.
struct replicate_estimate : estimate {
  index_t used = 0;       ///< replicates that entered
  index_t undefined = 0;  ///< NaN replicates, left out
};

namespace detail {

template <class T>
replicate_estimate sort_replicates(double value, vector_view<T> replicates, double level, std::vector<double>& sorted,
                                   char const* function) {
  check_level(level, function);
  for (index_t b = 0; b < replicates.size(); ++b)
    if (double const v = as_double(replicates[b]); !std::isnan(v)) sorted.push_back(v);
  std::sort(sorted.begin(), sorted.end());
  replicate_estimate e;
  e.value = value;
  e.level = level;
  e.used = static_cast<index_t>(sorted.size());
  e.undefined = replicates.size() - e.used;
  return e;
}

}  // namespace detail

/// Bootstrap interval by the quantiles of the replicates. Simple; too narrow for few clusters, and wrong for a biased
/// statistic (entropy): prefer bca_interval there.
///
/// In     value on the data; replicates [B].
/// Out    the (1 -+ level)/2 quantiles, interpolated linearly. NaN replicates are left out and counted.
/// Empty  bounds NaN if no replicate is left or value is NaN.
/// Cost   O(B log B).
/// Throws argument_error if level is outside (0, 1).
/// Source Efron, Tibshirani 1993, An Introduction to the Bootstrap, section 13.3. Differs: quantiles as scipy's, of
///        type 7.
template <real_vector Replicates>
replicate_estimate percentile_interval(double value, Replicates const& replicates, double level = 0.95) {
  std::vector<double> sorted;
  auto e =
      detail::sort_replicates(value, detail::vector_of(replicates), level, sorted, "moeroute::percentile_interval");
  if (sorted.empty() || std::isnan(value)) return e;
  e.lower = detail::quantile_of_sorted(sorted, (1 - level) / 2);
  e.upper = detail::quantile_of_sorted(sorted, (1 + level) / 2);
  return e;
}

/// Bootstrap interval corrected for bias and skewness (BCa).
///
/// In     value on the data; replicates [B]; leave_one_out [G]: value without cluster g, for every cluster.
/// Out    quantiles of the replicates at levels that the bias z0 (half of the ties count as below) and the acceleration
///        move.
/// Empty  bounds NaN if all replicates lie on one side of value, all leave_one_out are equal, or anything in it is NaN.
/// Cost   O(B log B + G).
/// Throws argument_error if level is outside (0, 1).
/// Source Efron 1987, doi:10.1080/01621459.1987.10478410. Differs: ties as in scipy 1.17.
template <real_vector Replicates, real_vector LeaveOneOut>
replicate_estimate bca_interval(double value, Replicates const& replicates, LeaveOneOut const& leave_one_out,
                                double level = 0.95) {
  std::vector<double> sorted;
  auto e = detail::sort_replicates(value, detail::vector_of(replicates), level, sorted, "moeroute::bca_interval");
  if (sorted.empty() || std::isnan(value)) return e;
  auto const below = std::lower_bound(sorted.begin(), sorted.end(), value) - sorted.begin();
  auto const not_above = std::upper_bound(sorted.begin(), sorted.end(), value) - sorted.begin();
  double const share = static_cast<double>(below + not_above) / (2 * static_cast<double>(sorted.size()));
  if (share <= 0 || share >= 1) return e;
  auto const left_out = detail::vector_of(leave_one_out);
  double mean = 0, square = 0, cube = 0;
  for (index_t g = 0; g < left_out.size(); ++g)
    mean += detail::as_double(left_out[g]) / static_cast<double>(left_out.size());
  for (index_t g = 0; g < left_out.size(); ++g) {
    double const d = mean - detail::as_double(left_out[g]);
    square += d * d;
    cube += d * d * d;
  }
  double const z0 = detail::normal_quantile(share), acceleration = cube / (6 * std::pow(square, 1.5));
  if (std::isnan(acceleration)) return e;
  auto const bound = [&](double p) {
    double const z = z0 + detail::normal_quantile(p);
    return detail::quantile_of_sorted(sorted, detail::normal_cdf(z0 + z / (1 - acceleration * z)));
  };
  e.lower = bound((1 - level) / 2);
  e.upper = bound((1 + level) / 2);
  return e;
}

/// Bootstrap-t interval: the best coverage for means and ratios, given a standard error that is good in every
/// replicate.
///
/// In     value and standard_error on the data; replicates [B] and their standard errors [B].
/// Out    value - standard_error * quantiles of (replicate - value) / replicate error. Pairs that give NaN are left out
///        and counted.
/// Empty  bounds NaN if no replicate is left or value is NaN.
/// Cost   O(B log B).
/// Throws shape_error if the lengths differ, argument_error if level is outside (0, 1).
/// Source Efron, Tibshirani 1993, section 12.5. Differs: as given.
template <real_vector Replicates, real_vector Errors>
replicate_estimate studentised_interval(double value, double standard_error, Replicates const& replicates,
                                        Errors const& errors, double level = 0.95) {
  auto const r = detail::vector_of(replicates);
  auto const s = detail::vector_of(errors);
  if (r.size() != s.size())
    detail::raise<shape_error>("moeroute::studentised_interval: ", r.size(), " replicates but ", s.size(),
                               " standard errors");
  std::vector<double> t, sorted;
  for (index_t b = 0; b < r.size(); ++b) t.push_back((detail::as_double(r[b]) - value) / detail::as_double(s[b]));
  auto e = detail::sort_replicates(value, detail::vector_of(t), level, sorted, "moeroute::studentised_interval");
  if (sorted.empty() || std::isnan(value)) return e;
  e.lower = value - standard_error * detail::quantile_of_sorted(sorted, (1 + level) / 2);
  e.upper = value - standard_error * detail::quantile_of_sorted(sorted, (1 - level) / 2);
  return e;
}

struct jackknife_result {
  double corrected = quiet_nan;  ///< value less its estimated bias
  double bias = quiet_nan;
  double standard_error = quiet_nan;
};

/// Bias and standard error from leaving out one cluster at a time.
///
/// In     value on the data; leave_one_out [G]: value without cluster g.
/// Out    bias (G - 1)(mean - value); variance (G - 1)/G times the sum of squares around the mean.
/// Empty  all NaN if G < 2.
/// Cost   O(G).
/// Source Efron, Stein 1981, doi:10.1214/aos/1176345462. Differs: as given.
template <real_vector LeaveOneOut>
jackknife_result jackknife(double value, LeaveOneOut const& leave_one_out) {
  auto const v = detail::vector_of(leave_one_out);
  if (v.size() < 2) return {};
  double const g = static_cast<double>(v.size());
  double mean = 0, square = 0;
  for (index_t i = 0; i < v.size(); ++i) mean += detail::as_double(v[i]) / g;
  for (index_t i = 0; i < v.size(); ++i) square += (detail::as_double(v[i]) - mean) * (detail::as_double(v[i]) - mean);
  double const bias = (g - 1) * (mean - value);
  return {value - bias, bias, std::sqrt((g - 1) / g * square)};
}

struct ratio_result {
  double value = quiet_nan;           ///< sum x / sum n
  double standard_error = quiet_nan;  ///< with clusters as units
  double design_effect = quiet_nan;   ///< variance against sum n independent draws of 0 or 1; NaN unless 0 < value < 1
  double effective_n = quiet_nan;     ///< sum n / design_effect
  index_t clusters = 0;
};

/// A share with the standard error that dependent tokens leave it: documents, not tokens, are the sample.
///
/// In     x [D], n [D]: part and whole of each document, e.g. slots at an expert and slots; clusters [D]: ids.
/// Out    ratio of the totals, its linearised cluster standard error (factor G/(G - 1)), design effect, effective n.
/// Empty  value NaN if n sums to 0; the rest NaN below two clusters.
/// Cost   O(D log D).
/// Throws shape_error if lengths differ, argument_error for a negative or infinite x or n.
/// Source Cochran 1977, Sampling Techniques, chapter 6; design effect: Kish 1965, Survey Sampling, section 8.2.
///        Differs: as given.
template <mass_vector X, mass_vector N, index_vector Clusters>
ratio_result ratio_of_totals(X const& x, N const& n, Clusters const& clusters) {
  auto const part = detail::masses_of(x, "moeroute::ratio_of_totals"),
             whole = detail::masses_of(n, "moeroute::ratio_of_totals");
  auto const c = detail::vector_of(clusters);
  if (part.values.size() != whole.values.size() || c.size() != static_cast<index_t>(part.values.size()))
    detail::raise<shape_error>("moeroute::ratio_of_totals: ", part.values.size(), " parts, ", whole.values.size(),
                               " wholes and ", c.size(), " cluster ids");
  std::vector<std::uint64_t> ids;
  auto const cluster = detail::cluster_index(c, ids);
  ratio_result r;
  r.clusters = static_cast<index_t>(ids.size());
  if (whole.total == 0) return r;
  r.value = part.total / whole.total;
  if (r.clusters < 2) return r;
  std::vector<double> residual(ids.size());
  for (std::size_t d = 0; d < cluster.size(); ++d) residual[cluster[d]] += part.values[d] - r.value * whole.values[d];
  double square = 0;
  for (double const u : residual) square += u * u;
  double const g = static_cast<double>(r.clusters), variance = g / (g - 1) * square / (whole.total * whole.total);
  r.standard_error = std::sqrt(variance);
  if (r.value > 0 && r.value < 1) {
    r.design_effect = variance * whole.total / (r.value * (1 - r.value));
    r.effective_n = whole.total / r.design_effect;
  }
  return r;
}

}  // namespace moeroute

#endif
