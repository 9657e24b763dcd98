// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_CSV_HPP
#define MOEROUTE_CAPTURE_CSV_HPP

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace moeroute::capture {

/// Records of separated values, quoted as RFC 4180 has it: a field in double quotes may hold separators, line ends and
/// doubled quotes. Lines end in \n or \r\n; blank lines between records are passed over.
///
/// Throws format_error with the line for a quote inside a field that does not begin with one, for text behind a closing
/// quote, for quotes that are never closed and for a field of more than `limit` bytes.
class csv_reader {
 public:
  /// `next_line` gives lines without \n, and false at the end.
  csv_reader(std::string name, char separator, std::uint64_t limit, std::function<bool(std::string&)> next_line)
      : name_{std::move(name)}, separator_{separator}, limit_{limit}, next_line_{std::move(next_line)} {}

  /// The next record. False at the end.
  bool record(std::vector<std::string>& fields);
  std::size_t line() const { return first_line_; }  ///< where the record begins

 private:
  bool next();

  std::string name_;
  char separator_;
  std::uint64_t limit_;
  std::function<bool(std::string&)> next_line_;
  std::string text_;
  std::size_t lines_ = 0, first_line_ = 0;
};

}  // namespace moeroute::capture

#endif
