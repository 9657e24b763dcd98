// SPDX-License-Identifier: Apache-2.0
#include <moeroute/core/accumulator.hpp>
#include <moeroute/inference/permutation.hpp>
#include <moeroute/numeric/moments.hpp>
#include <moeroute/routing/gate.hpp>
#include <moeroute/routing/load.hpp>

#include <string>

#include <doctest/doctest.h>

#include "support/golden.hpp"
#include "support/laws.hpp"
#include "support/routing_data.hpp"

using namespace moeroute;

namespace {

// Notes the order in which parts meet: neither commutative nor associative, so that a test can see the tree.
class bracket {
 public:
  struct options_type {};
  using result_type = std::string;
  static constexpr merge_law law = merge_law::approximate;
  explicit bracket(options_type) {}
  explicit bracket(std::string text) : text_{std::move(text)} {}
  void merge(bracket const& other) { text_ = "(" + text_ + other.text_ + ")"; }
  std::string result() const { return text_; }
  std::uint64_t count() const { return text_.size(); }
  options_type options() const { return {}; }
  std::vector<std::byte> serialize() const { return {}; }
  static bracket deserialize(std::span<std::byte const>) { return bracket(options_type{}); }
  [[maybe_unused]] friend bool operator==(bracket const&, bracket const&) = default;

 private:
  std::string text_;
};

}  // namespace

static_assert(accumulator<load> && accumulator<bracket> && !accumulator<std::vector<int>> && !accumulator<tee<load>>);
static_assert(accumulates<load, routing_batch<>> && !accumulates<load, std::string> &&
              !accumulates<bracket, routing_batch<>>);

TEST_CASE("merge_all: one fixed tree") {
  std::vector<bracket> parts;
  for (char const* c : {"a", "b", "c", "d", "e"}) parts.emplace_back(c);
  CHECK(merge_all(std::span<bracket const>(parts), {}).result() == "((ab)(c(de)))");
  CHECK(merge_all(std::span<bracket const>(parts).first(1), {}).result() == "a");
  CHECK(merge_all(std::span<bracket const>(parts).first(0), {}).result().empty());
}

TEST_CASE("moments, max_statistic: laws") {
  std::mt19937_64 random(3);
  std::vector<double> x;
  for (int i = 0; i < 400; ++i) x.push_back(i % 97 == 0 ? quiet_nan : 5 + static_cast<double>(random() % 1000) / 100);
  law_case<moments> m{{}, {}, 400, [&](moments& a, index_t first, index_t last) {
                        a.update(vector_view<double>(x.data() + first, last - first));
                      }};
  m.check_unequal_options = false;
  m.same = [](moments const& a, moments const& b) {
    auto const p = a.result(), q = b.result();
    if (p.count != q.count || p.nonfinite != q.nonfinite) return false;
    auto const near = [](double u, double v, double tolerance) {
      return (std::isnan(u) && std::isnan(v)) || close(u, v, tolerance);
    };
    return near(p.mean, q.mean, 1e-13) && near(p.variance, q.variance, 1e-12) && near(p.skewness, q.skewness, 1e-10) &&
           near(p.excess_kurtosis, q.excess_kurtosis, 1e-10);
  };
  check_accumulator_laws(m);

  std::vector<double> const observed{1.5, quiet_nan, 0.2, 3}, other{1.5, quiet_nan, 0.2, 3.1};
  std::vector<double> replicates;
  for (int i = 0; i < 4 * 90; ++i)
    replicates.push_back(i % 31 == 0 ? quiet_nan : static_cast<double>(random() % 400) / 100);
  law_case<max_statistic> s{observed, other, 90, [&](max_statistic& a, index_t first, index_t last) {
                              for (auto r = first; r < last; ++r)
                                a.update(vector_view<double>(replicates.data() + 4 * r, 4));
                            }};
  s.bad_updates = {[](max_statistic& a) { a.update(std::vector<double>{1, 2}); }};
  check_accumulator_laws(s);
}

TEST_CASE("tee: feeds its parts in one pass, merges part by part") {
  auto const data = random_routing({}, 2);
  tee both(load({7}), gate({7, 2}));
  both.update(data.batch(0, 10));
  auto rest = tee(load({7}), gate({7, 2}));
  rest.update(data.batch(10, data.size()));
  both.merge(rest);
  load l({7});
  l.update(data.batch());
  gate g({7, 2});
  g.update(data.batch());
  CHECK(both.part<0>() == l);
  CHECK(both.part<gate>() == g);
  tee whole(load({7}), gate({7, 2}));
  whole.update(data.batch());
  CHECK(both == whole);
  CHECK_FALSE(both == rest);
}

TEST_CASE("tee: all parts count a batch, or none") {
  auto const data = random_routing({}, 2);
  tee both(load({7}), gate({7, 2}));
  both.update(data.batch());
  auto const before = both;
  // The load would take a batch without logits; the gate behind it does not.
  CHECK_THROWS_AS(both.update(routing_batch<>(7, data.batch().ids())), argument_error);
  CHECK(both == before);
  // The loads would merge; the gates, of another K, do not.
  tee other(load({7}), gate({7, 3}));
  other.update(data.batch());
  CHECK_THROWS_AS(both.merge(other), argument_error);
  CHECK(both == before);
}
