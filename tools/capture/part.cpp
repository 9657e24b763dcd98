// SPDX-License-Identifier: Apache-2.0
#include "part.hpp"

#include <moeroute/core/error.hpp>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

namespace moeroute::capture {

std::string capture_part::counts(std::size_t nth) const {
  std::array<char, 32> number{};
  std::snprintf(number.data(), number.size(), "%05zu", nth);
  return counts_prefix() + number.data() + ".safetensors";
}

capture_part parse_part(std::string const& text) {
  capture_part part;
  auto const* const end = text.data() + text.size();
  auto const first = std::from_chars(text.data(), end, part.index);
  bool const slash = first.ec == std::errc() && first.ptr != end && *first.ptr == '/';
  auto const second = slash ? std::from_chars(first.ptr + 1, end, part.count) : first;
  if (!slash || second.ec != std::errc() || second.ptr != end || part.index < 1 || part.index > part.count || part.count > 10000)
    throw argument_error("--shard " + text + ": expected i/n, part i of n, with 1 <= i <= n <= 10000");
  --part.index;
  return part;
}

lock_file::lock_file(std::filesystem::path const& path, bool wait, std::string const& held)
    : file_{::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)} {
  if (file_ < 0) throw io_error(path.string(), "cannot open", errno);
  int status = 0;
  do status = ::flock(file_, wait ? LOCK_EX : LOCK_EX | LOCK_NB);
  while (status != 0 && errno == EINTR);
  if (status != 0) {
    int const error = errno;
    ::close(file_);
    throw io_error(path.string(), error == EWOULDBLOCK ? held : "cannot lock", error);
  }
}

lock_file::~lock_file() { ::close(file_); }

bool is_trace_file(std::string name) {
  if (name.ends_with(".tmp")) name.resize(name.size() - 4);
  return name == "manifest.json" || name == "scores.json" || name == "join.lock" || name.starts_with("scratch-") ||
         (name.starts_with("manifest.part") && name.ends_with(".json")) ||
         (name.starts_with("part-") && name.ends_with(".lock")) ||
         (name.starts_with("shard-") && name.ends_with(".safetensors")) ||
         (name.starts_with("counts") && name.ends_with(".safetensors")) ||
         (name.starts_with("documents-") && name.ends_with(".jsonl"));
}

std::size_t shard_number(std::string const& name) {
  for (std::string const prefix : {"shard-", "documents-"})
    if (name.starts_with(prefix)) {
      std::size_t number = 0;
      auto const* const end = name.data() + name.size();
      auto const read = std::from_chars(name.data() + prefix.size(), end, number);
      if (read.ec == std::errc() && read.ptr != end && *read.ptr == '.') return number;
    }
  return std::string::npos;
}

}  // namespace moeroute::capture
