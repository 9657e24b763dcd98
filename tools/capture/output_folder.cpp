// SPDX-License-Identifier: Apache-2.0
#include "output_folder.hpp"

#include <moeroute/core/error.hpp>

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <string>
#include <sys/file.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include "session.hpp"
#include "stream.hpp"

namespace moeroute::capture {
namespace {

namespace fs = std::filesystem;

template <class Condition>
void remove_if(fs::path const& folder, Condition const& unwanted) {
  std::vector<fs::path> found;
  for (auto const& entry : fs::directory_iterator(folder))
    if (unwanted(entry.path().filename().string())) found.push_back(entry.path());
  for (auto const& path : found) fs::remove(path);
}

}  // namespace

output_folder::output_folder(fs::path folder, capture_part part, bool resume, bool overwrite)
    : folder_{std::move(folder)}, part_{part} {
  std::error_code error;
  if (fs::exists(folder_) && !fs::is_directory(folder_))
    throw io_error(folder_.string(), "cannot write a trace", ENOTDIR);
  fs::create_directories(folder_, error);
  if (error) throw io_error(folder_.string(), "cannot create", error.value());
  lock_ = ::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (lock_ < 0) throw io_error(folder_.string(), "cannot open", errno);
  try {
    // Parts share the folder; each of them is locked by itself.
    if (::flock(lock_, (part_.alone() ? LOCK_EX : LOCK_SH) | LOCK_NB) != 0)
      throw io_error(folder_.string(), "another capture is writing here", errno);
    inspect(resume, overwrite);
    if (!part_.alone())
      part_lock_.emplace(folder_ / ("part-" + part_.name() + ".lock"), false, "another capture is writing this part");
  } catch (...) {
    ::close(lock_);
    throw;
  }
}

output_folder::~output_folder() { ::close(lock_); }

void output_folder::clear(trace_manifest const& keep, bool keep_scratch) const {
  if (part_.alone()) fs::remove(folder_ / "manifest.json");
  bool const fresh = keep.shards.empty() && !keep.counts;
  remove_if(folder_, [&](std::string const& name) {
    auto const is_of = [&](trace_shard_info const& s) { return name == s.file || name == s.documents_file; };
    if (std::any_of(keep.shards.begin(), keep.shards.end(), is_of) || (keep.counts && name == keep.counts->file)) return false;
    if (name.starts_with("scratch-")) {
      bool const of_this = layer_stream::is_scratch(name, part_.name());
      return of_this ? !keep_scratch : part_.alone();
    }
    if (part_.alone()) return is_trace_file(name) && (fresh || name != part_.manifest());
    auto const shard = shard_number(name);
    return (shard != std::string::npos && part_.has(shard)) || part_.is_counts(name) || name == part_.manifest() + ".tmp";
  });
}

void output_folder::clear_unfinished() const {
  remove_if(folder_, [](std::string const& name) {
    return name.starts_with("manifest.part") || name.starts_with("counts-part") || name.starts_with("scratch-") ||
           name.ends_with(".lock") || name.ends_with(".tmp");
  });
}

void output_folder::inspect(bool resume, bool overwrite) const {
  bool any = false;
  for (auto const& entry : fs::directory_iterator(folder_)) {
    auto const name = entry.path().filename().string();
    bool const of_parts = name.starts_with("manifest.part-") && name.ends_with(".json");
    auto const refuse = [&](std::string const& what) { throw usage_error(folder_.string() + ": " + what); };
    any = true;
    if ((resume || overwrite || !part_.alone()) && !is_trace_file(name))
      refuse("holds " + name + ", which is no part of a trace; choose another folder");
    if (part_.alone() && of_parts && resume) refuse("is written in parts; use --shard");
    if (part_.alone()) continue;
    if (name == "manifest.partial.json") refuse("holds an unfinished trace without parts; finish it without --shard");
    if (of_parts && !name.ends_with("-of-" + std::to_string(part_.count) + ".json"))
      refuse("was begun in another number of parts (" + name + ")");
    if (!resume && (name == part_.manifest() || name == "manifest.json"))
      refuse("holds " + name + "; use --resume to finish a trace, or another folder");
  }
  if (part_.alone() && any && !resume && !overwrite)
    throw usage_error(folder_.string() +
                      ": is not empty; use --resume to finish a trace, --overwrite to replace it, or another folder");
}

}  // namespace moeroute::capture
