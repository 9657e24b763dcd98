// SPDX-License-Identifier: Apache-2.0
#include <moeroute/layers/layer_similarity.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"

using namespace moeroute;

namespace {

using ids_type = std::vector<std::int16_t>;

std::vector<double> flat(nlohmann::json const& rows) {
  std::vector<double> x;
  for (auto const& r : rows)
    for (auto const& v : r) x.push_back(v.get<double>());
  return x;
}

// Documents of `run` tokens with a topic each; a token takes the experts of its topic in its layer, or others. Layers
// that share `topics` know the same topics.
ids_type routing(index_t documents, index_t run, index_t experts, index_t slots, std::uint64_t topics,
                 std::uint64_t seed, double loyal = 0.6) {
  std::mt19937_64 topic(topics), random(seed);
  std::vector<std::int16_t> order(static_cast<std::size_t>(experts)), relabel(order.size());
  std::iota(relabel.begin(), relabel.end(), std::int16_t{0});
  std::shuffle(relabel.begin(), relabel.end(), random);
  ids_type ids;
  for (index_t d = 0; d < documents; ++d) {
    auto const home = topic() % static_cast<std::uint64_t>(experts);
    for (index_t t = 0; t < run; ++t) {
      std::iota(order.begin(), order.end(), std::int16_t{0});
      std::shuffle(order.begin(), order.end(), random);
      if (std::uniform_real_distribution<double>()(random) < loyal)
        std::iter_swap(order.begin(), std::find(order.begin(), order.end(), static_cast<std::int16_t>(home)));
      for (index_t k = 0; k < slots; ++k)
        ids.push_back(relabel[static_cast<std::size_t>(order[static_cast<std::size_t>(k)])]);
    }
  }
  return ids;
}

matrix_view<std::int16_t> view(ids_type const& ids, index_t slots) {
  return {ids.data(), static_cast<index_t>(ids.size()) / slots, slots};
}

layer_similarity_options quick(index_t experts, index_t replicates, std::uint64_t seed = 1, int threads = 1) {
  return {experts, 0, replicates, seed, threads};
}

struct documents {
  std::vector<std::int64_t> offsets{0}, ids;
  explicit documents(std::vector<std::int64_t> const& sizes) {
    for (auto const n : sizes) {
      ids.push_back(static_cast<std::int64_t>(ids.size()));
      offsets.push_back(offsets.back() + n);
    }
  }
  documents(std::size_t count, std::int64_t each) : documents(std::vector<std::int64_t>(count, each)) {}
  document_spans spans() const {
    return {{offsets.data(), static_cast<index_t>(offsets.size())}, {ids.data(), static_cast<index_t>(ids.size())}};
  }
};

}  // namespace

TEST_CASE("linear_cka: kernels of numpy, in every container") {
  for (auto const& c : golden("layers", "cka")) {
    auto const x = flat(c["x"]), y = flat(c["y"]);
    auto const rows = static_cast<index_t>(c["x"].size());
    matrix_view<double> const other(y.data(), rows, static_cast<index_t>(y.size()) / rows);
    for_each_matrix(rows, static_cast<index_t>(x.size()) / rows, x, [&](char const* name, auto const& m) {
      INFO(name);
      auto const r = linear_cka(m, other);
      CHECK(close(r.biased, c["cka"][0].get<double>(), 1e-12));
      CHECK(close(r.debiased, c["cka"][1].get<double>(), 1e-12));
    });
  }
}

TEST_CASE("linear_cka: rotation, order, scale and offset of the columns do not matter; unrelated features give 0") {
  std::mt19937_64 random(1);
  std::normal_distribution<double> normal;
  index_t const rows = 200;
  std::vector<double> x, turned, other;
  for (index_t t = 0; t < rows; ++t) {
    double const a = normal(random), b = 3 * normal(random);
    x.insert(x.end(), {a, b});
    turned.insert(turned.end(), {5 - 2 * (0.6 * a + 0.8 * b), 1000 - 2 * (0.8 * a - 0.6 * b)});
  }
  matrix_view<double> const u(x.data(), rows, 2), v(turned.data(), rows, 2);
  CHECK(linear_cka(u, v).biased == doctest::Approx(1));
  CHECK(linear_cka(u, v).debiased == doctest::Approx(1));
  double biased = 0, debiased = 0;
  int const runs = 300;
  for (int i = 0; i < runs; ++i) {
    other.clear();
    std::vector<double> one;
    for (index_t j = 0; j < 40 * 8; ++j) {
      one.push_back(normal(random));
      other.push_back(normal(random));
    }
    auto const r = linear_cka(matrix_view<double>(one.data(), 40, 8), matrix_view<double>(other.data(), 40, 8));
    biased += r.biased / runs;
    debiased += r.debiased / runs;
  }
  CHECK(biased > 0.15);  // about 8 / 40
  CHECK(std::abs(debiased) < 0.01);
}

TEST_CASE("linear_cka: nothing to compare") {
  std::vector<double> x{1, 2, 3, 4, 5, 7, 2, 2, 2, 2, 2, 2};
  auto const of = [&](index_t rows) {
    return linear_cka(matrix_view<double>(x.data(), rows, 1), matrix_view<double>(x.data() + 1, rows, 1));
  };
  CHECK(std::isnan(of(0).biased));
  CHECK(of(3).biased == doctest::Approx(1));
  CHECK(std::isnan(of(3).debiased));
  CHECK_FALSE(std::isnan(of(4).debiased));
  auto const constant = linear_cka(matrix_view<double>(x.data(), 6, 1), matrix_view<double>(x.data() + 6, 6, 1));
  CHECK(std::isnan(constant.biased));
  CHECK(std::isnan(constant.debiased));
  x[2] = quiet_nan;
  CHECK(std::isnan(of(5).biased));
  CHECK(std::isnan(of(5).debiased));
  CHECK_THROWS_AS(linear_cka(matrix_view<double>(x.data(), 2, 1), matrix_view<double>(x.data(), 3, 1)), shape_error);
}

TEST_CASE("layer_similarity: kernels of numpy and pairing of scipy, dropped slots too") {
  for (auto const& c : golden("layers", "routed")) {
    auto const experts = c["experts"].get<index_t>();
    std::vector<ids_type> ids;
    for (auto const& layer : c["layers"]) {
      auto const x = flat(layer);
      ids.emplace_back(x.begin(), x.end());
    }
    auto const slots = static_cast<index_t>(c["layers"][0][0].size());
    std::vector const layers{view(ids[0], slots), view(ids[1], slots)};
    documents const whole(1, static_cast<std::int64_t>(ids[0].size()) / slots);
    auto const r = layer_similarity(layers, whole.spans(), quick(experts, 0));
    CHECK(close(r.cka.value(0, 1), c["cka"].get<double>(), 1e-12));
    CHECK(close(r.matched.value(0, 1), c["matched"].get<double>(), 1e-13));
    CHECK(close(r.same_number.value(1, 0), c["same_number"].get<double>(), 1e-13));
    CHECK(close(r.cka.value(0, 0), 1, 1e-12));
    CHECK(close(r.matched.value(1, 1), 1, 1e-12));
    CHECK(close(r.same_number.value(1, 1), 1, 1e-12));
    CHECK(std::isnan(r.cka.null_mean(0, 1)));
  }
}

TEST_CASE("layer_similarity: masks by linear_cka, and the document null written out") {
  auto const a = routing(12, 5, 6, 2, 1, 2), b = routing(12, 5, 6, 2, 1, 3);
  // Of documents of 7, 3 and 5 tokens in turn the first 5 tokens, where there are so many.
  std::vector<std::int64_t> const sizes{7, 3, 5, 7, 3, 5, 7, 3, 5, 7, 3, 5};
  documents const text(sizes);
  index_t const window = 5, experts = 6, draws = 59;
  std::vector<index_t> starts;
  for (std::size_t d = 0; d < sizes.size(); ++d)
    if (sizes[d] >= window) starts.push_back(static_cast<index_t>(text.offsets[d]));
  auto const used = static_cast<index_t>(starts.size());
  auto const compare = [&](std::vector<index_t> const& order) {
    std::vector<double> x(static_cast<std::size_t>(used * window * experts)), y(x.size());
    double same = 0;
    for (index_t d = 0; d < used; ++d)
      for (index_t t = 0; t < window; ++t)
        for (index_t k = 0; k < 2; ++k) {
          auto const row = (d * window + t) * experts;
          auto const here = starts[static_cast<std::size_t>(d)] + t,
                     there = starts[static_cast<std::size_t>(order[static_cast<std::size_t>(d)])] + t;
          x[static_cast<std::size_t>(row + a[static_cast<std::size_t>(2 * here + k)])] = 1;
          y[static_cast<std::size_t>(row + b[static_cast<std::size_t>(2 * there + k)])] = 1;
        }
    for (std::size_t i = 0; i < x.size(); ++i) same += x[i] * y[i] / static_cast<double>(2 * used * window);
    auto const rows = used * window;
    return std::pair{
        linear_cka(matrix_view<double>(x.data(), rows, experts), matrix_view<double>(y.data(), rows, experts)).debiased,
        same};
  };
  auto options = quick(experts, draws, 7);
  options.window = window;
  auto const r = layer_similarity(std::vector{view(a, 2), view(b, 2)}, text.spans(), options);
  CHECK(r.documents == 8);
  CHECK(r.window == 5);
  std::vector<index_t> straight(static_cast<std::size_t>(used));
  std::iota(straight.begin(), straight.end(), index_t{0});
  auto const [cka, same] = compare(straight);
  CHECK(close(r.cka.value(0, 1), cka, 1e-12));
  CHECK(close(r.same_number.value(0, 1), same, 1e-12));
  double mean = 0, square = 0;
  int reached = 1, same_reached = 1;
  for (std::uint32_t i = 0; i < draws; ++i) {
    random_stream random(7, detail::purpose_layer_documents, 0, i);
    auto const [null, other] = compare(random_permutation(used, random));
    mean += null / draws;
    square += null * null / draws;
    reached += null >= cka - 1e-12;
    same_reached += other >= same - 1e-12;
  }
  CHECK(close(r.cka.null_mean(0, 1), mean, 1e-12));
  CHECK(close(r.cka.null_sd(1, 0), std::sqrt((square - mean * mean) * draws / (draws - 1)), 1e-10));
  CHECK(close(r.cka.p_value(0, 1), reached / 60.0, 1e-12));
  CHECK(close(r.same_number.p_value(1, 0), same_reached / 60.0, 1e-12));
  options.window = 0;
  auto const shortest = layer_similarity(std::vector{view(a, 2), view(b, 2)}, text.spans(), options);
  CHECK(shortest.documents == 12);
  CHECK(shortest.window == 3);
}

TEST_CASE("layer_similarity: a relabelled copy is found by pairing, not by numbers; relabelling changes nothing else") {
  auto const a = routing(40, 6, 12, 3, 1, 5);
  auto copy = a;
  for (auto& id : copy) id = static_cast<std::int16_t>((id * 5 + 3) % 12);
  auto const r = layer_similarity(std::vector{view(a, 3), view(copy, 3)}, documents(40, 6).spans(), quick(12, 99));
  CHECK(r.cka.value(0, 1) == doctest::Approx(1));
  CHECK(r.matched.value(0, 1) == doctest::Approx(1));
  CHECK(r.same_number.value(0, 1) < 0.5);
  CHECK(r.cka.p_value(0, 1) <= 0.02);
  CHECK(r.matched.null_mean(0, 1) < 0.6);
  auto const b = routing(40, 6, 12, 3, 1, 6);
  auto const plain = layer_similarity(std::vector{view(a, 3), view(b, 3)}, documents(40, 6).spans(), quick(12, 19)),
             relabelled =
                 layer_similarity(std::vector{view(copy, 3), view(b, 3)}, documents(40, 6).spans(), quick(12, 19));
  CHECK(close(plain.cka.value(0, 1), relabelled.cka.value(0, 1), 1e-12));
  CHECK(close(plain.cka.null_sd(0, 1), relabelled.cka.null_sd(0, 1), 1e-12));
  CHECK(plain.matched.value(0, 1) == relabelled.matched.value(0, 1));
  CHECK(plain.matched.p_value(0, 1) == relabelled.matched.p_value(0, 1));
}

TEST_CASE("layer_similarity: layers that know the same topics are found; the same bits for every number of threads") {
  std::vector<ids_type> ids;
  for (std::uint64_t l = 0; l < 5; ++l) ids.push_back(routing(60, 5, 8, 2, l == 4 ? 9 : 1, 20 + l, 0.9));
  std::vector<matrix_view<std::int16_t>> layers;
  for (auto const& i : ids) layers.push_back(view(i, 2));
  documents const text(60, 5);
  auto const one = layer_similarity(layers, text.spans(), quick(8, 99)),
             five = layer_similarity(layers, text.spans(), quick(8, 99, 1, 5));
  for (std::size_t i = 0; i < 5; ++i)
    for (std::size_t j = 0; j < 5; ++j)
      for (auto const m :
           {&layer_similarity_result::cka, &layer_similarity_result::matched, &layer_similarity_result::same_number}) {
        auto const &a = one.*m, &b = five.*m;
        CHECK(std::memcmp(&a.value(i, j), &b.value(i, j), 8) == 0);
        CHECK(std::memcmp(&a.null_sd(i, j), &b.null_sd(i, j), 8) == 0);
        CHECK(a.value(i, j) == a.value(j, i));
        CHECK(std::isnan(a.p_value(i, j)) == (i == j));
      }
  for (std::size_t i = 0; i < 4; ++i)
    for (std::size_t j = 0; j < i; ++j) {
      CHECK(one.cka.p_value(i, j) <= 0.02);
      CHECK(one.matched.p_value(i, j) <= 0.02);
    }
}

TEST_CASE("layer_similarity: nothing to compare, and what cannot be") {
  ids_type const good{0, 1, 1, 2, 2, 0, 0, 2}, dropped(8, -1), fixed{0, 1, 0, 1, 0, 1, 0, 1};
  using layers = std::vector<matrix_view<std::int16_t>>;
  documents const four(2, 2), nothing(std::vector<std::int64_t>{});
  auto const none = layer_similarity(layers{}, four.spans(), quick(3, 9));
  CHECK(none.cka.value.size() == 0);
  auto const empty =
      layer_similarity(layers{view(good, 2), view(dropped, 2), view(fixed, 2)}, four.spans(), quick(3, 9));
  CHECK(std::isnan(empty.cka.value(0, 1)));
  CHECK(empty.matched.value(0, 1) == 0);
  CHECK(std::isnan(empty.matched.value(1, 1)));
  CHECK(std::isnan(empty.cka.value(2, 2)));  // always the same choice
  CHECK(std::isnan(empty.cka.p_value(0, 2)));
  CHECK_FALSE(std::isnan(empty.matched.p_value(0, 2)));
  auto const nobody = layer_similarity(layers{{good.data(), 0, 2}, {good.data(), 0, 2}}, nothing.spans(), quick(3, 9));
  CHECK(nobody.documents == 0);
  CHECK(std::isnan(nobody.matched.value(0, 1)));
  CHECK(std::isnan(nobody.matched.p_value(0, 1)));
  ids_type const high{0, 3, 1, 2, 2, 0, 0, 2}, low{0, -2, 1, 2, 2, 0, 0, 2}, twice{0, 1, 1, 1, 2, 0, 0, 2};
  for (auto const& bad : {high, low, twice})
    CHECK_THROWS_AS(layer_similarity(layers{view(bad, 2)}, four.spans(), quick(3, 9)), argument_error);
  CHECK_THROWS_AS(layer_similarity(layers{view(good, 2), {good.data(), 3, 2}}, four.spans(), quick(3, 9)), shape_error);
  CHECK_THROWS_AS(layer_similarity(layers{}, four.spans(), quick(0, 9)), argument_error);
  CHECK_THROWS_AS(layer_similarity(layers{}, four.spans(), quick(3, -1)), argument_error);
  auto options = quick(3, 9);
  options.window = -1;
  CHECK_THROWS_AS(layer_similarity(layers{}, four.spans(), options), argument_error);
  options.window = 3;  // longer than every document
  CHECK(std::isnan(layer_similarity(layers{view(good, 2), view(good, 2)}, four.spans(), options).matched.value(0, 1)));
}

namespace {

// Two layers with topics of their own: tokens are dependent within each, and not between them.
void check_null(int runs, std::uint64_t seed) {
  int cka = 0, matched = 0, same = 0;
  for (int i = 0; i < runs; ++i) {
    auto const s = seed + 10 * static_cast<std::uint64_t>(i);
    auto const a = routing(40, 8, 6, 2, s, s + 1, 0.8), b = routing(40, 8, 6, 2, s + 2, s + 3, 0.8);
    auto const r = layer_similarity(std::vector{view(a, 2), view(b, 2)}, documents(40, 8).spans(), quick(6, 79, s));
    cka += r.cka.p_value(0, 1) <= 0.05;
    matched += r.matched.p_value(0, 1) <= 0.05;
    same += r.same_number.p_value(0, 1) <= 0.05;
  }
  INFO("rejected of " << runs << ": cka " << cka << ", matched " << matched << ", same number " << same);
  double const most = runs * (0.05 + 3.5 * std::sqrt(0.05 * 0.95 / runs));
  CHECK(cka <= most);
  CHECK(matched <= most);
  CHECK(same <= most);
  CHECK(std::min({cka, matched, same}) >= runs / 100);  // not by never rejecting
}

}  // namespace

TEST_CASE("layer_similarity: unrelated layers with dependent tokens (quick)") { check_null(150, 1000); }

TEST_CASE("layer_similarity: calibration" * doctest::test_suite("slow")) { check_null(2000, 1000000); }
