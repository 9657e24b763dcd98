// SPDX-License-Identifier: Apache-2.0
#include <moeroute/core/view.hpp>

#include <type_traits>

#include <doctest/doctest.h>

using namespace moeroute;

static_assert(std::is_trivially_copyable_v<matrix_view<float>> && std::is_trivially_copyable_v<vector_view<int>>);

TEST_CASE("view: strides address what they say") {
  int const memory[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  matrix_view<int> const rows(memory, 3, 4), columns(memory, 3, 4, 1, 3), every_other(memory + 1, 2, 2, 4, 2);
  CHECK(rows(2, 1) == 9);
  CHECK(columns(2, 1) == 5);
  CHECK(every_other(1, 1) == 7);
  CHECK(&rows(1, 2) == memory + 6);  // no copy
  auto const row = columns.row(1);
  CHECK(row.size() == 4);
  CHECK(row[3] == 10);
  CHECK(row.stride() == 3);
  CHECK_FALSE(row.contiguous());
  CHECK(rows.row(1).contiguous());
  auto const below = rows.rows_from(1, 2);
  CHECK(below.rows() == 2);
  CHECK(below(1, 0) == 8);
  vector_view<int> const backwards(memory + 11, 12, -1);
  CHECK(backwards[11] == 0);
}

TEST_CASE("view: empty ones") {
  CHECK(vector_view<int>().empty());
  CHECK(vector_view<int>().data() == nullptr);
  CHECK(matrix_view<int>().empty());
  int const one = 5;
  CHECK(matrix_view<int>(&one, 0, 3).empty());
  CHECK(matrix_view<int>(&one, 3, 0).empty());
  CHECK_FALSE(matrix_view<int>(&one, 1, 1).empty());
  CHECK(vector_view<int>(&one, 1, 9).contiguous());  // one element has no stride to speak of
}
