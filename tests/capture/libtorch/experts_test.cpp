// SPDX-License-Identifier: Apache-2.0
// The experts of a layer, however their weights lie in memory and however their products are made, against one token
// and one expert at a time.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#undef CHECK  // libtorch's

#include <doctest/doctest.h>

#include <vector>

#include "experts.hpp"

namespace {

using at::Tensor;
using namespace moeroute::capture;

constexpr std::int64_t count = 6, width = 8, hidden = 16, k = 2;

struct layer {
  Tensor gate, up, down;            // [E, I, H], [E, I, H], [E, H, I]
  Tensor gate_up_bias, down_bias;   // may be undefined
  Tensor x, ids, weights;
  gated_activation activation;

  explicit layer(at::ScalarType type, bool clamped = false, std::int64_t tokens = 37) : activation{clamped, 1.7, 0.5} {
    at::manual_seed(7);
    auto const options = at::TensorOptions().dtype(at::kFloat);
    auto const random = [&](at::IntArrayRef shape) { return (at::randn(shape, options) / 3).to(type); };
    gate = random({count, width, hidden});
    up = random({count, width, hidden});
    down = random({count, hidden, width});
    x = at::randn({tokens, hidden}, options).to(type);
    // Expert 4 gets no token at all.
    auto const first = at::randint(0, 4, {tokens}, at::TensorOptions().dtype(at::kLong));
    ids = at::stack(std::vector<Tensor>{first, first * 0 + 5}, 1);
    weights = at::rand({tokens, k}, options).to(type);
  }

  Tensor expected() const {
    std::vector<Tensor> rows;
    for (std::int64_t t = 0; t < x.size(0); ++t) {
      auto sum = at::zeros({hidden}, at::TensorOptions().dtype(at::kFloat));
      for (std::int64_t j = 0; j < k; ++j) {
        auto const e = ids[t][j].item<std::int64_t>();
        auto const in = x[t].to(at::kFloat);
        auto g = at::matmul(gate[e].to(at::kFloat), in), u = at::matmul(up[e].to(at::kFloat), in);
        if (gate_up_bias.defined()) {
          g = g + gate_up_bias[e].narrow(0, 0, width);
          u = u + gate_up_bias[e].narrow(0, width, width);
        }
        auto const inner = activation.clamped
                               ? (at::clamp(u, -activation.limit, activation.limit) + 1) * at::clamp(g, {}, activation.limit) *
                                     at::sigmoid(activation.slope * at::clamp(g, {}, activation.limit))
                               : at::silu(g) * u;
        auto y = at::matmul(down[e].to(at::kFloat), inner);
        if (down_bias.defined()) y = y + down_bias[e];
        sum = sum + weights[t][j].to(at::kFloat) * y;
      }
      rows.push_back(sum);
    }
    return at::stack(rows);
  }

  double error(expert_bank const& bank, expert_products how) const {
    auto const out = bank(x, ids, weights, activation, how);
    REQUIRE((out.scalar_type() == x.scalar_type()));
    return (out.to(at::kFloat) - expected()).abs().max().item<double>();
  }
};

expert_bank filled(layer const& l) {
  expert_bank bank(count, width, hidden, l.x.options());
  for (std::int64_t e = 0; e < count; ++e) bank.copy(e, l.gate[e], l.up[e], l.down[e]);
  return bank;
}

}  // namespace

TEST_CASE("experts: where the weights lie changes nothing") {
  layer const l(at::kFloat);
  CHECK(l.error(filled(l), expert_products::one_by_one) < 1e-5);

  auto const both = at::cat(std::vector<Tensor>{l.gate, l.up}, 1);
  CHECK(l.error(expert_bank(both, l.down), expert_products::one_by_one) < 1e-5);
  // Stored the other way round, as gpt-oss has its down projection.
  CHECK(l.error(expert_bank(both, l.down.transpose(1, 2).contiguous().transpose(1, 2)), expert_products::one_by_one) < 1e-5);

  expert_bank apart, neighbours;
  for (std::int64_t e = 0; e < count; ++e) {
    apart.add(l.gate[e], l.up[e], l.down[e]);
    neighbours.add(both[e].narrow(0, 0, width), both[e].narrow(0, width, width), l.down[e]);
  }
  CHECK(l.error(apart, expert_products::one_by_one) < 1e-5);
  CHECK(l.error(neighbours, expert_products::one_by_one) < 1e-5);
}

TEST_CASE("experts: one operation for all gives what one by one gives") {
  for (auto const type : {at::kFloat, at::kBFloat16}) {
    layer const l(type);
    auto const bank = filled(l);
    double const bound = type == at::kFloat ? 1e-5 : 0.05;
    CHECK(l.error(bank, expert_products::one_by_one) < bound);
    CHECK(l.error(bank, expert_products::grouped) < bound);
  }
}

TEST_CASE("experts: biases and the clamped unit") {
  for (bool const clamped : {false, true}) {
    layer l(at::kFloat, clamped);
    l.gate_up_bias = at::randn({count, 2 * width});
    l.down_bias = at::randn({count, hidden});
    auto bank = filled(l);
    bank.set_biases(l.gate_up_bias, l.down_bias);
    CHECK(l.error(bank, expert_products::one_by_one) < 1e-5);
    CHECK(l.error(bank, expert_products::grouped) < 1e-5);
  }
}

TEST_CASE("experts: weights wider than the model are not rounded") {
  layer l(at::kBFloat16);
  // The same expert twice, all but taken away again: in bfloat16 both weights are one, and nothing would be left.
  l.ids = at::stack(std::vector<Tensor>{l.ids.select(1, 0), l.ids.select(1, 0)}, 1);
  auto const one = at::ones({l.x.size(0)});
  l.weights = at::stack(std::vector<Tensor>{one + 1.0 / 1024, -one}, 1);
  auto const largest = l.expected().abs().max().item<double>();
  CHECK(largest > 0);
  CHECK(l.error(filled(l), expert_products::one_by_one) < 0.05 * largest);
}

TEST_CASE("experts: nothing on the CPU is grouped, where the operation would be a loop") {
  layer const l(at::kBFloat16);
  CHECK((filled(l).best_for(l.x) == expert_products::one_by_one));
}

TEST_CASE("experts: more tokens than one task takes, the same bits for any number of threads") {
  auto const before = at::get_num_threads();
  for (auto const type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    // Every token goes to expert 5 as well: more than two tasks of it.
    layer const l(type, false, 600);
    auto const bank = filled(l);
    CHECK(l.error(bank, expert_products::one_by_one) < (type == at::kFloat ? 1e-5 : 0.02) * l.expected().abs().max().item<double>());
    std::vector<Tensor> found;
    for (int const threads : {1, 3, 64}) {
      at::set_num_threads(threads);
      found.push_back(bank(l.x, l.ids, l.weights, l.activation, expert_products::one_by_one));
    }
    at::set_num_threads(before);
    CHECK(at::equal(found[0], found[1]));
    CHECK(at::equal(found[0], found[2]));
  }
}
