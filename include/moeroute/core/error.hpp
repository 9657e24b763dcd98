// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CORE_ERROR_HPP
#define MOEROUTE_CORE_ERROR_HPP

#include <cstdint>
#include <cstdlib>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

// Every exactness promise of the library rests on IEEE evaluation in the written order.
#ifdef __FAST_MATH__
#error "moeroute: -ffast-math breaks the exact sums; build without it"
#endif

/// Checks an invariant of our own code. On in debug builds, compiled away under NDEBUG unless MOEROUTE_ENABLE_ASSERTS is defined.
#if !defined(NDEBUG) || defined(MOEROUTE_ENABLE_ASSERTS)
#define MOEROUTE_ASSERT(condition) \
  ((condition) ? static_cast<void>(0) : ::moeroute::detail::assertion_failed(#condition, __FILE__, __LINE__))
#else
#define MOEROUTE_ASSERT(condition) static_cast<void>(0)
#endif

namespace moeroute {

/// The caller passed something that cannot be used. The text names function, condition and values; no state has changed.
class argument_error : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

/// Shapes of the arguments do not fit each other.
class shape_error : public argument_error {
 public:
  using argument_error::argument_error;
};

/// Bytes of a file are not what its format says. `place` is a byte offset, a line or a field name.
class format_error : public std::runtime_error {
 public:
  format_error(std::string file, std::string place, std::string const& what)
      : std::runtime_error(file + ":" + place + ": " + what), file_{std::move(file)}, place_{std::move(place)} {}
  format_error(std::string file, std::uint64_t byte_offset, std::string const& what)
      : format_error(std::move(file), "byte " + std::to_string(byte_offset), what) {}

  std::string const& file() const noexcept { return file_; }
  std::string const& place() const noexcept { return place_; }

 private:
  std::string file_, place_;
};

/// The system refused to open, read, write, sync or rename a file; the text ends with the system's own words.
class io_error : public std::runtime_error {
 public:
  io_error(std::string path, std::string const& action, int error_number)
      : std::runtime_error(path + ": " + action + ": " + std::generic_category().message(error_number)),
        path_{std::move(path)},
        error_number_{error_number} {}

  std::string const& path() const noexcept { return path_; }
  int error_number() const noexcept { return error_number_; }

 private:
  std::string path_;
  int error_number_;
};

namespace detail {

// A logic_error rather than abort: the library never ends its host process, and tests can see it.
[[noreturn]] inline void assertion_failed(char const* condition, char const* file, int line) {
  throw std::logic_error(std::string("moeroute: internal error: ") + condition + " at " + file + ":" + std::to_string(line));
}

template <class Exception = argument_error, class... Parts>
[[noreturn]] void raise(Parts const&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw Exception(text.str());
}

}  // namespace detail
}  // namespace moeroute

#endif
