// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CORE_VERSION_HPP
#define MOEROUTE_CORE_VERSION_HPP

// The only place where the version is written; CMake reads it from here.
#define MOEROUTE_VERSION_MAJOR 0
#define MOEROUTE_VERSION_MINOR 1
#define MOEROUTE_VERSION_PATCH 0

namespace moeroute {

/// Version of the headers as "major.minor.patch".
inline constexpr char const* version = "0.1.0";

namespace detail {
consteval bool version_text_agrees() {
  return version[0] == '0' + MOEROUTE_VERSION_MAJOR && version[2] == '0' + MOEROUTE_VERSION_MINOR &&
         version[4] == '0' + MOEROUTE_VERSION_PATCH && version[5] == '\0';
}
static_assert(version_text_agrees(), "version and MOEROUTE_VERSION_* differ");
}  // namespace detail

}  // namespace moeroute

#endif
