// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_IO_NPY_HPP
#define MOEROUTE_IO_NPY_HPP

#include <moeroute/core/bytes.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/view.hpp>
#include <moeroute/io/file.hpp>

#include <algorithm>
#include <charconv>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace moeroute {

/// An n-dimensional array in row-major order, as numpy.load gives it.
template <class T>
struct npy_array {
  std::vector<index_t> shape;
  std::vector<T> values;
};

namespace detail {
template <class T>
std::string npy_type() {
  static_assert(std::is_arithmetic_v<T> && !std::is_same_v<T, bool>);
  char const kind = std::is_floating_point_v<T> ? 'f' : std::is_signed_v<T> ? 'i' : 'u';
  return std::string(sizeof(T) == 1 ? "|" : "<") + kind + std::to_string(sizeof(T));
}
}  // namespace detail

namespace detail {

// Magic, version 1.0 and header of an array of n values of T. Throws argument_error, in the name of `function`.
template <class T>
std::string npy_preamble(char const* function, std::size_t values, std::vector<index_t> const& shape) {
  std::size_t n = 1;
  std::string dims;
  for (auto const d : shape) {
    if (d < 0 || __builtin_mul_overflow(n, static_cast<std::size_t>(d), &n))
      raise("moeroute::", function, ": the shape holds ", d, ", which is no size for ", values, " values");
    dims += std::to_string(d) + ",";
  }
  if (n != values) raise("moeroute::", function, ": ", values, " values, the shape needs ", n);
  if (shape.size() > 1) dims.pop_back();
  std::string header = "{'descr': '" + npy_type<T>() + "', 'fortran_order': False, 'shape': (" + dims + "), }";
  std::size_t const preamble = 10;
  header.append(63 - (preamble + header.size()) % 64, ' ');
  header.push_back('\n');
  std::string out("\x93NUMPY\x01\x00", 8);
  out.push_back(static_cast<char>(header.size() & 0xff));
  out.push_back(static_cast<char>(header.size() >> 8));
  return out + header;
}

}  // namespace detail

/// Writes a .npy file (format 1.0, little-endian, row-major) atomically.
///
/// Throws argument_error if the shape does not fit the number of values; io_error if the disk refuses.
/// Source  numpy.lib.format, "Format Version 1.0".
template <class T>
void write_npy(std::filesystem::path const& path, std::span<T const> values, std::vector<index_t> const& shape) {
  auto const preamble = detail::npy_preamble<T>("write_npy", values.size(), shape);
  atomic_file file(path);
  file.write(preamble);
  file.write(std::as_bytes(values));
  file.commit();
}

/// Reads a .npy file of exactly the element type T, row-major.
///
/// Throws format_error (file and byte) on another type, Fortran order, a length that does not fit; io_error if it cannot be read.
template <class T>
npy_array<T> read_npy(std::filesystem::path const& path) {
  mapped_file const file(path);
  auto const bytes = file.bytes();
  auto const fail = [&](std::uint64_t at, std::string const& what) { throw format_error(file.path(), at, what); };
  if (bytes.size() < 10 || std::memcmp(bytes.data(), "\x93NUMPY", 6) != 0) fail(0, "is not a .npy file");
  auto const major = static_cast<int>(bytes[6]);
  if (major < 1 || major > 3) fail(6, "has format version " + std::to_string(major) + ", expected 1 to 3");
  std::size_t const length_bytes = major == 1 ? 2 : 4;
  if (bytes.size() < 8 + length_bytes) fail(8, "is truncated");
  byte_reader reader(bytes.subspan(8, length_bytes));
  std::size_t const length = major == 1 ? reader.get<std::uint16_t>() : reader.get<std::uint32_t>();
  if (length > bytes.size() - 8 - length_bytes) fail(8, "header is longer than the file");
  std::string_view const header(reinterpret_cast<char const*>(bytes.data()) + 8 + length_bytes, length);
  auto const value_after = [&](std::string_view key) {
    auto at = header.find(key);
    if (at == std::string_view::npos) fail(8 + length_bytes, "header has no " + std::string(key));
    at = header.find(':', at);
    at = at == std::string_view::npos ? at : header.find_first_not_of(' ', at + 1);
    if (at == std::string_view::npos) fail(8 + length_bytes, "header has no value for " + std::string(key));
    return header.substr(at);
  };
  auto const type = detail::npy_type<T>();
  if (!value_after("'descr'").starts_with("'" + type + "'")) fail(8 + length_bytes, "element type is not " + type);
  if (!value_after("'fortran_order'").starts_with("False")) fail(8 + length_bytes, "is in Fortran order");
  auto dims = value_after("'shape'");
  auto const close = dims.find(')');
  if (!dims.starts_with('(') || close == std::string_view::npos) fail(8 + length_bytes, "has no shape");
  dims = dims.substr(1, close - 1);
  npy_array<T> array;
  std::uint64_t expected = sizeof(T);
  while (!dims.empty()) {
    if (dims.front() == ' ' || dims.front() == ',') {
      dims.remove_prefix(1);
      continue;
    }
    std::uint64_t d = 0;
    auto const [end, error] = std::from_chars(dims.data(), dims.data() + dims.size(), d);
    if (error != std::errc() || d > static_cast<std::uint64_t>(std::numeric_limits<index_t>::max()) ||
        __builtin_mul_overflow(expected, d, &expected))
      fail(8 + length_bytes, "has an unusable shape");
    array.shape.push_back(static_cast<index_t>(d));
    dims.remove_prefix(static_cast<std::size_t>(end - dims.data()));
  }
  auto const data = bytes.subspan(8 + length_bytes + length);
  if (data.size() != expected)
    fail(8 + length_bytes + length, "has " + std::to_string(data.size()) + " bytes of data, its shape needs " + std::to_string(expected));
  array.values.resize(data.size() / sizeof(T));
  if (!data.empty()) std::memcpy(array.values.data(), data.data(), data.size());
  return array;
}

}  // namespace moeroute

#endif
