// SPDX-License-Identifier: Apache-2.0
#include <moeroute/inference/label_contrast.hpp>
#include <moeroute/inference/multiplicity.hpp>
#include <moeroute/inference/permutation.hpp>

#include <cmath>
#include <vector>

#include <doctest/doctest.h>

#include "support/golden.hpp"
#include "support/normal.hpp"

using namespace moeroute;

namespace {

struct design {
  std::vector<int> counts, labels, blocks;  // counts [D,E] row-major
  int experts = 4;
  matrix_view<int> table() const { return {counts.data(), static_cast<index_t>(labels.size()), experts}; }
};

// `passages` passages, each in the languages 0..languages-1, and `snippets` documents of label `languages`, each a
// topic of its own. Topics move the experts' probabilities, and so, with `effect`, does label 0 for expert 0.
design simulate(random_stream& random, int passages, int languages, int snippets, double effect = 0) {
  design d;
  auto const document = [&](std::vector<double> const& topic, int label, int block) {
    std::vector<double> p;
    double sum = 0;
    for (int e = 0; e < d.experts; ++e) {
      p.push_back(
          std::exp(topic[static_cast<std::size_t>(e)] + 0.2 * normal(random) + (label == 0 && e == 0 ? effect : 0)));
      sum += p.back();
    }
    std::vector<int> n(p.size());
    for (int i = 0, tokens = 60 + static_cast<int>(random.index(80)); i < tokens; ++i) {
      double u = random.uniform() * sum;
      std::size_t e = 0;
      while (e + 1 < p.size() && u >= p[e]) u -= p[e++];
      ++n[e];
    }
    d.counts.insert(d.counts.end(), n.begin(), n.end());
    d.labels.push_back(label);
    d.blocks.push_back(block);
  };
  auto const topic = [&] {
    std::vector<double> t;
    for (int e = 0; e < d.experts; ++e) t.push_back(0.5 * normal(random));
    return t;
  };
  for (int passage = 0; passage < passages; ++passage) {
    auto const t = topic();
    for (int l = 0; l < languages; ++l) document(t, l, passage);
  }
  for (int s = 0; s < snippets; ++s) document(topic(), languages, -1);
  return d;
}

std::vector<double> absolute(std::vector<double> t) {
  for (double& v : t) v = std::abs(v);
  return t;
}

// Family-wise and cell-wise p-values of all label x expert cells, from studentised or from raw differences.
max_statistic_result test_cells(design const& d, index_t labels, std::uint64_t seed, int replicates, bool studentise) {
  label_contrast const contrast(d.table(), d.blocks, labels);
  block_permutation const permutation(d.labels, d.blocks);
  std::vector<double> t(static_cast<std::size_t>(labels) * static_cast<std::size_t>(d.experts));
  auto const statistic = [&](auto const& drawn) {
    if (studentise) {
      contrast.studentised(drawn, t);
      return absolute(t);
    }
    std::vector<double> in(t.size()), n(static_cast<std::size_t>(labels)), all(static_cast<std::size_t>(d.experts));
    double total = 0;
    auto const table = d.table();
    for (index_t i = 0; i < table.rows(); ++i)
      for (index_t e = 0; e < table.cols(); ++e) {
        auto const c = static_cast<std::size_t>(drawn[static_cast<std::size_t>(i)]);
        in[c * all.size() + static_cast<std::size_t>(e)] += table(i, e);
        n[c] += table(i, e);
        all[static_cast<std::size_t>(e)] += table(i, e);
        total += table(i, e);
      }
    for (std::size_t j = 0; j < t.size(); ++j) {
      auto const c = j / all.size(), e = j % all.size();
      t[j] = in[j] / n[c] - (all[e] - in[j]) / (total - n[c]);
    }
    return absolute(t);
  };
  max_statistic m(statistic(d.labels));
  for (int b = 0; b < replicates; ++b) m.update(statistic(permutation.draw(seed, static_cast<std::uint32_t>(b))));
  return m.result();
}

}  // namespace

TEST_CASE("label_contrast: equals the slopes of statsmodels' weighted regression over its cluster errors") {
  for (auto const& g : golden("inference", "contrast")) {
    design d;
    for (auto const& row : g["counts"])
      for (auto const& n : row) d.counts.push_back(n);
    d.labels = g["labels"].get<std::vector<int>>();
    d.blocks = g["blocks"].get<std::vector<int>>();
    label_contrast const contrast(d.table(), d.blocks, 4);
    CHECK(contrast.blocks() == 18);
    std::vector<double> t(16);
    contrast.studentised(d.labels, t);
    for (std::size_t c = 0; c < 4; ++c)
      for (std::size_t e = 0; e < 4; ++e) CHECK(close(t[4 * c + e], g["t"][c][e], 1e-10));
  }
}

TEST_CASE("label_contrast: document order and the ids of blocks do not matter") {
  random_stream random(1, 1);
  auto const d = simulate(random, 6, 2, 5);
  design turned = d;
  turned.counts.clear();
  turned.labels.assign(d.labels.rbegin(), d.labels.rend());
  turned.blocks.assign(d.blocks.rbegin(), d.blocks.rend());
  for (index_t i = d.table().rows() - 1; i >= 0; --i)
    for (index_t e = 0; e < d.experts; ++e) turned.counts.push_back(d.table()(i, e));
  for (int& b : turned.blocks)
    if (b >= 0) b = 1000 - 7 * b;
  std::vector<double> a(12), b(12);
  label_contrast(d.table(), d.blocks, 3).studentised(d.labels, a);
  label_contrast(turned.table(), turned.blocks, 3).studentised(turned.labels, b);
  for (std::size_t j = 0; j < a.size(); ++j) CHECK(close(a[j], b[j], 1e-12));
}

TEST_CASE("label_contrast: what is undefined is NaN, nonsense throws") {
  std::vector<int> const counts{3, 1, 0, 2, 2, 0, 5, 1, 0, 1, 4, 0}, blocks{0, 1, 2, 2};
  matrix_view<int> const table(counts.data(), 4, 3);
  label_contrast const contrast(table, blocks, 3);
  std::vector<double> t(9, 7.0);
  contrast.studentised(std::vector<int>{0, 0, 1, 1}, t);
  CHECK(std::isfinite(t[0]));
  CHECK(std::isnan(t[2]));  // nobody chose the last expert
  CHECK(std::isnan(t[3]));  // label 1 has one block
  CHECK(std::isnan(t[6]));  // label 2 has none
  contrast.studentised(std::vector<int>{0, 0, 0, 0}, t);
  CHECK(std::isnan(t[0]));
  CHECK_THROWS_AS(contrast.studentised(std::vector<int>{0, 0, 1, 3}, t), argument_error);
  CHECK_THROWS_AS(contrast.studentised(std::vector<int>{0, 0, 1, -1}, t), argument_error);
  CHECK_THROWS_AS(contrast.studentised(std::vector<int>{0, 0, 1}, t), shape_error);
  std::vector<double> small(8);
  CHECK_THROWS_AS(contrast.studentised(std::vector<int>{0, 0, 1, 1}, small), shape_error);
  CHECK_THROWS_AS(label_contrast(table, std::vector<int>{1, 2}, 3), shape_error);
  CHECK_THROWS_AS(label_contrast(table, blocks, 0), argument_error);
  std::vector<int> const negative{1, -1};
  CHECK_THROWS_AS(label_contrast(matrix_view<int>(negative.data(), 1, 2), std::vector<int>{1}, 3), argument_error);
}

TEST_CASE("label_contrast: a planted difference is found, and only there") {
  random_stream random(2, 1);
  auto const r = test_cells(simulate(random, 40, 3, 40, 0.8), 4, 1, 199, true);
  CHECK(r.p_adjusted[0] == 1.0 / 200);
  for (std::size_t c = 1; c < 4; ++c) CHECK(r.p_value[4 * c] >= 1.0 / 200);
  auto const null = test_cells(simulate(random, 40, 3, 40), 4, 1, 199, true);
  double least = 1;
  for (double const p : null.p_adjusted) least = std::min(least, p);
  CHECK(least > 0.01);
}

TEST_CASE("label_contrast: p-values are uniform under the null with dependent documents" *
          doctest::test_suite("slow")) {
  // Raw differences are shown beside: with snippets among parallel passages they reject too often.
  struct setting {
    int passages, languages, snippets;
    bool raw_fails;
  };
  for (auto const& s :
       {setting{30, 3, 0, false}, setting{0, 1, 60, false}, setting{40, 3, 40, true}, setting{30, 5, 60, true}}) {
    int const repeats = 1000, replicates = 99;
    index_t const labels = s.languages + (s.snippets > 0 ? 1 : 0);
    double cell[2] = {0, 0}, family[2] = {0, 0}, unpaired[2] = {0, 0}, mean[2] = {0, 0};
    for (int r = 0; r < repeats; ++r) {
      random_stream random(3, static_cast<std::uint64_t>(s.passages * 100 + s.snippets), static_cast<std::uint64_t>(r));
      auto d = simulate(random, s.passages, s.languages, s.snippets);
      if (s.passages == 0)  // no parallel passages: two labels for documents that are all alone
        for (std::size_t i = 0; i < d.labels.size(); ++i) d.labels[i] = static_cast<int>(i % 2);
      for (bool const studentise : {false, true}) {
        auto const p = test_cells(d, labels, static_cast<std::uint64_t>(r), replicates, studentise);
        double least = 1;
        for (double const v : p.p_adjusted) least = std::min(least, v);
        cell[studentise] += p.p_value[0] <= 0.05 ? 1.0 / repeats : 0;
        unpaired[studentise] += p.p_value[static_cast<std::size_t>(labels - 1) * 4] <= 0.05 ? 1.0 / repeats : 0;
        mean[studentise] += p.p_value[static_cast<std::size_t>(labels - 1) * 4] / repeats;
        family[studentise] += least <= 0.05 ? 1.0 / repeats : 0;
      }
    }
    MESSAGE(s.passages, " passages in ", s.languages, " languages, ", s.snippets,
            " snippets: rejected at 5 % (raw, studentised): first label ", cell[0], ", ", cell[1], "; last label ",
            unpaired[0], ", ", unpaired[1], "; family ", family[0], ", ", family[1], "; mean p of last ", mean[0], ", ",
            mean[1]);
    // Four binomial standard errors of 1000 repeats.
    CHECK(std::abs(cell[1] - 0.05) < 0.028);
    CHECK(std::abs(unpaired[1] - 0.05) < 0.028);
    CHECK(std::abs(family[1] - 0.05) < 0.028);
    CHECK(std::abs(mean[1] - 0.505) < 0.04);
    if (s.raw_fails) CHECK(unpaired[0] > 0.15);
  }
}
