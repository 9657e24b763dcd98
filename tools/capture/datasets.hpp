// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_DATASETS_HPP
#define MOEROUTE_CAPTURE_DATASETS_HPP

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace moeroute::capture {

struct document;

/// What a file holds: text in one of the general forms, or a published data set that is scored.
enum class data_kind { text, jsonl, csv, tsv, lambada, hellaswag, wikitext, gsm8k, math, aqua, humaneval, mgsm };

inline constexpr bool is_preset(data_kind kind) { return kind >= data_kind::lambada; }
std::string_view name_of(data_kind kind);

struct data_source {
  data_kind kind = data_kind::text;
  std::string file;  ///< "-": standard input
};

/// "KIND:FILE". Throws argument_error with the kinds that there are.
data_source parse_data(std::string const& text);

/// The part of a document that is scored, and with what it belongs together.
struct scored_part {
  data_kind kind = data_kind::lambada;
  std::size_t source = 0;      ///< number of its data source
  std::string example;         ///< the question, passage or article; its documents stand in a row
  std::uint64_t context = 0;   ///< bytes of the text before the part that is scored
  std::uint32_t choice = 0, right = 0;  ///< of several: which this one is, which one is right
  std::uint64_t length = 0;    ///< code points of a choice without its space; words of an article
};

/// A preset's file, as lines.
struct preset_input {
  data_kind kind = data_kind::lambada;
  std::size_t source = 0;
  std::string name;   ///< for messages
  std::string file;   ///< without folders
  std::string stem;   ///< of the file name, without .gz
  std::uint64_t limit = 0;  ///< bytes that an article may have
  std::function<bool(std::string&)> next_line;  ///< without \n; false at the end
};

/// Makes documents out of the examples of a data set and hands them to `give`, which says whether it wants another example.
///
/// Prompts and what follows them; a space before what follows belongs to it, as white space at the end of a prompt does:
///     lambada    text up to the last space | the last word
///     hellaswag  activity: context | one ending, four documents a question. Fields activity_label, ctx_a, ctx_b, endings,
///                label, cleaned as published evaluations do, or query, choices, gold as they are
///     wikitext   an article of the file under its heading ` = Title = `, all of it scored
///     gsm8k      "Question: Q\nAnswer:" | answer          math  "Problem:\nP\n\nSolution:" | solution
///     aqua       "Question: Q\nOptions:\nA)...\nE)...\nAnswer:" | A, B, ..., a document each
///     humaneval  prompt | canonical_solution              mgsm  as gsm8k, from lines question<tab>answer
/// Throws format_error with file and line for anything that is not in the published form.
void read_preset(preset_input const& input, std::function<bool(document&&)> const& give);

}  // namespace moeroute::capture

#endif
