// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_IO_FILE_HPP
#define MOEROUTE_IO_FILE_HPP

#include <moeroute/core/error.hpp>

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace moeroute {

/// A whole file mapped read-only. Empty files map to an empty span.
///
/// Throws io_error if it cannot be opened or mapped, or is not a regular file. Another process that truncates the file while it is
/// mapped ends this one by SIGBUS: files that are read are not to be rewritten in place (ours are always replaced by renaming).
class mapped_file {
 public:
  mapped_file() = default;
  explicit mapped_file(std::filesystem::path const& path) : path_{path.string()} {
    // Without O_NONBLOCK a named pipe would keep us waiting for a writer before we can see that it is no file.
    int const fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) throw io_error(path_, "cannot open", errno);
    struct ::stat info {};
    if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
      ::close(fd);
      throw io_error(path_, "cannot read", S_ISDIR(info.st_mode) ? EISDIR : EINVAL);
    }
    size_ = static_cast<std::size_t>(info.st_size);
    if (size_ > 0) {
      data_ = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd, 0);
      int const error = errno;
      ::close(fd);
      if (data_ == MAP_FAILED) {
        data_ = nullptr;
        throw io_error(path_, "cannot map", error);
      }
    } else {
      ::close(fd);
    }
  }
  mapped_file(mapped_file&& other) noexcept { swap(other); }
  mapped_file& operator=(mapped_file&& other) noexcept {
    mapped_file moved(std::move(other));
    swap(moved);
    return *this;
  }
  ~mapped_file() {
    if (data_ != nullptr) ::munmap(data_, size_);
  }

  std::span<std::byte const> bytes() const noexcept { return {static_cast<std::byte const*>(data_), size_}; }
  std::string const& path() const noexcept { return path_; }

 private:
  void swap(mapped_file& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(path_, other.path_);
  }

  void* data_ = nullptr;
  std::size_t size_ = 0;
  std::string path_;
};

/// A file that appears whole or not at all: bytes go to `path.tmp`, commit() syncs and renames it, anything else removes it.
///
/// Throws io_error from every call, with the system's reason (no space, no permission).
class atomic_file {
 public:
  explicit atomic_file(std::filesystem::path path) : path_{std::move(path)}, temporary_{path_.string() + ".tmp"} {
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd_ < 0) throw io_error(temporary_, "cannot create", errno);
  }
  atomic_file(atomic_file const&) = delete;
  atomic_file& operator=(atomic_file const&) = delete;
  ~atomic_file() {
    if (fd_ < 0) return;
    ::close(fd_);
    ::unlink(temporary_.c_str());
  }

  void write(std::span<std::byte const> bytes) {
    while (!bytes.empty()) {
      auto const n = ::write(fd_, bytes.data(), bytes.size());
      if (n < 0) {
        if (errno == EINTR) continue;
        throw io_error(temporary_, "cannot write", errno);
      }
      bytes = bytes.subspan(static_cast<std::size_t>(n));
    }
  }
  void write(std::string_view text) { write(std::as_bytes(std::span<char const>(text.data(), text.size()))); }

  void commit() {
    if (::fsync(fd_) != 0) throw io_error(temporary_, "cannot sync", errno);
    if (::close(std::exchange(fd_, -1)) != 0) fail("cannot close");
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("cannot rename");
    // The rename itself lives in the folder: without this a power cut could bring the old name back.
    auto const folder = path_.has_parent_path() ? path_.parent_path() : std::filesystem::path(".");
    int const fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
      ::fsync(fd);
      ::close(fd);
    }
  }

 private:
  [[noreturn]] void fail(char const* action) {
    int const error = errno;
    ::unlink(temporary_.c_str());
    throw io_error(path_.string(), action, error);
  }

  std::filesystem::path path_;
  std::string temporary_;
  int fd_ = -1;
};

/// Writes a small file atomically.
inline void write_file(std::filesystem::path const& path, std::string_view text) {
  atomic_file file(path);
  file.write(text);
  file.commit();
}

/// The whole of a text file. Throws io_error.
inline std::string read_text(std::filesystem::path const& path) {
  mapped_file const file(path);
  auto const bytes = file.bytes();
  return {reinterpret_cast<char const*>(bytes.data()), bytes.size()};
}

}  // namespace moeroute

#endif
