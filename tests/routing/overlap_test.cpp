// SPDX-License-Identifier: Apache-2.0
#include <moeroute/routing/overlap.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"
#include "support/laws.hpp"
#include "support/routing_data.hpp"

using namespace moeroute;

namespace {

// All tokens as one document.
struct one_document {
  std::vector<std::int64_t> offsets;
  std::vector<std::int64_t> ids{1};
  std::vector<std::int32_t> rows{0};
  explicit one_document(index_t tokens) : offsets{0, tokens} {}
  document_spans spans() const { return {{offsets.data(), 2}, {ids.data(), 1}}; }
  vector_view<std::int32_t> row() const { return {rows.data(), 1}; }
};

template <class A, class B>
overlap_result compare(A const& a, B const& b) {
  one_document const d(a.tokens());
  overlap o({a.experts(), 1});
  o.update(a, b, d.spans(), d.row());
  return o.result();
}

void feed(overlap& o, routing_data const& a, routing_data const& b, index_t first, index_t last) {
  auto const offsets = a.offsets_of(first, last);
  document_spans const spans({offsets.data(), static_cast<index_t>(offsets.size())},
                             {a.documents.data() + first, last - first});
  o.update(a.batch(first, last), b.batch(first, last), spans, {a.rows.data() + first, last - first});
}

// The same documents with other routing.
routing_data other_routing(routing_data const& a, double changed, std::uint64_t seed) {
  auto b = a;
  std::mt19937_64 random(seed);
  for (auto& id : b.ids)
    if (static_cast<double>(random() >> 11) * 0x1p-53 < changed)
      id = static_cast<std::int16_t>(static_cast<index_t>(random() % static_cast<std::uint64_t>(a.experts + 1)) - 1);
  for (auto& w : b.weights) w = static_cast<float>(static_cast<double>(random() >> 11) * 0x1p-53);
  return b;
}

bool same(double a, double b) { return std::memcmp(&a, &b, sizeof a) == 0; }

}  // namespace

TEST_CASE("overlap: by hand") {
  // Four tokens, four experts, two slots: equal sets in another order; one expert shared; nothing shared; a dropped
  // slot.
  std::vector<std::int16_t> const a{0, 1, 0, 1, 2, 3, 1, -1}, b{1, 0, 1, 2, 0, 1, 1, 3};
  std::vector<float> const wa{0.75f, 0.25f, 0.5f, 0.5f, 1, 1, 2, 9}, wb{1, 1, 3, 1, 1, 1, 1, 1};
  auto const r =
      compare(make_routing_batch(4, matrix_view<std::int16_t>(a.data(), 4, 2), matrix_view<float>(wa.data(), 4, 2)),
              make_routing_batch(4, matrix_view<std::int16_t>(b.data(), 4, 2), matrix_view<float>(wb.data(), 4, 2)));
  CHECK(r.tokens == 4);
  CHECK(r.saturation == 4.0 / 8);
  // Loads a: 2 3 1 1, b: 2 4 1 1; tokens 4, slots of b 8.
  CHECK(r.chance == doctest::Approx((4 + 12 + 1 + 1) / 4.0 / 8));
  CHECK(r.kappa == doctest::Approx((0.5 - 0.5625) / (1 - 0.5625)));
  CHECK(r.jaccard == doctest::Approx((1 + 1.0 / 3 + 0 + 0.5) / 4));
  CHECK(r.identical == 0.25);
  // min(3/4,1/2) + min(1/4,1/2); min(1/2,3/4); 0; min(1,1/2).
  CHECK(r.weighted == doctest::Approx((0.75 + 0.5 + 0 + 0.5) / 4));
  CHECK(r.rank1 == 0.25);                                                    // only the last token: 1 and 1
  CHECK(r.rank1_chance == doctest::Approx((2.0 * 1 + 1 * 3 + 1 * 0) / 16));  // first slots a: 0 0 2 1, b: 1 1 0 1
  CHECK(r.rank1_kappa == doctest::Approx((0.25 - 5.0 / 16) / (1 - 5.0 / 16)));
  CHECK(r.weights_refused == 0);
}

TEST_CASE("overlap: golden values of numpy, scikit-learn and the published expression, from every container") {
  auto const cases = golden("overlap", "overlap");
  REQUIRE(cases.size() == 3);
  for (auto const& c : cases) {
    auto const flat = [&](char const* name, auto value) {
      std::vector<decltype(value)> out;
      for (auto const& row : c[name])
        for (auto const& x : row) out.push_back(x.template get<decltype(value)>());
      return out;
    };
    index_t const k = c["top_k"], t = static_cast<index_t>(c["a"].size());
    auto const b = flat("b", std::int32_t{});
    auto const wb = flat("weights_b", double{});
    for_each_matrix(t, k, flat("a", std::int32_t{}), [&](char const* name, auto const& a) {
      INFO(name);
      for_each_matrix(t, k, flat("weights_a", double{}), [&](char const*, auto const& wa) {
        auto const r = compare(make_routing_batch(c["experts"], a, wa),
                               make_routing_batch(c["experts"], matrix_view<std::int32_t>(b.data(), t, k),
                                                  matrix_view<double>(wb.data(), t, k)));
        for (std::size_t f = 0; f < std::size(overlap_fields); ++f) {
          INFO(overlap_field_names[f]);
          CHECK(close(r.*overlap_fields[f], c[overlap_field_names[f]].get<double>(), 1e-12));
        }
      });
    });
  }
}

TEST_CASE("overlap: laws") {
  auto const a = random_routing({.documents = 25}, 7), b = other_routing(a, 0.4, 3);
  law_case<overlap> c{
      {7, 5}, {7, 6}, a.size(), [&](overlap& o, index_t first, index_t last) { feed(o, a, b, first, last); }};
  c.bad_updates.push_back([&](overlap& o) {
    auto wrong = a;
    wrong.rows[3] = 5;
    feed(o, wrong, b, 0, a.size());
  });
  c.bad_updates.push_back([&](overlap& o) {
    one_document const d(a.tokens());
    o.update(a.batch(), b.batch(0, b.size() - 3), d.spans(), d.row());
  });
  c.bad_updates.push_back([&](overlap& o) {
    auto const other = random_routing({.experts = 8, .documents = 4}, 1);
    feed(o, other, other, 0, 4);
  });
  check_accumulator_laws(c);
}

TEST_CASE("overlap: a naive reference with dropped and repeated slots and bad weights") {
  auto const a = random_routing({.experts = 6, .slots = 3, .documents = 30, .dropped = 0.2}, 17);
  auto const b = other_routing(a, 0.5, 5);  // repeats ids
  overlap o({6, 5});
  feed(o, a, b, 0, a.size());
  auto const r = o.result();
  double both = 0, in_b = 0, jaccard = 0, any = 0, identical = 0, weighted = 0, with_weight = 0, refused = 0, n = 0;
  std::vector<double> load_a(6), load_b(6);
  for (index_t t = 0; t < a.tokens(); ++t) {
    std::set<int> x, y;
    std::vector<double> wx(6), wy(6);
    bool sound = true;
    for (std::size_t i = static_cast<std::size_t>(3 * t); i < static_cast<std::size_t>(3 * t + 3); ++i) {
      if (a.ids[i] >= 0 && x.insert(a.ids[i]).second) {
        wx[static_cast<std::size_t>(a.ids[i])] = static_cast<double>(a.weights[i]);
        sound = sound && !std::isnan(a.weights[i]);
      }
      if (b.ids[i] >= 0 && y.insert(b.ids[i]).second)
        wy[static_cast<std::size_t>(b.ids[i])] = static_cast<double>(b.weights[i]);
    }
    std::vector<int> common, all;
    std::set_intersection(x.begin(), x.end(), y.begin(), y.end(), std::back_inserter(common));
    std::set_union(x.begin(), x.end(), y.begin(), y.end(), std::back_inserter(all));
    n += 1;
    both += static_cast<double>(common.size());
    in_b += static_cast<double>(y.size());
    for (int const e : x) load_a[static_cast<std::size_t>(e)] += 1;
    for (int const e : y) load_b[static_cast<std::size_t>(e)] += 1;
    if (!all.empty()) {
      any += 1;
      jaccard += static_cast<double>(common.size()) / static_cast<double>(all.size());
      identical += common.size() == all.size() ? 1 : 0;
    }
    double const sx = std::accumulate(wx.begin(), wx.end(), 0.0), sy = std::accumulate(wy.begin(), wy.end(), 0.0);
    if (sound && sx > 0 && sy > 0) {
      with_weight += 1;
      for (std::size_t e = 0; e < 6; ++e) weighted += std::min(wx[e] / sx, wy[e] / sy);
    } else {
      refused += 1;
    }
  }
  CHECK(r.saturation == doctest::Approx(both / in_b).epsilon(1e-13));
  CHECK(
      r.chance ==
      doctest::Approx(std::inner_product(load_a.begin(), load_a.end(), load_b.begin(), 0.0) / n / in_b).epsilon(1e-13));
  CHECK(r.jaccard == doctest::Approx(jaccard / any).epsilon(1e-12));
  CHECK(r.identical == doctest::Approx(identical / any).epsilon(1e-13));
  CHECK(r.weighted == doctest::Approx(weighted / with_weight).epsilon(1e-12));
  CHECK(static_cast<double>(r.weights_refused) == refused);
  CHECK(refused > 10);
}

TEST_CASE("overlap: a negative weight is refused though the sum is positive; sums must be of the counted tokens") {
  std::vector<std::int16_t> const ids{0, 1, 0, 1};
  std::vector<float> const good{0.5f, 0.5f, 0.5f, 0.5f}, bad{0.5f, 0.5f, 2.0f, -1.0f};
  auto const batch = [&](std::vector<float> const& w) {
    return make_routing_batch(2, matrix_view<std::int16_t>(ids.data(), 2, 2), matrix_view<float>(w.data(), 2, 2));
  };
  CHECK(compare(batch(good), batch(bad)).weights_refused == 1);
  CHECK(compare(batch(bad), batch(good)).weights_refused == 1);
  CHECK(compare(batch(good), batch(bad)).weighted == 1);
  one_document const d(2);
  overlap o({2, 1});
  o.update(batch(good), batch(good), d.spans(), d.row());
  auto const bytes = o.serialize();
  std::size_t const rows_at = 4 + 3 * 8 + 8 + (9 + 4 * 2) * 8 + 8;  // of the sums of jaccard, behind their bound
  for (std::size_t const at : {rows_at, rows_at + 3 * 8 + 2 * 16 + 8}) {
    auto more = bytes;
    CHECK(more.at(at) == std::byte{2});
    more.at(at) = std::byte{3};
    CHECK_THROWS_AS(overlap::deserialize(more), format_error);
  }
}

TEST_CASE("overlap: invariances and extremes") {
  auto const a = random_routing({.experts = 9, .slots = 3, .documents = 10, .dropped = 0, .nonfinite = 0}, 2);
  auto const itself = compare(a.batch(), a.batch());
  for (auto const f : {&overlap_measures::saturation, &overlap_measures::kappa, &overlap_measures::jaccard,
                       &overlap_measures::identical, &overlap_measures::rank1, &overlap_measures::rank1_kappa})
    CHECK(itself.*f == 1);
  CHECK(itself.weighted == doctest::Approx(1).epsilon(1e-15));
  auto const b = other_routing(a, 0.3, 1);
  // Order of the slots: only the first choice sees it. Names of the experts: nothing does.
  auto turned = a, renamed_a = a, renamed_b = b;
  for (std::size_t i = 0; i < a.ids.size(); i += 3) {
    std::reverse(turned.ids.begin() + static_cast<std::ptrdiff_t>(i),
                 turned.ids.begin() + static_cast<std::ptrdiff_t>(i) + 3);
    std::reverse(turned.weights.begin() + static_cast<std::ptrdiff_t>(i),
                 turned.weights.begin() + static_cast<std::ptrdiff_t>(i) + 3);
  }
  for (auto* ids : {&renamed_a.ids, &renamed_b.ids})
    for (auto& id : *ids)
      if (id >= 0) id = static_cast<std::int16_t>((id * 4 + 1) % 9);
  auto const r = compare(a.batch(), b.batch()), t = compare(turned.batch(), b.batch()),
             n = compare(renamed_a.batch(), renamed_b.batch());
  CHECK(r.saturation == t.saturation);
  CHECK(r.jaccard == t.jaccard);
  CHECK(r.weighted == doctest::Approx(t.weighted).epsilon(1e-14));
  CHECK_FALSE(r.rank1 == t.rank1);
  for (auto const f : overlap_fields) CHECK(r.*f == doctest::Approx(n.*f).epsilon(1e-14));

  overlap const empty({3, 0});
  for (auto const f : overlap_fields) CHECK(std::isnan(empty.result().*f));
  // No weights in one of them; another number of slots; everything dropped.
  std::vector<std::int16_t> const one{0, 1}, two{0, 1, 1, 2}, none{-1, -1};
  auto const fewer = compare(
      make_routing_batch(3, matrix_view<std::int16_t>(one.data(), 2, 1)),
      make_routing_batch(3, matrix_view<std::int16_t>(two.data(), 2, 2), matrix_view<float>(a.weights.data(), 2, 2)));
  CHECK(fewer.saturation == 0.5);
  CHECK(std::isnan(fewer.weighted));
  CHECK(fewer.weights_refused == 0);
  auto const dropped = compare(make_routing_batch(3, matrix_view<std::int16_t>(none.data(), 2, 1)),
                               make_routing_batch(3, matrix_view<std::int16_t>(none.data(), 2, 1)));
  for (auto const f : overlap_fields) CHECK(std::isnan(dropped.*f));
  CHECK(dropped.tokens == 2);
  // One expert: agreement says nothing.
  std::vector<std::int16_t> const only{0, 0};
  auto const trivial = compare(make_routing_batch(1, matrix_view<std::int16_t>(only.data(), 2, 1)),
                               make_routing_batch(1, matrix_view<std::int16_t>(only.data(), 2, 1)));
  CHECK(trivial.saturation == 1);
  CHECK(std::isnan(trivial.kappa));
  CHECK_THROWS_AS(overlap({0, 1}), argument_error);
  CHECK_THROWS_AS(overlap({4, -1}), argument_error);
  CHECK_THROWS_AS(overlap({std::numeric_limits<index_t>::max() / 8, 100}), argument_error);
}

namespace {

// Documents with laws of experts of their own, for each routing its own (no agreement but by chance), loads rising with
// the expert; then a share 1 - drift of the tokens keeps the first routing's sets.
struct checkpoints {
  routing_data a, b;
};
checkpoints simulate(index_t documents, index_t experts, index_t slots, double drift, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::gamma_distribution<double> habit(0.7, 1);
  auto const uniform = [&] { return static_cast<double>(random() >> 11) * 0x1p-53; };
  checkpoints c;
  for (auto* r : {&c.a, &c.b}) {
    r->experts = experts;
    r->slots = slots;
  }
  for (index_t d = 0; d < documents; ++d) {
    std::vector<double> law[2];
    for (auto& l : law)
      for (index_t e = 0; e < experts; ++e) l.push_back((0.2 + habit(random)) * (1 + static_cast<double>(e)));
    auto const choose = [&](std::vector<double> weight, std::vector<std::int16_t>& out) {
      for (index_t k = 0; k < slots; ++k) {
        double u = uniform() * std::accumulate(weight.begin(), weight.end(), 0.0);
        std::size_t e = 0;
        while (e + 1 < weight.size() && (u -= weight[e]) > 0) ++e;
        while (weight[e] == 0) --e;
        out.push_back(static_cast<std::int16_t>(e));
        weight[e] = 0;
      }
    };
    auto const n = static_cast<index_t>(5 + random() % 30);
    for (index_t t = 0; t < n; ++t) {
      choose(law[0], c.a.ids);
      if (uniform() < drift)
        choose(law[1], c.b.ids);
      else
        c.b.ids.insert(c.b.ids.end(), c.a.ids.end() - slots, c.a.ids.end());
    }
    for (auto* r : {&c.a, &c.b}) {
      r->offsets.push_back(r->offsets.back() + n);
      r->documents.push_back(d);
      r->rows.push_back(static_cast<std::int32_t>(d));
    }
  }
  for (auto* r : {&c.a, &c.b}) {
    r->weights.assign(r->ids.size(), 1.0f);
    r->logits.assign(static_cast<std::size_t>(r->tokens() * experts), 0.0f);
  }
  return c;
}

overlap_result measure(checkpoints const& c) {
  overlap o({c.a.experts, c.a.size()});
  feed(o, c.a, c.b, 0, c.a.size());
  return o.result();
}

void check_calibration(int runs, index_t replicates, double drift, std::uint64_t seed) {
  int covered = 0, covered_first = 0;
  double kappa = 0, saturation = 0;
  for (int i = 0; i < runs; ++i) {
    auto const c = simulate(50, 6, 2, drift, seed + static_cast<std::uint64_t>(i));
    auto const r = measure(c);
    bootstrap_options options;
    options.replicates = replicates;
    options.seed = static_cast<std::uint64_t>(i);
    auto const intervals = overlap_intervals(r, c.a.documents, options, 0.95, 1);
    covered += intervals[2].lower <= 1 - drift && 1 - drift <= intervals[2].upper;
    covered_first += intervals[8].lower <= 1 - drift && 1 - drift <= intervals[8].upper;
    kappa += r.kappa / runs;
    saturation += r.saturation / runs;
  }
  double const slack = 3.5 * std::sqrt(0.05 * 0.95 / runs);
  INFO("drift " << drift << ": saturation " << saturation << ", kappa " << kappa << "; covered of " << runs << ": "
                << covered << ", first slots " << covered_first);
  CHECK(std::abs(kappa - (1 - drift)) < 0.02);
  CHECK(saturation > 1 - drift + 0.05);  // without the correction a drifted router looks settled
  CHECK(static_cast<double>(covered) / runs > 0.92 - slack);
  CHECK(static_cast<double>(covered) / runs < 0.97 + slack);
  CHECK(static_cast<double>(covered_first) / runs > 0.92 - slack);
}

}  // namespace

TEST_CASE("overlap: a planted drift is recovered; two routers that share nothing have kappa 0 (quick)") {
  check_calibration(80, 200, 1.0, 100);
  check_calibration(80, 200, 0.4, 500);
}

TEST_CASE("overlap: calibration of the intervals" * doctest::test_suite("slow")) {
  check_calibration(2000, 400, 1.0, 10000);
  check_calibration(2000, 400, 0.4, 20000);
}

TEST_CASE("overlap_intervals: order, threads and clusters") {
  auto const c = simulate(30, 5, 2, 0.5, 4);
  auto const r = measure(c);
  bootstrap_options options;
  options.replicates = 301;
  auto const one = overlap_intervals(r, c.a.documents, options, 0.95, 1),
             many = overlap_intervals(r, c.a.documents, options, 0.95, 5);
  REQUIRE(one.size() == std::size(overlap_fields));
  for (std::size_t f = 0; f < one.size(); ++f) {
    INFO(overlap_field_names[f]);
    CHECK(same(one[f].lower, many[f].lower));
    CHECK(same(one[f].upper, many[f].upper));
    CHECK(same(one[f].value, r.*overlap_fields[f]));
    CHECK(one[f].lower <= one[f].value);
    CHECK(one[f].value <= one[f].upper);
  }
  std::vector<std::int64_t> pairs;
  for (int d = 0; d < 30; ++d) pairs.push_back(d / 2);
  CHECK_FALSE(same(overlap_intervals(r, pairs, options)[0].lower, one[0].lower));
  CHECK_THROWS_AS(overlap_intervals(r, std::vector<std::int64_t>{1, 2}, options), shape_error);
  CHECK_THROWS_AS(overlap_intervals(r, c.a.documents, options, 1.0), argument_error);
}
