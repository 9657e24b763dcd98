// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CORE_ADAPT_HPP
#define MOEROUTE_CORE_ADAPT_HPP

#include <moeroute/core/error.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/core/view.hpp>

#include <concepts>
#include <ranges>
#include <type_traits>
#include <utility>

namespace moeroute {

/// Teaches the library a foreign container: specialise with `static matrix_view<T> matrix(X const&)` and/or
/// `static vector_view<T> vector(X const&)`.
template <class X>
struct view_traits {};

/// True for types whose views outlive them (they are views themselves), so that a temporary of them may be named.
template <class X>
inline constexpr bool enable_borrowed_view = false;
template <class T>
inline constexpr bool enable_borrowed_view<vector_view<T>> = true;
template <class T>
inline constexpr bool enable_borrowed_view<matrix_view<T>> = true;

namespace detail {

template <class Pointer>
using pointee = std::remove_cv_t<std::remove_pointer_t<std::remove_cvref_t<Pointer>>>;

// Foreign containers are recognised by the shape of their interface, so that no foreign header is included here.
template <class X>
concept eigen_like = requires(X const& x) {
  requires std::is_pointer_v<decltype(x.data())>;
  { x.rows() } -> std::convertible_to<index_t>;
  { x.cols() } -> std::convertible_to<index_t>;
  { x.rowStride() } -> std::convertible_to<index_t>;
  { x.colStride() } -> std::convertible_to<index_t>;
};

template <class X>
concept mdspan_like = requires(X const& x) {
  requires std::is_pointer_v<std::remove_cvref_t<decltype(x.data_handle())>>;
  { X::rank() } -> std::convertible_to<std::size_t>;
  { x.extent(0) } -> std::convertible_to<index_t>;
  { x.stride(0) } -> std::convertible_to<index_t>;
};

template <class X>
concept xtensor_like = requires(X const& x) {
  requires std::is_pointer_v<std::remove_cvref_t<decltype(x.data())>>;
  x.shape()[0];
  x.strides()[0];
  { x.dimension() } -> std::convertible_to<std::size_t>;
  { x.data_offset() } -> std::convertible_to<std::size_t>;
};

template <class X>
concept contiguous_like = std::ranges::contiguous_range<X const> && std::ranges::sized_range<X const> && !eigen_like<X> &&
                          !xtensor_like<X> && !mdspan_like<X>;

template <class X>
void check_rank(X const& x, std::size_t rank) {
  if (x.dimension() != rank) raise<shape_error>("moeroute: expected an array of rank ", rank, ", got rank ", x.dimension());
}

template <class X>
constexpr auto matrix_of(X const& x) {
  if constexpr (requires { view_traits<X>::matrix(x); }) {
    return view_traits<X>::matrix(x);
  } else if constexpr (requires { typename X::value_type; requires std::same_as<X, matrix_view<typename X::value_type>>; }) {
    return x;
  } else if constexpr (eigen_like<X>) {
    return matrix_view<pointee<decltype(x.data())>>(x.data(), x.rows(), x.cols(), x.rowStride(), x.colStride());
  } else if constexpr (mdspan_like<X>) {
    static_assert(X::rank() == 2, "moeroute: expected a rank-2 mdspan");
    return matrix_view<pointee<decltype(x.data_handle())>>(x.data_handle(), static_cast<index_t>(x.extent(0)),
                                                           static_cast<index_t>(x.extent(1)), static_cast<index_t>(x.stride(0)),
                                                           static_cast<index_t>(x.stride(1)));
  } else if constexpr (xtensor_like<X>) {
    check_rank(x, 2);
    return matrix_view<pointee<decltype(x.data())>>(x.data() + x.data_offset(), static_cast<index_t>(x.shape()[0]),
                                                    static_cast<index_t>(x.shape()[1]), static_cast<index_t>(x.strides()[0]),
                                                    static_cast<index_t>(x.strides()[1]));
  }
}

template <class X>
constexpr auto vector_of(X const& x) {
  if constexpr (requires { view_traits<X>::vector(x); }) {
    return view_traits<X>::vector(x);
  } else if constexpr (requires { typename X::value_type; requires std::same_as<X, vector_view<typename X::value_type>>; }) {
    return x;
  } else if constexpr (eigen_like<X>) {
    if constexpr (X::IsVectorAtCompileTime)
      return vector_view<pointee<decltype(x.data())>>(x.data(), x.size(), x.innerStride());
  } else if constexpr (mdspan_like<X>) {
    static_assert(X::rank() == 1, "moeroute: expected a rank-1 mdspan");
    return vector_view<pointee<decltype(x.data_handle())>>(x.data_handle(), static_cast<index_t>(x.extent(0)),
                                                           static_cast<index_t>(x.stride(0)));
  } else if constexpr (xtensor_like<X>) {
    check_rank(x, 1);
    return vector_view<pointee<decltype(x.data())>>(x.data() + x.data_offset(), static_cast<index_t>(x.shape()[0]),
                                                    static_cast<index_t>(x.strides()[0]));
  } else if constexpr (contiguous_like<X>) {
    return vector_view<std::remove_cv_t<std::ranges::range_value_t<X const>>>(std::ranges::data(x),
                                                                              static_cast<index_t>(std::ranges::size(x)));
  }
}

template <class View>
inline constexpr bool is_matrix_view = false;
template <class T>
inline constexpr bool is_matrix_view<matrix_view<T>> = true;
template <class View>
inline constexpr bool is_vector_view = false;
template <class T>
inline constexpr bool is_vector_view<vector_view<T>> = true;

template <class X>
using matrix_of_t = decltype(matrix_of(std::declval<std::remove_cvref_t<X> const&>()));
template <class X>
using vector_of_t = decltype(vector_of(std::declval<std::remove_cvref_t<X> const&>()));

}  // namespace detail

/// Anything whose memory can be seen as a strided matrix / vector: our views, Eigen objects with storage, xtensor containers and
/// strided views, mdspan, contiguous ranges. Lazy expressions have no memory and do not satisfy it: add `.eval()`.
template <class X>
concept matrix_like = detail::is_matrix_view<detail::matrix_of_t<X>>;
template <class X>
concept vector_like = detail::is_vector_view<detail::vector_of_t<X>>;

template <matrix_like X>
using matrix_value_t = typename detail::matrix_of_t<X>::value_type;
template <vector_like X>
using vector_value_t = typename detail::vector_of_t<X>::value_type;

/// Integer ids, [rows, cols] or [n].
template <class X>
concept index_matrix = matrix_like<X> && std::integral<matrix_value_t<X>>;
template <class X>
concept index_vector = vector_like<X> && std::integral<vector_value_t<X>>;
/// float, double, bf16 or f16, [rows, cols] or [n].
template <class X>
concept real_matrix = matrix_like<X> && real_scalar<matrix_value_t<X>>;
template <class X>
concept real_vector = vector_like<X> && real_scalar<vector_value_t<X>>;

/// A named view. Deleted for temporaries that own their memory, since the view would dangle.
template <class X>
  requires matrix_like<X> && (std::is_lvalue_reference_v<X> || enable_borrowed_view<std::remove_cvref_t<X>>)
constexpr auto as_matrix(X&& x) {
  return detail::matrix_of(x);
}
template <class X>
  requires vector_like<X> && (std::is_lvalue_reference_v<X> || enable_borrowed_view<std::remove_cvref_t<X>>)
constexpr auto as_vector(X&& x) {
  return detail::vector_of(x);
}

}  // namespace moeroute

#endif
