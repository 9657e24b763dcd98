// SPDX-License-Identifier: Apache-2.0
// A load can be perfectly even while the router is certain of every token, or unsure of every one. Two routers, top-1
// of 4.
#include <moeroute/routing/gate.hpp>

#include <cstdio>

#include <Eigen/Core>

int main() {
  using matrix = Eigen::Matrix<double, 4, 4, Eigen::RowMajor>;
  matrix certain = matrix::Identity() * 8, unsure = matrix::Identity() * 0.1;
  Eigen::Vector4i const ids(0, 1, 2, 3);  // both choose each expert once
  for (auto const* logits : {&certain, &unsure}) {
    moeroute::gate gate({.experts = 4, .top_k = 1});
    gate.update(
        moeroute::make_routing_batch(4, Eigen::Matrix<int, 4, 1>(ids), moeroute::matrix_view<float>{}, *logits));
    auto const r = gate.result();
    std::printf("entropy %.3f of %.3f nats, top-1 %.3f, margin %.3f, z-loss %.2f\n", r.entropy_nats, 1.386,
                r.top1_probability, r.margin, r.z_loss);
  }
}
