// SPDX-License-Identifier: Apache-2.0
#include <moeroute/numeric/contingency.hpp>

#include <cmath>
#include <vector>

#include <doctest/doctest.h>

#include "support/golden.hpp"

using namespace moeroute;

TEST_CASE("contingency: equals scipy, and Bergsma's formula in numpy") {
  for (auto const& g : golden("numeric", "contingency")) {
    auto const rows = g["table"].get<std::vector<std::vector<int>>>();
    std::vector<int> flat;
    for (auto const& r : rows) flat.insert(flat.end(), r.begin(), r.end());
    matrix_view<int> const table(flat.data(), index_t(rows.size()), index_t(rows[0].size()));
    auto const s = contingency(table);
    CHECK(close(s.chi_square, g["chi_square"], 1e-12));
    CHECK(s.degrees_of_freedom == g["dof"].get<double>());
    CHECK(close(s.mutual_information_nats, g["mi"], 1e-14));
    CHECK(close(mutual_information_nats(table), g["mi"], 1e-14));
    CHECK(close(s.mutual_information_corrected_nats, g["mi_corrected"], 1e-14));
    CHECK(close(s.cramers_v, g["v"], 1e-12));
    CHECK(close(s.cramers_v_corrected, g["v_corrected"], 1e-12));
  }
}

TEST_CASE("contingency: expected counts, empty rows and columns") {
  std::vector<int> const cells{4, 0, 6, 0, 0, 0, 10, 0, 2};
  matrix_view<int> const table(cells.data(), 3, 3);
  auto const expected = expected_counts(table);
  CHECK(expected(0, 0) == doctest::Approx(10 * 14 / 22.0));
  CHECK(expected(1, 2) == 0);
  auto const s = contingency(table);
  CHECK(s.total == 22);
  CHECK(s.occupied_rows == 2);
  CHECK(s.occupied_columns == 2);
  CHECK(s.occupied_cells == 4);
}

TEST_CASE("contingency: independence gives 0, identity gives log C") {
  std::vector<double> const independent{2, 4, 6, 1, 2, 3}, identity{5, 0, 0, 5};
  auto const a = contingency(matrix_view<double>(independent.data(), 2, 3));
  CHECK(a.mutual_information_nats == doctest::Approx(0).epsilon(1e-15));
  CHECK(a.cramers_v_corrected == 0);
  auto const b = contingency(matrix_view<double>(identity.data(), 2, 2));
  CHECK(b.mutual_information_nats == doctest::Approx(std::log(2.0)));
  CHECK(b.cramers_v == doctest::Approx(1));
  CHECK(b.cramers_v_corrected == doctest::Approx(1));
}

TEST_CASE("contingency: undefined is NaN, what is no count throws") {
  std::vector<double> const zero(4), row{3, 4}, fraction{0.5, 1, 2, 3}, negative{1, -1, 2, 3};
  auto const empty = contingency(matrix_view<double>(zero.data(), 2, 2));
  CHECK(std::isnan(empty.mutual_information_nats));
  CHECK(std::isnan(empty.chi_square));
  CHECK(std::isnan(contingency(matrix_view<double>(row.data(), 1, 2)).cramers_v));
  CHECK(contingency(matrix_view<double>(row.data(), 1, 2)).mutual_information_nats == 0);
  CHECK_THROWS_AS(contingency(matrix_view<double>(fraction.data(), 2, 2)), argument_error);
  CHECK_THROWS_AS(mutual_information_nats(matrix_view<double>(negative.data(), 2, 2)), argument_error);
}
