// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_TESTS_SUPPORT_LAWS_HPP
#define MOEROUTE_TESTS_SUPPORT_LAWS_HPP

#include <moeroute/core/accumulator.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/parallel.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <span>
#include <vector>

#include <doctest/doctest.h>

/// What the laws are checked with. `feed(a, first, last)` updates `a` with the documents first .. last-1 in one call.
template <class A>
struct law_case {
  using options_type = typename A::options_type;

  options_type options;
  options_type other_options;  ///< must not merge with `options`
  moeroute::index_t documents = 0;
  std::function<void(A&, moeroute::index_t, moeroute::index_t)> feed;
  std::vector<std::function<void(A&)>> bad_updates{};  ///< each throws argument_error and changes nothing
  std::function<bool(A const&, A const&)> same =
      std::equal_to<A>();             ///< for approximate laws: equal up to the stated tolerance
  bool check_unequal_options = true;  ///< false for an accumulator without options
};

namespace law_detail {

// All laws in one value each, so that a failure names the law and the seed and nothing is printed otherwise.
inline void expect(bool holds, char const* law, unsigned seed) {
  INFO("law: " << law << ", seed " << seed);
  CHECK(holds);
}

template <class A>
A merged(A a, A const& b) {
  a.merge(b);
  return a;
}

inline std::vector<moeroute::index_t> random_cuts(moeroute::index_t documents, std::mt19937_64& random) {
  std::uniform_int_distribution<moeroute::index_t> place(0, documents), pieces(2, 9);
  std::vector<moeroute::index_t> cuts{0, documents};
  for (auto n = pieces(random); n > 1; --n) cuts.push_back(place(random));  // equal cuts give empty pieces
  std::sort(cuts.begin(), cuts.end());
  return cuts;
}

template <class A>
void check_splits(law_case<A> const& c, A const& whole, unsigned seed) {
  std::mt19937_64 random(seed);
  auto const cuts = random_cuts(c.documents, random);
  A in_pieces(c.options);
  std::vector<A> parts;
  std::uint64_t count = 0;
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
    c.feed(in_pieces, cuts[i], cuts[i + 1]);
    A part(c.options);
    c.feed(part, cuts[i], cuts[i + 1]);
    count += part.count();
    parts.push_back(part);
  }
  expect(count == whole.count(), "counts add up", seed);
  expect(c.same(in_pieces, whole), "piece by piece = at once", seed);
  expect(c.same(moeroute::merge_all(std::span<A const>(parts), c.options), whole), "tree of parts = whole", seed);
  auto shuffled = parts;
  std::shuffle(shuffled.begin(), shuffled.end(), random);
  expect(c.same(moeroute::merge_all(std::span<A const>(shuffled), c.options), whole), "parts in any order = whole",
         seed);
  A folded(c.options);
  for (auto const& part : shuffled) folded.merge(part);
  expect(c.same(folded, whole), "one after another = whole", seed);
  if (A::law == moeroute::merge_law::exact)
    expect(folded.serialize() == whole.serialize(), "exact law = same bytes", seed);
  A const &x = parts[0], &y = parts[1], &z = parts.back();
  expect(c.same(merged(x, y), merged(y, x)), "commutative", seed);
  expect(c.same(merged(merged(x, y), z), merged(x, merged(y, z))), "associative", seed);

  if constexpr (requires(A a, std::uint64_t n) { a.merge(a, n); }) {
    A several = x, repeated = x;
    several.merge(y, 3);
    for (int i = 0; i < 3; ++i) repeated.merge(y);
    expect(several == repeated, "merge(other, 3) = three merges", seed);
    several.merge(whole, 0);
    expect(several == repeated, "merge(other, 0) = nothing", seed);
  }

  std::vector<std::byte> bytes;
  for (int threads = 1; threads <= 8; threads += threads < 3 ? 1 : 5) {
    auto const together = moeroute::parallel_accumulate<A>(
        static_cast<moeroute::index_t>(cuts.size()) - 1, c.options, threads, [&](A& a, moeroute::index_t i) {
          c.feed(a, cuts[static_cast<std::size_t>(i)], cuts[static_cast<std::size_t>(i) + 1]);
        });
    expect(c.same(together, whole), "parallel = whole", seed);
    if (bytes.empty()) bytes = together.serialize();
    expect(bytes == together.serialize(), "same bytes for every number of threads", seed);
  }
}

// Whatever the bytes are: format_error, or an accumulator that would have written exactly them.
template <class A>
bool survives(std::vector<std::byte> const& bytes) {
  try {
    return A::deserialize(bytes).serialize() == bytes;
  } catch (moeroute::format_error const&) {
    return true;
  }
}

template <class A>
void check_bytes(A const& whole) {
  auto const bytes = whole.serialize();
  auto const copy = A::deserialize(bytes);
  expect(copy == whole, "deserialize(serialize(x)) = x", 0);
  expect(copy.serialize() == bytes, "serialized twice = same bytes", 0);
  auto const refuses = [](std::vector<std::byte> const& b) {
    try {
      A::deserialize(b);
      return false;
    } catch (moeroute::format_error const&) {
      return true;
    }
  };
  auto const step = std::max<std::size_t>(1, bytes.size() / 500);
  for (std::size_t n = 0; n < bytes.size(); n += step)
    expect(refuses({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(n)}), "truncated bytes are refused",
           static_cast<unsigned>(n));
  auto longer = bytes;
  longer.push_back(std::byte{});
  expect(refuses(longer), "bytes left over are refused", 0);

  for (unsigned seed = 0; seed < 1000; ++seed) {
    std::mt19937_64 random(seed);
    auto garbled = bytes;
    for (auto n = random() % 3 + 1; n > 0; --n)
      garbled[random() % garbled.size()] ^= static_cast<std::byte>(random() % 255 + 1);
    expect(survives<A>(garbled), "garbled bytes are refused, or read as what they say", seed);
  }
  // Every word in turn becomes a huge, a negative or a NaN one: no length may be believed, no field is left unchecked.
  for (std::size_t at = 0; at + 8 <= bytes.size() && at < 4096; at += 4)
    for (std::uint64_t const word : {std::uint64_t{1} << 61, ~std::uint64_t{0}, std::uint64_t{1} << 63,
                                     std::uint64_t{0}, std::uint64_t{0x7ff8000000000000}}) {
      auto garbled = bytes;
      std::memcpy(garbled.data() + at, &word, sizeof word);
      expect(survives<A>(garbled), "a hostile word is refused, or read as what it says", static_cast<unsigned>(at));
    }
}

}  // namespace law_detail

/// Checks everything that core/accumulator.hpp promises of an accumulator.
template <moeroute::accumulator A>
void check_accumulator_laws(law_case<A> const& c) {
  using namespace law_detail;
  A const empty(c.options);
  A whole(c.options);
  c.feed(whole, 0, c.documents);
  expect(empty.count() == 0, "an empty accumulator has counted nothing", 0);
  expect(whole.count() > 0, "the case counts something", 0);
  expect(!(whole == empty), "the case leaves a state", 0);
  expect(merged(whole, empty) == whole, "merge(empty) changes nothing", 0);
  expect(merged(empty, whole) == whole, "empty.merge(x) = x", 0);
  expect(moeroute::merge_all(std::span<A const>(), c.options) == empty, "no parts = empty", 0);
  A nothing(c.options);
  if (c.documents > 0) c.feed(nothing, 0, 0);
  expect(nothing == empty, "no documents = nothing", 0);

  for (unsigned seed = 1; seed <= 20; ++seed) check_splits(c, whole, seed);
  check_bytes(whole);
  check_bytes(empty);

  auto const before = whole.serialize();
  if (c.check_unequal_options) {
    CHECK_THROWS_AS(whole.merge(A(c.other_options)), moeroute::argument_error);
    expect(whole.serialize() == before, "a refused merge changes nothing", 0);
  }
  for (auto const& bad : c.bad_updates) {
    CHECK_THROWS_AS(bad(whole), moeroute::argument_error);
    expect(whole.serialize() == before, "a refused update changes nothing", 0);
  }
}

#endif
