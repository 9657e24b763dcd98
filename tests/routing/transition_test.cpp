// SPDX-License-Identifier: Apache-2.0
#include <moeroute/routing/transition.hpp>

#include <cmath>
#include <cstdint>
#include <vector>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"
#include "support/kernels.hpp"
#include "support/laws.hpp"
#include "support/routing_data.hpp"
#include "support/routing_models.hpp"

using namespace moeroute;

namespace {

using counts_type = std::vector<std::uint64_t>;

std::vector<std::int16_t> flat(nlohmann::json const& rows) {
  std::vector<std::int16_t> ids;
  for (auto const& r : rows)
    for (auto const& x : r) ids.push_back(x.get<std::int16_t>());
  return ids;
}

transition counted(routing_batch<> const& a, routing_batch<> const& b, transition_pairs pairs = transition_pairs::all) {
  transition t({a.experts(), b.experts(), pairs});
  t.update(a, b);
  return t;
}

void feed(transition& t, routing_data const& a, routing_data const& b, index_t first, index_t last) {
  auto const offsets = a.offsets_of(first, last);
  auto const other = b.batch().slice(a.offsets[static_cast<std::size_t>(first)], offsets.back());
  t.update(a.batch(first, last), other,
           document_spans({offsets.data(), static_cast<index_t>(offsets.size())},
                          {a.documents.data() + first, last - first}));
}

// A second layer for the tokens of `a`.
routing_data layer_beside(routing_data const& a, index_t experts, index_t slots, double dropped, std::uint64_t seed) {
  auto b = random_routing({experts, slots, 2, 6 * static_cast<index_t>(a.tokens()) + 6, dropped, 0}, seed);
  while (b.tokens() < a.tokens())
    b = random_routing({experts, slots, 2, 6 * static_cast<index_t>(a.tokens()) + 6, dropped, 0}, ++seed);
  return b;
}

transition_information_result information(simulated_routing const& data, transition_pairs pairs, index_t groups = 64) {
  transition t({data.experts, data.experts, pairs, groups});
  t.update(data.batch(0), data.batch(1), data.spans());
  return transition_information(t);
}

}  // namespace

TEST_CASE("transition: by hand") {
  std::vector<std::int16_t> const a{0, 1, 1, 2, 0, -1}, b{2, 0, 0, 1, 1, 1};
  routing_batch<> const from(3, {a.data(), 3, 2}), to(3, {b.data(), 3, 2});
  auto const r = counted(from, to).result();
  CHECK(counts_type(r.counts.begin(), r.counts.end()) == counts_type{1, 1, 1, 2, 1, 1, 1, 1, 0});
  CHECK(r.tokens == 3);
  CHECK(r.dropped == 1);
  CHECK(r.conditional(0, 0) == 0.5);
  CHECK(r.conditional(1, 0) == 1);
  CHECK(r.lift(1, 0) == doctest::Approx(2 / (2 * 2 / 3.0)));
  auto const first = counted(from, to, transition_pairs::first_choice).result();
  CHECK(counts_type(first.counts.begin(), first.counts.end()) == counts_type{0, 1, 1, 1, 0, 0, 0, 0, 0});
  auto const ranks = counted(from, to, transition_pairs::equal_ranks).result();
  CHECK(counts_type(ranks.counts.begin(), ranks.counts.end()) == counts_type{0, 1, 1, 2, 0, 0, 0, 1, 0});
  CHECK(ranks.conditional(1, 0) == 1);
  CHECK(std::isnan(ranks.lift(0, 0)));
  CHECK(std::isnan(ranks.mutual_information_nats));
  CHECK(std::isnan(ranks.cramers_v));
}

TEST_CASE("transition: first choices are a contingency table") {
  auto const a = random_routing({6, 2, 9, 60, 0, 0}, 3);
  auto const b = layer_beside(a, 5, 3, 0, 4);
  auto const r = counted(a.batch(), b.batch().slice(0, a.tokens()), transition_pairs::first_choice).result();
  auto const c = contingency(matrix_view<std::uint64_t>(r.counts.data(), 6, 5));
  CHECK(r.chi_square == doctest::Approx(c.chi_square).epsilon(1e-12));
  CHECK(r.mutual_information_nats == doctest::Approx(c.mutual_information_nats).epsilon(1e-12));
  CHECK(r.cramers_v == doctest::Approx(c.cramers_v).epsilon(1e-12));
  CHECK(r.cramers_v_corrected == doctest::Approx(c.cramers_v_corrected).epsilon(1e-10));
  double const n = static_cast<double>(r.tokens);
  CHECK(r.degrees_of_freedom == doctest::Approx(c.degrees_of_freedom * n / (n - 1)).epsilon(1e-12));
}

TEST_CASE("transition: numpy, scipy and scikit-learn") {
  for (auto const& c : golden("transition", "transition")) {
    auto const a = flat(c["a"]), b = flat(c["b"]);
    auto const e = c["experts"][0].get<index_t>(), f = c["experts"][1].get<index_t>(),
               rows = static_cast<index_t>(c["a"].size()), slots = static_cast<index_t>(c["a"][0].size());
    for_each_matrix(rows, slots, a, [&](char const* name, auto const& m) {
      INFO(name);
      routing_batch<> const to(f, {b.data(), rows, slots});
      auto const result = [&](transition_pairs pairs) {
        transition t({e, f, pairs});
        t.update(make_routing_batch(e, m), to);
        return t.result();
      };
      auto const all = result(transition_pairs::all), first = result(transition_pairs::first_choice),
                 ranks = result(transition_pairs::equal_ranks);
      bool counts = true, conditional = true;
      for (std::size_t i = 0; i < static_cast<std::size_t>(e); ++i)
        for (std::size_t j = 0; j < static_cast<std::size_t>(f); ++j) {
          counts = counts && all.counts(i, j) == c["counts"][i][j].get<std::uint64_t>() &&
                   first.counts(i, j) == c["first"][i][j].get<std::uint64_t>() &&
                   ranks.counts(i, j) == c["ranks"][i][j].get<std::uint64_t>();
          conditional = conditional && close(all.conditional(i, j), c["conditional"][i][j], 1e-14);
        }
      CHECK(counts);
      CHECK(conditional);
      CHECK(close(all.mutual_information_nats, c["mutual_information"], 1e-12));
      CHECK(close(first.mutual_information_nats, c["first_mutual_information"], 1e-12));
      CHECK(close(first.chi_square, c["first_chi_square"], 1e-12));
      double const tokens = static_cast<double>(rows);
      CHECK(close(first.degrees_of_freedom * (tokens - 1) / tokens, c["first_degrees_of_freedom"], 1e-12));
      CHECK(close(first.cramers_v, c["first_v"], 1e-12));
      CHECK(close(first.cramers_v_corrected, c["first_v_corrected"], 1e-10));
    });
  }
}

TEST_CASE("transition: degrees_of_freedom is the mean of chi-square over all pairings of tokens") {
  for (auto const& c : golden("transition", "permuted")) {
    auto const a = flat(c["a"]), b = flat(c["b"]);
    index_t const slots = static_cast<index_t>(c["a"][0].size());
    auto const r = counted({c["experts"][0].get<index_t>(), {a.data(), 6, slots}},
                           {c["experts"][1].get<index_t>(), {b.data(), 6, slots}})
                       .result();
    CHECK(r.degrees_of_freedom == doctest::Approx(c["mean_chi_square"].get<double>()).epsilon(1e-12));
  }
}

TEST_CASE("transition: equals counting pair by pair, at every level, with drops and repeats") {
  std::uint64_t seed = 100;
  for (auto const& [experts, slots, other, other_slots, longest, dropped] : {std::tuple{7, 3, 5, 2, 90, 0.05},
                                                                             {64, 8, 64, 8, 900, 0.0},
                                                                             {64, 8, 60, 6, 700, 0.03},
                                                                             {8, 2, 130, 8, 1200, 0.0},
                                                                             {65, 4, 7, 7, 600, 0.0}}) {
    auto a = random_routing({experts, slots, 3, longest, dropped, 0}, ++seed);
    auto b = layer_beside(a, other, other_slots, dropped, ++seed);
    for (bool const repeats : {false, true}) {
      if (repeats)
        for (std::size_t i = 1; i < a.ids.size(); i += 41) a.ids[i] = a.ids[i - 1];
      counts_type want(static_cast<std::size_t>(experts * other));
      for (index_t t = 0; t < a.tokens(); ++t) {
        std::vector<bool> x(static_cast<std::size_t>(experts)), y(static_cast<std::size_t>(other));
        for (index_t k = 0; k < slots; ++k)
          if (auto const id = a.ids[static_cast<std::size_t>(t * slots + k)]; id >= 0)
            x[static_cast<std::size_t>(id)] = true;
        for (index_t k = 0; k < other_slots; ++k)
          if (auto const id = b.ids[static_cast<std::size_t>(t * other_slots + k)]; id >= 0)
            y[static_cast<std::size_t>(id)] = true;
        for (std::size_t i = 0; i < x.size(); ++i)
          for (std::size_t j = 0; j < y.size(); ++j) want[i * y.size() + j] += x[i] && y[j];
      }
      std::vector<std::byte> bytes;
      for (auto const level : levels()) {
        at_level const here(level);
        INFO("experts " << experts << ", level " << static_cast<int>(level) << ", repeats " << repeats);
        auto const t = counted(a.batch(), b.batch().slice(0, a.tokens()));
        auto const r = t.result();
        CHECK(counts_type(r.counts.begin(), r.counts.end()) == want);
        if (bytes.empty()) bytes = t.serialize();
        CHECK(t.serialize() == bytes);
      }
    }
  }
}

TEST_CASE("transition: laws") {
  auto const a = random_routing({}, 5);
  auto const b = layer_beside(a, 5, 2, 0.05, 6);
  for (auto const pairs : {transition_pairs::all, transition_pairs::first_choice, transition_pairs::equal_ranks}) {
    index_t const groups = pairs == transition_pairs::all ? 3 : 1;
    law_case<transition> c{
        {7, 5, pairs, groups}, {7, 5, pairs, groups + 1}, a.size(), [&](transition& t, index_t first, index_t last) {
          feed(t, a, b, first, last);
        }};
    std::vector<std::int16_t> const ids{0, 1, 2};
    std::vector<std::int64_t> const offsets{0, 2}, documents{4};
    routing_batch<> const three(7, {ids.data(), 3, 1}), three_to(5, {ids.data(), 3, 1}), two_to(5, {ids.data(), 2, 1});
    document_spans const spans({offsets.data(), 2}, {documents.data(), 1});
    c.bad_updates = {[=](transition& t) { t.update(three, three, spans); },
                     [=](transition& t) { t.update(three_to, three_to, spans); },
                     [=](transition& t) { t.update(three, two_to); },
                     [=](transition& t) { t.update(three, three_to, spans); }};
    if (groups > 1) c.bad_updates.push_back([=](transition& t) { t.update(three, three_to); });
    check_accumulator_laws(c);
  }
  CHECK_THROWS_AS(transition({0, 1}), argument_error);
  CHECK_THROWS_AS(transition({1, 0}), argument_error);
  CHECK_THROWS_AS(transition({1, 1, transition_pairs::all, 0}), argument_error);
  CHECK_THROWS_AS(transition({index_t{1} << 30, 1}), argument_error);
  CHECK_THROWS_AS(transition_information(transition({2, 2}), 1.0), argument_error);
}

TEST_CASE("transition: empty, and one token") {
  auto const r = transition({2, 2}).result();
  CHECK(r.tokens == 0);
  CHECK(std::isnan(r.conditional(0, 0)));
  CHECK(std::isnan(r.chi_square));
  std::vector<std::int16_t> const ids{1};
  auto const one = counted({2, {ids.data(), 1, 1}}, {2, {ids.data(), 1, 1}}).result();
  CHECK(one.mutual_information_nats == 0);
  CHECK(std::isnan(one.mutual_information_corrected_nats));
  CHECK(std::isnan(one.cramers_v));
  auto const alone = transition_information(counted({2, {ids.data(), 1, 1}}, {2, {ids.data(), 1, 1}}));
  CHECK(std::isnan(alone.mutual_information_nats.lower));
  CHECK(std::isnan(alone.mutual_information_nats.value));  // the plug-in is not what this field promises
}

TEST_CASE("transition: both directions, renumbered experts") {
  auto const data = simulate({.layers = 2, .follow = 0.5}, 2);
  auto const there = counted(data.batch(0), data.batch(1)).result(),
             back = counted(data.batch(1), data.batch(0)).result();
  CHECK(there.mutual_information_nats == doctest::Approx(back.mutual_information_nats).epsilon(1e-12));
  CHECK(there.cramers_v_corrected == doctest::Approx(back.cramers_v_corrected).epsilon(1e-12));
  CHECK(there.counts(3, 9) == back.counts(9, 3));
  auto other = data;
  for (auto& id : other.layers[0]) id = static_cast<std::int16_t>((5 * id + 3) % 16);
  CHECK(counted(other.batch(0), data.batch(1)).result().mutual_information_nats ==
        doctest::Approx(there.mutual_information_nats).epsilon(1e-12));
}

TEST_CASE("transition: a planted succession is found where it is") {
  auto const data =
      simulate({.documents = 128, .tokens = 100, .layers = 3, .skew = 0.5, .sticky = 0.3, .follow = 0.5}, 7);
  for (auto const pairs : {transition_pairs::all, transition_pairs::first_choice}) {
    auto const r = counted(data.batch(0), data.batch(1), pairs).result();
    int first = 0;
    for (std::size_t e = 0; e < 16; ++e) {
      std::size_t best = 0;
      for (std::size_t f = 1; f < 16; ++f)
        if (r.lift(e, f) > r.lift(e, best)) best = f;
      first += best == (e + 1) % 16;
    }
    CHECK(first == 16);
    CHECK(r.mutual_information_corrected_nats > 0.02);
    CHECK(information(data, pairs).mutual_information_nats.lower > 0.01);
    // Two layers on, both follow layer 0: the succession goes on by no further step.
    transition next({16, 16, pairs});
    next.update(data.batch(1), data.batch(2));
    auto const same = next.result();
    CHECK(same.lift(4, 4) > 1.2 * same.lift(4, 5));
  }
}

TEST_CASE("transition: the corrections remove what chance gives") {
  // Independent layers, unequal loads, independent tokens: chi-square, information and V^2 are too large by what
  // degrees_of_freedom says.
  double plain = 0, corrected = 0, chi = 0, degrees = 0;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    auto const data = simulate({.experts = 10, .slots = 3, .documents = 20, .tokens = 50, .layers = 2}, seed);
    auto const r = counted(data.batch(0), data.batch(1)).result();
    plain += r.mutual_information_nats / 200;
    corrected += r.mutual_information_corrected_nats / 200;
    chi += r.chi_square / 200;
    degrees += r.degrees_of_freedom / 200;
  }
  CHECK(chi == doctest::Approx(degrees).epsilon(0.03));
  CHECK(plain > 0.002);
  CHECK(std::abs(corrected) < 0.03 * plain);
  CHECK(degrees == doctest::Approx(49).epsilon(0.01));  // (E - K)^2
}

namespace {

double false_finds(router_model const& m, transition_pairs pairs, int runs, double& mean) {
  double found = 0;
  mean = 0;
  for (int i = 0; i < runs; ++i) {
    auto const e = information(simulate(m, static_cast<std::uint64_t>(5000 + i)), pairs).mutual_information_nats;
    found += e.lower > 0;
    mean += e.value / runs;
  }
  return found / runs;
}

}  // namespace

TEST_CASE("transition_information: independent layers are not found, quickly") {
  double mean = 0;
  CHECK(false_finds({.experts = 8, .slots = 2, .documents = 64, .tokens = 20, .layers = 2, .sticky = 0.7},
                    transition_pairs::all, 60, mean) <= 0.05);
}

TEST_SUITE_BEGIN("slow");

TEST_CASE("transition_information: independent layers are not found more often than the level says") {
  for (auto const pairs : {transition_pairs::all, transition_pairs::first_choice})
    for (double const sticky : {0.0, 0.8}) {
      router_model const m{.experts = 8, .slots = 2, .documents = 64, .tokens = 20, .layers = 2, .sticky = sticky};
      double mean = 0;
      double const found = false_finds(m, pairs, 2000, mean);
      auto const plain = counted(simulate(m, 1).batch(0), simulate(m, 1).batch(1), pairs).result();
      MESSAGE("pairs " << static_cast<int>(pairs) << ", sticky " << sticky << ": lower bound above 0 in " << found
                       << ", mean " << mean << ", plug-in " << plain.mutual_information_nats
                       << ", corrected for independent tokens " << plain.mutual_information_corrected_nats);
      CHECK(found <= 0.035);  // 2.5 % below, at most
    }
}

TEST_SUITE_END();
