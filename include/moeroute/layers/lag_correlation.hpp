// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_LAYERS_LAG_CORRELATION_HPP
#define MOEROUTE_LAYERS_LAG_CORRELATION_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/parallel.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/inference/permutation.hpp>
#include <moeroute/numeric/mass.hpp>
#include <moeroute/numeric/random.hpp>
#include <moeroute/numeric/rank.hpp>
#include <moeroute/numeric/simd.hpp>

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
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

namespace moeroute {

/// What is correlated over the experts of two layers.
enum class profile_correlation {
  pearson,   ///< the profile as it is; a few popular experts can dominate
  spearman,  ///< mid-ranks: any monotone change of a profile leaves it alone
  log_share  ///< logarithms (centred log-ratio of shares); a zero becomes half the least positive value of its layer
};

struct lag_correlation_options {
  index_t delta_max = 30;  ///< lags 1..min(delta_max, distance of the first and the last layer)
  index_t permutations = 1999;
  std::uint64_t seed = 1;
  int threads = 0;  ///< 0: all; the result does not depend on it
  profile_correlation method = profile_correlation::pearson;
};

/// One lag Δ, over the layer pairs (l, l+Δ) that have a defined correlation.
struct lag_summary {
  index_t delta = 0;
  index_t pairs = 0;
  double mean = quiet_nan;        ///< of the correlations
  double sd = quiet_nan;          ///< of the correlations, n-1; the pairs share layers, so it is no standard error
  double p_value = quiet_nan;     ///< this lag alone, two-sided
  double p_adjusted = quiet_nan;  ///< family-wise over all lags
};

struct lag_correlation_result {
  xt::xtensor<double, 2> matrix;  ///< [L,Δmax]: profile l with the one Δ later in column Δ-1; NaN where undefined
  std::vector<lag_summary> lags;  ///< Δ = 1..Δmax
  double null_sd = quiet_nan;     ///< 1/sqrt(E-1): sd of one correlation when expert numbers mean nothing, exactly
  std::uint64_t zeros = 0;        ///< values that log_share had to replace
};

namespace detail {

inline constexpr std::uint64_t purpose_profile_shuffle = 0x7065726d70726f66u;

/// Profiles [L,E] transformed, centred and scaled to length 1, so that a correlation is a dot product. A profile that
/// is constant or not finite becomes NaN.
struct unit_profiles {
  std::vector<double> values;
  std::vector<char> defined;  // [L]
  index_t layers = 0, experts = 0;
  std::uint64_t zeros = 0;

  double const* row(index_t l) const noexcept { return values.data() + l * experts; }
};

inline void to_log_share(double* u, index_t experts, index_t layer, std::uint64_t& zeros, char const* function) {
  double least = std::numeric_limits<double>::infinity();
  for (index_t e = 0; e < experts; ++e) {
    if (u[e] < 0)
      raise(function, ": value ", u[e], " of expert ", e, " in layer ", layer,
            " is negative; log_share needs shares or counts");
    if (u[e] > 0) least = std::min(least, u[e]);
  }
  for (index_t e = 0; e < experts; ++e) {
    if (u[e] == 0) ++zeros;
    u[e] = std::log(u[e] == 0 ? least / 2 : u[e]);
  }
}

/// Sums over a row in eight lanes, whatever the registers are: element e goes to lane e mod 8.
template <simd_level Level>
struct row_sums {
  static constexpr int W = lane_count<Level, double>, registers = 8 / W;
  using v = lanes<double, W>;
  v lane[registers] = {};

  /// Adds value(i), rounded, of every whole register from element i on, and tail(e) of each element that is left.
  template <class Value, class Tail>
  MOEROUTE_ALWAYS_INLINE double add(index_t n, Value const& value, Tail const& tail) {
    index_t e = 0;
    for (; e + 8 <= n; e += 8)
#pragma GCC unroll 4
      for (int r = 0; r < registers; ++r) {
        v x;
        value(e + r * W, x);
        round_here(x);
        lane[r] += x;
      }
    if (e < n) {
      double rest[8] = {};
      for (int i = 0; e < n; ++e, ++i) rest[i] = tail(e);
      for (int r = 0; r < registers; ++r) {
        v x;
        load<W>(x, rest + r * W);
        round_here(x);
        lane[r] += x;
      }
    }
    for (int half = registers / 2; half > 0; half /= 2)
      for (int r = 0; r < half; ++r) lane[r] += lane[r + half];
    return fold_lanes<double, W>(lane[0], fold_sum{});
  }
};

/// Centres a row and scales it to length 1; false if it does not vary or is not finite.
struct unit_kernel {
  template <simd_level Level>
  MOEROUTE_ALWAYS_INLINE static bool run(double* u, index_t n) {
    constexpr int W = row_sums<Level>::W;
    using v = typename row_sums<Level>::v;
    double const share = 1 / static_cast<double>(n);  // before the sum, which could overflow
    double const mean = row_sums<Level>{}.add(
        n,
        [&](index_t e, v& x) __attribute__((always_inline)) {
          load<W>(x, u + e);
          x *= share;
        },
        [&](index_t e) { return u[e] * share; });
    double scale = 0;
    for (index_t e = 0; e < n; ++e) {
      scale = std::abs(u[e]) > scale ? std::abs(u[e]) : scale;
      u[e] -= mean;
    }
    double const length = std::sqrt(row_sums<Level>{}.add(
        n,
        [&](index_t e, v& x) __attribute__((always_inline)) {
          load<W>(x, u + e);
          x *= x;
        },
        [&](index_t e) { return u[e] * u[e]; }));
    // Rounding leaves a residue in a constant profile; it is no variation.
    if (!(length > 1e-14 * scale * std::sqrt(static_cast<double>(n)) && std::isfinite(length))) return false;
    for (index_t e = 0; e < n; ++e) u[e] /= length;
    return true;
  }
};

/// out[p] = dot product of rows from[p] and to[p].
struct row_products_kernel {
  template <simd_level Level>
  MOEROUTE_ALWAYS_INLINE static void run(double const* rows, index_t n, std::uint32_t const* from,
                                         std::uint32_t const* to, index_t pairs, double* out) {
    constexpr int W = row_sums<Level>::W;
    using v = typename row_sums<Level>::v;
    for (index_t p = 0; p < pairs; ++p) {
      double const *const a = rows + from[p] * n, *const b = rows + to[p] * n;
      out[p] = row_sums<Level>{}.add(
          n,
          [&](index_t e, v& x) __attribute__((always_inline)) {
            v y;
            load<W>(x, a + e);
            load<W>(y, b + e);
            x *= y;
          },
          [&](index_t e) { return a[e] * b[e]; });
    }
  }
};

template <class T>
unit_profiles unit_profiles_of(matrix_view<T> profiles, profile_correlation method, char const* function) {
  unit_profiles p;
  p.layers = profiles.rows();
  p.experts = profiles.cols();
  p.values.resize(static_cast<std::size_t>(p.layers * p.experts));
  p.defined.resize(static_cast<std::size_t>(p.layers));
  for (index_t l = 0; l < p.layers; ++l) {
    double* const u = p.values.data() + l * p.experts;
    for (index_t e = 0; e < p.experts; ++e) u[e] = as_double(profiles(l, e));
    if (method == profile_correlation::log_share) to_log_share(u, p.experts, l, p.zeros, function);
    if (method == profile_correlation::spearman) {
      auto const ranks = mid_ranks(vector_view<double>(u, p.experts));
      std::copy(ranks.begin(), ranks.end(), u);
    }
    bool const varies = dispatch<unit_kernel>(u, p.experts);
    p.defined[static_cast<std::size_t>(l)] = varies;
    if (!varies) std::fill(u, u + p.experts, quiet_nan);
  }
  return p;
}

/// Pairs of layers for each lag; the pairs of Δ are first[Δ-1] .. first[Δ]-1.
struct lag_pairs {
  std::vector<std::uint32_t> from, to;
  std::vector<std::size_t> first{0};
  index_t lags() const noexcept { return static_cast<index_t>(first.size()) - 1; }
  index_t count(index_t lag) const noexcept {
    return static_cast<index_t>(first[static_cast<std::size_t>(lag) + 1] - first[static_cast<std::size_t>(lag)]);
  }
};

inline lag_pairs lag_pairs_of(std::vector<index_t> const& number, std::vector<char> const& defined, index_t delta_max) {
  lag_pairs p;
  if (number.size() < 2) return p;
  delta_max = std::min(delta_max, number.back() - number.front());
  for (index_t delta = 1; delta <= delta_max; ++delta) {
    for (std::size_t i = 0, j = 0; i < number.size(); ++i) {
      while (j < number.size() && number[j] < number[i] + delta) ++j;
      if (j == number.size()) break;
      if (number[j] != number[i] + delta || !defined[i] || !defined[j]) continue;
      p.from.push_back(static_cast<std::uint32_t>(i));
      p.to.push_back(static_cast<std::uint32_t>(j));
    }
    p.first.push_back(p.from.size());
  }
  return p;
}

template <class T>
std::vector<index_t> layer_numbers(vector_view<T> layers, index_t count, char const* function) {
  if (layers.size() != count)
    raise<shape_error>(function, ": ", count, " profiles but ", layers.size(), " layer numbers");
  std::vector<index_t> number;
  for (index_t l = 0; l < count; ++l) {
    if (l > 0 && !std::cmp_greater(layers[l], layers[l - 1]))
      raise(function, ": layer number ", layers[l], " after ", layers[l - 1], "; they must rise");
    number.push_back(static_cast<index_t>(layers[l]));
  }
  return number;
}

inline std::vector<index_t> layer_numbers(index_t count) {
  std::vector<index_t> number(static_cast<std::size_t>(count));
  std::iota(number.begin(), number.end(), index_t{0});
  return number;
}

/// Uniform shuffle of n values, a function of (seed, replicate, layer). 32 bits a draw and no division make it several
/// times as fast as random_stream.
template <class T>
void shuffle_values(T* x, index_t n, std::uint64_t seed, std::uint32_t replicate, std::uint32_t layer,
                    std::vector<std::uint32_t>& words) {
  auto const key = mix64(mix64(seed) + purpose_profile_shuffle);
  std::uint32_t block = 0;
  std::size_t used = 0;
  auto const refill = [&] {
    index_t const blocks = (n + 3) / 4;
    words.resize(static_cast<std::size_t>(4 * blocks));
    std::uint32_t const counter[4] = {block, layer, replicate, 0};
    dispatch<philox_kernel<0>>(static_cast<std::uint32_t const*>(counter), key, blocks, words.data());
    block += static_cast<std::uint32_t>(blocks);
    used = 0;
  };
  refill();
  for (auto left = static_cast<std::uint32_t>(n); left > 1; --left) {
    // Lemire 2019, doi:10.1145/3230636: the high word is uniform once the 2^32 mod left smallest low words are drawn
    // again.
    std::uint64_t product = std::uint64_t{words[used++]} * left;
    while (static_cast<std::uint32_t>(product) < left && static_cast<std::uint32_t>(product) < (0u - left) % left) {
      if (used == words.size()) refill();
      product = std::uint64_t{words[used++]} * left;
    }
    if (used == words.size()) refill();
    std::swap(x[left - 1], x[product >> 32]);
  }
}

inline constexpr index_t lag_block = 32;

/// Sum over the pairs of each lag of the dot products of their rows. Rows stand in blocks of 32 columns,
/// [blocks][layers][32]; column c adds into lane c mod 32, whatever the registers are.
struct lag_sums_kernel {
  template <simd_level Level>
  MOEROUTE_ALWAYS_INLINE static void run(double const* rows, index_t blocks, index_t layers, lag_pairs const* pairs,
                                         double* out) {
    constexpr int width = lane_count<Level, double>, registers = 4;
    using v = lanes<double, width>;
    for (index_t lag = 0; lag < pairs->lags(); ++lag) {
      auto const begin = pairs->first[static_cast<std::size_t>(lag)],
                 end = pairs->first[static_cast<std::size_t>(lag) + 1];
      double sum[lag_block] = {};
      for (index_t block = 0; block < blocks; ++block)
        for (index_t column = 0; column < lag_block; column += width * registers) {
          double const* const base = rows + block * layers * lag_block + column;
          v total[registers] = {};
          for (auto p = begin; p < end; ++p) {
            double const *a = base + pairs->from[p] * lag_block, *b = base + pairs->to[p] * lag_block;
            for (int r = 0; r < registers; ++r) {
              v x, y;
              load<width>(x, a + r * width);
              load<width>(y, b + r * width);
              x *= y;
              round_here(x);
              total[r] += x;
            }
          }
          for (int r = 0; r < registers; ++r) {
            v s;
            load<width>(s, sum + column + r * width);
            s += total[r];
            store<width>(s, sum + column + r * width);
          }
        }
      for (index_t half = lag_block / 2; half > 0; half /= 2)
        for (index_t i = 0; i < half; ++i) sum[i] += sum[i + half];
      out[lag] = sum[0];
    }
  }
};

inline index_t lag_blocks(index_t experts) noexcept { return (experts + lag_block - 1) / lag_block; }

inline void put_row(double const* row, index_t experts, index_t layer, index_t layers, double* blocks) {
  for (index_t e = 0; e < experts; e += lag_block)
    std::copy(row + e, row + std::min(experts, e + lag_block), blocks + (e / lag_block * layers + layer) * lag_block);
}

inline lag_correlation_result lag_correlation_of(unit_profiles const& unit, std::vector<index_t> const& number,
                                                 lag_correlation_options const& options) {
  auto const pairs = lag_pairs_of(number, unit.defined, options.delta_max);
  auto const lags = static_cast<std::size_t>(pairs.lags());
  lag_correlation_result result;
  result.zeros = unit.zeros;
  if (unit.experts > 1) result.null_sd = 1 / std::sqrt(static_cast<double>(unit.experts - 1));
  result.matrix = xt::xtensor<double, 2>::from_shape({static_cast<std::size_t>(unit.layers), lags});
  std::fill(result.matrix.begin(), result.matrix.end(), quiet_nan);
  std::vector<double> products(pairs.from.size());
  dispatch<row_products_kernel>(unit.values.data(), unit.experts, pairs.from.data(), pairs.to.data(),
                                static_cast<index_t>(products.size()), products.data());
  for (std::size_t lag = 0; lag < lags; ++lag) {
    lag_summary s;
    s.delta = static_cast<index_t>(lag) + 1;
    s.pairs = pairs.count(static_cast<index_t>(lag));
    double sum = 0, squares = 0;
    for (auto p = pairs.first[lag]; p < pairs.first[lag + 1]; ++p) {
      double const r = std::clamp(products[p], -1.0, 1.0);
      result.matrix(pairs.from[p], lag) = r;
      sum += r;
    }
    s.mean = sum / static_cast<double>(s.pairs);
    for (auto p = pairs.first[lag]; p < pairs.first[lag + 1]; ++p) {
      double const d = result.matrix(pairs.from[p], lag) - s.mean;
      squares += d * d;
    }
    if (s.pairs > 1) s.sd = std::sqrt(squares / static_cast<double>(s.pairs - 1));
    result.lags.push_back(s);
  }
  if (lags == 0 || options.permutations == 0) return result;

  // The sum of n correlations has the permutation mean 0 and variance n/(E-1), exactly: one permuted correlation has
  // variance 1/(E-1), and two that share a layer are uncorrelated, because given the shared layer each has mean 0.
  std::vector<double> sd(lags), observed(lags);
  for (std::size_t lag = 0; lag < lags; ++lag) {
    double const n = static_cast<double>(result.lags[lag].pairs);
    sd[lag] = std::sqrt(n / static_cast<double>(unit.experts - 1));
    observed[lag] = std::abs(result.lags[lag].mean) * n / sd[lag];
  }
  max_statistic const empty(observed);
  index_t const part = 64, parts = (options.permutations + part - 1) / part, blocks = lag_blocks(unit.experts);
  std::vector<max_statistic> families(static_cast<std::size_t>(parts), empty);
  parallel_for(parts, options.threads, [&](index_t i) {
    std::vector<double> rows(static_cast<std::size_t>(blocks * unit.layers * lag_block)),
        shuffled(static_cast<std::size_t>(unit.experts)), t(lags);
    std::vector<std::uint32_t> words;
    for (index_t b = i * part; b < std::min(options.permutations, (i + 1) * part); ++b) {
      for (index_t l = 0; l < unit.layers; ++l) {
        std::copy(unit.row(l), unit.row(l) + unit.experts, shuffled.begin());
        shuffle_values(shuffled.data(), unit.experts, options.seed, static_cast<std::uint32_t>(b),
                       static_cast<std::uint32_t>(l), words);
        put_row(shuffled.data(), unit.experts, l, unit.layers, rows.data());
      }
      dispatch<lag_sums_kernel>(static_cast<double const*>(rows.data()), blocks, unit.layers, &pairs, t.data());
      for (std::size_t lag = 0; lag < lags; ++lag) t[lag] = std::abs(t[lag]) / sd[lag];
      families[static_cast<std::size_t>(i)].update(t);
    }
  });
  max_statistic family = empty;
  for (auto const& f : families) family.merge(f);
  auto const tested = family.result();
  for (std::size_t lag = 0; lag < lags; ++lag) {
    result.lags[lag].p_value = tested.p_value[lag];
    result.lags[lag].p_adjusted = tested.p_adjusted[lag];
  }
  return result;
}

template <class T>
unit_profiles checked_profiles(matrix_view<T> profiles, lag_correlation_options const& options, char const* function) {
  if (profiles.cols() <= 0 || options.delta_max <= 0 || options.permutations < 0 ||
      options.permutations > index_t{std::numeric_limits<std::uint32_t>::max()})
    raise(function, ": experts = ", profiles.cols(), ", delta_max = ", options.delta_max,
          ", permutations = ", options.permutations);
  return unit_profiles_of(profiles, options.method, function);
}

}  // namespace detail

/// Correlation of expert profiles between layers Δ apart: do equal expert numbers mean anything across depth?
///
/// In     profiles [L,E]: one number per MoE layer and expert; any will do: counts of slots (hard load), mean
///        probabilities (soft load), norms. Optionally layers [L]: the number of each MoE layer in the model; Δ then
///        counts model layers.
/// Out    matrix [L,Δmax]; per lag mean, sd, p-values of the permutation test: expert labels are permuted within each
///        layer independently, which is an exact null for "the same index matters"; the statistic is the mean
///        correlation at Δ in units of its permutation sd 1/sqrt(pairs (E-1)), and p_adjusted compares with the maximum
///        over all lags (single step).
/// Empty  fewer than 2 layers: no lags. A constant or not finite profile gives NaN for its pairs; they are left out and
///        counted by `pairs`.
/// Cost   O(permutations L Δmax E) time over all threads, O(L E) memory a thread.
/// Bias   a smooth drift with depth also makes small lags significant: see periodicity. p_adjusted keeps its level when
///        no lag has structure; beside a strong period chance correlations repeat through the related layers, and 5 %
///        tests of the other lags reject in about 15 %.
/// Throws argument_error if there are no experts, options are not positive, layer numbers do not rise, or log_share
///        meets a negative value; shape_error if there are not L layer numbers.
/// Source the expert-activation analysis proposed for transformers
///        (examples/research_projects/moe_expert_activation_analysis) for the matrix, as given; maximum statistic
///        Westfall and Young 1993, section 2.3; centred log-ratio Aitchison 1986, The Statistical Analysis of
///        Compositional Data, section 4.6. Differs: it gives no test and counts MoE layers only.
template <numeric_matrix Profiles>
lag_correlation_result lag_correlation(Profiles const& profiles, lag_correlation_options const& options = {}) {
  auto const unit = detail::checked_profiles(detail::matrix_of(profiles), options, "moeroute::lag_correlation");
  return detail::lag_correlation_of(unit, detail::layer_numbers(unit.layers), options);
}

template <numeric_matrix Profiles, index_vector Layers>
lag_correlation_result lag_correlation(Profiles const& profiles, Layers const& layers,
                                       lag_correlation_options const& options = {}) {
  auto const unit = detail::checked_profiles(detail::matrix_of(profiles), options, "moeroute::lag_correlation");
  return detail::lag_correlation_of(
      unit, detail::layer_numbers(detail::vector_of(layers), unit.layers, "moeroute::lag_correlation"), options);
}

}  // namespace moeroute

#endif
