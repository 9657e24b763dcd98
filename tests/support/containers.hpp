// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_TESTS_SUPPORT_CONTAINERS_HPP
#define MOEROUTE_TESTS_SUPPORT_CONTAINERS_HPP

#include <moeroute/core/view.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <xtensor/xadapt.hpp>
#include <xtensor/xarray.hpp>
#include <xtensor/xstrided_view.hpp>
#include <xtensor/xtensor.hpp>
#include <xtensor/xview.hpp>

/// Calls f(name, container) with the matrix `values` [rows,cols] (row-major) in every container that the library reads.
template <class T, class F>
void for_each_matrix(moeroute::index_t rows, moeroute::index_t cols, std::vector<T> const& values, F&& f) {
  using moeroute::index_t;
  using row_major = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using column_major = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>;
  auto const r_count = static_cast<std::size_t>(rows), c_count = static_cast<std::size_t>(cols);
  auto const at = [&](index_t r, index_t c) { return values[static_cast<std::size_t>(r * cols + c)]; };
  // A wrong stride reads these and is seen.
  T const poison =
      std::numeric_limits<T>::has_quiet_NaN ? std::numeric_limits<T>::quiet_NaN() : std::numeric_limits<T>::max();

  f("matrix_view", moeroute::matrix_view<T>(values.data(), rows, cols));
  std::vector<T> columns(values.size());
  for (index_t r = 0; r < rows; ++r)
    for (index_t c = 0; c < cols; ++c) columns[static_cast<std::size_t>(c * rows + r)] = at(r, c);
  f("matrix_view by columns", moeroute::matrix_view<T>(columns.data(), rows, cols, 1, rows));
  std::vector<T> sparse(static_cast<std::size_t>(rows * (2 * cols + 3) + 1), poison);
  for (index_t r = 0; r < rows; ++r)
    for (index_t c = 0; c < cols; ++c) sparse[static_cast<std::size_t>(r * (2 * cols + 3) + 2 * c)] = at(r, c);
  f("strided matrix_view", moeroute::matrix_view<T>(sparse.data(), rows, cols, 2 * cols + 3, 2));

  row_major const by_row = Eigen::Map<row_major const>(values.data(), rows, cols);
  column_major const by_column = by_row;
  f("Eigen by rows", by_row);
  f("Eigen by columns", by_column);
  f("Eigen::Map", Eigen::Map<row_major const>(values.data(), rows, cols));
  f("strided Eigen::Map",
    Eigen::Map<row_major const, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>(
        sparse.data(), rows, cols, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>(2 * cols + 3, 2)));
  f("Eigen::Ref", Eigen::Ref<column_major const>(by_column));
  column_major framed = column_major::Constant(rows + 2, cols + 3, poison);
  framed.block(1, 2, rows, cols) = by_row;
  f("Eigen::Block", framed.block(1, 2, rows, cols));
  column_major const turned = by_row.transpose();
  f("Eigen transposed", turned.transpose());

  std::array<std::size_t, 2> const shape{r_count, c_count};
  auto const adapted = xt::adapt(values, shape);
  f("xt::adapt", adapted);
  xt::xtensor<T, 2> const tensor = adapted;
  f("xt::xtensor", tensor);
  xt::xtensor<T, 2, xt::layout_type::column_major> const tensor_by_column = adapted;
  f("xt::xtensor by columns", tensor_by_column);
  xt::xarray<T> const array = adapted;
  f("xt::xarray", array);
  xt::xtensor<T, 3> cube(std::array<std::size_t, 3>{2, r_count, c_count}, poison);
  xt::view(cube, 1) = adapted;
  f("xt::strided_view", xt::strided_view(cube, {1, xt::all(), xt::all()}));
  f("xt::view", xt::view(cube, 1, xt::all(), xt::all()));
}

/// The same for a vector.
template <class T, class F>
void for_each_vector(std::vector<T> const& values, F&& f) {
  using moeroute::index_t;
  auto const n = static_cast<index_t>(values.size());
  T const poison =
      std::numeric_limits<T>::has_quiet_NaN ? std::numeric_limits<T>::quiet_NaN() : std::numeric_limits<T>::max();
  std::vector<T> sparse(values.size() * 3 + 1, poison);
  for (std::size_t i = 0; i < values.size(); ++i) sparse[3 * i] = values[i];

  f("std::vector", values);
  f("std::span", std::span<T const>(values));
  f("vector_view", moeroute::vector_view<T>(values.data(), n));
  f("strided vector_view", moeroute::vector_view<T>(sparse.data(), n, 3));
  Eigen::Matrix<T, Eigen::Dynamic, 1> const column =
      Eigen::Map<Eigen::Matrix<T, Eigen::Dynamic, 1> const>(values.data(), n);
  f("Eigen column", column);
  f("Eigen row", column.transpose());
  f("strided Eigen::Map", Eigen::Map<Eigen::Matrix<T, Eigen::Dynamic, 1> const, 0, Eigen::InnerStride<>>(
                              sparse.data(), n, Eigen::InnerStride<>(3)));
  f("Eigen::Ref", Eigen::Ref<Eigen::Matrix<T, Eigen::Dynamic, 1> const>(column));
  Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> table(n, 3);
  table.setConstant(poison);
  table.col(1) = column;
  f("column of an Eigen matrix by rows", table.col(1));
  auto const adapted = xt::adapt(values, std::array<std::size_t, 1>{values.size()});
  f("xt::adapt", adapted);
  xt::xtensor<T, 1> const tensor = adapted;
  f("xt::xtensor", tensor);
  xt::xarray<T> const array = adapted;
  f("xt::xarray", array);
  xt::xtensor<T, 2> wide(std::array<std::size_t, 2>{values.size(), 2}, poison);
  xt::view(wide, xt::all(), 1) = adapted;
  f("xt::strided_view", xt::strided_view(wide, {xt::all(), 1}));
}

#endif
