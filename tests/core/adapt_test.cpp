// SPDX-License-Identifier: Apache-2.0
#include <moeroute/core/adapt.hpp>

#include <deque>
#include <list>
#include <memory>

#include <doctest/doctest.h>

#include "support/containers.hpp"

using namespace moeroute;

namespace {

// A container of somebody else's, taught below.
struct ring {
  std::vector<float> values;
};

// What P0009's mdspan looks like from outside.
struct span_2d {
  float const* p;
  float const* data_handle() const { return p; }
  static constexpr std::size_t rank() { return 2; }
  std::size_t extent(std::size_t i) const { return i == 0 ? 2 : 3; }
  std::size_t stride(std::size_t i) const { return i == 0 ? 1 : 2; }
};

template <class X>
concept nameable_matrix = requires(X&& x) {
  as_matrix(std::forward<X>(x));
};
template <class X>
concept nameable_vector = requires(X&& x) {
  as_vector(std::forward<X>(x));
};

}  // namespace

template <>
struct moeroute::view_traits<ring> {
  static vector_view<float> vector(ring const& r) { return {r.values.data(), static_cast<index_t>(r.values.size())}; }
};

// What is recognised, and as what.
static_assert(real_matrix<Eigen::MatrixXf> && real_matrix<Eigen::Matrix3d> && real_matrix<matrix_view<bf16>> &&
              real_matrix<matrix_view<f16>>);
static_assert(index_matrix<Eigen::MatrixXi> && !real_matrix<Eigen::MatrixXi> && !index_matrix<Eigen::MatrixXf>);
static_assert(real_vector<std::vector<double>> && index_vector<std::span<std::int16_t const>> &&
              real_vector<std::array<float, 3>>);
static_assert(real_vector<Eigen::VectorXf> && !real_vector<Eigen::MatrixXf>);
static_assert(real_matrix<span_2d> && real_vector<ring> && !real_matrix<ring>);
// What is not: no memory, or none that a stride can walk.
static_assert(!matrix_like<decltype(Eigen::MatrixXf() + Eigen::MatrixXf())> &&
              !matrix_like<decltype(xt::xtensor<float, 2>() * 2)>);
static_assert(!vector_like<std::list<float>> && !vector_like<std::deque<float>> && !vector_like<std::vector<bool>> &&
              !vector_like<int>);
static_assert(!matrix_like<std::vector<float>> && !matrix_like<std::vector<std::vector<float>>>);
// A temporary that owns its memory has no name; a view does, and so does anything that lives on.
static_assert(nameable_matrix<Eigen::MatrixXf&> && nameable_matrix<Eigen::MatrixXf const&> &&
              !nameable_matrix<Eigen::MatrixXf>);
static_assert(nameable_matrix<matrix_view<float>> && nameable_vector<std::vector<float>&> &&
              !nameable_vector<std::vector<float>>);

TEST_CASE("adapt: every matrix gives the same elements, where they lie") {
  std::vector<float> values;
  for (int i = 0; i < 12; ++i) values.push_back(static_cast<float>(i) * 1.5f);
  int containers = 0;
  for_each_matrix(3, 4, values, [&](char const* name, auto const& m) {
    INFO(name);
    ++containers;
    auto const view = as_matrix(m);
    REQUIRE(view.rows() == 3);
    REQUIRE(view.cols() == 4);
    for (index_t r = 0; r < 3; ++r)
      for (index_t c = 0; c < 4; ++c) CHECK(view(r, c) == values[static_cast<std::size_t>(4 * r + c)]);
    if constexpr (requires {
                    { m(0, 0) } -> std::same_as<float const&>;
                  })
      CHECK(&view(2, 3) == &m(2, 3));
  });
  CHECK(containers == 16);
}

TEST_CASE("adapt: every vector gives the same elements") {
  std::vector<float> const values{1, 2, 3, 4, 5};
  int containers = 0;
  for_each_vector(values, [&](char const* name, auto const& v) {
    INFO(name);
    ++containers;
    auto const view = as_vector(v);
    REQUIRE(view.size() == 5);
    for (index_t i = 0; i < 5; ++i) CHECK(view[i] == values[static_cast<std::size_t>(i)]);
  });
  CHECK(containers == 13);
}

TEST_CASE("adapt: strangers") {
  float const memory[] = {0, 1, 2, 3, 4, 5};
  auto const m = as_matrix(std::as_const(*std::make_unique<span_2d>(span_2d{memory})));
  CHECK(m(1, 2) == 5);
  CHECK(m(0, 1) == 2);
  ring const r{{7, 8}};
  CHECK(as_vector(r)[1] == 8);
}

TEST_CASE("adapt: empty containers and the wrong rank") {
  std::vector<float> const none;
  CHECK(as_vector(none).empty());
  Eigen::MatrixXf const flat(0, 5);
  CHECK(as_matrix(flat).rows() == 0);
  CHECK(as_matrix(flat).cols() == 5);
  xt::xarray<float> const cube = xt::zeros<float>({2, 2, 2});
  CHECK_THROWS_WITH_AS(as_matrix(cube), "moeroute: expected an array of rank 2, got rank 3", shape_error);
  CHECK_THROWS_WITH_AS(as_vector(cube), "moeroute: expected an array of rank 1, got rank 3", shape_error);
  // One row, one column: xtensor then says stride 0, which must not matter.
  xt::xtensor<float, 2> const line{{1, 2, 3}}, column{{1}, {2}, {3}};
  CHECK(as_matrix(line)(0, 2) == 3);
  CHECK(as_matrix(column)(2, 0) == 3);
}
