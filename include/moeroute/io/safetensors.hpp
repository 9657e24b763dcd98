// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_IO_SAFETENSORS_HPP
#define MOEROUTE_IO_SAFETENSORS_HPP

#include <moeroute/core/bytes.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/core/view.hpp>
#include <moeroute/io/file.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moeroute {

/// Element types of the safetensors format.
enum class dtype { boolean, u8, i8, f8_e5m2, f8_e4m3, i16, u16, f16, bf16, i32, u32, f32, f64, i64, u64 };

struct dtype_info {
  dtype type;
  std::string_view name;
  std::size_t bytes;
};

inline constexpr std::array<dtype_info, 15> dtype_table{{{dtype::boolean, "BOOL", 1},
                                                         {dtype::u8, "U8", 1},
                                                         {dtype::i8, "I8", 1},
                                                         {dtype::f8_e5m2, "F8_E5M2", 1},
                                                         {dtype::f8_e4m3, "F8_E4M3", 1},
                                                         {dtype::i16, "I16", 2},
                                                         {dtype::u16, "U16", 2},
                                                         {dtype::f16, "F16", 2},
                                                         {dtype::bf16, "BF16", 2},
                                                         {dtype::i32, "I32", 4},
                                                         {dtype::u32, "U32", 4},
                                                         {dtype::f32, "F32", 4},
                                                         {dtype::f64, "F64", 8},
                                                         {dtype::i64, "I64", 8},
                                                         {dtype::u64, "U64", 8}}};

inline std::string_view dtype_name(dtype type) noexcept { return dtype_table[static_cast<std::size_t>(type)].name; }
inline std::size_t dtype_bytes(dtype type) noexcept { return dtype_table[static_cast<std::size_t>(type)].bytes; }

namespace detail {
template <class T>
struct dtype_of_scalar;
template <dtype D>
struct dtype_constant {
  static constexpr dtype value = D;
};
template <> struct dtype_of_scalar<std::uint8_t> : dtype_constant<dtype::u8> {};
template <> struct dtype_of_scalar<std::int8_t> : dtype_constant<dtype::i8> {};
template <> struct dtype_of_scalar<std::int16_t> : dtype_constant<dtype::i16> {};
template <> struct dtype_of_scalar<std::uint16_t> : dtype_constant<dtype::u16> {};
template <> struct dtype_of_scalar<std::int32_t> : dtype_constant<dtype::i32> {};
template <> struct dtype_of_scalar<std::uint32_t> : dtype_constant<dtype::u32> {};
template <> struct dtype_of_scalar<std::int64_t> : dtype_constant<dtype::i64> {};
template <> struct dtype_of_scalar<std::uint64_t> : dtype_constant<dtype::u64> {};
template <> struct dtype_of_scalar<float> : dtype_constant<dtype::f32> {};
template <> struct dtype_of_scalar<double> : dtype_constant<dtype::f64> {};
template <> struct dtype_of_scalar<moeroute::bf16> : dtype_constant<dtype::bf16> {};
template <> struct dtype_of_scalar<moeroute::f16> : dtype_constant<dtype::f16> {};
}  // namespace detail

/// The dtype whose elements have the C++ type T.
template <class T>
inline constexpr dtype dtype_of = detail::dtype_of_scalar<T>::value;

/// One tensor of an open file. `data` lives as long as the safetensors_file.
struct tensor_view {
  std::string name;
  dtype type = dtype::u8;
  std::vector<index_t> shape;
  std::span<std::byte const> data;
  std::uint64_t file_offset = 0;  ///< of the first byte of data, for messages

  index_t elements() const noexcept { return static_cast<index_t>(data.size() / dtype_bytes(type)); }
};

/// A safetensors file, mapped and checked: after the constructor returns every tensor lies inside the file.
///
/// The header is untrusted. Refused with format_error naming file and byte: a header longer than the file or than 100 MB, text that is
/// not one JSON object, duplicate names, unknown dtypes, negative or overflowing shapes, a byte range that disagrees with the shape,
/// lies outside the data, overlaps another or leaves a hole. Throws io_error if the file cannot be read.
/// Source  the safetensors format description (README of huggingface/safetensors), format section.
class safetensors_file {
 public:
  static constexpr std::uint64_t header_limit = 100'000'000;

  explicit safetensors_file(std::filesystem::path const& path) : file_{path} { parse_header(); }

  std::vector<tensor_view> const& tensors() const noexcept { return tensors_; }
  std::map<std::string, std::string> const& metadata() const noexcept { return metadata_; }
  std::string const& path() const noexcept { return file_.path(); }
  std::uint64_t file_bytes() const noexcept { return file_.bytes().size(); }

  /// nullptr if there is no tensor of that name.
  tensor_view const* find(std::string_view name) const noexcept {
    auto const it = std::lower_bound(tensors_.begin(), tensors_.end(), name, [](auto const& t, auto n) { return t.name < n; });
    return it != tensors_.end() && it->name == name ? &*it : nullptr;
  }
  /// Throws format_error if there is no tensor of that name.
  tensor_view const& at(std::string_view name) const {
    if (auto const* t = find(name)) return *t;
    throw format_error(path(), "header", "has no tensor '" + std::string(name) + "'");
  }

  /// A tensor of rank 1 / 2 as a view. Throws format_error if dtype, rank or alignment are others.
  template <class T>
  vector_view<T> vector(std::string_view name) const {
    auto const& t = typed<T>(name, 1);
    return {reinterpret_cast<T const*>(t.data.data()), t.shape[0]};
  }
  template <class T>
  matrix_view<T> matrix(std::string_view name) const {
    auto const& t = typed<T>(name, 2);
    return {reinterpret_cast<T const*>(t.data.data()), t.shape[0], t.shape[1]};
  }

 private:
  template <class T>
  tensor_view const& typed(std::string_view name, std::size_t rank) const {
    auto const& t = at(name);
    auto const bad = [&](std::string const& what) { throw format_error(path(), t.file_offset, "tensor '" + t.name + "' " + what); };
    if (t.type != dtype_of<T>) bad("is " + std::string(dtype_name(t.type)) + ", expected " + std::string(dtype_name(dtype_of<T>)));
    if (t.shape.size() != rank) bad("has rank " + std::to_string(t.shape.size()) + ", expected " + std::to_string(rank));
    if (reinterpret_cast<std::uintptr_t>(t.data.data()) % alignof(T) != 0) bad("is not aligned to its element size");
    return t;
  }

  [[noreturn]] void fail(std::uint64_t byte, std::string const& what) const { throw format_error(path(), byte, what); }

  void parse_header() {
    auto const bytes = file_.bytes();
    if (bytes.size() < 8) fail(0, "file has " + std::to_string(bytes.size()) + " bytes, a safetensors file has at least 8");
    auto const header_size = byte_reader(bytes.first(8)).get<std::uint64_t>();
    if (header_size > header_limit) fail(0, "header length " + std::to_string(header_size) + " exceeds the limit of 100000000");
    if (header_size > bytes.size() - 8)
      fail(0, "header length " + std::to_string(header_size) + ", but only " + std::to_string(bytes.size() - 8) + " bytes follow (truncated?)");
    auto const json = parse_json({reinterpret_cast<char const*>(bytes.data()) + 8, static_cast<std::size_t>(header_size)});
    if (!json.is_object()) fail(8, "header is not a JSON object");
    auto const data = bytes.subspan(8 + static_cast<std::size_t>(header_size));
    for (auto const& [name, entry] : json.items()) {
      if (name == "__metadata__")
        read_metadata(entry);
      else
        tensors_.push_back(read_entry(name, entry, data, 8 + header_size));
    }
    check_layout(data.size(), 8 + header_size);
  }

  nlohmann::json parse_json(std::string_view text) const {
    // The parser keeps the last of two equal names; whoever made such a file hides a tensor, so it is refused.
    std::vector<std::set<std::string>> names;
    auto const callback = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& value) {
      if (event == nlohmann::json::parse_event_t::object_start) names.emplace_back();
      if (event == nlohmann::json::parse_event_t::object_end) names.pop_back();
      if (event == nlohmann::json::parse_event_t::key && !names.back().insert(value.get<std::string>()).second)
        fail(8, "header names '" + value.get<std::string>() + "' twice");
      if (depth > 8) fail(8, "header is nested too deeply");
      return true;
    };
    try {
      return nlohmann::json::parse(text, callback);
    } catch (nlohmann::json::parse_error const& e) {
      fail(8 + e.byte, "header is not valid JSON");
    } catch (nlohmann::json::out_of_range const&) {  // 1e999; the parser does not say where
      fail(8, "header holds a number beyond all bounds");
    }
  }

  void read_metadata(nlohmann::json const& entry) {
    if (!entry.is_object()) fail(8, "__metadata__ is not an object");
    for (auto const& [key, value] : entry.items()) {
      if (!value.is_string()) fail(8, "__metadata__ '" + key + "' is not a string");
      metadata_[key] = value.get<std::string>();
    }
  }

  tensor_view read_entry(std::string const& name, nlohmann::json const& entry, std::span<std::byte const> data,
                         std::uint64_t data_start) const {
    auto const bad = [&](std::string const& what) { fail(8, "tensor '" + name + "' " + what); };
    auto const is_size = [](nlohmann::json const& v) {
      return v.is_number_unsigned() && v.get<std::uint64_t>() <= static_cast<std::uint64_t>(std::numeric_limits<index_t>::max());
    };
    if (!entry.is_object() || !entry.contains("dtype") || !entry.contains("shape") || !entry.contains("data_offsets"))
      bad("needs dtype, shape and data_offsets");
    auto const &type = entry["dtype"], &shape = entry["shape"], &offsets = entry["data_offsets"];
    tensor_view t;
    t.name = name;
    auto const known = std::find_if(dtype_table.begin(), dtype_table.end(), [&](auto const& d) { return type == d.name; });
    if (known == dtype_table.end()) bad("has an unknown dtype " + type.dump(-1, ' ', true));
    t.type = known->type;
    if (!shape.is_array() || shape.size() > 16) bad("has no usable shape");
    std::uint64_t expected = known->bytes;
    for (auto const& d : shape) {
      if (!is_size(d)) bad("has a shape entry that is not a size");
      t.shape.push_back(d.get<index_t>());
      if (__builtin_mul_overflow(expected, d.get<std::uint64_t>(), &expected)) bad("has a shape that overflows");
    }
    if (!offsets.is_array() || offsets.size() != 2 || !is_size(offsets[0]) || !is_size(offsets[1])) bad("needs two data_offsets");
    auto const begin = offsets[0].get<std::uint64_t>(), end = offsets[1].get<std::uint64_t>();
    if (begin > end || end > data.size())
      bad("has data_offsets [" + std::to_string(begin) + ", " + std::to_string(end) + "], but the data has " + std::to_string(data.size()) +
          " bytes (truncated?)");
    if (end - begin != expected)
      bad("has " + std::to_string(end - begin) + " bytes, its shape and dtype need " + std::to_string(expected));
    t.data = data.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
    t.file_offset = data_start + begin;
    return t;
  }

  void check_layout(std::size_t data_size, std::uint64_t data_start) {
    std::sort(tensors_.begin(), tensors_.end(), [](auto const& a, auto const& b) {
      return std::pair(a.file_offset, a.data.size()) < std::pair(b.file_offset, b.data.size());
    });
    std::uint64_t next = data_start;
    for (auto const& t : tensors_) {
      if (t.file_offset != next)
        fail(next, "tensor '" + t.name + "' begins at byte " + std::to_string(t.file_offset) +
                       (t.file_offset < next ? ", inside the tensor before it" : ", leaving a hole"));
      next = t.file_offset + t.data.size();
    }
    if (next != data_start + data_size) fail(next, std::to_string(data_start + data_size - next) + " bytes belong to no tensor");
    std::sort(tensors_.begin(), tensors_.end(), [](auto const& a, auto const& b) { return a.name < b.name; });
  }

  mapped_file file_;
  std::vector<tensor_view> tensors_;  // by name
  std::map<std::string, std::string> metadata_;
};

/// A tensor to be written; `data` must stay alive until write_safetensors returns.
struct tensor_data {
  std::string name;
  dtype type = dtype::u8;
  std::vector<index_t> shape;
  std::span<std::byte const> data;
};

template <class T>
tensor_data make_tensor(std::string name, std::vector<index_t> shape, std::span<T const> values) {
  return {std::move(name), dtype_of<T>, std::move(shape), std::as_bytes(values)};
}

/// Writes a file atomically, tensors by decreasing element size and then by name, so that each is aligned and the same content is the
/// same bytes. Throws argument_error if a shape does not fit its data, or a name repeats or is not UTF-8; io_error if the disk refuses.
inline void write_safetensors(std::filesystem::path const& path, std::vector<tensor_data> tensors,
                              std::map<std::string, std::string> const& metadata = {}) {
  std::sort(tensors.begin(), tensors.end(), [](auto const& a, auto const& b) {
    return std::pair(dtype_bytes(b.type), std::string_view(a.name)) < std::pair(dtype_bytes(a.type), std::string_view(b.name));
  });
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::uint64_t offset = 0;
  for (auto const& t : tensors) {
    std::uint64_t expected = dtype_bytes(t.type);
    for (auto const d : t.shape)
      if (d < 0 || __builtin_mul_overflow(expected, static_cast<std::uint64_t>(d), &expected))
        detail::raise("moeroute::write_safetensors: tensor '", t.name, "' has ", d, " in its shape");
    if (expected != t.data.size())
      detail::raise("moeroute::write_safetensors: tensor '", t.name, "' has ", t.data.size(), " bytes, its shape needs ", expected);
    if (t.name == "__metadata__") detail::raise("moeroute::write_safetensors: no tensor can be named __metadata__");
    if (header.contains(t.name)) detail::raise("moeroute::write_safetensors: tensor '", t.name, "' given twice");
    header[t.name] = {{"dtype", dtype_name(t.type)}, {"shape", t.shape}, {"data_offsets", {offset, offset + t.data.size()}}};
    offset += t.data.size();
  }
  std::string text;
  try {
    text = header.dump();
  } catch (nlohmann::json::type_error const&) {
    detail::raise("moeroute::write_safetensors: a name or the metadata is not UTF-8");
  }
  text.append((8 - text.size() % 8) % 8, ' ');  // data starts aligned to 8
  byte_writer length;
  length.put(static_cast<std::uint64_t>(text.size()));
  atomic_file file(path);
  file.write(length.bytes());
  file.write(text);
  for (auto const& t : tensors) file.write(t.data);
  file.commit();
}

}  // namespace moeroute

#endif
