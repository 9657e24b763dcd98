// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_PART_HPP
#define MOEROUTE_CAPTURE_PART_HPP

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

namespace moeroute::capture {

/// Which shards of a trace this process writes: number s belongs to part s mod count. Shards and batches are cut before
/// they are dealt out, so the bytes of a shard do not depend on who writes it.
struct capture_part {
  std::size_t index = 0, count = 1;

  bool alone() const { return count == 1; }
  bool has(std::size_t shard) const { return shard % count == index; }
  std::size_t shard(std::size_t nth) const { return index + nth * count; }  ///< the nth of this part
  std::string name() const { return std::to_string(index + 1) + "-of-" + std::to_string(count); }

  std::string manifest() const { return alone() ? "manifest.partial.json" : "manifest.part-" + name() + ".json"; }
  std::string counts(std::size_t nth) const;  ///< state after so many shards
  bool is_counts(std::string const& file) const { return file.starts_with(counts_prefix()); }

 private:
  std::string counts_prefix() const { return alone() ? "counts-partial-" : "counts-part-" + name() + "-"; }
};

/// "i/n" with 1 <= i <= n <= 10000. Throws argument_error.
capture_part parse_part(std::string const& text);

/// A file that only one process holds at a time. It stays where it is.
class lock_file {
 public:
  /// Waits, or if `wait` is false throws io_error saying `held`.
  lock_file(std::filesystem::path const& path, bool wait, std::string const& held = "");
  lock_file(lock_file const&) = delete;
  lock_file& operator=(lock_file const&) = delete;
  ~lock_file();

 private:
  int file_ = -1;
};

/// Is this a name that a capture gives to a file of its folder?
bool is_trace_file(std::string name);

/// The number in shard-00012.safetensors or documents-00012.jsonl, also with .tmp; npos for other names.
std::size_t shard_number(std::string const& name);

}  // namespace moeroute::capture

#endif
