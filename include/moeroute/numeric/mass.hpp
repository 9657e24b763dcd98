// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_NUMERIC_MASS_HPP
#define MOEROUTE_NUMERIC_MASS_HPP

#include <moeroute/core/adapt.hpp>

#include <cmath>
#include <type_traits>
#include <vector>

namespace moeroute {

/// Integers or reals, in any container of core/adapt.hpp.
template <class X>
concept numeric_vector = index_vector<X> || real_vector<X>;
template <class X>
concept numeric_matrix = index_matrix<X> || real_matrix<X>;

/// Masses over classes: counts or shares, finite and not negative (checked where they are read).
template <class X>
concept mass_vector = numeric_vector<X>;
template <class X>
concept mass_matrix = numeric_matrix<X>;

namespace detail {

template <class T>
double as_double(T x) noexcept {
  if constexpr (std::is_integral_v<T>)
    return static_cast<double>(x);
  else
    return static_cast<double>(to_compute(x));
}

struct masses {
  std::vector<double> values;
  double total = 0;
};

/// Copies into double and refuses what is not a mass. One compiled body per scalar type and 8 bytes per class buy
/// statistics whose code is their formula.
template <class T>
masses checked_masses(vector_view<T> x, char const* function) {
  masses m;
  m.values.reserve(static_cast<std::size_t>(x.size()));
  for (index_t i = 0; i < x.size(); ++i) {
    double const v = as_double(x[i]);
    if (!(v >= 0) || std::isinf(v)) raise(function, ": mass ", v, " at ", i, " must be finite and not negative");
    m.values.push_back(v);
    m.total += v;
  }
  return m;
}

template <mass_vector X>
masses masses_of(X const& x, char const* function) {
  return checked_masses(vector_of(x), function);
}

/// Refuses masses that are not whole numbers, for statistics that are defined on counts only.
inline void require_whole(masses const& m, char const* function) {
  for (double const v : m.values)
    if (v != std::floor(v)) raise(function, ": count ", v, " must be a whole number");
}

}  // namespace detail
}  // namespace moeroute

#endif
