// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CORE_ESTIMATE_HPP
#define MOEROUTE_CORE_ESTIMATE_HPP

#include <moeroute/core/scalar.hpp>

namespace moeroute {

/// A value with its confidence interval. NaN where undefined.
struct estimate {
  double value = quiet_nan;
  double lower = quiet_nan, upper = quiet_nan;
  double level = 0.95;  ///< nominal coverage of [lower, upper]
};

/// A test statistic with its p-value. NaN where undefined.
struct test_result {
  double statistic = quiet_nan;
  double p_value = quiet_nan;
};

}  // namespace moeroute

#endif
