// SPDX-License-Identifier: Apache-2.0
#include <moeroute/core/estimate.hpp>

#include <cmath>

#include <doctest/doctest.h>

TEST_CASE("estimate: undefined until somebody fills it in") {
  moeroute::estimate const e;
  CHECK(std::isnan(e.value));
  CHECK(std::isnan(e.lower));
  CHECK(std::isnan(e.upper));
  CHECK(e.level == 0.95);
  moeroute::test_result const t;
  CHECK(std::isnan(t.statistic));
  CHECK(std::isnan(t.p_value));
}
