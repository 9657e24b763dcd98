// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_TESTS_SUPPORT_GOLDEN_HPP
#define MOEROUTE_TESTS_SUPPORT_GOLDEN_HPP

#include <algorithm>
#include <cmath>
#include <fstream>
#include <stdexcept>
#include <string>

#include <nlohmann/json.hpp>

/// Section `section` of tests/golden/<name>.json, which tests/golden/make_<name>.py wrote. By value and as a whole: a
/// loop over a part of a temporary would run over freed memory, silently over nothing.
inline nlohmann::json golden(std::string const& name, std::string const& section) {
  std::ifstream file(std::string(MOEROUTE_GOLDEN_DIR) + "/" + name + ".json");
  if (!file) throw std::runtime_error("no golden file " + name);
  auto const value = nlohmann::json::parse(file).at(section);
  if (value.empty()) throw std::runtime_error("golden file " + name + ": section " + section + " is empty");
  return value;
}

/// Equal to `tolerance`, relative above 1 and absolute below. NaN equals nothing.
inline bool close(double a, double b, double tolerance) {
  return std::abs(a - b) <= tolerance * std::max({1.0, std::abs(a), std::abs(b)});
}

#endif
