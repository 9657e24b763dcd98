// SPDX-License-Identifier: Apache-2.0
#include <moeroute/core/router_spec.hpp>

#include <functional>
#include <limits>
#include <string>

#include <doctest/doctest.h>

using namespace moeroute;

namespace {

router_spec good() {
  router_spec s;
  s.experts = 8;
  s.top_k = 2;
  s.groups = 4;
  s.groups_kept = 2;
  s.selection_bias.assign(8, -0.5);
  s.scale = 2.5;
  return s;
}

}  // namespace

TEST_CASE("router_spec: a possible one is accepted") {
  CHECK_NOTHROW(validate(good()));
  auto all = good();
  all.groups = all.groups_kept = 1;
  all.top_k = 8;
  CHECK_NOTHROW(validate(all));
  CHECK(good() == good());
  CHECK_FALSE(good() == all);
}

TEST_CASE("router_spec: each field that makes no sense is named") {
  double const nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  std::pair<char const*, std::function<void(router_spec&)>> const cases[] = {
      {"experts = 0", [](auto& s) { s.experts = 0; }},
      {"experts = -8", [](auto& s) { s.experts = -8; }},
      {"top_k = 0", [](auto& s) { s.top_k = 0; }},
      {"top_k = 9", [](auto& s) { s.top_k = 9; }},
      {"top_k = 5 exceeds", [](auto& s) { s.top_k = 5; }},  // two kept groups of two
      {"groups = 3 does not divide", [](auto& s) { s.groups = 3; }},
      {"groups = 0", [](auto& s) { s.groups = 0; }},
      {"groups_kept = 5", [](auto& s) { s.groups_kept = 5; }},
      {"groups_kept = 0", [](auto& s) { s.groups_kept = 0; }},
      {"top_two_sum needs", [](auto& s) { s.groups = 8, s.groups_kept = 4; }},
      {"selection_bias has 7", [](auto& s) { s.selection_bias.pop_back(); }},
      {"selection_bias holds nan", [=](auto& s) { s.selection_bias[3] = nan; }},
      {"scale = 0", [](auto& s) { s.scale = 0; }},
      {"scale = inf", [=](auto& s) { s.scale = infinity; }},
      {"renormalize_epsilon = -1", [](auto& s) { s.renormalize_epsilon = -1; }},
      {"renormalize_epsilon = nan", [=](auto& s) { s.renormalize_epsilon = nan; }},
      {"shared_experts = -1", [](auto& s) { s.shared_experts = -1; }},
  };
  for (auto const& [words, damage] : cases) {
    auto s = good();
    damage(s);
    INFO(words);
    try {
      validate(s);
      FAIL_CHECK("accepted");
    } catch (argument_error const& e) {
      CHECK(std::string(e.what()).find(words) != std::string::npos);
    }
  }
}
