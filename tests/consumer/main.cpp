// SPDX-License-Identifier: Apache-2.0
#include <moeroute/core/adapt.hpp>
#include <moeroute/core/version.hpp>

#include <Eigen/Core>
#include <nlohmann/json.hpp>

#include <cstdio>

int main() {
  Eigen::MatrixXi ids(2, 2);
  ids << 0, 1, 1, 3;
  auto const view = moeroute::as_matrix(ids);
  nlohmann::json const told = {{"version", moeroute::version}, {"expert", view(1, 1)}};
  std::puts(told.dump().c_str());
  return view(1, 0) == 1 && view(0, 1) == 1 && view(1, 1) == 3 ? 0 : 1;
}
