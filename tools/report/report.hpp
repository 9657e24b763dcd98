// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_TOOLS_REPORT_REPORT_HPP
#define MOEROUTE_TOOLS_REPORT_REPORT_HPP

#include <filesystem>

namespace moeroute::report {

struct report_options {
  std::filesystem::path results;                 ///< folder written by `moeroute analyze`, or a results.json itself
  std::filesystem::path output = "report.html";  ///< replaced if it is there
  std::filesystem::path plotly = {};             ///< plotly.min.js, plain or gzip; empty: the one that is built in
};

/// Writes one HTML file that shows everything in results.json and needs nothing else: no network, no second file.
///
/// The file appears whole or not at all. Numbers are rounded to 5 significant digits for the page; results.json keeps
/// them all. Throws io_error (a file that cannot be read or written), format_error (results.json is not what
/// docs/design/results-schema.md says, or newer than this program) and argument_error (no plotly.js was built in and
/// none is given).
void write_report(report_options const& options);

}  // namespace moeroute::report

#endif
