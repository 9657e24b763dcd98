// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CORE_BYTES_HPP
#define MOEROUTE_CORE_BYTES_HPP

#include <moeroute/core/error.hpp>

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace moeroute {

// Files and serialized states are little-endian; so is every machine with the accelerators that this library serves.
static_assert(std::endian::native == std::endian::little, "moeroute: big-endian machines are not supported");

/// Appends values in a fixed little-endian layout: the serialized state of equal accumulators is equal byte for byte.
class byte_writer {
 public:
  template <class T>
    requires std::is_arithmetic_v<T>
  void put(T value) {
    append(&value, sizeof value);
  }
  template <class T>
    requires std::is_arithmetic_v<T>
  void put(std::span<T const> values) {
    put(static_cast<std::uint64_t>(values.size()));
    append(values.data(), values.size_bytes());
  }
  template <class T>
  void put(std::vector<T> const& values) {
    put(std::span<T const>(values));
  }
  void put(std::string_view text) { put(std::span<char const>(text.data(), text.size())); }

  std::vector<std::byte> const& bytes() const& noexcept { return bytes_; }
  std::vector<std::byte> bytes() && noexcept { return std::move(bytes_); }

 private:
  // Not inline, and resize with a copy: what g++ 12 makes of an inlined insert or resize at -O3 sets off false warnings in
  // the caller's code.
  [[gnu::noinline]] void append(void const* from, std::size_t n) {
    if (n == 0) return;
    auto const size = bytes_.size();
    bytes_.resize(size + n);
    std::memcpy(bytes_.data() + size, from, n);
  }

  std::vector<std::byte> bytes_;
};

/// Reads what byte_writer wrote. Every length is checked against what is left before anything is allocated.
class byte_reader {
 public:
  explicit byte_reader(std::span<std::byte const> bytes) : bytes_{bytes} {}

  template <class T>
    requires std::is_arithmetic_v<T>
  T get() {
    T value;
    std::memcpy(&value, take(sizeof value, "value"), sizeof value);
    return value;
  }
  template <class T>
    requires std::is_arithmetic_v<T>
  std::vector<T> get_vector() {
    auto const n = get<std::uint64_t>();
    if (n > left() / sizeof(T)) fail("array length exceeds the remaining bytes");
    std::vector<T> values(static_cast<std::size_t>(n));
    if (n > 0) std::memcpy(values.data(), take(values.size() * sizeof(T), "array"), values.size() * sizeof(T));
    return values;
  }
  std::string get_string() {
    auto const chars = get_vector<char>();
    return {chars.begin(), chars.end()};
  }

  std::size_t left() const noexcept { return bytes_.size() - position_; }
  /// Throws format_error unless every byte was read.
  void finish() const {
    if (left() != 0) fail("bytes left over");
  }
  [[noreturn]] void fail(std::string const& what) const { throw format_error("serialized state", position_, what); }

 private:
  std::byte const* take(std::size_t n, char const* what) {
    if (n > left()) fail(std::string("ends inside a ") + what);
    auto const* p = bytes_.data() + position_;
    position_ += n;
    return p;
  }

  std::span<std::byte const> bytes_;
  std::size_t position_ = 0;
};

}  // namespace moeroute

#endif
