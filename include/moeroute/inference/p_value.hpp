// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_INFERENCE_P_VALUE_HPP
#define MOEROUTE_INFERENCE_P_VALUE_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/batch.hpp>
#include <moeroute/core/estimate.hpp>
#include <moeroute/numeric/mass.hpp>
#include <moeroute/numeric/random.hpp>

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
#include <functional>
#include <utility>
#include <vector>

namespace moeroute {

/// A test whose p-value may be too small for a double: log_p stays exact where p_value is 0.
struct log_test_result : test_result {
  double log_p = quiet_nan;  ///< natural logarithm of the p-value
};

namespace detail {

inline constexpr std::uint64_t purpose_random_p_value = 0x72616e6470766c75u;

inline log_test_result from_log_p(double statistic, double log_p) { return {{statistic, std::exp(log_p)}, log_p}; }

}  // namespace detail

/// The law of a value under a null hypothesis, known from a sample of it: upper tail p-values that are never 0.
///
/// In     sample [n]; or values [n] with masses [n], finite and not negative: the counts of a histogram's distinct
///        values, or 1 / (size of
///        the document) for every token, which makes documents the units.
/// Out    p_value(z) = (1 + mass(>= z)) / (1 + mass): ties count as "at least as large". Randomised with u: (mass(> z)
///        + u (1 + mass(= z)))
///        / (1 + mass), exactly uniform for exchangeable values whatever the ties. NaN for a NaN z.
/// Empty  p_value is 1.
/// Cost   O(n log n) to build, O(log n) per value; 16 bytes per distinct value.
/// Bias   the smallest p is 1 / (1 + mass). Dependent tokens with mass 1 each promise a smaller one than they can keep.
/// Throws shape_error if lengths differ, argument_error for a mass that is negative or not finite, or u outside (0, 1].
/// Source Phipson, Smyth 2010, doi:10.2202/1544-6115.1585; randomised: Vovk, Gammerman, Shafer 2005, Algorithmic
///        Learning in a Random World,
///        equation 2.20; documents as units: Lee, Barber, Willett 2023, arXiv:2306.06342. Differs: as given.
class empirical_reference {
 public:
  empirical_reference() = default;
  template <real_vector Sample>
  explicit empirical_reference(Sample const& sample) {
    auto const x = detail::vector_of(sample);
    std::vector<std::pair<double, double>> pairs;
    for (index_t i = 0; i < x.size(); ++i) pairs.emplace_back(detail::as_double(x[i]), 1.0);
    build(std::move(pairs));
  }
  template <real_vector Values, mass_vector Masses>
  empirical_reference(Values const& values, Masses const& masses) {
    auto const x = detail::vector_of(values);
    auto const m = detail::masses_of(masses, "moeroute::empirical_reference").values;
    if (x.size() != static_cast<index_t>(m.size()))
      detail::raise<shape_error>("moeroute::empirical_reference: ", x.size(), " values but ", m.size(), " masses");
    std::vector<std::pair<double, double>> pairs;
    for (index_t i = 0; i < x.size(); ++i) pairs.emplace_back(detail::as_double(x[i]), m[static_cast<std::size_t>(i)]);
    build(std::move(pairs));
  }

  double mass() const noexcept { return at_least_.front(); }
  double mass_at_least(double z) const noexcept { return at_least_[first_at_least(z)]; }
  /// Values that were NaN; they are no part of the reference.
  index_t undefined() const noexcept { return undefined_; }

  double p_value(double z) const noexcept { return std::isnan(z) ? quiet_nan : (1 + mass_at_least(z)) / (1 + mass()); }
  double randomised_p_value(double z, double u) const {
    if (!(u > 0 && u <= 1)) detail::raise("moeroute::empirical_reference: u = ", u, " must lie in (0, 1]");
    if (std::isnan(z)) return quiet_nan;
    auto const i = first_at_least(z);
    double const above = at_least_[i < values_.size() && values_[i] == z ? i + 1 : i];
    return (above + u * (1 + (at_least_[i] - above))) / (1 + mass());
  }
  /// For a value that is itself in a sample of unit masses: it counts once, not twice. NaN if the sample is empty.
  double member_p_value(double z) const noexcept { return std::isnan(z) ? quiet_nan : mass_at_least(z) / mass(); }

 private:
  std::size_t first_at_least(double z) const noexcept {
    return static_cast<std::size_t>(std::lower_bound(values_.begin(), values_.end(), z) - values_.begin());
  }

  void build(std::vector<std::pair<double, double>> pairs) {
    auto const defined = std::partition(pairs.begin(), pairs.end(), [](auto const& p) { return !std::isnan(p.first); });
    undefined_ = pairs.end() - defined;
    pairs.erase(defined, pairs.end());
    std::sort(pairs.begin(), pairs.end(), std::greater<>());  // by mass as well: the sum of a tie has one order
    std::vector<double> cumulated{0};
    for (auto const& [value, mass] : pairs) {
      if (!values_.empty() && value == values_.back()) {
        cumulated.back() += mass;
      } else {
        values_.push_back(value);
        cumulated.push_back(cumulated.back() + mass);
      }
    }
    std::reverse(values_.begin(), values_.end());
    at_least_.assign(cumulated.rbegin(), cumulated.rend());
  }

  std::vector<double> values_;       // distinct, ascending
  std::vector<double> at_least_{0};  // mass of values_[i] and above; one more entry, 0
  index_t undefined_ = 0;
};

/// What of a token's logits is compared: softmax(z + c) = softmax(z), so the mean of a token has no meaning for
/// routing.
enum class logit_scale {
  raw,
  centred,     ///< less the token's mean over experts
  studentised  ///< that, divided by the token's sd over experts (n - 1)
};

/// A null hypothesis about a logit: it is drawn like those of the reference, of all experts together or of its own
/// expert.
struct logit_null {
  logit_scale scale = logit_scale::raw;
  bool per_expert = false;
  friend bool operator==(logit_null const&, logit_null const&) = default;
};
inline constexpr logit_null pooled_null{logit_scale::raw, false};  ///< "like any logit of the layer": what is published
inline constexpr logit_null expert_null{logit_scale::raw, true};   ///< "like this expert's other logits"
inline constexpr logit_null centred_null{logit_scale::centred, false};          ///< pooled, free of the token's shift
inline constexpr logit_null studentised_null{logit_scale::studentised, false};  ///< pooled, free of shift and spread

/// p-values of one layer's router logits under a named null.
///
/// In     null; reference logits [T,E], disjoint from those tested; document_spans of them, or none for tokens as
///        units.
/// Out    p_values(logits [N,E]) [N,E]: upper tail, (1 + r)/(n + 1). With documents each has mass 1, spread evenly over
///        its logits: p is
///        valid for a random token of a new document, and never below 1/(D + 1). Randomised: u of row i is drawn from
///        (seed, first_row + i).
/// Empty  p is 1 without a reference; NaN where the logit is NaN, and for the whole token if it is centred and a logit
///        is not finite or
///        studentised and constant. Such reference tokens are left out and counted.
/// Cost   O(T E log) to build; 16 bytes per distinct logit, at most 1 MiB per reference for bf16. O(log) per p-value.
/// Bias   under pooled_null a popular expert has small p-values by construction; E p-values of a token are dependent
///        under every null.
/// Throws shape_error if experts or tokens do not fit, argument_error if E is 0.
/// Source nulls (a) to (d) of what should replace the published 1 - F(z) of pooled logits. Differs: published p can be
///        0 or below.
class logit_reference {
 public:
  template <real_matrix Logits>
  logit_reference(logit_null null, Logits const& logits) : null_{null} {
    auto const view = detail::matrix_of(logits);
    build(view, std::vector<double>(static_cast<std::size_t>(view.rows()), 1.0));
  }
  template <real_matrix Logits>
  logit_reference(logit_null null, Logits const& logits, document_spans const& documents) : null_{null} {
    auto const view = detail::matrix_of(logits);
    if (view.rows() != documents.tokens())
      detail::raise<shape_error>("moeroute::logit_reference: ", view.rows(), " tokens but documents have ",
                                 documents.tokens());
    std::vector<double> mass(static_cast<std::size_t>(view.rows()));
    double const width = null.per_expert ? 1 : static_cast<double>(view.cols());
    for (index_t d = 0; d < documents.documents(); ++d)
      for (index_t t = 0; t < documents.size(d); ++t)
        mass[static_cast<std::size_t>(documents.first(d) + t)] = 1 / (width * static_cast<double>(documents.size(d)));
    build(view, mass);
  }

  logit_null null() const noexcept { return null_; }
  index_t experts() const noexcept { return experts_; }
  /// Reference tokens that were left out: not finite where a mean is needed, or constant where a spread is.
  index_t undefined_tokens() const noexcept { return undefined_tokens_; }
  /// The law that expert e is compared with.
  empirical_reference const& law(index_t e) const {
    if (e < 0 || e >= experts_)
      detail::raise("moeroute::logit_reference::law: expert ", e, " is outside 0..", experts_ - 1);
    return laws_[null_.per_expert ? static_cast<std::size_t>(e) : 0];
  }

  template <real_matrix Logits>
  xt::xtensor<double, 2> p_values(Logits const& logits) const {
    return map(detail::matrix_of(logits),
               [](empirical_reference const& law, double z, index_t) { return law.p_value(z); });
  }
  template <real_matrix Logits>
  xt::xtensor<double, 2> randomised_p_values(Logits const& logits, std::uint64_t seed,
                                             std::uint64_t first_row = 0) const {
    random_stream random(seed, detail::purpose_random_p_value);
    index_t row = -1;
    return map(detail::matrix_of(logits), [&](empirical_reference const& law, double z, index_t t) {
      if (t != row)
        random = random_stream(seed, detail::purpose_random_p_value, first_row + static_cast<std::uint64_t>(row = t));
      return law.randomised_p_value(z, 1 - random.uniform());
    });
  }

 private:
  // The token's logits on the scale of the null; all NaN where that scale is undefined.
  template <class T>
  void scaled(vector_view<T> z, std::vector<double>& out) const {
    out.clear();
    for (index_t e = 0; e < z.size(); ++e) out.push_back(detail::as_double(z[e]));
    if (null_.scale == logit_scale::raw) return;
    double const n = static_cast<double>(out.size());
    double mean = 0, squares = 0;
    for (double const v : out) mean += v / n;
    bool const constant = std::all_of(out.begin(), out.end(), [&](double v) { return v == out[0]; });
    for (double& v : out) squares += (v - mean) * (v - mean);
    bool const studentised = null_.scale == logit_scale::studentised;
    double const sd = studentised ? std::sqrt(squares / (n - 1)) : 1.0;
    for (double& v : out)
      v = std::isfinite(mean) && !(studentised && constant) ? (constant ? 0 : (v - mean) / sd) : quiet_nan;
  }

  template <class T>
  void build(matrix_view<T> logits, std::vector<double> const& mass) {
    experts_ = logits.cols();
    if (experts_ <= 0) detail::raise("moeroute::logit_reference: experts = ", experts_, " must be positive");
    auto const laws = static_cast<std::size_t>(null_.per_expert ? experts_ : 1);
    std::vector<std::vector<double>> values(laws), masses(laws);
    std::vector<double> row;
    for (index_t t = 0; t < logits.rows(); ++t) {
      scaled(logits.row(t), row);
      if (null_.scale != logit_scale::raw && std::isnan(row[0])) {
        ++undefined_tokens_;
        continue;
      }
      for (std::size_t e = 0; e < row.size(); ++e) {
        values[laws == 1 ? 0 : e].push_back(row[e]);
        masses[laws == 1 ? 0 : e].push_back(mass[static_cast<std::size_t>(t)]);
      }
    }
    for (std::size_t e = 0; e < laws; ++e) laws_.emplace_back(values[e], masses[e]);
  }

  template <class T, class P>
  xt::xtensor<double, 2> map(matrix_view<T> logits, P const& p) const {
    if (logits.cols() != experts_)
      detail::raise<shape_error>("moeroute::logit_reference: ", logits.cols(), " experts but the reference has ",
                                 experts_);
    xt::xtensor<double, 2> out(
        std::array<std::size_t, 2>{static_cast<std::size_t>(logits.rows()), static_cast<std::size_t>(experts_)});
    std::vector<double> row;
    for (index_t t = 0; t < logits.rows(); ++t) {
      scaled(logits.row(t), row);
      for (std::size_t e = 0; e < row.size(); ++e)
        out(static_cast<std::size_t>(t), e) = p(law(static_cast<index_t>(e)), row[e], t);
    }
    return out;
  }

  logit_null null_;
  index_t experts_ = 0, undefined_tokens_ = 0;
  std::vector<empirical_reference> laws_;
};

/// p-values of logits under "the token does not tell its experts apart": labels of experts are permuted within each
/// token.
///
/// In     logits [T,E]; no reference is needed.
/// Out    [T,E]: #{f: z_f >= z_e} / E, which is (1 + r)/(n + 1) with the token's other experts as reference. Never
///        below 1/E.
/// Empty  NaN where the logit is NaN; such experts do not count in E.
/// Cost   O(T E log E).
/// Source exact under exchangeable experts; the fallback of published routing code has 1 - rank/E, which can be 0.
///        Differs: ties count as >=.
template <real_matrix Logits>
xt::xtensor<double, 2> label_permutation_p_values(Logits const& logits) {
  auto const view = detail::matrix_of(logits);
  xt::xtensor<double, 2> out(
      std::array<std::size_t, 2>{static_cast<std::size_t>(view.rows()), static_cast<std::size_t>(view.cols())});
  for (index_t t = 0; t < view.rows(); ++t) {
    empirical_reference const token(view.row(t));
    for (index_t e = 0; e < view.cols(); ++e)
      out(static_cast<std::size_t>(t), static_cast<std::size_t>(e)) =
          token.member_p_value(detail::as_double(view(t, e)));
  }
  return out;
}

}  // namespace moeroute

#endif
