// SPDX-License-Identifier: Apache-2.0
#include <moeroute/routing/vocabulary.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "support/laws.hpp"
#include "support/routing_data.hpp"

using namespace moeroute;

namespace {

// Token ids of a skewed law, some missing.
std::vector<std::int32_t> random_tokens(index_t n, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::int32_t> tokens;
  for (index_t t = 0; t < n; ++t) {
    auto const u = static_cast<double>(random() >> 11) * 0x1p-53;
    tokens.push_back(u < 0.03 ? -1 : static_cast<std::int32_t>(200 * u * u * u) * 250);
  }
  return tokens;
}

struct shard {
  std::vector<std::int64_t> offsets;
  document_spans spans;
  vector_view<std::int32_t> tokens;
  shard(routing_data const& d, std::vector<std::int32_t> const& all, index_t first, index_t last)
      : offsets{d.offsets_of(first, last)},
        spans{{offsets.data(), static_cast<index_t>(offsets.size())}, {d.documents.data() + first, last - first}},
        tokens{all.data() + d.offsets[static_cast<std::size_t>(first)], static_cast<index_t>(offsets.back())} {}
};

void feed(vocabulary& a, routing_data const& d, std::vector<std::int32_t> const& tokens, index_t first, index_t last) {
  shard const s(d, tokens, first, last);
  a.update(d.batch(first, last), s.spans, s.tokens);
}

vector_view<std::int32_t> view(std::vector<std::int32_t> const& v) {
  return {v.data(), static_cast<index_t>(v.size())};
}

std::map<std::int32_t, std::size_t> index_of(vocabulary_result const& r) {
  std::map<std::int32_t, std::size_t> at;
  for (std::size_t x = 0; x < r.token.size(); ++x) at[r.token[x]] = x;
  return at;
}

}  // namespace

TEST_CASE("vocabulary: by hand") {
  // Two documents, three experts, top 2. Token 7 occurs three times, token 4 once.
  std::vector<std::int16_t> const ids{0, 1, 1, 2, 0, -1, 2, 1};
  std::vector<std::int32_t> const tokens{7, 4, 7, 7};
  std::vector<std::int64_t> const offsets{0, 3, 4}, documents{10, 11};
  document_spans const spans({offsets.data(), 3}, {documents.data(), 2});
  vocabulary v({3});
  v.update(make_routing_batch(3, matrix_view<std::int16_t>(ids.data(), 4, 2)), spans, view(tokens));
  auto const r = v.result();
  auto const a = vocabulary_half(1, 10), b = vocabulary_half(1, 11);
  CHECK(r.tokens == 4);
  CHECK(r.dropped == 1);
  CHECK(r.without_id == 0);
  CHECK(r.kept_share == 1);
  CHECK(r.token == std::vector<std::int32_t>{4, 7});
  CHECK(r.first == std::vector<std::size_t>{0, 2, 5});
  CHECK(r.expert == std::vector<std::int32_t>{1, 2, 0, 1, 2});
  CHECK(r.occurrences[0][a] == 1);
  CHECK(r.occurrences[1][0] + r.occurrences[1][1] == 3);
  std::vector<std::uint64_t> total;
  for (auto const& c : r.count) total.push_back(c[0] + c[1]);
  CHECK(total == std::vector<std::uint64_t>{1, 1, 2, 2, 1});
  CHECK(r.count[4][b] == 1);  // expert 2 of token 7: the second document
  CHECK(r.count[2][a] == 2);
}

TEST_CASE("vocabulary: the next token stays within its document") {
  std::vector<std::int32_t> const tokens{1, 2, 3, 4, 5};
  std::vector<std::int64_t> const offsets{0, 2, 2, 5}, documents{3, 4, 5};
  document_spans const spans({offsets.data(), 4}, {documents.data(), 3});
  CHECK(next_tokens(view(tokens), spans) == std::vector<std::int32_t>{2, -1, 4, 5, -1});
  CHECK(next_tokens({}, {}).empty());
  CHECK_THROWS_AS(next_tokens({tokens.data(), 4}, spans), shape_error);
}

TEST_CASE("rotated_tokens: a rotation of every document, whatever the shard") {
  auto const d = random_routing({.documents = 40, .longest = 12}, 3);
  auto const tokens = random_tokens(d.tokens(), 1);
  auto const draw = [&](index_t first, index_t last, std::uint32_t replicate) {
    shard const s(d, tokens, first, last);
    return rotated_tokens(s.tokens, s.spans, 9, replicate);
  };
  auto const whole = draw(0, d.size(), 0);
  auto parts = draw(0, 17, 0);
  for (auto const t : draw(17, d.size(), 0)) parts.push_back(t);
  CHECK(whole == parts);
  CHECK_FALSE(whole == draw(0, d.size(), 1));
  std::set<index_t> offsets;
  for (index_t i = 0; i < d.size(); ++i) {
    auto const from = static_cast<std::ptrdiff_t>(d.offsets[static_cast<std::size_t>(i)]),
               to = static_cast<std::ptrdiff_t>(d.offsets[static_cast<std::size_t>(i) + 1]);
    std::vector<std::int32_t> const before(tokens.begin() + from, tokens.begin() + to),
        after(whole.begin() + from, whole.begin() + to);
    bool found = before.empty();
    for (index_t o = 0; o < to - from && !found; ++o) {
      auto turned = before;
      std::rotate(turned.begin(), turned.begin() + o, turned.end());
      found = turned == after;
      if (found) offsets.insert(o);
    }
    CHECK(found);
  }
  CHECK(offsets.size() > 5);
  CHECK_THROWS_AS(rotated_tokens(view(tokens), {}, 1, 0), shape_error);
}

TEST_CASE("rotated_tokens: a run of one id is never cut") {
  std::vector<std::int32_t> const tokens{1, 1, 1, 2, 2, 3};
  std::vector<std::int64_t> const offsets{0, 6}, documents{4};
  document_spans const spans({offsets.data(), 2}, {documents.data(), 1});
  std::map<std::vector<std::int32_t>, int> seen;
  for (std::uint32_t b = 0; b < 300; ++b) ++seen[rotated_tokens(view(tokens), spans, 1, b)];
  CHECK(seen.size() == 3);
  for (auto const& turned : {tokens, {2, 2, 3, 1, 1, 1}, {3, 1, 1, 1, 2, 2}}) {
    CHECK(seen[turned] > 70);
    CHECK(seen[turned] < 130);
  }
}

TEST_CASE("vocabulary: laws, with room and without") {
  auto const d = random_routing({.documents = 30, .longest = 60}, 11);
  auto const tokens = random_tokens(d.tokens(), 2);
  for (index_t const capacity : {index_t{100000}, index_t{300}, index_t{40}, index_t{8}}) {
    INFO("capacity " << capacity);
    law_case<vocabulary> c;
    c.options = {d.experts, capacity, 5};
    c.other_options = {d.experts, capacity, 6};
    c.documents = d.size();
    c.feed = [&](vocabulary& a, index_t first, index_t last) { feed(a, d, tokens, first, last); };
    c.bad_updates.push_back([&](vocabulary& a) {
      shard const s(d, tokens, 0, 3);
      a.update(d.batch(0, 2), s.spans, s.tokens);
    });
    c.bad_updates.push_back([&](vocabulary& a) {
      shard const s(d, tokens, 0, 3);
      a.update(d.batch(0, 3), s.spans, {s.tokens.data(), s.tokens.size() - 1});
    });
    c.bad_updates.push_back([&](vocabulary& a) {
      auto wrong = tokens;
      wrong[20] = -2;
      feed(a, d, wrong, 0, d.size());
    });
    c.bad_updates.push_back([&](vocabulary& a) {
      auto other = random_routing({.experts = 8, .documents = 3}, 1);
      feed(a, other, random_tokens(other.tokens(), 1), 0, 3);
    });
    check_accumulator_laws(c);
  }
}

TEST_CASE("vocabulary: a naive count, halves by document, ids that capacity leaves out") {
  auto const d = random_routing({.documents = 50, .longest = 60}, 5);
  auto const tokens = random_tokens(d.tokens(), 4);
  std::map<std::pair<std::int32_t, int>, std::array<std::uint64_t, 2>> naive;
  std::map<std::int32_t, std::array<std::uint64_t, 2>> occurrences;
  std::uint64_t dropped = 0, without = 0;
  bool both[2] = {false, false};
  for (index_t i = 0; i < d.size(); ++i) {
    auto const half = vocabulary_half(7, d.documents[static_cast<std::size_t>(i)]);
    both[half] = true;
    for (auto t = d.offsets[static_cast<std::size_t>(i)]; t < d.offsets[static_cast<std::size_t>(i) + 1]; ++t) {
      auto const x = tokens[static_cast<std::size_t>(t)];
      if (x < 0) {
        ++without;
        continue;
      }
      ++occurrences[x][half];
      for (index_t k = 0; k < d.slots; ++k)
        if (auto const e = d.ids[static_cast<std::size_t>(t * d.slots + k)]; e < 0)
          ++dropped;
        else
          ++naive[{x, e}][half];
    }
  }
  CHECK((both[0] && both[1]));
  vocabulary whole({d.experts, 100000, 7});
  feed(whole, d, tokens, 0, d.size());
  auto const r = whole.result();
  CHECK(r.without_id == without);
  CHECK(r.dropped == dropped);
  CHECK(r.tokens == static_cast<std::uint64_t>(d.tokens()));
  REQUIRE(r.token.size() == occurrences.size());
  REQUIRE(r.expert.size() == naive.size());
  for (std::size_t x = 0; x < r.token.size(); ++x) {
    CHECK(r.occurrences[x] == occurrences[r.token[x]]);
    for (auto i = r.first[x]; i < r.first[x + 1]; ++i) CHECK(r.count[i] == naive[{r.token[x], r.expert[i]}]);
  }
  // With less room: fewer ids, each with all of its counts, as many as fit but for the last doubling.
  for (index_t const capacity : {index_t{200}, index_t{50}, index_t{8}}) {
    vocabulary small({d.experts, capacity, 7});
    feed(small, d, tokens, 0, d.size());
    auto const s = small.result();
    CHECK(s.kept_share < 1);
    CHECK(s.token.size() + s.expert.size() <= static_cast<std::size_t>(capacity));
    CHECK(s.token.size() < r.token.size());
    CHECK(s.tokens == r.tokens);
    auto const at = index_of(r);
    for (std::size_t x = 0; x < s.token.size(); ++x) {
      auto const y = at.at(s.token[x]);
      CHECK(s.occurrences[x] == r.occurrences[y]);
      REQUIRE(s.first[x + 1] - s.first[x] == r.first[y + 1] - r.first[y]);
      for (std::size_t i = 0; i < s.first[x + 1] - s.first[x]; ++i) {
        CHECK(s.count[s.first[x] + i] == r.count[r.first[y] + i]);
        CHECK(s.expert[s.first[x] + i] == r.expert[r.first[y] + i]);
      }
    }
  }
}

TEST_CASE("vocabulary: the ids that are kept are a fair sample") {
  // 20000 ids, once each, room for a fraction: about kept_share of them stay, of every kind.
  index_t const n = 20000;
  std::vector<std::int16_t> const ids(static_cast<std::size_t>(n), 0);
  std::vector<std::int32_t> tokens;
  for (std::int32_t x = 0; x < n; ++x) tokens.push_back(3 * x);
  std::vector<std::int64_t> const offsets{0, n}, documents{1};
  document_spans const spans({offsets.data(), 2}, {documents.data(), 1});
  vocabulary v({2, 3000, 1});
  v.update(make_routing_batch(2, matrix_view<std::int16_t>(ids.data(), n, 1)), spans, view(tokens));
  auto const r = v.result();
  CHECK(r.kept_share == 1.0 / 16);  // 40000 pairs: 3000 are fewer than an eighth and more than a sixteenth
  auto const expected = static_cast<double>(n) * r.kept_share;
  CHECK(std::abs(static_cast<double>(r.token.size()) - expected) < 4 * std::sqrt(expected));
  auto const low = std::count_if(r.token.begin(), r.token.end(), [&](auto x) { return x < 3 * n / 2; });
  CHECK(std::abs(static_cast<double>(low) - expected / 2) < 4 * std::sqrt(expected / 4));
}

TEST_CASE("vocabulary: extremes and bad options") {
  vocabulary v({2, 3, 1});
  CHECK(v.result().token.empty());
  CHECK(v.result().first.size() == 1);
  std::vector<std::int16_t> const ids{0, 1};
  std::vector<std::int32_t> const tokens{std::numeric_limits<std::int32_t>::max(), 0};
  std::vector<std::int64_t> const offsets{0, 2}, documents{-1};
  document_spans const spans({offsets.data(), 2}, {documents.data(), 1});
  vocabulary wide({2, 100, 1});
  wide.update(make_routing_batch(2, matrix_view<std::int16_t>(ids.data(), 2, 1)), spans, view(tokens));
  CHECK(wide.result().token == std::vector<std::int32_t>{0, std::numeric_limits<std::int32_t>::max()});
  wide.merge(wide);
  CHECK(wide.count() == 4);
  CHECK(wide.result().occurrences[0][0] + wide.result().occurrences[0][1] == 2);
  CHECK_THROWS_AS(vocabulary({0}), argument_error);
  CHECK_THROWS_AS(vocabulary({4, 4}), argument_error);
  CHECK_THROWS_AS(vocabulary({index_t{1} << 31, index_t{1} << 33}), argument_error);
}

TEST_CASE("vocabulary: merged with itself at every fill of its table") {
  for (index_t n = 1; n <= 60; ++n) {
    std::vector<std::int16_t> const ids(static_cast<std::size_t>(n), 0);
    std::vector<std::int32_t> tokens;
    for (std::int32_t x = 0; x < n; ++x) tokens.push_back(x);
    std::vector<std::int64_t> const offsets{0, n}, documents{1};
    vocabulary v({2, 1000, 1});
    v.update(make_routing_batch(2, matrix_view<std::int16_t>(ids.data(), n, 1)),
             document_spans({offsets.data(), 2}, {documents.data(), 1}), view(tokens));
    auto const copy = v;
    auto twice = v;
    twice.merge(copy);
    v.merge(v);
    CHECK(v == twice);
  }
}

TEST_CASE("vocabulary: bytes that no text leads to") {
  // One token that chose expert 0: the pairs (id, 0) and (id, occurrences).
  std::vector<std::int16_t> const ids{0};
  std::vector<std::int32_t> const tokens{5};
  std::vector<std::int64_t> const offsets{0, 1}, documents{1};
  vocabulary v({2, 10, 1});
  v.update(make_routing_batch(2, matrix_view<std::int16_t>(ids.data(), 1, 1)),
           document_spans({offsets.data(), 2}, {documents.data(), 1}), view(tokens));
  auto const bytes = v.serialize();
  std::size_t const tokens_at = 28, keys_at = 60 + 8, counts_at = keys_at + 2 * 8 + 8;
  auto const changed = [&](std::initializer_list<std::pair<std::size_t, std::uint64_t>> words) {
    auto b = bytes;
    for (auto const& [at, word] : words)
      for (std::size_t i = 0; i < 8; ++i) b.at(at + i) = static_cast<std::byte>(word >> (8 * i) & 0xff);
    return b;
  };
  auto const refused = [](std::vector<std::byte> const& b) {
    CHECK_THROWS_AS(vocabulary::deserialize(b), format_error);
  };
  auto const half = vocabulary_half(1, 1);
  CHECK(vocabulary::deserialize(changed({{tokens_at, 1}})) == v);
  refused(changed({{tokens_at, 2}}));                            // a token without an occurrence
  refused(changed({{tokens_at, 0}}));                            // an occurrence without a token
  refused(changed({{tokens_at, 0}, {keys_at + 8, 5 * 3 + 1}}));  // an id that never occurs
  refused(changed({{keys_at, 4 * 3}}));                          // the same, with two ids
  refused(changed({{keys_at, 5 * 3 + 2}}));                      // a pair twice
  refused(
      changed({{keys_at, std::uint64_t{1} << 40}, {keys_at + 8, (std::uint64_t{1} << 40) + 1}}));  // an id too large
  refused(changed({{counts_at + 8 * half, 0}}));  // a pair without counts
  refused(changed({{tokens_at + 24, 65}}));       // more zero bits than there are
  refused(changed({{tokens_at + 24, 20}}));       // an id that should be left out
  refused(changed({{12, 2}}));                    // capacity below one id
}
