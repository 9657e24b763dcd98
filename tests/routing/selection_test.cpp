// SPDX-License-Identifier: Apache-2.0
#include <moeroute/routing/selection.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"
#include "support/laws.hpp"
#include "support/routing_data.hpp"

using namespace moeroute;

namespace {

router_spec plain(index_t experts, index_t top_k) {
  router_spec s;
  s.experts = experts;
  s.top_k = top_k;
  return s;
}

router_spec spec_of(nlohmann::json const& j) {
  auto s = plain(j["experts"], j["top_k"]);
  s.score = j["score"] == "softmax"   ? score_function::softmax
            : j["score"] == "sigmoid" ? score_function::sigmoid
            : j["score"] == "sparsemixer" ? score_function::sparsemixer
                                          : score_function::softmax_after_top_k;
  s.jitter_eps = j.value("jitter_eps", 0.0);
  s.renormalize = j["renormalize"];
  s.renormalize_epsilon = j["renormalize_epsilon"];
  s.scale = j["scale"];
  s.groups = j["groups"];
  s.groups_kept = j["groups_kept"];
  s.group_rule = j["group_score"] == "max" ? group_score::maximum : group_score::top_two_sum;
  if (j.contains("selection_bias")) s.selection_bias = j["selection_bias"].get<std::vector<double>>();
  return s;
}

std::vector<float> floats(nlohmann::json const& j) {
  std::vector<float> out;
  for (auto const& b : j) out.push_back(std::bit_cast<float>(b.get<std::int32_t>()));
  return out;
}

// The routers again, slow and from the definitions, in long double.
struct naive_choice {
  std::vector<index_t> ids;
  std::vector<long double> weights;
};
naive_choice naive(std::vector<float> const& z, router_spec const& s) {
  std::vector<long double> score(z.begin(), z.end());
  auto const soft = [](std::vector<long double>& x) {
    long double const top = *std::max_element(x.begin(), x.end());
    long double sum = 0;
    for (auto& v : x) sum += v = std::exp(v - top);
    for (auto& v : x) v /= sum;
  };
  if (s.score == score_function::softmax) soft(score);
  if (s.score == score_function::sigmoid)
    for (auto& v : score) v = 1 / (1 + std::exp(-v));
  auto rank = score;
  for (std::size_t e = 0; e < s.selection_bias.size(); ++e) rank[e] += s.selection_bias[e];
  auto const best = [](std::vector<long double> const& x) {
    std::vector<index_t> order(x.size());
    std::iota(order.begin(), order.end(), index_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](auto a, auto b) { return x[static_cast<std::size_t>(a)] > x[static_cast<std::size_t>(b)]; });
    return order;
  };
  auto const per = static_cast<std::size_t>(s.experts / s.groups);
  std::vector<long double> group;
  for (std::size_t g = 0; g < static_cast<std::size_t>(s.groups); ++g) {
    std::vector<long double> members(rank.begin() + static_cast<std::ptrdiff_t>(g * per),
                                     rank.begin() + static_cast<std::ptrdiff_t>((g + 1) * per));
    std::sort(members.rbegin(), members.rend());
    group.push_back(s.group_rule == group_score::maximum || members.size() < 2 ? members[0] : members[0] + members[1]);
  }
  auto kept = best(group);
  kept.resize(static_cast<std::size_t>(s.groups_kept));
  naive_choice c;
  for (auto const e : best(rank))
    if (std::count(kept.begin(), kept.end(), e / static_cast<index_t>(per)) &&
        c.ids.size() < static_cast<std::size_t>(s.top_k))
      c.ids.push_back(e);
  for (auto const e : c.ids) c.weights.push_back(score[static_cast<std::size_t>(e)]);
  if (s.score == score_function::softmax_after_top_k) soft(c.weights);
  if (s.score == score_function::sparsemixer) {
    auto left = c.ids;
    for (std::size_t k = 0; k < c.ids.size(); ++k) {
      long double const m = score[static_cast<std::size_t>(c.ids[k])];
      long double sum = 0;
      for (std::size_t e = 0; e < score.size(); ++e) {
        auto const before = c.ids.begin() + static_cast<std::ptrdiff_t>(k);
        bool const taken = std::find(c.ids.begin(), before, static_cast<index_t>(e)) != before;
        if (!taken && m - score[e] <= 2 * s.jitter_eps * std::max(std::abs(score[e]), m)) sum += std::exp(score[e] - m);
      }
      c.weights[k] = 1 / sum;
    }
  }
  if (s.renormalize) {
    long double const sum = std::accumulate(c.weights.begin(), c.weights.end(), 0.0L) + s.renormalize_epsilon;
    for (auto& w : c.weights) w /= sum;
  }
  for (auto& w : c.weights) w *= s.scale;
  return c;
}

}  // namespace

TEST_CASE("select: by hand") {
  std::vector<float> const z{0, 3, 1, 2};
  auto const m = matrix_view<float>(z.data(), 1, 4);
  double const total = 1 + std::exp(3) + std::exp(1) + std::exp(2);
  auto s = plain(4, 2);
  auto r = select(m, s);
  CHECK(r.ids == std::vector<std::int16_t>{1, 3});
  CHECK(r.weights[0] == doctest::Approx(std::exp(3) / total));
  s.renormalize = true;
  s.scale = 3;
  CHECK(select(m, s).weights[1] == doctest::Approx(3 * std::exp(2) / (std::exp(3) + std::exp(2))));
  s = plain(4, 2);
  s.score = score_function::softmax_after_top_k;
  CHECK(select(m, s).weights[1] == doctest::Approx(1 / (1 + std::exp(1))));
  s = plain(4, 2);
  s.score = score_function::sigmoid;
  s.selection_bias = {10, 0, 0, 0};
  r = select(m, s);
  CHECK(r.ids == std::vector<std::int16_t>{0, 1});
  CHECK(r.weights[0] == 0.5f);  // the bias ranks, it does not weigh
  // Groups {0,1} and {2,3}: best member 3 against 2, sum of two 3 against 3.5.
  std::vector<float> const grouped{0, 3, 1.5f, 2};
  s = plain(4, 1);
  s.score = score_function::softmax_after_top_k;
  s.groups = 2;
  s.groups_kept = 1;
  s.group_rule = group_score::maximum;
  CHECK(select(matrix_view<float>(grouped.data(), 1, 4), s).ids[0] == 1);
  s.group_rule = group_score::top_two_sum;
  CHECK(select(matrix_view<float>(grouped.data(), 1, 4), s).ids[0] == 3);
}

TEST_CASE("select: sparsemixer by hand") {
  auto s = plain(4, 2);
  s.score = score_function::sparsemixer;
  s.jitter_eps = 0.05;  // a tenth
  auto const weights = [&](std::vector<float> const& z) { return select(matrix_view<float>(z.data(), 1, 4), s).weights; };
  // 9 is exactly a tenth of 10 away; then 8.2 is within a tenth of 9.
  auto w = weights({10, 9, 8.2f, 1});
  CHECK(w[0] == doctest::Approx(1 / (1 + std::exp(-1))));
  CHECK(w[1] == doctest::Approx(1 / (1 + std::exp(-0.8))));
  CHECK(weights({10, 8.9f, 1, 1}) == std::vector<float>{1, 1});  // both stand alone; they do not sum to 1
  // Below zero the distance is measured by the smaller logit: 1.1 of 11.1 is near, of 10 it would not be.
  w = weights({-10, -11.1f, -30, -30});
  CHECK(w[0] == doctest::Approx(1 / (1 + std::exp(-1.1))));
  CHECK(weights({0, 0, -1, -1})[0] == 0.5f);  // 0 / 0 is near
  s.jitter_eps = 0;
  CHECK(weights({2, 2, 1, 1}) == std::vector<float>{0.5f, 1});
  s.jitter_eps = -0.1;
  CHECK_THROWS_AS(weights({1, 2, 3, 4}), argument_error);
  s.jitter_eps = 0.01;
  s.selection_bias = {0, 0, 0, 0};
  CHECK_THROWS_AS(weights({1, 2, 3, 4}), argument_error);
}

TEST_CASE("select: the published routers, golden from torch and transformers") {
  auto const cases = golden("routing", "selection");
  REQUIRE(cases.size() >= 17);
  for (auto const& c : cases) {
    INFO(c["name"].get<std::string>());
    auto const s = spec_of(c["spec"]);
    auto const z = floats(c["logits"]), w = floats(c["weights"]);
    auto const r = select(matrix_view<float>(z.data(), c["rows"].get<index_t>(), s.experts), s);
    CHECK(r.ids == c["ids"].get<std::vector<std::int16_t>>());
    REQUIRE(r.weights.size() == w.size());
    for (std::size_t i = 0; i < w.size(); ++i) CHECK(std::abs(r.weights[i] - w[i]) <= 2e-6f * std::abs(w[i]));
    CHECK(r.tied_rows == 0);
  }
}

TEST_CASE("select: equals the definitions on random specs") {
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    std::mt19937_64 random(seed);
    auto const pick = [&](index_t n) { return static_cast<index_t>(random() % static_cast<std::uint64_t>(n)); };
    router_spec s;
    s.groups = index_t{1} << pick(4);
    s.experts = s.groups * (2 + pick(6));
    s.groups_kept = 1 + pick(s.groups);
    s.top_k = 1 + pick(s.groups_kept * (s.experts / s.groups));
    s.score = static_cast<score_function>(pick(4));
    if (s.score == score_function::sparsemixer) {
      s.groups = s.groups_kept = 1;
      s.top_k = 1 + pick(s.experts);
      s.jitter_eps = static_cast<double>(pick(400)) / 1000 + 0.00013;
    }
    s.group_rule = static_cast<group_score>(pick(2));
    s.renormalize = pick(2) == 1;
    s.renormalize_epsilon = pick(2) == 1 ? 0.125 : 0;
    s.scale = pick(2) == 1 ? 2.5 : 1;
    if (s.score != score_function::sparsemixer && pick(2) == 1)
      for (index_t e = 0; e < s.experts; ++e) s.selection_bias.push_back(static_cast<double>(pick(1000)) / 500 - 1);
    std::vector<float> z;
    for (index_t e = 0; e < s.experts; ++e) z.push_back(static_cast<float>(pick(10000)) / 1000 - 5);
    auto const want = naive(z, s);
    auto const r = select(matrix_view<float>(z.data(), 1, s.experts), s);
    if (r.tied_rows > 0) continue;  // in binary32; the long double may see a difference there
    INFO("seed " << seed);
    for (std::size_t k = 0; k < want.ids.size(); ++k) {
      CHECK(std::count(want.ids.begin(), want.ids.end(), r.ids[k]) == 1);
      auto const at =
          static_cast<std::size_t>(std::find(want.ids.begin(), want.ids.end(), r.ids[k]) - want.ids.begin());
      CHECK(r.weights[k] == doctest::Approx(static_cast<double>(want.weights[at])).epsilon(1e-5));
    }
  }
}

TEST_CASE("select: ties go to the lowest index and are counted, also ties of groups") {
  std::vector<float> const z{1, 2, 2, 2, 1, 0};
  auto const m = matrix_view<float>(z.data(), 1, 6);
  auto r = select(m, plain(6, 2));
  CHECK(r.ids == std::vector<std::int16_t>{1, 2});
  CHECK(r.tied_rows == 1);
  r = select(m, plain(6, 3));  // the tie is inside the choice
  CHECK(r.ids == std::vector<std::int16_t>{1, 2, 3});
  CHECK(r.tied_rows == 0);
  // -0 equals +0.
  std::vector<float> const zeros{-0.0f, 0.0f};
  CHECK(select(matrix_view<float>(zeros.data(), 1, 2), plain(2, 1)).ids[0] == 0);
  CHECK(select(matrix_view<float>(zeros.data(), 1, 2), plain(2, 1)).tied_rows == 1);
  // Groups {0,1,2} and {3,4,5} have equal sums of two; no expert of the kept group is tied.
  std::vector<float> const grouped{4, 1, 0, 3, 2, 0};
  auto s = plain(6, 1);
  s.score = score_function::softmax_after_top_k;
  s.groups = 2;
  s.groups_kept = 1;
  selector<float> apply(s);
  std::int16_t id = -1;
  auto const row = apply(vector_view<float>(grouped.data(), 6), &id, static_cast<float*>(nullptr));
  CHECK(id == 0);
  CHECK(row.tied);
  CHECK(row.gap == 0);
}

TEST_CASE("selector: the gap says how far the choice is from changing") {
  selector<double> apply([] {
    auto s = plain(6, 1);
    s.score = score_function::softmax_after_top_k;
    s.groups = 3;
    s.groups_kept = 2;
    return s;
  }());
  std::int16_t id = -1;
  auto const gap = [&](std::vector<double> const& z) {
    return apply(vector_view<double>(z.data(), 6), &id, static_cast<float*>(nullptr)).gap;
  };
  CHECK(gap({5, 1, 4, 0.5, 0, 0}) == 1);      // experts 5 and 4; groups 6, 4.5, 0
  CHECK(gap({9, 0, 3, 1, 2, 1.75}) == 0.25);  // groups 9, 4, 3.75
  selector<double> all(plain(2, 2));
  std::vector<double> const z{1, 2};
  std::int16_t two[2];
  CHECK(std::isnan(all(vector_view<double>(z.data(), 2), two, static_cast<float*>(nullptr)).gap));
}

TEST_CASE("select: the same from every container; relabelled experts") {
  auto const data = random_routing({6, 2, 4, 9, 0, 0}, 8);
  auto const want = select(matrix_view<float>(data.logits.data(), data.tokens(), 6), plain(6, 2));
  for_each_matrix(data.tokens(), 6, data.logits, [&](char const* name, auto const& m) {
    INFO(name);
    auto const got = select(m, plain(6, 2));
    CHECK(got.ids == want.ids);
    CHECK(got.weights == want.weights);
  });
  auto mirrored = data.logits;
  for (std::size_t t = 0; t < mirrored.size(); t += 6)
    std::reverse(mirrored.begin() + static_cast<std::ptrdiff_t>(t),
                 mirrored.begin() + static_cast<std::ptrdiff_t>(t) + 6);
  auto const got = select(matrix_view<float>(mirrored.data(), data.tokens(), 6), plain(6, 2));
  for (std::size_t i = 0; i < got.ids.size(); ++i) CHECK(got.ids[i] == 5 - want.ids[i]);
}

TEST_CASE("select: extremes") {
  float const not_a_number = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> const z{not_a_number, 1, 2, 1, 1, 2};
  auto const r = select(matrix_view<float>(z.data(), 2, 3), plain(3, 2));
  CHECK(r.nonfinite_rows == 1);
  CHECK(r.ids[3] == 0);
  CHECK(select(matrix_view<float>(z.data(), 0, 3), plain(3, 2)).ids.empty());
  std::vector<float> const one{-7};
  CHECK(select(matrix_view<float>(one.data(), 1, 1), plain(1, 1)).weights[0] == 1);
  auto const everybody = select(matrix_view<float>(z.data() + 3, 1, 3), plain(3, 3));  // K = E
  CHECK(everybody.ids == std::vector<std::int16_t>{2, 0, 1});
  CHECK(everybody.tied_rows == 0);
  std::vector<bf16> narrow;
  for (int e = 0; e < 256; ++e) narrow.push_back(to_bf16(static_cast<float>((e * 37) % 256)));
  CHECK(select(matrix_view<bf16>(narrow.data(), 1, 256), plain(256, 1)).ids[0] == 83);  // 83 * 37 = 255 modulo 256
  CHECK_THROWS_AS(select(matrix_view<float>(z.data(), 2, 3), plain(4, 2)), shape_error);
  CHECK_THROWS_AS(select(matrix_view<float>(z.data(), 2, 3), plain(3, 4)), argument_error);
  std::vector<float> const wide(32769);
  CHECK_THROWS_AS(select(matrix_view<float>(wide.data(), 1, 32769), plain(32769, 1)), argument_error);
}

TEST_CASE("selection_agreement: by hand") {
  std::vector<float> const z{3, 2, 1, 0, 2, 2, 2, 0, 5, 1, 4, 0};
  std::vector<std::int16_t> const ids{1, 0, 2, 1, 0, 1};  // the second row chose among ties, the third is wrong
  selection_agreement a(plain(4, 2));
  a.update(make_routing_batch(4, matrix_view<std::int16_t>(ids.data(), 3, 2), matrix_view<float>{},
                              matrix_view<float>(z.data(), 3, 4)));
  auto const r = a.result();
  CHECK(r.rows == 3);
  CHECK(r.tied_rows == 1);
  CHECK(r.mismatched_rows == 2);
  double const total = std::exp(5) + std::exp(1) + std::exp(4) + 1;
  CHECK(r.largest_mismatch_gap == doctest::Approx((std::exp(4) - std::exp(1)) / total).epsilon(1e-6));
}

TEST_CASE("selection_agreement: what select chose agrees; a dropped slot is no disagreement") {
  auto const data = random_routing({16, 4, 9, 20, 0, 0.05}, 6);
  auto const s = plain(16, 4);
  auto chosen = select(matrix_view<float>(data.logits.data(), data.tokens(), 16), s);
  auto const compare = [&] {
    selection_agreement a(s);
    a.update(make_routing_batch(16, matrix_view<std::int16_t>(chosen.ids.data(), data.tokens(), 4),
                                matrix_view<float>{}, matrix_view<float>(data.logits.data(), data.tokens(), 16)));
    return a.result();
  };
  CHECK(compare().mismatched_rows == 0);
  CHECK(compare().nonfinite_rows == chosen.nonfinite_rows);
  REQUIRE(chosen.nonfinite_rows > 0);
  std::size_t row = 0;
  while (std::any_of(data.logits.begin() + static_cast<std::ptrdiff_t>(16 * row),
                     data.logits.begin() + static_cast<std::ptrdiff_t>(16 * row + 16),
                     [](float x) { return !std::isfinite(x); }))
    ++row;
  chosen.ids[4 * row + 2] = -1;
  CHECK(compare().mismatched_rows == 0);
  chosen.ids[4 * row + 2] = chosen.ids[4 * row + 1];  // one expert twice is none that was selected
  CHECK(compare().mismatched_rows == 1);
}

TEST_CASE("selection_agreement: laws") {
  auto const data = random_routing({}, 51);
  router_spec s = plain(7, 3), other = s;
  s.selection_bias = {0, 0.1, -0.2, 0, 0, 0.3, 0};
  other.scale = 2;
  SUBCASE("softmax") {}
  SUBCASE("sparsemixer") {
    s.selection_bias.clear();
    s.score = score_function::sparsemixer;
    s.jitter_eps = 0.01;
    other = s;
    other.jitter_eps = 0.02;
  }
  law_case<selection_agreement> c{s, other, data.size(), [&](selection_agreement& a, index_t first, index_t last) {
                                    a.update(data.batch(first, last));
                                  }};
  c.bad_updates = {[&](selection_agreement& a) { a.update(routing_batch<>(7, data.batch().ids())); },
                   [](selection_agreement& a) {
                     std::vector<std::int16_t> const ids{0};
                     std::vector<float> const logits(7);
                     a.update(routing_batch<>(7, {ids.data(), 1, 1}, {}, {logits.data(), 1, 7}));
                   }};
  check_accumulator_laws(c);
}
