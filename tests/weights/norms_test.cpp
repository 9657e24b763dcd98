// SPDX-License-Identifier: Apache-2.0
#include <moeroute/weights/norms.hpp>

#include <cmath>
#include <limits>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"

using namespace moeroute;

TEST_CASE("norms: rows, Frobenius, spectral, stable rank of numpy, in every container and scalar") {
  for (auto const& c : golden("weights", "norms")) {
    std::vector<double> x;
    for (auto const& row : c["matrix"].get<std::vector<std::vector<double>>>())
      x.insert(x.end(), row.begin(), row.end());
    auto const rows = static_cast<index_t>(c["rows"].size()), columns = static_cast<index_t>(x.size()) / rows;
    auto const check = [&](auto const& m) {
      auto const norms = row_norms(m), centred = row_norms(m, true);
      for (std::size_t r = 0; r < norms.size(); ++r) {
        CHECK(close(norms[r], c["rows"][r].get<double>(), 1e-14));
        CHECK(close(centred[r], c["centred_rows"][r].get<double>(), 1e-14));
      }
      auto const n = matrix_norms(m);
      CHECK(close(n.frobenius, c["frobenius"].get<double>(), 1e-14));
      CHECK(n.frobenius == frobenius_norm(m));
      CHECK(close(n.spectral, c["spectral"].get<double>(), 1e-13));
      CHECK(close(n.stable_rank, c["stable_rank"].get<double>(), 1e-13));
    };
    for_each_matrix(rows, columns, x, [&](char const* name, auto const& m) {
      INFO(name);
      check(m);
    });
    std::vector<bf16> narrow;
    std::vector<float> single;
    for (double const v : x) {
      narrow.push_back(to_bf16(static_cast<float>(v)));
      single.push_back(static_cast<float>(v));
    }
    check(matrix_view<bf16>(narrow.data(), rows, columns));
    check(matrix_view<float>(single.data(), rows, columns));
  }
}

TEST_CASE("norms: by hand") {
  std::vector<f16> const m{to_f16(3), to_f16(4), to_f16(0), to_f16(12)};
  matrix_view<f16> const view(m.data(), 2, 2);
  CHECK(row_norms(view) == std::vector<double>{5, 12});
  CHECK(frobenius_norm(view) == 13);
  std::vector<double> const outer{1, 2, 3, 2, 4, 6};
  auto const n = matrix_norms(matrix_view<double>(outer.data(), 2, 3));
  CHECK(n.spectral == doctest::Approx(n.frobenius));  // rank 1
  CHECK(n.stable_rank == doctest::Approx(1));
  std::vector<float> const identity{2, 0, 0, 0, 2, 0, 0, 0, 2};
  CHECK(matrix_norms(matrix_view<float>(identity.data(), 3, 3)).stable_rank == doctest::Approx(3));
  // All rows alike: nothing is left after centring.
  std::vector<float> const alike{1, 2, 1, 2, 1, 2};
  CHECK(row_norms(matrix_view<float>(alike.data(), 3, 2), true) == std::vector<double>{0, 0, 0});
}

TEST_CASE("norms: sizes whose squares leave the range of double") {
  for (double const size : {1e-310, 1e-200, 1e200, 1e307}) {
    std::vector<double> const m{3 * size, 0, 0, 4 * size};
    auto const n = matrix_norms(matrix_view<double>(m.data(), 2, 2));
    CHECK(n.frobenius / size == doctest::Approx(5));
    CHECK(n.spectral / size == doctest::Approx(4));
    CHECK(n.stable_rank == doctest::Approx(25.0 / 16));
    CHECK(row_norms(matrix_view<double>(m.data(), 1, 4))[0] / size == doctest::Approx(5));
  }
}

TEST_CASE("norms: nothing, zeros, values that are not finite") {
  std::vector<float> m{0, 0, 0, 0};
  auto n = matrix_norms(matrix_view<float>(m.data(), 2, 2));
  CHECK(n.frobenius == 0);
  CHECK(n.spectral == 0);
  CHECK(std::isnan(n.stable_rank));
  CHECK(matrix_norms(matrix_view<float>(m.data(), 0, 2)).frobenius == 0);
  CHECK(row_norms(matrix_view<float>(m.data(), 0, 2), true).empty());
  CHECK(row_norms(matrix_view<float>(m.data(), 2, 0)) == std::vector<double>{0, 0});
  m[3] = std::numeric_limits<float>::quiet_NaN();
  CHECK(std::isnan(matrix_norms(matrix_view<float>(m.data(), 2, 2)).frobenius));
  CHECK(row_norms(matrix_view<float>(m.data(), 2, 2))[0] == 0);
  CHECK(std::isnan(row_norms(matrix_view<float>(m.data(), 2, 2))[1]));
  m[3] = std::numeric_limits<float>::infinity();
  CHECK(std::isinf(frobenius_norm(matrix_view<float>(m.data(), 2, 2))));
  CHECK(std::isnan(matrix_norms(matrix_view<float>(m.data(), 2, 2)).spectral));
  std::vector<double> const d{1, std::numeric_limits<double>::infinity(), 1e200, quiet_nan};
  CHECK(std::isinf(row_norms(matrix_view<double>(d.data(), 2, 2))[0]));
  CHECK(std::isnan(row_norms(matrix_view<double>(d.data(), 2, 2))[1]));
}
