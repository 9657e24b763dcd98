// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_JSON_VIEW_HPP
#define MOEROUTE_CAPTURE_JSON_VIEW_HPP

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace moeroute::capture {

/// A value inside a JSON file that knows where it stands, so that every complaint names file and key.
///
/// Throws format_error from every accessor that does not find what it is asked for. The parsed document must outlive
/// it.
class json_view {
 public:
  json_view(nlohmann::json const& value, std::string file, std::string place = "")
      : value_{&value}, file_{std::move(file)}, place_{std::move(place)} {}

  bool has(std::string const& key) const;  ///< present and not null
  json_view at(std::string const& key) const;
  std::vector<json_view> elements() const;

  std::string const& string() const;
  bool boolean() const;
  double number() const;
  std::int64_t integer(std::int64_t low = std::numeric_limits<std::int64_t>::min(),
                       std::int64_t high = std::numeric_limits<std::int64_t>::max()) const;

  bool is_null() const { return value_->is_null(); }
  nlohmann::json const& raw() const { return *value_; }
  std::string const& file() const { return file_; }

  [[noreturn]] void refuse(std::string const& what) const;

 private:
  nlohmann::json const* value_;
  std::string file_, place_;
};

/// Parses JSON that begins at byte `offset` of a file. Throws format_error with the byte in the file, also for values
/// nested deeper than any model's files are: whoever walks over values calls itself once per level.
nlohmann::json parse_json(std::span<std::byte const> text, std::string const& file, std::uint64_t offset = 0);

/// Parses a JSON file. Throws io_error, or format_error as above.
nlohmann::json read_json(std::filesystem::path const& path);

}  // namespace moeroute::capture

#endif
