// SPDX-License-Identifier: Apache-2.0
#include "text_stream.hpp"

#include <moeroute/core/error.hpp>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <string_view>
#include <unistd.h>
#include <utility>

#include <zlib.h>

namespace moeroute::capture {
namespace {

constexpr std::size_t block = 1 << 16;

using namespace std::string_view_literals;
constexpr std::pair<std::string_view, char const*> other_formats[] = {{"PAR1"sv, "parquet"},
                                                                      {"PK\3\4"sv, "zip"},
                                                                      {"\x28\xB5\x2F\xFD"sv, "zstd"},
                                                                      {"\xFD" "7zXZ"sv, "xz"},
                                                                      {"BZh"sv, "bzip2"}};

}  // namespace

struct text_stream::inflater {
  inflater() {
    // 16: with the header and checksum of gzip.
    if (inflateInit2(&state, 15 + 16) != Z_OK) throw std::bad_alloc();
  }
  ~inflater() { inflateEnd(&state); }
  z_stream state{};
  bool inside = true;  // of a member
};

text_stream::text_stream(std::string const& file, std::uint64_t limit)
    : name_{file == "-" ? "standard input" : file}, limit_{limit}, packed_(block), text_(block) {
  file_ = file == "-" ? ::dup(STDIN_FILENO) : ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (file_ < 0) throw io_error(name_, "cannot open", errno);
  try {
    // A pipe may give less than the signature at first.
    while (packed_end_ < 6)
      if (auto const n = read_block(); n == 0) break;
    refuse_other_formats();
    if (is_gzip())
      inflater_ = std::make_unique<inflater>();
    else if (file.ends_with(".gz"))
      throw format_error(name_, std::uint64_t{0}, "is not gzip data, which the name says");
  } catch (...) {
    ::close(file_);
    throw;
  }
}

text_stream::~text_stream() { ::close(file_); }

bool text_stream::is_gzip() const {
  return packed_end_ - packed_begin_ >= 2 && packed_[packed_begin_] == '\x1F' && packed_[packed_begin_ + 1] == '\x8B';
}

void text_stream::refuse_other_formats() const {
  std::string_view const start(packed_.data(), packed_end_);
  for (auto const& [signature, format] : other_formats)
    if (start.starts_with(signature))
      throw format_error(name_, std::uint64_t{0},
                         std::string("is ") + format + ", which is not read; give text, jsonl, csv or tsv, plain or as .gz");
}

// Appends to what is left of the packed bytes.
std::size_t text_stream::read_block() {
  if (packed_begin_ > 0) {
    std::copy(packed_.begin() + static_cast<std::ptrdiff_t>(packed_begin_),
              packed_.begin() + static_cast<std::ptrdiff_t>(packed_end_), packed_.begin());
    packed_end_ -= std::exchange(packed_begin_, 0);
  }
  ssize_t n = 0;
  do n = ::read(file_, packed_.data() + packed_end_, packed_.size() - packed_end_);
  while (n < 0 && errno == EINTR);
  if (n < 0) throw io_error(name_, "cannot read", errno);
  packed_end_ += static_cast<std::size_t>(n);
  packed_bytes_ += static_cast<std::uint64_t>(n);
  return static_cast<std::size_t>(n);
}

void text_stream::unpack() {
  auto& z = inflater_->state;
  auto const place = [&] { return packed_bytes_ - (packed_end_ - packed_begin_); };
  while (end_ == 0) {
    if (packed_begin_ == packed_end_ && read_block() == 0) {
      if (inflater_->inside) throw format_error(name_, place(), "ends inside its gzip data: the file was cut off");
      return;
    }
    if (!inflater_->inside) {
      // Several members make one text, and zeros may fill up a block of tape behind them.
      if (packed_end_ - packed_begin_ == 1 && packed_[packed_begin_] != 0) read_block();
      if (packed_[packed_begin_] == 0) {
        ++packed_begin_;
        continue;
      }
      if (!is_gzip()) throw format_error(name_, place(), "has bytes behind its gzip data that are no gzip data");
      inflateReset(&z);
      inflater_->inside = true;
    }
    z.next_in = reinterpret_cast<Bytef*>(packed_.data() + packed_begin_);
    z.avail_in = static_cast<uInt>(packed_end_ - packed_begin_);
    z.next_out = reinterpret_cast<Bytef*>(text_.data());
    z.avail_out = static_cast<uInt>(text_.size());
    int const status = inflate(&z, Z_NO_FLUSH);
    packed_begin_ = packed_end_ - z.avail_in;
    end_ = text_.size() - z.avail_out;
    if (status == Z_STREAM_END)
      inflater_->inside = false;
    else if (status == Z_MEM_ERROR)
      throw std::bad_alloc();
    else if (status != Z_OK && status != Z_BUF_ERROR)
      throw format_error(name_, place(),
                         std::string("has damaged gzip data (") + (z.msg != nullptr ? z.msg : "no reason given") + ")");
  }
}

bool text_stream::fill() {
  begin_ = end_ = 0;
  if (inflater_) {
    unpack();
  } else {
    if (packed_begin_ == packed_end_) read_block();
    std::swap(text_, packed_);
    end_ = std::exchange(packed_end_, 0);
  }
  return end_ > 0;
}

bool text_stream::line(std::string& out) {
  out.clear();
  bool any = false;
  while (begin_ < end_ || fill()) {
    any = true;
    auto const* const start = text_.data() + begin_;
    auto const* const found = static_cast<char const*>(std::memchr(start, '\n', end_ - begin_));
    auto const n = found != nullptr ? static_cast<std::size_t>(found - start) : end_ - begin_;
    if (out.size() + n > limit_)
      throw format_error(name_, std::to_string(lines_ + 1),
                         "the line has more than " + std::to_string(limit_) + " bytes, which is more than one document may have");
    out.append(start, n);
    begin_ += n + (found != nullptr ? 1 : 0);
    offset_ += n + (found != nullptr ? 1 : 0);
    if (found != nullptr) break;
  }
  if (any) ++lines_;
  return any;
}

std::string text_stream::rest() {
  std::string out;
  while (begin_ < end_ || fill()) {
    if (out.size() + (end_ - begin_) > limit_)
      throw format_error(name_, std::to_string(lines_ + 1),
                         "the text has more than " + std::to_string(limit_) + " bytes, which is more than one document may have");
    out.append(text_.data() + begin_, end_ - begin_);
    offset_ += end_ - begin_;
    begin_ = end_;
  }
  return out;
}

}  // namespace moeroute::capture
