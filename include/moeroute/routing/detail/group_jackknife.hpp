// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_ROUTING_DETAIL_GROUP_JACKKNIFE_HPP
#define MOEROUTE_ROUTING_DETAIL_GROUP_JACKKNIFE_HPP

#include <moeroute/core/estimate.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/core/view.hpp>
#include <moeroute/inference/bootstrap.hpp>
#include <moeroute/numeric/random.hpp>

#include <cmath>
#include <cstdint>
#include <vector>

#include <boost/math/special_functions/beta.hpp>

namespace moeroute::detail {

/// Group of a document, by a hash of its global id: the same in every shard. Which documents share a group has nothing
/// to do with their text.
inline index_t document_group(std::int64_t id, index_t groups) noexcept {
  return groups == 1 ? 0
                     : static_cast<index_t>(mix64(static_cast<std::uint64_t>(id)) % static_cast<std::uint64_t>(groups));
}

/// P(|t| >= |statistic|) of Student's law.
inline double student_two_sided(double statistic, double degrees) {
  if (std::isnan(statistic)) return quiet_nan;
  if (std::isinf(statistic)) return 0;
  return boost::math::ibeta(degrees / 2, 0.5, degrees / (degrees + statistic * statistic));
}

/// What |t| exceeds with probability 1 - level.
inline double student_bound(double level, double degrees) {
  double const x = boost::math::ibeta_inv(degrees / 2, 0.5, 1 - level);
  return std::sqrt(degrees * (1 - x) / x);
}

/// value with the interval that leaving out one group at a time gives; with `correct`, value less the bias that it
/// shows.
inline estimate group_interval(double value, std::vector<double> const& left_out, double level, bool correct) {
  estimate e;
  e.value = value;
  e.level = level;
  if (left_out.size() < 2) {
    if (correct) e.value = quiet_nan;  // nothing shows the bias
    return e;
  }
  auto const j = jackknife(value, left_out);
  if (correct) e.value = j.corrected;
  double const half = student_bound(level, static_cast<double>(left_out.size() - 1)) * j.standard_error;
  e.lower = e.value - half;
  e.upper = e.value + half;
  return e;
}

}  // namespace moeroute::detail

#endif
