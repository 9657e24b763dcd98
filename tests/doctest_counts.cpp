// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "all_headers.hpp"

TEST_CASE("this one must fail") {
  CHECK(1 + 1 == 2);
  CHECK(1 + 1 == 3);
}
