// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_INPUTS_HPP
#define MOEROUTE_CAPTURE_INPUTS_HPP

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "datasets.hpp"

namespace moeroute::capture {

/// One text to run through the model.
struct document {
  std::string id;
  std::map<std::string, std::string> labels;
  std::string source;  ///< file name and line, for the trace
  std::string place;   ///< path and line, for messages
  std::string text = {};
  std::vector<std::int32_t> ids = {};  ///< of its tokens, if the file has them instead of a text
  std::optional<scored_part> scored = {};
};

struct input_options {
  std::vector<std::string> files;  ///< .jsonl, .csv, .tsv, any other text, or "-" for JSON lines on standard input
  std::vector<std::string> data;   ///< KIND:FILE
  std::vector<std::string> texts;  ///< given on the command line
  std::string text_field = "text";                          ///< of JSON lines; column of a table
  std::string ids_field;                                    ///< this field holds token ids instead; empty: none
  std::string label_field;                                  ///< this field becomes the label "label"; empty: none
  std::vector<std::pair<std::string, std::string>> labels;  ///< put on every document
  std::uint64_t max_documents = std::numeric_limits<std::uint64_t>::max();  ///< of every file; for presets: examples
  std::uint64_t document_bytes = std::uint64_t{1} << 30;                    ///< a longer line or text is refused
  bool lines = false;  ///< one document per line of a text file
  bool skip_empty = false;
  bool replace_invalid_utf8 = false;
};

/// Everything that is read: `files` with the kind that their names say, then `data`. Throws argument_error.
std::vector<data_source> sources_of(input_options const& options);

/// Hands every document to `sink`, in order. Throws io_error, or format_error naming file and line (or byte) for text
/// that is not UTF-8, lines that are not JSON objects, missing fields or columns, quotes that do not match, damaged gzip
/// data, empty documents and repeated ids.
void read_documents(input_options const& options, std::function<void(document&&)> const& sink);

}  // namespace moeroute::capture

#endif
