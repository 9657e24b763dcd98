// SPDX-License-Identifier: Apache-2.0
#include <moeroute/inference/bootstrap.hpp>
#include <moeroute/routing/vocabulary_summary.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include <doctest/doctest.h>

#include "support/golden.hpp"

using namespace moeroute;

namespace {

// A layer that owns its memory: tokens [T], ids [T,K], documents.
struct text {
  index_t experts = 0, slots = 1;
  std::vector<std::int32_t> tokens;
  std::vector<std::int16_t> ids;
  std::vector<std::int64_t> offsets{0}, documents;

  index_t size() const { return static_cast<index_t>(tokens.size()); }
  document_spans spans() const {
    return {{offsets.data(), static_cast<index_t>(offsets.size())},
            {documents.data(), static_cast<index_t>(documents.size())}};
  }
  routing_batch<> batch() const { return {experts, {ids.data(), size(), slots}}; }
  vector_view<std::int32_t> view() const { return {tokens.data(), size()}; }
  vocabulary_result count(std::vector<std::int32_t> const& of, std::uint64_t seed = 1) const {
    vocabulary v({experts, index_t{1} << 20, seed});
    v.update(batch(), spans(), {of.data(), static_cast<index_t>(of.size())});
    return v.result();
  }
  vocabulary_result count() const { return count(tokens); }
};

// The i-th document id that falls into the half.
std::int64_t document_in(std::size_t half, int i) {
  for (std::int64_t id = 0;; ++id)
    if (vocabulary_half(1, id) == half && i-- == 0) return id;
}

struct drawn {
  double uniform() { return static_cast<double>(random() >> 11) * 0x1p-53; }
  std::size_t of(std::vector<double> const& weight) {
    double total = 0;
    for (double const w : weight) total += w;
    double u = uniform() * total;
    std::size_t i = 0;
    while (i + 1 < weight.size() && (u -= weight[i]) > 0) ++i;
    return i;
  }
  double gamma() { return habit(random); }
  std::mt19937_64 random;
  std::gamma_distribution<double> habit{0.5, 1};
};

// Documents with strong topics: each has its own law of tokens and its own law of experts, so that both depend on the
// document and, with `pull` = 0, on nothing else. Tokens and experts repeat within a document (chance `stay`). Token x
// belongs to expert x % E with chance `pull`.
text documents_of(int documents, int length, int vocabulary_size, index_t experts, double stay, double pull,
                  std::uint64_t seed) {
  drawn draw{std::mt19937_64(seed)};
  text t;
  t.experts = experts;
  for (int d = 0; d < documents; ++d) {
    std::vector<double> word, expert;
    for (int x = 0; x < vocabulary_size; ++x) word.push_back(draw.gamma() / (1 + x));  // rare ids: many occur once
    for (index_t e = 0; e < experts; ++e) expert.push_back(draw.gamma() * (1 + static_cast<double>(e)));
    std::int32_t x = 0;
    std::int16_t e = 0;
    auto const n = 1 + static_cast<int>(draw.uniform() * length);
    for (int i = 0; i < n; ++i) {
      if (i == 0 || draw.uniform() >= stay) x = static_cast<std::int32_t>(draw.of(word));
      if (i == 0 || draw.uniform() >= stay) e = static_cast<std::int16_t>(draw.of(expert));
      t.tokens.push_back(x);
      t.ids.push_back(draw.uniform() < pull ? static_cast<std::int16_t>(x % experts) : e);
    }
    t.offsets.push_back(t.size());
    t.documents.push_back(d + 1);
  }
  return t;
}

vocabulary_excess_result excess_of(text const& t, int replicates, bool split) {
  auto const mean = [split](vocabulary_result const& r) {
    return split ? vocabulary_split_sample(r).mean : vocabulary_mean_of_max(r).mean;
  };
  std::vector<double> null;
  for (int b = 0; b < replicates; ++b)
    null.push_back(mean(t.count(rotated_tokens(t.view(), t.spans(), 77, static_cast<std::uint32_t>(b)))));
  return vocabulary_excess(mean(t.count()), null);
}

}  // namespace

TEST_CASE("vocabulary summaries: by hand") {
  // Token 1: experts 0 0 in one half, 0 1 1 1 in the other. Token 2: once, expert 2.
  text t{3, 1, {1, 1, 2, 1, 1, 1, 1}, {0, 0, 2, 0, 1, 1, 1}, {0, 3, 7}, {document_in(0, 0), document_in(1, 0)}};
  auto const r = t.count();
  auto const m = vocabulary_mean_of_max(r);
  CHECK(m.types == 2);
  CHECK(m.mean ==
        doctest::Approx((0.5 + 1) / 2));  // 3 of 6 (expert 0 before expert 1), and the id that occurs once: 100 %
  CHECK(m.weighted_mean == doctest::Approx(4.0 / 7));
  CHECK(m.expert_types == std::vector<std::uint64_t>{1, 0, 1});
  CHECK(m.expert_mean[0] == 0.5);
  CHECK(std::isnan(m.expert_mean[1]));
  CHECK(m.expert_mean[2] == 1);
  auto const often = vocabulary_mean_of_max(r, 2);
  CHECK(often.types == 1);
  CHECK(often.mean == 0.5);
  auto const s = vocabulary_split_sample(r);
  CHECK(s.types == 1);
  CHECK(s.mean == (0.25 + 0.0) / 2);  // expert 0 in the second half: 1 of 4; expert 1 in the first: never
  CHECK(s.weighted_mean == doctest::Approx(1.0 / 6));
  CHECK(s.expert_types == std::vector<std::uint64_t>{1, 1, 0});
  CHECK(vocabulary_split_sample(r, 3).types == 0);
  CHECK(std::isnan(vocabulary_split_sample(r, 3).mean));
  auto const h = vocabulary_hits(r, t.batch(), t.spans(), t.view());
  CHECK(h.tokens == std::vector<std::uint64_t>{2, 4});
  CHECK(h.hits == std::vector<std::uint64_t>{0, 1});
}

TEST_CASE("vocabulary summaries: golden values of the published procedure and of a naive split") {
  auto const cases = golden("vocabulary", "vocabulary");
  REQUIRE(cases.size() == 3);
  for (auto const& c : cases) {
    text t;
    t.experts = c["experts"];
    t.slots = c["top_k"];
    t.tokens = c["tokens"].get<std::vector<std::int32_t>>();
    t.offsets = c["offsets"].get<std::vector<std::int64_t>>();
    for (auto const& row : c["ids"])
      for (auto const& e : row) t.ids.push_back(e);
    for (int d = 0; d + 1 < static_cast<int>(t.offsets.size()); ++d)
      t.documents.push_back(document_in(static_cast<std::size_t>(d % 2), d / 2));
    auto const r = t.count();
    for (auto const& want : c["published"]) {
      auto const got = vocabulary_mean_of_max(r, want["min_count"]);
      CHECK(got.types == want["types"]);
      CHECK(close(got.mean, want["mean"], 1e-13));
      CHECK(close(got.weighted_mean, want["weighted_mean"], 1e-13));
      for (std::size_t e = 0; e < got.expert_mean.size(); ++e) {
        CHECK(got.expert_types[e] == want["expert_types"][e]);
        CHECK((want["expert_mean"][e].is_null() ? std::isnan(got.expert_mean[e])
                                                : close(got.expert_mean[e], want["expert_mean"][e], 1e-13)));
      }
    }
    for (auto const& want : c["split"]) {
      std::uint64_t const min_count = want["min_count"];
      auto const got = vocabulary_split_sample(r, min_count);
      CHECK(got.types == want["types"]);
      CHECK(close(got.mean, want["mean"], 1e-13));
      CHECK(close(got.weighted_mean, want["weighted_mean"], 1e-13));
      auto const hits = vocabulary_hits(r, t.batch(), t.spans(), t.view(), min_count);
      CHECK(close(ratio_of_totals(hits.hits, hits.tokens, t.documents).value, got.weighted_mean, 1e-13));
    }
  }
}

TEST_CASE("vocabulary summaries: extremes") {
  vocabulary const empty({4});
  auto const r = empty.result();
  CHECK(std::isnan(vocabulary_mean_of_max(r).mean));
  CHECK(std::isnan(vocabulary_split_sample(r).weighted_mean));
  CHECK(vocabulary_mean_of_max(r).types == 0);
  // All slots dropped: the token occurs, and no expert has it.
  text t{2, 1, {5, 5}, {-1, -1}, {0, 1, 2}, {document_in(0, 0), document_in(1, 0)}};
  CHECK(vocabulary_mean_of_max(t.count()).mean == 0);
  CHECK(vocabulary_split_sample(t.count()).mean == 0);
  CHECK(vocabulary_hits(t.count(), t.batch(), t.spans(), t.view()).hits == std::vector<std::uint64_t>{0, 0});
  CHECK(vocabulary_mean_of_max(t.count(), 0).types == 1);
  auto const none = vocabulary_excess(0.5, {});
  CHECK(std::isnan(none.excess));
  CHECK(none.p_value == 1);
  CHECK_THROWS_AS(vocabulary_hits(r, t.batch(), t.spans(), t.view()), argument_error);
  CHECK_THROWS_AS(vocabulary_hits(t.count(), t.batch(), t.spans(), {t.tokens.data(), 1}), shape_error);
}

TEST_CASE("vocabulary summaries: planted specialists are found, and only the split sample says how strong they are") {
  double const pull = 0.6;
  auto const t = documents_of(120, 200, 3000, 8, 0.0, pull, 3);
  // Rate of the own expert: pull, plus what its load brings by chance (loads rise with e, mean 1/8).
  auto const r = t.count();
  auto const published = vocabulary_mean_of_max(r), split = vocabulary_split_sample(r, 10);
  CHECK(published.mean > 0.75);  // many ids occur once or twice
  CHECK(split.weighted_mean > pull);
  CHECK(split.weighted_mean < pull + (1 - pull) * 0.25);
  std::uint64_t right = 0, choices = 0;
  for (std::size_t x = 0; x < r.token.size(); ++x) {
    auto const i = detail::favourite(r, x, true, true);
    if (r.occurrences[x][0] + r.occurrences[x][1] < 20) continue;
    ++choices;
    right += r.expert[i] == r.token[x] % 8 ? 1 : 0;
  }
  CHECK(choices > 50);
  CHECK(right == choices);
  auto const e = excess_of(t, 19, false), s = excess_of(t, 19, true);
  CHECK(e.p_value == doctest::Approx(0.05));
  CHECK(s.p_value == doctest::Approx(0.05));
  CHECK(e.null_mean > 0.4);  // what the published number would have shown for a router that does not look at the token
  CHECK(s.excess > 0.25);
}

namespace {

// How often a router that depends on the document alone is said to look at tokens, at 5 %.
void check_null(int runs, double stay, std::uint64_t seed) {
  int published = 0, split = 0;
  double value = 0, null = 0;
  for (int i = 0; i < runs; ++i) {
    auto const t = documents_of(12, 60, 60, 5, stay, 0, seed + static_cast<std::uint64_t>(i));
    auto const e = excess_of(t, 19, false), s = excess_of(t, 19, true);
    published += e.p_value <= 0.05 + 1e-12;
    split += s.p_value <= 0.05 + 1e-12;
    value += e.value / runs;
    null += e.null_mean / runs;
  }
  double const slack = 3.5 * std::sqrt(0.05 * 0.95 / runs);
  INFO("stay " << stay << ", rejected of " << runs << ": published mean " << published << ", split sample " << split
               << "; mean of max " << value << ", its null " << null);
  CHECK(static_cast<double>(published) / runs < 0.05 + slack);
  CHECK(static_cast<double>(split) / runs < 0.05 + slack);
  CHECK(static_cast<double>(published) / runs > 0.05 - slack - 0.01);
  CHECK(value > 0.5);  // where a naive reader expects 1/5
  CHECK(value == doctest::Approx(null).epsilon(0.02));
}

}  // namespace

TEST_CASE("vocabulary summaries: ids that occur once, unequal loads and strong documents are not found (quick)") {
  check_null(150, 0, 1000);
  check_null(150, 0.8, 2000);
}

TEST_CASE("vocabulary summaries: calibration" * doctest::test_suite("slow")) {
  check_null(2000, 0, 100000);
  check_null(2000, 0.8, 200000);
}

namespace {

// The split sample is unbiased for the chosen expert: without any dependence on the token it is the load, known here,
// of that expert.
void check_unbiased(int runs, std::uint64_t seed) {
  int covered = 0, together = 0;
  double split = 0, truth = 0, published = 0, squares = 0;
  for (int i = 0; i < runs; ++i) {
    // Every document draws its own law around loads 0.1 to 0.4, mean (1,2,3,4)/10.
    drawn draw{std::mt19937_64(seed + static_cast<std::uint64_t>(i))};
    text t;
    t.experts = 4;
    for (int d = 0; d < 60; ++d) {
      std::vector<double> law;
      for (int e = 0; e < 4; ++e) {
        std::gamma_distribution<double> habit(1.0 + e, 1);
        law.push_back(habit(draw.random));
      }
      for (int n = 0; n < 12; ++n) {
        t.tokens.push_back(static_cast<std::int32_t>(draw.uniform() * 15));
        t.ids.push_back(static_cast<std::int16_t>(draw.of(law)));
      }
      t.offsets.push_back(t.size());
      t.documents.push_back(static_cast<std::int64_t>(draw.random() >> 8));
    }
    auto const r = t.count();
    auto const s = vocabulary_split_sample(r);
    double expected = 0, choices = 0, expected_hits[2] = {0, 0}, n[2] = {0, 0};  // by the half that is measured
    for (std::size_t x = 0; x < r.token.size(); ++x)
      for (std::size_t half = 0; half < 2 && r.occurrences[x][0] > 0 && r.occurrences[x][1] > 0; ++half) {
        auto const load = 0.1 * (1 + r.expert[detail::favourite(r, x, half == 0, half == 1)]);
        auto const weight = static_cast<double>(r.occurrences[x][1 - half]);
        expected += load;
        choices += 1;
        expected_hits[1 - half] += weight * load;
        n[1 - half] += weight;
      }
    split += s.mean / runs;
    squares += s.mean * s.mean / runs;
    truth += expected / choices / runs;
    published += vocabulary_mean_of_max(r).mean / runs;
    auto const h = vocabulary_hits(r, t.batch(), t.spans(), t.view());
    auto const both = ratio_of_totals(h.hits, h.tokens, t.documents);
    together +=
        std::abs(both.value - (expected_hits[0] + expected_hits[1]) / (n[0] + n[1])) <= 1.96 * both.standard_error;
    for (std::size_t half = 0; half < 2; ++half) {
      std::vector<std::uint64_t> hits, tokens;
      std::vector<std::int64_t> documents;
      for (std::size_t d = 0; d < t.documents.size(); ++d)
        if (vocabulary_half(1, t.documents[d]) == half) {
          hits.push_back(h.hits[d]);
          tokens.push_back(h.tokens[d]);
          documents.push_back(t.documents[d]);
        }
      auto const one = ratio_of_totals(hits, tokens, documents);
      covered += std::abs(one.value - expected_hits[half] / n[half]) <= 2.05 * one.standard_error;  // t of 29
    }
  }
  double const error = std::sqrt((squares - split * split) / runs);
  INFO("split sample " << split << ", truth " << truth << ", error " << error << ", mean of max " << published
                       << ", covered of " << runs << ": halves " << covered << " / 2, both together " << together);
  CHECK(std::abs(split - truth) < 4 * error + 1e-3);
  CHECK(published > truth + 0.05);
  CHECK(covered / 2.0 / runs > 0.93 - 3.5 * std::sqrt(0.05 * 0.95 / runs));
  // Each half chooses for the other: where choices are chance, both directions err together.
  CHECK(static_cast<double>(together) / runs > 0.85);
}

}  // namespace

TEST_CASE("vocabulary summaries: the split sample is unbiased for the chosen expert (quick)") {
  check_unbiased(100, 1);
}
TEST_CASE("vocabulary summaries: unbiased, with a document interval" * doctest::test_suite("slow")) {
  check_unbiased(2000, 5000);
}
