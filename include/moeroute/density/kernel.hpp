// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_DENSITY_KERNEL_HPP
#define MOEROUTE_DENSITY_KERNEL_HPP

#include <moeroute/core/error.hpp>
#include <moeroute/density/detail/mills.hpp>

#include <cmath>
#include <concepts>
#include <limits>
#include <numbers>

namespace moeroute {

/// The smoothing kernels, for choosing one at run time; see visit_kernel.
enum class kernel_kind : int {
  gaussian,
  epanechnikov,
  tophat,
  triangular,
  biweight,
  triweight,
  cosine,
  exponential,
  logistic
};

/// A symmetric density K of one variable u = (y - x) / h, as a stateless type: a loop over a kernel is compiled per
/// kernel.
///
/// The density estimate with bandwidth h is sum K((y - x_i)/h) / (n h). h is what the type below takes as u = 1: the sd
/// for gaussian, the half-width of the support for the compact kernels, the scale for exponential and logistic (as
/// scikit-learn).
/// In     any u; NaN gives NaN.
/// Edge   a compact kernel is 0 for |u| >= 1, that is its support is open: tophat counts x with |y - x| < h. Its CDF is
///        continuous, so the convention does not reach it.
/// Out    relative error below 1e-15 for pdf and survival (4e-15 for gaussian survival) while they are normal numbers,
///        and 1e-15 (1 + |log|) for the logarithms, at u as given; log survival is finite at any finite u of a kernel
///        of unbounded support.
template <class K>
concept smoothing_kernel = requires(K k, double u) {
  { K::kind } -> std::convertible_to<kernel_kind>;
  { K::name } -> std::convertible_to<char const*>;
  { K::support } -> std::convertible_to<double>;        // K is 0 from |u| = support on; infinity
  { K::second_moment } -> std::convertible_to<double>;  // integral of u^2 K
  { K::roughness } -> std::convertible_to<double>;      // integral of K^2
  { K::max_slope } -> std::convertible_to<double>;      // Lipschitz constant of K; infinity for a jump
  { K::max_curvature } -> std::convertible_to<double>;  // Lipschitz constant of K'; infinity for a kink
  { K::pdf(u) } -> std::same_as<double>;
  { K::log_pdf(u) } -> std::same_as<double>;
  { K::cdf(u) } -> std::same_as<double>;
  { K::log_cdf(u) } -> std::same_as<double>;
  { K::survival(u) } -> std::same_as<double>;      // 1 - cdf, formed without that difference
  { K::log_survival(u) } -> std::same_as<double>;  // finite where survival underflows
  { K::canonical_factor() } -> std::same_as<double>;
};

namespace detail {

inline constexpr double infinity = std::numeric_limits<double>::infinity();
inline constexpr double log_sqrt_2pi = 0.918938533204672741780329736405618;  // ln(2 pi) / 2
inline constexpr double inv_sqrt_2pi = 0.398942280401432677939946059934382;

// e^(-u^2/2) without the relative error u^2 2^-54 that rounding the exponent brings.
inline double gaussian_decay(double u) noexcept {
  double const square = u * u, rest = std::fma(u, u, -square);
  return square > 1500 ? 0.0 : std::exp(-0.5 * square) * (1 - 0.5 * rest);
}

template <class K>
struct symmetric_kernel {
  static double cdf(double u) noexcept { return K::survival(-u); }
  static double log_cdf(double u) noexcept { return K::log_survival(-u); }
  /// Bandwidths h1 / h2 = canonical_factor 1 / 2 smooth alike: they have the same balance of variance and squared bias.
  /// Source Marron, Nolan 1988, doi:10.1016/0167-7152(88)90050-8: (roughness / second_moment^2)^(1/5). Differs: as
  ///        given.
  static double canonical_factor() noexcept {
    return std::pow(K::roughness / (K::second_moment * K::second_moment), 0.2);
  }
};

// Kernels on |u| < 1. `upper(u)` is the survival function for 0 <= u < 1, `inside(u)` the density for |u| < 1.
template <class K>
struct compact_kernel : symmetric_kernel<K> {
  static constexpr double support = 1;
  static double pdf(double u) noexcept { return std::abs(u) >= 1 ? 0.0 : K::inside(u) + 0 * u; }
  static double log_pdf(double u) noexcept { return std::log(pdf(u)); }
  static double survival(double u) noexcept {
    if (u >= 1) return 0;
    if (u <= -1) return 1;
    return u < 0 ? 1 - K::upper(-u) : K::upper(u);
  }
  static double log_survival(double u) noexcept {
    if (u >= 1) return -infinity;
    if (u <= -1) return 0;
    return u < 0 ? std::log1p(-K::upper(-u)) : std::log(K::upper(u));
  }
};

}  // namespace detail

struct gaussian_kernel : detail::symmetric_kernel<gaussian_kernel> {
  static constexpr kernel_kind kind = kernel_kind::gaussian;
  static constexpr char const* name = "gaussian";
  static constexpr double support = detail::infinity, second_moment = 1;
  static constexpr double roughness = 0.5 * std::numbers::inv_sqrtpi;
  static constexpr double max_slope = 0.241970724519143349797830192935561;  // at u = 1
  static constexpr double max_curvature = detail::inv_sqrt_2pi;

  static double pdf(double u) noexcept { return detail::inv_sqrt_2pi * detail::gaussian_decay(u); }
  static double log_pdf(double u) noexcept { return -0.5 * u * u - detail::log_sqrt_2pi; }
  static double survival(double u) noexcept {
    if (u > 1) return u > 39 ? 0.0 : pdf(u) * mills(u);
    return 0.5 * std::erfc(u * (std::numbers::sqrt2 / 2));
  }
  static double log_survival(double u) noexcept {
    if (u > 1) return std::isinf(u) ? -u : log_pdf(u) + std::log(mills(u));
    return u < -1 ? std::log1p(-survival(-u)) : std::log(survival(u));
  }

 private:
  static double mills(double u) noexcept {
    double r;
    detail::mills_ratio(std::fmin(u, 1e150), r);
    return r;
  }
};

struct epanechnikov_kernel : detail::compact_kernel<epanechnikov_kernel> {
  static constexpr kernel_kind kind = kernel_kind::epanechnikov;
  static constexpr char const* name = "epanechnikov";
  static constexpr double second_moment = 1.0 / 5, roughness = 3.0 / 5, max_slope = 1.5,
                          max_curvature = detail::infinity;
  static double inside(double u) noexcept { return 0.75 * (1 - u) * (1 + u); }
  static double upper(double u) noexcept { return 0.25 * (1 - u) * (1 - u) * (2 + u); }
};

struct tophat_kernel : detail::compact_kernel<tophat_kernel> {
  static constexpr kernel_kind kind = kernel_kind::tophat;
  static constexpr char const* name = "tophat";
  static constexpr double second_moment = 1.0 / 3, roughness = 1.0 / 2;
  static constexpr double max_slope = detail::infinity, max_curvature = detail::infinity;
  static double inside(double) noexcept { return 0.5; }
  static double upper(double u) noexcept { return 0.5 * (1 - u); }
};

struct triangular_kernel : detail::compact_kernel<triangular_kernel> {
  static constexpr kernel_kind kind = kernel_kind::triangular;
  static constexpr char const* name = "triangular";
  static constexpr double second_moment = 1.0 / 6, roughness = 2.0 / 3, max_slope = 1, max_curvature = detail::infinity;
  static double inside(double u) noexcept { return 1 - std::abs(u); }
  static double upper(double u) noexcept { return 0.5 * (1 - u) * (1 - u); }
};

struct biweight_kernel : detail::compact_kernel<biweight_kernel> {
  static constexpr kernel_kind kind = kernel_kind::biweight;
  static constexpr char const* name = "biweight";
  static constexpr double second_moment = 1.0 / 7, roughness = 5.0 / 7;
  static constexpr double max_slope = 1.44337567297406441127287195125;  // 5 / (2 sqrt 3), at u = 1/sqrt 3
  static constexpr double max_curvature = 7.5;                          // at the edge
  static double inside(double u) noexcept {
    double const v = (1 - u) * (1 + u);
    return 15.0 / 16 * v * v;
  }
  static double upper(double u) noexcept {
    double const t = 1 - u;
    return t * t * t * (8 + u * (9 + 3 * u)) / 16;
  }
};

struct triweight_kernel : detail::compact_kernel<triweight_kernel> {
  static constexpr kernel_kind kind = kernel_kind::triweight;
  static constexpr char const* name = "triweight";
  static constexpr double second_moment = 1.0 / 9, roughness = 350.0 / 429;
  static constexpr double max_slope = 1.87829710109981838606;  // 21 / (5 sqrt 5), at u = 1/sqrt 5
  static constexpr double max_curvature = 105.0 / 16;          // at 0
  static double inside(double u) noexcept {
    double const v = (1 - u) * (1 + u);
    return 35.0 / 32 * v * v * v;
  }
  static double upper(double u) noexcept {
    double const t = (1 - u) * (1 - u);
    return t * t * (16 + u * (29 + u * (20 + 5 * u))) / 32;
  }
};

struct cosine_kernel : detail::compact_kernel<cosine_kernel> {
  static constexpr kernel_kind kind = kernel_kind::cosine;
  static constexpr char const* name = "cosine";
  static constexpr double second_moment = 0.189430530861297783;  // 1 - 8 / pi^2
  static constexpr double roughness = std::numbers::pi * std::numbers::pi / 16;
  static constexpr double max_slope = std::numbers::pi * std::numbers::pi / 8, max_curvature = detail::infinity;
  // From the nearer edge, where the cosine itself would cancel.
  static double inside(double u) noexcept {
    return std::numbers::pi / 4 * std::sin(std::numbers::pi / 2 * (1 - std::abs(u)));
  }
  static double upper(double u) noexcept {
    double const s = std::sin(std::numbers::pi / 4 * (1 - u));
    return s * s;
  }
};

/// Laplace's law.
struct exponential_kernel : detail::symmetric_kernel<exponential_kernel> {
  static constexpr kernel_kind kind = kernel_kind::exponential;
  static constexpr char const* name = "exponential";
  static constexpr double support = detail::infinity, second_moment = 2, roughness = 0.25;
  static constexpr double max_slope = 0.5, max_curvature = detail::infinity;
  static double pdf(double u) noexcept { return 0.5 * std::exp(-std::abs(u)); }
  static double log_pdf(double u) noexcept { return -std::abs(u) - std::numbers::ln2; }
  static double survival(double u) noexcept { return u < 0 ? 1 - 0.5 * std::exp(u) : 0.5 * std::exp(-u); }
  static double log_survival(double u) noexcept {
    return u < 0 ? std::log1p(-0.5 * std::exp(u)) : -u - std::numbers::ln2;
  }
};

struct logistic_kernel : detail::symmetric_kernel<logistic_kernel> {
  static constexpr kernel_kind kind = kernel_kind::logistic;
  static constexpr char const* name = "logistic";
  static constexpr double support = detail::infinity, roughness = 1.0 / 6;
  static constexpr double second_moment = std::numbers::pi * std::numbers::pi / 3;
  static constexpr double max_slope = 0.0962250448649376274;  // 1 / (6 sqrt 3)
  static constexpr double max_curvature = 0.125;              // at 0
  static double pdf(double u) noexcept {
    double const e = std::exp(-std::abs(u));
    return e / ((1 + e) * (1 + e));
  }
  static double log_pdf(double u) noexcept { return -std::abs(u) - 2 * std::log1p(std::exp(-std::abs(u))); }
  static double survival(double u) noexcept {
    if (u < 0) return 1 / (1 + std::exp(u));
    double const e = std::exp(-u);
    return e / (1 + e);
  }
  static double log_survival(double u) noexcept {
    return u < 0 ? -std::log1p(std::exp(u)) : -u - std::log1p(std::exp(-u));
  }
};

/// Calls f(K{}) with the kernel's type, so that f is compiled once per kernel; all f(K{}) return one type.
///
/// Throws argument_error if `kind` is none of the enumerators.
template <class F>
decltype(auto) visit_kernel(kernel_kind kind, F&& f) {
  switch (kind) {
    case kernel_kind::gaussian:
      return f(gaussian_kernel{});
    case kernel_kind::epanechnikov:
      return f(epanechnikov_kernel{});
    case kernel_kind::tophat:
      return f(tophat_kernel{});
    case kernel_kind::triangular:
      return f(triangular_kernel{});
    case kernel_kind::biweight:
      return f(biweight_kernel{});
    case kernel_kind::triweight:
      return f(triweight_kernel{});
    case kernel_kind::cosine:
      return f(cosine_kernel{});
    case kernel_kind::exponential:
      return f(exponential_kernel{});
    case kernel_kind::logistic:
      return f(logistic_kernel{});
  }
  detail::raise("moeroute::visit_kernel: kind = ", static_cast<int>(kind), " is no kernel");
}

}  // namespace moeroute

#endif
