// SPDX-License-Identifier: Apache-2.0
// The passes over rows that are our own, against libtorch's operations one after another.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros_like.h>
#undef CHECK  // libtorch's

#include <moeroute/core/scalar.hpp>
#include <moeroute/numeric/simd.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "next_token.hpp"
#include "row_kernels.hpp"

namespace {

using at::Tensor;
using namespace moeroute::capture;
using moeroute::simd_level;

constexpr auto infinity = std::numeric_limits<float>::infinity();

// Calls f(type) at every level of instructions that the machine has.
template <class Function>
void at_every_level(Function const& f) {
  for (auto const level : {simd_level::baseline, simd_level::avx2, simd_level::avx512}) {
    moeroute::detail::limit_simd_level(level);
    for (auto const type : {at::kFloat, at::kBFloat16}) {
      INFO(static_cast<int>(level), " ", std::string(at::toString(type)));
      f(type);
    }
  }
  moeroute::detail::limit_simd_level(simd_level::avx512);
}

// The largest difference in units of rounding; what is small is the difference of larger numbers.
double difference(Tensor const& got, Tensor const& expected) {
  REQUIRE((got.scalar_type() == expected.scalar_type()));
  REQUIRE((got.sizes() == expected.sizes()));
  auto const unit = expected.scalar_type() == at::kBFloat16 ? 0x1p-8 : 0x1p-23;
  auto const e = expected.to(at::kDouble);
  return ((got.to(at::kDouble) - e).abs() / (e.abs() + 1)).max().item<double>() / unit;
}

Tensor random(at::IntArrayRef shape, at::ScalarType type) { return at::randn(shape).to(type); }

}  // namespace

TEST_CASE("row_kernels: root mean square norm") {
  at::manual_seed(1);
  at_every_level([](auto type) {
    for (std::int64_t const n : {1, 24, 31, 96, 130}) {
      auto const wide = random({7, n + 3}, type), x = wide.narrow(1, 2, n), w = random({n}, type);  // rows with a stride
      auto const unit = x.to(at::kFloat) * at::rsqrt(x.to(at::kFloat).pow(2).mean(-1, true) + 1e-5);
      INFO(n);
      CHECK(difference(rms_normalized(x, w, 1e-5, false), w * unit.to(type)) < 8);
      CHECK(difference(rms_normalized(x, w, 1e-5, true), (w * unit).to(type)) < 8);
      auto const heads = random({5, 3, n}, type);
      auto const expected = heads.to(at::kFloat) * at::rsqrt(heads.to(at::kFloat).pow(2).mean(-1, true) + 1e-5);
      CHECK(difference(rms_normalized(heads, w, 1e-5, false), w * expected.to(type)) < 8);
    }
  });
}

TEST_CASE("row_kernels: rotation of both kinds of pairs, of a part of the head") {
  at::manual_seed(2);
  at_every_level([](auto type) {
    for (std::int64_t const rest : {0, 5})
      for (bool const neighbours : {false, true}) {
        constexpr std::int64_t turned = 26, half = turned / 2;
        auto const all = random({6, 4, turned + rest + 7}, type), x = all.narrow(2, 3, turned + rest);
        auto const cos = random({6, 1, turned}, type), sin = random({6, 1, turned}, type);
        auto const part = x.narrow(2, 0, turned);
        Tensor crossed;
        if (neighbours) {
          auto const pairs = part.reshape({6, 4, half, 2});
          crossed = at::stack(std::vector<Tensor>{-pairs.select(-1, 1), pairs.select(-1, 0)}, -1).flatten(-2);
        } else {
          crossed = at::cat(std::vector<Tensor>{-part.narrow(2, half, half), part.narrow(2, 0, half)}, 2);
        }
        auto const expected = at::cat(std::vector<Tensor>{part * cos + crossed * sin, x.narrow(2, turned, rest)}, 2);
        CHECK(difference(rotated(x, cos, sin, neighbours), expected) < 4);
      }
  });
}

TEST_CASE("row_kernels: the gated unit, also where the exponential ends") {
  at::manual_seed(3);
  at_every_level([](auto type) {
    for (std::int64_t const width : {1, 16, 32, 45, 96}) {
      auto x = random({9, 2 * width}, type) * 4;
      x[0][0] = -200;
      x[1][0] = 200;
      x[2][0] = std::numeric_limits<float>::quiet_NaN();
      auto const out = silu_gated(x);
      auto expected = at::silu(x.narrow(1, 0, width)) * x.narrow(1, width, width);
      CHECK(std::isnan(out[2][0].template item<float>()));
      CHECK(std::isnan(expected[2][0].template item<float>()));
      out[2][0] = expected[2][0] = 0;
      CHECK(difference(out, expected) < 4);
    }
  });
}

TEST_CASE("row_kernels: the largest of a row, ties to the first") {
  at::manual_seed(4);
  auto const x = at::randn({300, 40});
  CHECK(at::equal(largest(x, 6), std::get<1>(at::topk(x, 6, -1))));
  auto const tied = at::randint(0, 3, {300, 40}).to(at::kFloat), ids = largest(tied, 5);
  for (std::int64_t t = 0; t < 300; ++t)
    for (std::int64_t k = 1; k < 5; ++k) {
      auto const a = ids[t][k - 1].item<std::int64_t>(), b = ids[t][k].item<std::int64_t>();
      auto const za = tied[t][a].item<float>(), zb = tied[t][b].item<float>();
      CHECK((za > zb || (za == zb && a < b)));
    }
}

TEST_CASE("row_kernels: weighted sums, weights of another type too") {
  at::manual_seed(5);
  at_every_level([](auto type) {
    for (auto const weight : {at::kFloat, type})
      for (std::int64_t const n : {3, 96, 300}) {
        auto const rows = random({50, n}, type), w = at::rand({20, 4}).to(weight), place = at::randint(0, 50, {80});
        auto const expected = (rows.index_select(0, place).to(at::kFloat).view({20, 4, n}) * w.to(at::kFloat).unsqueeze(2)).sum(1);
        CHECK(difference(weighted_sum(rows, place.template const_data_ptr<std::int64_t>(), w), expected.to(type)) < 8);
      }
  });
}

TEST_CASE("row_kernels: every task is done once, whatever the number of threads") {
  auto const before = at::get_num_threads();
  for (int const threads : {1, 2, 5}) {
    at::set_num_threads(threads);
    for (std::int64_t const count : {0, 1, 4, 5, 100}) {
      std::vector<std::atomic<int>> done(static_cast<std::size_t>(count));
      for_each_task(count, [&](std::int64_t i) { ++done[static_cast<std::size_t>(i)]; });
      for (auto const& d : done) CHECK(d == 1);
    }
    CHECK_THROWS_AS(for_each_task(10, [](std::int64_t i) { if (i == 7) throw std::bad_alloc(); }), std::bad_alloc);
  }
  at::set_num_threads(before);
}

TEST_CASE("next_token: by pieces of the vocabulary as from whole rows, the same for any number of threads") {
  at::manual_seed(6);
  auto const before = at::get_num_threads();
  for (auto const type : {at::kFloat, at::kBFloat16})
    for (std::int64_t const vocabulary : {5, 1024, 2500}) {
      auto const x = random({600, 16}, type), head = random({vocabulary, 16}, type), next = at::randint(0, vocabulary, {600});
      auto logits = at::matmul(x, head.t()).to(at::kFloat);
      // In the last piece; the first of several that are equal; NaN; infinite.
      logits[1] = 0;
      logits[2][vocabulary - 1] = 1000;
      logits[3][vocabulary / 2] = std::numeric_limits<float>::quiet_NaN();
      logits[4][vocabulary - 2] = infinity;
      logits[5][0] = -infinity;
      auto const expected = score(logits, next);
      CHECK(at::equal(expected.best, at::argmax(logits, 1)));
      std::vector<next_token> found;
      for (int const threads : {1, 3}) {
        at::set_num_threads(threads);
        found.push_back(score_by_pieces(x, next, vocabulary, [&](Tensor const& rows, std::int64_t first, std::int64_t count) {
          // The rows are found again by what they hold.
          CHECK((type == at::kFloat || rows.size(0) % 32 == 0));
          auto const real = std::min<std::int64_t>(rows.size(0), 600);
          std::int64_t begin = 0;
          while (begin < 600 && !at::equal(x[begin], rows[0])) begin += 256;
          auto out = at::zeros_like(at::matmul(rows, head.narrow(0, first, count).t()), at::kFloat);
          auto const n = std::min(real, 600 - begin);
          out.narrow(0, 0, n).copy_(logits.narrow(0, begin, n).narrow(1, first, count));
          return out;
        }));
      }
      at::set_num_threads(before);
      CHECK(at::equal(found[0].best, expected.best));
      CHECK(at::equal(found[0].best, found[1].best));
      auto const a = found[0].logprob, b = found[1].logprob;
      CHECK(std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0);
      for (std::int64_t t = 0; t < 600; ++t) {
        auto const got = a[t].item<float>(), wanted = expected.logprob[t].item<float>();
        CHECK((std::isnan(got) == std::isnan(wanted)));
        if (std::isfinite(wanted))
          CHECK(std::abs(got - wanted) <= 2e-6f * (1 + std::abs(wanted)));
        else if (!std::isnan(wanted))
          CHECK(got == wanted);
      }
    }
}
