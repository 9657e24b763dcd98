// SPDX-License-Identifier: Apache-2.0
#include <moeroute/core/version.hpp>

#include <string>

#include <doctest/doctest.h>

TEST_CASE("version: text and numbers agree") {
  CHECK(moeroute::version == std::to_string(MOEROUTE_VERSION_MAJOR) + "." + std::to_string(MOEROUTE_VERSION_MINOR) +
                                 "." + std::to_string(MOEROUTE_VERSION_PATCH));
}
