// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_TEXT_STREAM_HPP
#define MOEROUTE_CAPTURE_TEXT_STREAM_HPP

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace moeroute::capture {

/// A file, a pipe or standard input ("-"), read from front to end in small blocks; gzip is recognised and unpacked on
/// the way, so that memory does not depend on what a packed file grows to.
///
/// Throws io_error, or format_error naming the file for gzip data that is damaged or cut off, for the formats that are
/// not read (parquet, zip, zstd, xz, bzip2), and for a line or rest of more than `limit` bytes.
class text_stream {
 public:
  text_stream(std::string const& file, std::uint64_t limit);
  text_stream(text_stream const&) = delete;
  text_stream& operator=(text_stream const&) = delete;
  ~text_stream();

  /// The next line without its \n. False at the end.
  bool line(std::string& out);
  /// Everything that is left.
  std::string rest();

  std::string const& name() const { return name_; }
  std::size_t lines() const { return lines_; }     ///< number of the line that was read last
  std::uint64_t offset() const { return offset_; } ///< bytes that were handed out, unpacked

 private:
  struct inflater;

  bool fill();  // the next block of text; false at the end
  std::size_t read_block();
  void unpack();
  void refuse_other_formats() const;
  bool is_gzip() const;

  std::string name_;
  std::uint64_t limit_;
  int file_ = -1;
  std::vector<char> packed_, text_;
  std::size_t packed_begin_ = 0, packed_end_ = 0, begin_ = 0, end_ = 0;
  std::uint64_t packed_bytes_ = 0, offset_ = 0;
  std::size_t lines_ = 0;
  std::unique_ptr<inflater> inflater_;  // if the file is packed
};

}  // namespace moeroute::capture

#endif
