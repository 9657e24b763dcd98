// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_OUTPUT_FOLDER_HPP
#define MOEROUTE_CAPTURE_OUTPUT_FOLDER_HPP

#include <moeroute/io/trace.hpp>

#include <filesystem>
#include <optional>

#include "part.hpp"

namespace moeroute::capture {

/// The folder of a trace that is being written, by one process or by one for each part.
class output_folder {
 public:
  /// Makes the folder if need be and locks it. Throws usage_error if it holds what this run must not touch, io_error if
  /// another capture is writing there.
  output_folder(std::filesystem::path folder, capture_part part, bool resume, bool overwrite);
  output_folder(output_folder const&) = delete;
  output_folder& operator=(output_folder const&) = delete;
  ~output_folder();

  std::filesystem::path const& path() const { return folder_; }
  capture_part const& part() const { return part_; }
  std::filesystem::path partial() const { return folder_ / part_.manifest(); }
  bool finished() const { return std::filesystem::exists(folder_ / "manifest.json"); }

  /// Removes what earlier captures left, of this part if there are others, but for what `keep` names and, if asked for, the
  /// scratch files of this part; the manifest first, so that no half of a trace reads as whole.
  void clear(trace_manifest const& keep, bool keep_scratch) const;
  /// Removes what only an unfinished trace has.
  void clear_unfinished() const;

 private:
  void inspect(bool resume, bool overwrite) const;

  std::filesystem::path folder_;
  capture_part part_;
  int lock_ = -1;
  std::optional<lock_file> part_lock_;
};

}  // namespace moeroute::capture

#endif
