// SPDX-License-Identifier: Apache-2.0
#include <moeroute/routing/path.hpp>

#include <cmath>
#include <cstdint>
#include <map>
#include <vector>

#include <doctest/doctest.h>

#include "support/golden.hpp"
#include "support/kernels.hpp"
#include "support/laws.hpp"
#include "support/routing_models.hpp"

using namespace moeroute;

namespace {

// Documents first .. last-1 of simulated layers, as their own shard.
struct shard {
  std::vector<std::int64_t> offsets;
  trace_batch<> batch;

  shard(simulated_routing const& data, index_t first, index_t last) {
    for (index_t d = first; d <= last; ++d)
      offsets.push_back(data.offsets[static_cast<std::size_t>(d)] - data.offsets[static_cast<std::size_t>(first)]);
    batch.documents = document_spans({offsets.data(), static_cast<index_t>(offsets.size())},
                                     {data.documents.data() + first, last - first});
    for (std::size_t l = 0; l < data.layers.size(); ++l) {
      batch.layer_numbers.push_back(static_cast<index_t>(l));
      batch.layers.push_back(data.batch(l).slice(data.offsets[static_cast<std::size_t>(first)], offsets.back()));
    }
  }
};

index_t documents_of(simulated_routing const& data) { return static_cast<index_t>(data.documents.size()); }

paths counted(simulated_routing const& data, paths_options options) {
  paths a(options);
  a.update(shard(data, 0, documents_of(data)).batch);
  return a;
}

simulated_routing from_json(nlohmann::json const& c) {
  simulated_routing data;
  data.experts = c["experts"];
  data.slots = c["slots"];
  for (auto const& layer : c["ids"]) {
    auto& ids = data.layers.emplace_back();
    for (auto const& row : layer)
      for (auto const& x : row) ids.push_back(x.get<std::int16_t>());
  }
  std::int64_t id = 50;
  for (auto const& n : c["lengths"]) {
    data.documents.push_back(id += 3);
    data.offsets.push_back(data.offsets.back() + n.get<std::int64_t>());
  }
  return data;
}

std::map<std::vector<std::int16_t>, std::uint64_t> naive(simulated_routing const& data, bool sets) {
  std::map<std::vector<std::int16_t>, std::uint64_t> counts;
  for (std::size_t t = 0; t < static_cast<std::size_t>(data.offsets.back()); ++t) {
    std::vector<std::int16_t> path;
    for (auto const& layer : data.layers) {
      auto const k = static_cast<std::size_t>(data.slots);
      std::vector<std::int16_t> row(layer.begin() + static_cast<std::ptrdiff_t>(t * k),
                                    layer.begin() + static_cast<std::ptrdiff_t>(t * k + (sets ? k : 1)));
      std::sort(row.begin(), row.end());
      path.insert(path.end(), row.begin(), row.end());
    }
    ++counts[path];
  }
  return counts;
}

}  // namespace

TEST_CASE("sample_coverage, entropy_chao_shen_nats: mpmath") {
  for (auto const& c : golden("path", "samples")) {
    auto const counts = c["counts"].get<std::vector<std::uint64_t>>();
    double n = 0, f1 = 0, f2 = 0;
    for (auto const x : counts) {
      n += static_cast<double>(x);
      f1 += x == 1;
      f2 += x == 2;
    }
    CHECK(close(entropy_chao_shen_nats(counts), c["chao_shen"], 1e-13));
    CHECK(close(sample_coverage(n, f1, f2), c["coverage"], 1e-14));
  }
  CHECK(std::isnan(entropy_chao_shen_nats(std::vector<std::uint64_t>{})));
  CHECK_THROWS_AS(entropy_chao_shen_nats(std::vector<double>{0.5}), argument_error);
  CHECK_THROWS_AS(entropy_chao_shen_nats(std::vector<double>{-1}), argument_error);
  CHECK(std::isnan(sample_coverage(1, 1, 0)));
  CHECK(std::isnan(sample_coverage(0, 0, 0)));
  CHECK(sample_coverage(10, 0, 0) == 1);
  CHECK(entropy_chao_shen_nats(std::vector<int>{9}) == 0);
}

TEST_CASE("paths: by hand") {
  simulated_routing data;
  data.experts = 4;
  data.slots = 2;
  data.layers = {{0, 1, 1, 0, 2, 3, 0, -1}, {2, 3, 3, 2, 2, 3, 1, 0}};
  data.offsets = {0, 3, 4};
  data.documents = {8, 9};
  auto const sets = counted(data, {2, 2, path_choice::set}).result();
  CHECK(sets.tokens == 4);
  CHECK(sets.documents == 2);
  CHECK(sets.exact);
  CHECK(sets.distinct == 3);  // {0,1}{2,3} twice: order within a layer is no difference
  CHECK(sets.singletons == 2);
  CHECK(sets.top[0].experts == std::vector<std::int32_t>{0, 1, 2, 3});
  CHECK(sets.top[0].tokens == 2);
  CHECK(sets.top[0].exact);
  CHECK(sets.entropy_nats == doctest::Approx(std::log(4) - 0.5 * std::log(2)));
  auto const firsts = counted(data, {2, 2}).result();
  CHECK(firsts.distinct == 4);
  CHECK(firsts.entropy_nats == doctest::Approx(std::log(4)));
  CHECK(firsts.top.size() == 4);
  CHECK(counted(data, {2, 2}).result(2).top.size() == 2);
  bool dropped = false;
  for (auto const& p : sets.top) dropped = dropped || p.experts == std::vector<std::int32_t>{-1, 0, 0, 1};
  CHECK(dropped);
}

TEST_CASE("paths: layers are not exchanged, nor their experts") {
  simulated_routing data;
  data.experts = 8;
  data.slots = 2;
  data.layers = {{0, 1, 2, 3, 0, 3}, {2, 3, 0, 1, 1, 2}};
  data.offsets = {0, 3};
  data.documents = {1};
  CHECK(counted(data, {2, 2, path_choice::set}).result().distinct == 3);
}

TEST_CASE("paths: Counter, scipy and mpmath") {
  for (auto const& c : golden("path", "paths")) {
    auto const data = from_json(c);
    for (auto const choice : {path_choice::set, path_choice::first}) {
      auto const& want = c[choice == path_choice::set ? "set" : "first"];
      auto const r = counted(data, {c["layers"], c["slots"], choice}).result();
      CHECK(r.distinct == want["distinct"].get<double>());
      CHECK(r.singletons == want["singletons"].get<double>());
      CHECK(r.doubletons == want["doubletons"].get<double>());
      CHECK(close(r.entropy_nats, want["entropy"], 1e-13));
      CHECK(close(r.entropy_miller_madow_nats, want["miller_madow"], 1e-13));
      CHECK(close(r.entropy_chao_shen_nats, want["chao_shen"], 1e-12));
      CHECK(close(r.coverage, want["coverage"], 1e-13));
      CHECK(close(r.coverage_documents, want["coverage_documents"], 1e-13));
      CHECK(r.top[0].tokens == want["best"].get<double>());
      bool listed = false;
      for (auto const& p : want["best_paths"])
        listed = listed || p.get<std::vector<std::int32_t>>() == r.top[0].experts;
      CHECK(listed);
    }
  }
}

TEST_CASE("paths: equals counting path by path") {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    auto const data =
        simulate({.experts = 6, .slots = 2, .documents = 20, .tokens = 60, .layers = 3, .sticky = 0.3}, seed);
    for (bool const sets : {false, true}) {
      auto const want = naive(data, sets);
      auto const r = counted(data, {3, 2, sets ? path_choice::set : path_choice::first}).result(1000000);
      CHECK(r.distinct == static_cast<double>(want.size()));
      REQUIRE(r.top.size() == want.size());
      bool same = true;
      double before = 1e9;
      for (auto const& p : r.top) {
        auto const found = want.find({p.experts.begin(), p.experts.end()});
        same = same && found != want.end() && p.tokens == static_cast<double>(found->second) && p.exact &&
               p.tokens <= before;
        before = p.tokens;
      }
      CHECK(same);
    }
  }
}

TEST_CASE("paths: laws, below and beyond the capacity") {
  auto const data = simulate({.experts = 5, .slots = 2, .documents = 25, .tokens = 12, .layers = 2}, 4);
  for (auto const& [choice, capacity, sample] :
       {std::tuple{path_choice::set, 1000, 1000}, {path_choice::set, 7, 11}, {path_choice::first, 1000, 5}}) {
    law_case<paths> c{{2, 2, choice, capacity, sample},
                      {2, 2, choice, capacity + 1, sample},
                      documents_of(data),
                      [&](paths& a, index_t first, index_t last) { a.update(shard(data, first, last).batch); }};
    shard const good(data, 0, 2);
    auto three_layers = good.batch, three_slots = good.batch, other_tokens = good.batch;
    three_layers.layers.push_back(three_layers.layers[0]);
    three_layers.layer_numbers.push_back(2);
    std::vector<std::int16_t> const wide(72, 0);
    three_slots.layers[1] = routing_batch<>(5, {wide.data(), 24, 3});
    other_tokens.layers[1] = other_tokens.layers[1].slice(0, 23);
    c.bad_updates = {[=](paths& a) { a.update(three_layers); }, [=](paths& a) { a.update(three_slots); },
                     [=](paths& a) { a.update(other_tokens); }};
    check_accumulator_laws(c);
  }
  CHECK_THROWS_AS(paths({0, 1}), argument_error);
  CHECK_THROWS_AS(paths({1, 0}), argument_error);
  CHECK_THROWS_AS(paths({1, 1, path_choice::first, 1}), argument_error);
  CHECK_THROWS_AS(paths({1, 1, path_choice::first, 2, 0}), argument_error);
}

TEST_CASE("paths: empty, and one token") {
  auto const r = paths({2, 1}).result();
  CHECK(r.tokens == 0);
  CHECK(std::isnan(r.distinct));
  CHECK(std::isnan(r.coverage));
  CHECK(std::isnan(r.entropy_nats));
  CHECK(r.top.empty());
  simulated_routing data;
  data.experts = 2;
  data.slots = 1;
  data.layers = {{1}};
  data.offsets = {0, 1};
  data.documents = {1};
  auto const one = counted(data, {1, 1}).result();
  CHECK(one.distinct == 1);
  CHECK(one.entropy_nats == 0);
  CHECK(std::isnan(one.coverage));
}

TEST_CASE("paths: beyond the capacity estimates are unbiased, kept counts exact, frequent paths found") {
  double distinct = 0, singletons = 0, doubletons = 0, true_distinct = 0, true_singletons = 0, true_doubletons = 0,
         square = 0;
  int const runs = 200, capacity = 64;
  for (int i = 0; i < runs; ++i) {
    auto const data = simulate({.experts = 12, .slots = 1, .documents = 30, .tokens = 40, .layers = 3, .skew = 1.2},
                               static_cast<std::uint64_t>(i));
    auto const want = naive(data, false);
    // Other expert numbers, so that the hashes are new ones in each run.
    auto renumbered = data;
    for (auto& layer : renumbered.layers)
      for (auto& id : layer) id = static_cast<std::int16_t>(id + 100 * i);
    renumbered.experts = 32000;
    auto const r = counted(renumbered, {3, 1, path_choice::first, capacity, 600}).result();
    CHECK_FALSE(r.exact);
    double ones = 0, twos = 0, most = 0;
    for (auto const& [path, n] : want) {
      ones += n == 1;
      twos += n == 2;
      most = std::max(most, static_cast<double>(n));
    }
    distinct += r.distinct / runs;
    singletons += r.singletons / runs;
    doubletons += r.doubletons / runs;
    true_distinct += static_cast<double>(want.size()) / runs;
    true_singletons += ones / runs;
    true_doubletons += twos / runs;
    double const relative = r.distinct / static_cast<double>(want.size()) - 1;
    square += relative * relative / runs;
    for (auto const& p : r.top)
      if (p.exact) {
        std::vector<std::int16_t> path;
        for (auto const e : p.experts) path.push_back(static_cast<std::int16_t>(e - 100 * i));
        CHECK(static_cast<double>(want.at(path)) == p.tokens);
      }
    CHECK(r.top[0].tokens > most / 2);
    CHECK(r.entropy_tokens == 600);
  }
  CHECK(true_distinct > 5 * capacity);
  CHECK(distinct == doctest::Approx(true_distinct).epsilon(0.03));
  CHECK(singletons == doctest::Approx(true_singletons).epsilon(0.05));
  CHECK(doubletons == doctest::Approx(true_doubletons).epsilon(0.1));
  CHECK(std::sqrt(square) == doctest::Approx(1 / std::sqrt(capacity - 2.0)).epsilon(0.25));
}

TEST_CASE("paths: coverage and corrected entropies come nearer to the truth than the plug-in") {
  // 512 paths of first choices with known probabilities: three independent layers of 8 experts.
  double plain = 0, chao_shen = 0, miller_madow = 0, coverage = 0, true_coverage = 0, truth = 0;
  int const runs = 100;
  for (int i = 0; i < runs; ++i) {
    plain_random random(static_cast<std::uint64_t>(900 + i));
    std::vector<double> p(8);
    double sum = 0;
    for (double& x : p) sum += x = std::exp(random.bell());
    truth += 3 * [&] {
      double h = 0;
      for (double& x : p) {
        x /= sum;
        h -= x * std::log(x);
      }
      return h;
    }() / runs;
    simulated_routing data;
    data.experts = 8;
    data.slots = 1;
    data.layers.resize(3);
    for (index_t d = 0; d < 30; ++d) {
      data.documents.push_back(d);
      data.offsets.push_back(data.offsets.back() + 10);
      for (int t = 0; t < 10; ++t)
        for (auto& layer : data.layers) {
          double u = random.uniform();
          std::int16_t e = 0;
          while (e < 7 && (u -= p[static_cast<std::size_t>(e)]) > 0) ++e;
          layer.push_back(e);
        }
    }
    double seen = 0;
    for (auto const& [path, n] : naive(data, false))
      seen += p[static_cast<std::size_t>(path[0])] * p[static_cast<std::size_t>(path[1])] *
              p[static_cast<std::size_t>(path[2])];
    auto const r = counted(data, {3, 1}).result();
    plain += r.entropy_nats / runs;
    miller_madow += r.entropy_miller_madow_nats / runs;
    chao_shen += r.entropy_chao_shen_nats / runs;
    coverage += r.coverage / runs;
    true_coverage += seen / runs;
    CHECK(std::abs(r.coverage_documents - seen) < 0.25);
  }
  MESSAGE("entropy " << truth << ": plug-in " << plain << ", Miller-Madow " << miller_madow << ", Chao-Shen "
                     << chao_shen << "; coverage " << true_coverage << " estimated as " << coverage);
  CHECK(truth - plain > 0.2);
  CHECK(std::abs(chao_shen - truth) < 0.35 * (truth - plain));
  CHECK(std::abs(miller_madow - truth) < 0.7 * (truth - plain));
  CHECK(coverage == doctest::Approx(true_coverage).epsilon(0.01));
}

TEST_CASE("paths: repeated documents fool coverage, not coverage_documents") {
  auto data = simulate({.experts = 32, .slots = 1, .documents = 40, .tokens = 20, .layers = 3, .skew = 0}, 5);
  // Every document says each token twice: no path is a singleton, yet a new document brings new paths.
  for (auto& layer : data.layers)
    for (std::size_t t = 0; t < layer.size(); t += 2) layer[t + 1] = layer[t];
  auto const r = counted(data, {3, 1}).result();
  CHECK(r.coverage == 1);
  CHECK(r.coverage_documents < 0.1);
}
