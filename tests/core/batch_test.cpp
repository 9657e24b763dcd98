// SPDX-License-Identifier: Apache-2.0
#include <moeroute/core/batch.hpp>

#include <doctest/doctest.h>

#include "support/containers.hpp"

using namespace moeroute;

namespace {

std::vector<std::int16_t> const ids{0, 1, 2, -1};
std::vector<float> const weights{0.5f, 0.5f, 1, 0}, logits{1, 2, 3, 4, 5, 6};
matrix_view<std::int16_t> const ids_2x2(ids.data(), 2, 2);
matrix_view<float> const weights_2x2(weights.data(), 2, 2), logits_2x3(logits.data(), 2, 3);

}  // namespace

TEST_CASE("routing_batch: keeps views and sizes") {
  routing_batch<> const b(3, ids_2x2, weights_2x2, logits_2x3);
  CHECK(b.experts() == 3);
  CHECK(b.tokens() == 2);
  CHECK(b.slots() == 2);
  CHECK(b.has_weights());
  CHECK(b.has_logits());
  CHECK(b.logits().data() == logits.data());
  routing_batch<> const bare(3, ids_2x2);
  CHECK_FALSE(bare.has_weights());
  CHECK_FALSE(bare.has_logits());
  CHECK(routing_batch<>().tokens() == 0);
}

TEST_CASE("routing_batch: what does not fit is refused with token and slot") {
  CHECK_THROWS_WITH_AS(routing_batch<>(2, ids_2x2), doctest::Contains("token 1"), argument_error);
  CHECK_THROWS_AS(routing_batch<>(0, ids_2x2), argument_error);
  std::vector<std::int16_t> const low{0, -2};
  CHECK_THROWS_WITH_AS(routing_batch<>(3, {low.data(), 1, 2}), doctest::Contains("-2"), argument_error);
  CHECK_THROWS_AS(routing_batch<>(3, ids_2x2, {weights.data(), 2, 1}), shape_error);
  CHECK_THROWS_AS(routing_batch<>(3, ids_2x2, {weights.data(), 1, 2}), shape_error);
  CHECK_THROWS_AS(routing_batch<>(3, ids_2x2, weights_2x2, {logits.data(), 1, 3}), shape_error);
  CHECK_THROWS_AS(routing_batch<>(3, ids_2x2, weights_2x2, {logits.data(), 2, 2}), shape_error);
  // Unsigned ids: 65535 is no dropped slot.
  std::vector<std::uint16_t> const wrapped{65535};
  CHECK_THROWS_AS((routing_batch<float, float, std::uint16_t>(3, {wrapped.data(), 1, 1})), argument_error);
}

TEST_CASE("routing_batch: an empty container is still weights or logits") {
  Eigen::MatrixXi const no_ids(0, 2);
  Eigen::MatrixXf const no_weights(0, 2), no_logits(0, 3);
  auto const b = make_routing_batch(3, no_ids, no_weights, no_logits);
  CHECK(b.tokens() == 0);
  CHECK(b.has_weights());
  CHECK(b.has_logits());
}

TEST_CASE("routing_batch: from every container") {
  for_each_matrix(2, 2, ids, [&](char const* name, auto const& m) {
    INFO(name);
    auto const b = make_routing_batch(3, m, weights_2x2, logits_2x3);
    CHECK(b.ids()(1, 0) == 2);
    CHECK(b.ids()(1, 1) == -1);
  });
  for_each_matrix(2, 3, logits, [&](char const* name, auto const& m) {
    INFO(name);
    CHECK(make_routing_batch(3, ids_2x2, weights_2x2, m).logits()(1, 2) == 6);
  });
}

TEST_CASE("document_spans: documents, also empty ones") {
  std::vector<std::int64_t> const offsets{0, 2, 2, 5}, names{10, 7, 9};
  document_spans const s({offsets.data(), 4}, {names.data(), 3});
  CHECK(s.documents() == 3);
  CHECK(s.tokens() == 5);
  CHECK(s.first(2) == 2);
  CHECK(s.size(1) == 0);
  CHECK(s.size(2) == 3);
  CHECK(s.id(1) == 7);
  CHECK(document_spans().tokens() == 0);
}

TEST_CASE("document_spans: offsets that are none") {
  std::vector<std::int64_t> const names{1, 2};
  auto const make = [&](std::vector<std::int64_t> const& offsets) {
    return document_spans({offsets.data(), static_cast<index_t>(offsets.size())}, {names.data(), 2});
  };
  CHECK_NOTHROW(make({0, 1, 2}));
  CHECK_THROWS_AS(make({0, 1}), shape_error);
  CHECK_THROWS_AS(make({}), shape_error);
  CHECK_THROWS_WITH_AS(make({1, 1, 2}), doctest::Contains("start at 1"), argument_error);
  CHECK_THROWS_WITH_AS(make({0, 3, 2}), doctest::Contains("decrease at document 1"), argument_error);
  CHECK_THROWS_AS(make({0, -1, 2}), argument_error);
}

TEST_CASE("trace_batch: layers have the tokens of the documents") {
  std::vector<std::int64_t> const offsets{0, 2}, names{1};
  trace_batch<> b{document_spans({offsets.data(), 2}, {names.data(), 1}), {}, {4}, {routing_batch<>(3, ids_2x2)}};
  CHECK_NOTHROW(validate(b));
  b.layer_numbers.push_back(5);
  CHECK_THROWS_AS(validate(b), shape_error);
  b.layers.push_back(routing_batch<>(3, {ids.data(), 1, 2}));
  CHECK_THROWS_WITH_AS(validate(b), doctest::Contains("layer 5 has 1 tokens"), shape_error);
}
