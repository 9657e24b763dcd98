// SPDX-License-Identifier: Apache-2.0
#include <moeroute/density/published_cdf.hpp>

#include <cmath>
#include <cstring>
#include <limits>
#include <map>

#include <doctest/doctest.h>

#include "support/containers.hpp"
#include "support/golden.hpp"
#include "support/kernels.hpp"

using namespace moeroute;

namespace {

double constexpr inf = std::numeric_limits<double>::infinity();

bool same_bits(std::vector<double> const& a, std::vector<double> const& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0;
}

published_cdf golden_model() {
  auto const m = golden("tail", "model");
  return {m["x"].get<std::vector<double>>(), m["cdf"].get<std::vector<double>>()};
}

}  // namespace

TEST_CASE("published_grid: numpy's, bit by bit") {
  for (auto const& g : golden("tail", "grids")) {
    hash h;
    for (double const v : published_grid(g["minimum"], g["maximum"])) h.add(v);
    INFO("from " << g["minimum"]);
    CHECK(std::to_string(h.value()) == g["hash"].get<std::string>());
  }
  CHECK_THROWS_AS(published_grid(1, 0), argument_error);
  CHECK_THROWS_AS(published_grid(quiet_nan, 1), argument_error);
  CHECK_THROWS_AS(published_grid(0, inf), argument_error);
  CHECK_THROWS_AS(published_grid(0, 1, 1), argument_error);
}

TEST_CASE("published_cdf_of: scipy and scikit-learn through numpy, to 1e-12") {
  auto const sample = golden("tail", "sample").get<std::vector<double>>();
  double const h = golden("tail", "bandwidth");
  std::map<std::string, kernel_kind> const kinds{{"gaussian", kernel_kind::gaussian},
                                                 {"tophat", kernel_kind::tophat},
                                                 {"epanechnikov", kernel_kind::epanechnikov},
                                                 {"linear", kernel_kind::triangular}};
  for (auto const& c : golden("tail", "kernels")) {
    std::string const name = c["kernel"];
    auto const model = name == "scipy" ? published_cdf_of(sample) : published_cdf_of(sample, kinds.at(name), h);
    auto const expected = c["cdf"].get<std::vector<double>>();
    REQUIRE(model.cdf.size() == 10000);
    CHECK(model.cdf.back() == 1);
    double worst = 0;
    for (std::size_t i = 0; i < expected.size(); ++i)
      worst = std::max(worst, std::abs(model.cdf[53 * i] - expected[i]));
    INFO(name << " worst " << worst);
    CHECK(worst <= 1e-12);
  }
}

TEST_CASE("published_p_values: numpy's, bit by bit, in every scalar") {
  auto const model = golden_model();
  for (auto const& c : golden("tail", "p_values")) {
    auto const z = c["z"].get<std::vector<double>>(), p = c["p"].get<std::vector<double>>(),
               clamped = c["clamped"].get<std::vector<double>>();
    INFO(c["dtype"].get<std::string>());
    CHECK(same_bits(published_p_values(model, z), p));
    auto const check = [&](auto one) {
      using T = decltype(one);
      std::vector<T> narrow;
      for (double const v : z) narrow.push_back(scalar<T>(v));
      CHECK(same_bits(published_p_values(model, narrow), p));
      std::vector<double> wide;
      for (T const v : published_clamped_p_values(model, narrow)) wide.push_back(static_cast<double>(to_compute(v)));
      CHECK(same_bits(wide, clamped));
    };
    std::string const type = c["dtype"];
    if (type == "torch.float64") check(double{});
    if (type == "torch.float32") check(float{});
    if (type == "torch.bfloat16") check(bf16{});
    if (type == "torch.float16") check(f16{});
  }
}

TEST_CASE("published_p_values: by hand") {
  published_cdf const model{{0, 1, 3}, {0.25, 0.5, 1}};
  std::vector<double> const z{-1, 0, 0.5, 1, 2, 3, 4, quiet_nan, inf, -inf};
  auto const p = published_p_values(model, z);
  std::vector<double> const expected{0.75, 0.75, 0.625, 0.5, 0.25, 0, 0, quiet_nan, 0, 0.75};
  for (std::size_t i = 0; i < z.size(); ++i)
    CHECK((p[i] == expected[i] || (std::isnan(p[i]) && std::isnan(expected[i]))));
  for_each_vector(z, [&](char const* name, auto const& v) {
    INFO(name);
    CHECK(published_p_values(model, v)[4] == 0.25);
  });
  // In bf16 the best experts tie at the floor.
  auto const floor =
      published_clamped_p_values(model, std::vector<bf16>{scalar<bf16>(2.99), scalar<bf16>(3), scalar<bf16>(50)});
  for (auto const v : floor) CHECK(to_float(v) == 0.0078125f);
}

TEST_CASE("published_cdf: bad input") {
  std::vector<double> const z{0.5};
  for (published_cdf const& m : {published_cdf{}, published_cdf{{0, 1}, {0}}, published_cdf{{1, 0}, {0, 1}},
                                 published_cdf{{0, quiet_nan}, {0, 1}}, published_cdf{{0, 1}, {0, inf}}})
    CHECK_THROWS_AS(published_p_values(m, z), argument_error);
  std::vector<double> const none, one{2}, same{2, 2, 2}, broken{1, 2, quiet_nan};
  for (auto const& x : {none, one, same, broken}) CHECK_THROWS_AS(published_cdf_of(x), argument_error);
  CHECK_THROWS_AS(published_cdf_of(none, kernel_kind::gaussian, 1), argument_error);
  CHECK_THROWS_WITH_AS(published_cdf_of(broken, kernel_kind::gaussian, 1),
                       doctest::Contains("2 finite and 1 other values"), argument_error);
  CHECK(published_cdf_of(one, kernel_kind::gaussian, 1).x.front() == 1.6);
  CHECK(published_running_share({}).empty());
  CHECK(std::isnan(published_running_share({0, 0})[1]));
}
