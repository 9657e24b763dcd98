// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_IO_NPZ_HPP
#define MOEROUTE_IO_NPZ_HPP

#include <moeroute/core/bytes.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/view.hpp>
#include <moeroute/io/file.hpp>
#include <moeroute/io/npy.hpp>

#include <array>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moeroute {

namespace detail {

// CRC-32 of ISO 3309, as zip wants it: reflected polynomial 0xEDB88320. Give the last result back to go on.
inline std::uint32_t crc32(std::span<std::byte const> bytes, std::uint32_t crc = 0) noexcept {
  static constexpr auto table = [] {
    std::array<std::uint32_t, 256> t{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      t[i] = i;
      for (int bit = 0; bit < 8; ++bit) t[i] = (t[i] >> 1) ^ (t[i] & 1u ? 0xEDB88320u : 0u);
    }
    return t;
  }();
  crc = ~crc;
  for (auto const b : bytes) crc = table[(crc ^ std::to_integer<std::uint32_t>(b)) & 0xffu] ^ (crc >> 8);
  return ~crc;
}

}  // namespace detail

/// Writes a .npz file: several named arrays, one after the other, as numpy.load reads them. The file appears whole
/// with commit().
///
/// A zip archive without compression and with a fixed date, so that equal arrays give equal bytes.
/// In     add(name, values, shape) for each array, row-major; then commit().
/// Cost   O(1) memory beside the names.
/// Throws argument_error if a name is empty, used before, has a slash or a byte beyond ASCII, if the shape does not
///        fit the values, if the file would reach 4 GiB or 65,535 arrays; nothing of that array is written then.
///        io_error if the disk refuses.
/// Source PKWARE APPNOTE 6.3.10, sections 4.3.7, 4.3.12, 4.3.16; numpy.savez. Differs: no zip64.
class npz_writer {
 public:
  explicit npz_writer(std::filesystem::path path) : file_(std::move(path)) {}

  template <class T>
  void add(std::string const& name, std::span<T const> values, std::vector<index_t> const& shape) {
    for (char const c : name)
      if (c == '/' || c == '\\' || c <= ' ' || c > '~')
        detail::raise("moeroute::npz_writer::add: '", name, "' is no usable name");
    if (name.empty()) detail::raise("moeroute::npz_writer::add: an array needs a name");
    for (auto const& e : entries_)
      if (e.name == name + ".npy") detail::raise("moeroute::npz_writer::add: there is an array '", name, "' already");
    auto const preamble = detail::npy_preamble<T>("npz_writer::add", values.size(), shape);
    entry e;
    e.name = name + ".npy";
    std::uint64_t const size = preamble.size() + values.size_bytes();
    std::uint64_t directory = end_bytes + central_bytes + e.name.size();
    for (auto const& other : entries_) directory += central_bytes + other.name.size();
    if (written_ + local_bytes + e.name.size() + size + directory > std::numeric_limits<std::uint32_t>::max() ||
        entries_.size() + 1 >= std::numeric_limits<std::uint16_t>::max())
      detail::raise("moeroute::npz_writer::add: '", name, "' has ", size, " bytes, with ", written_,
                    " before it the file would reach 4 GiB");
    e.size = static_cast<std::uint32_t>(size);
    e.offset = static_cast<std::uint32_t>(written_);
    e.crc = detail::crc32(std::as_bytes(values), detail::crc32(std::as_bytes(std::span<char const>(preamble))));
    byte_writer head;
    head.put(std::uint32_t{0x04034b50});
    put_common(head, e);
    write(head.bytes());
    write(std::as_bytes(std::span<char const>(e.name)));
    write(std::as_bytes(std::span<char const>(preamble)));
    write(std::as_bytes(values));
    entries_.push_back(std::move(e));
  }

  void commit() {
    auto const start = static_cast<std::uint32_t>(written_);
    for (auto const& e : entries_) {
      byte_writer head;
      head.put(std::uint32_t{0x02014b50});
      head.put(std::uint16_t{20});  // made by: version 2.0, MS-DOS attributes
      put_common(head, e);
      head.put(std::uint16_t{0});  // comment
      head.put(std::uint16_t{0});  // disk
      head.put(std::uint16_t{0});  // internal attributes
      head.put(std::uint32_t{0});  // external attributes
      head.put(e.offset);
      write(head.bytes());
      write(std::as_bytes(std::span<char const>(e.name)));
    }
    byte_writer end;
    end.put(std::uint32_t{0x06054b50});
    end.put(std::uint32_t{0});  // disks
    end.put(static_cast<std::uint16_t>(entries_.size()));
    end.put(static_cast<std::uint16_t>(entries_.size()));
    end.put(static_cast<std::uint32_t>(written_ - start));
    end.put(start);
    end.put(std::uint16_t{0});  // comment
    write(end.bytes());
    file_.commit();
  }

 private:
  static constexpr std::uint64_t local_bytes = 30, central_bytes = 46, end_bytes = 22;
  struct entry {
    std::string name;
    std::uint32_t size = 0, offset = 0, crc = 0;
  };

  // What the header before the data and the one in the directory have in common.
  static void put_common(byte_writer& out, entry const& e) {
    out.put(std::uint16_t{20});      // needs version 2.0
    out.put(std::uint16_t{0});       // flags
    out.put(std::uint16_t{0});       // stored
    out.put(std::uint16_t{0});       // time
    out.put(std::uint16_t{0x0021});  // 1980-01-01, the first day that zip knows
    out.put(e.crc);
    out.put(e.size);
    out.put(e.size);
    out.put(static_cast<std::uint16_t>(e.name.size()));
    out.put(std::uint16_t{0});  // extra field
  }
  void write(std::span<std::byte const> bytes) {
    file_.write(bytes);
    written_ += bytes.size();
  }

  atomic_file file_;
  std::vector<entry> entries_;
  std::uint64_t written_ = 0;
};

}  // namespace moeroute

#endif
