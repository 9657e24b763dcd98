// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_INFERENCE_FITTED_LAW_HPP
#define MOEROUTE_INFERENCE_FITTED_LAW_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/estimate.hpp>
#include <moeroute/core/parallel.hpp>
#include <moeroute/inference/detail/normal.hpp>
#include <moeroute/inference/goodness_of_fit.hpp>
#include <moeroute/inference/permutation.hpp>
#include <moeroute/numeric/mass.hpp>
#include <moeroute/numeric/random.hpp>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace moeroute {

namespace detail {

inline constexpr std::uint64_t purpose_fitted_law = 0x6669747465646c77u;

}  // namespace detail

/// A family of laws: fitted to a sample, then asked.
template <class Law>
concept fitted_law = std::copyable<Law> && requires(Law const& law, double x, std::vector<double> const& sample) {
  { Law::fit(sample) } -> std::same_as<Law>;
  { law.cdf(x) } -> std::convertible_to<double>;
  { law.survival(x) } -> std::convertible_to<double>;  // 1 - cdf, without cancellation
  { law.quantile(x) } -> std::convertible_to<double>;  // for 0 < x < 1
};

/// The normal laws, fitted by mean and sd (n - 1): with it fitted_law_test is the test of Lilliefors, and case 3 of
/// Anderson and Darling.
struct normal_law {
  double mean = 0, sd = 1;

  static normal_law fit(std::vector<double> const& x) {
    double const n = static_cast<double>(x.size());
    // About the first value, so that rounding gives a constant sample no spread.
    double shift = 0, squares = 0;
    for (double const v : x) shift += (v - x[0]) / n;
    for (double const v : x) squares += (v - x[0] - shift) * (v - x[0] - shift);
    return {x.empty() ? quiet_nan : x[0] + shift, std::sqrt(squares / (n - 1))};
  }
  double cdf(double x) const { return detail::normal_cdf((x - mean) / sd); }
  double survival(double x) const { return detail::normal_cdf((mean - x) / sd); }
  double quantile(double u) const { return mean + sd * detail::normal_quantile(u); }
};
static_assert(fitted_law<normal_law>);

struct fitted_law_options {
  index_t replicates = 1999;
  std::uint64_t seed = 1;
  int threads = 1;  ///< 0: all; the result does not depend on it
};

template <fitted_law Law>
struct fitted_law_result {
  Law law;  ///< fitted to the sample
  test_result kolmogorov_smirnov, anderson_darling;
};

/// Tests of "the sample comes from some law of this family", whose parameters are estimated from the same sample.
///
/// In     sample [n] of independent values; Law: the family (normal_law, or your own).
/// Out    the fitted law; D and A^2 with p = (1 + #{replicate >= observed})/(B + 1), a replicate being drawn from the
///        fitted law and fitted anew.
/// Empty  NaN below two values or if the fit is not defined (a constant sample).
/// Cost   O(B n log n); any number of threads gives the same bits.
/// Bias   exact up to simulation for location-scale families, where the law of D and A^2 does not depend on the
///        parameters; else for large n.
/// Throws argument_error if replicates is negative or exceeds 2^32 - 1, or a value is not finite.
/// Source Lilliefors 1967, doi:10.1080/01621459.1967.10482916; parametric bootstrap: Stute, Gonzalez Manteiga, Presedo
///        Quindimil 1993,
///        doi:10.1007/BF02613687. Differs: as given.
template <fitted_law Law, real_vector Sample>
fitted_law_result<Law> fitted_law_test(Sample const& sample, fitted_law_options const& options = {}) {
  if (options.replicates < 0 || options.replicates > index_t{std::numeric_limits<std::uint32_t>::max()})
    detail::raise("moeroute::fitted_law_test: replicates = ", options.replicates, " must lie in 0..2^32 - 1");
  auto const view = detail::vector_of(sample);
  std::vector<double> x;
  for (index_t i = 0; i < view.size(); ++i) x.push_back(detail::as_double(view[i]));
  for (double const v : x)
    if (!std::isfinite(v)) detail::raise("moeroute::fitted_law_test: value ", v, " is not finite");
  struct distances {
    double d = quiet_nan, a = quiet_nan;
  };
  auto const measure = [](Law const& law, std::vector<double>& values) {
    std::sort(values.begin(), values.end());
    std::vector<double> u, below, above;
    for (double const v : values) {
      u.push_back(law.cdf(v));
      below.push_back(std::log(u.back()));
      above.push_back(std::log(law.survival(v)));
    }
    double const n = static_cast<double>(u.size());
    distances out{0, detail::anderson_darling(below, above)};
    if (std::isnan(out.a)) return distances{};
    for (std::size_t i = 0; i < u.size(); ++i)
      out.d = std::max({out.d, static_cast<double>(i + 1) / n - u[i], u[i] - static_cast<double>(i) / n});
    return out;
  };
  fitted_law_result<Law> result{Law::fit(x), {}, {}};
  if (x.size() < 2) return result;
  auto const observed = measure(result.law, x);
  std::vector<double> d(static_cast<std::size_t>(options.replicates)), a(d.size());
  if (std::isnan(observed.a)) return result;
  parallel_for(options.replicates, options.threads, [&](index_t b) {
    random_stream random(options.seed, detail::purpose_fitted_law, static_cast<std::uint64_t>(b));
    std::vector<double> drawn(x.size());
    for (double& v : drawn) v = result.law.quantile(random.uniform() + 0x1p-54);
    auto const replicate = measure(Law::fit(drawn), drawn);
    d[static_cast<std::size_t>(b)] = replicate.d;
    a[static_cast<std::size_t>(b)] = replicate.a;
  });
  result.kolmogorov_smirnov = {observed.d, permutation_p_value(observed.d, d)};
  result.anderson_darling = {observed.a, permutation_p_value(observed.a, a)};
  return result;
}

}  // namespace moeroute

#endif
