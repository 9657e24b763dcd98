// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_TESTS_SUPPORT_PYTHON_HPP
#define MOEROUTE_TESTS_SUPPORT_PYTHON_HPP

#include <cstdlib>
#include <filesystem>
#include <string>

/// The Python of the .venv that tools/test.sh makes, else the system's.
inline std::string python_executable() {
  auto const own = std::filesystem::path(MOEROUTE_SOURCE_DIR) / ".venv/bin/python";
  return std::filesystem::exists(own) ? "'" + own.string() + "'" : "python3";
}

/// True if it can import these modules. A test that needs them is left out otherwise.
inline bool python_has(std::string const& modules) {
  return std::system((python_executable() + " -c 'import " + modules + "' >/dev/null 2>&1").c_str()) == 0;
}

/// Runs a script of tests/ and gives its exit status, 0 for success.
inline int python(std::string const& script) {
  return std::system(
      (python_executable() + " '" + std::string(MOEROUTE_SOURCE_DIR) + "/tests/'" + script + " >&2").c_str());
}

#endif
