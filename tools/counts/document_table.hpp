// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_TOOLS_COUNTS_DOCUMENT_TABLE_HPP
#define MOEROUTE_TOOLS_COUNTS_DOCUMENT_TABLE_HPP

#include <moeroute/core/bytes.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/numeric/exact_sum.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace moeroute::cli {

/// Mean nats per predicted token over documents, the same for every order of them.
class mean_loss {
 public:
  /// A document whose `predicted` tokens have this mean; one that is not finite is left out.
  void add(double loss, std::uint64_t predicted);
  void merge(mean_loss const& other) { sum_.merge(other.sum_); }
  double value() const;

  void serialize(byte_writer& out) const { sum_.serialize(out); }
  static mean_loss deserialize(byte_reader& in);

 private:
  static constexpr double bound = 1024;
  exact_sum sum_{bound};
};

struct document_entry {
  std::int64_t id = 0;
  std::string label, block;
  std::uint64_t tokens = 0, predicted = 0;
  double loss = quiet_nan;  ///< mean nats of the predicted tokens; NaN if unknown
};

/// What the accumulators need to know of every document before the first token is read.
struct document_table {
  struct label {
    std::string name;
    std::uint64_t documents = 0, tokens = 0;
    double loss = quiet_nan;  ///< nats per predicted token
  };
  std::vector<std::int64_t> ids;         ///< global ids, increasing
  std::vector<std::int32_t> labels;      ///< [D]
  std::vector<label> label_list;         ///< by name
  std::uint64_t documents = 0, tokens = 0;
  bool has_blocks = false;               ///< some document carries the block key
  std::uint64_t blocks = 0;              ///< distinct blocks; a document without one is its own

  // Rows of document_counts: documents, or groups of documents of one label and one hash of their block.
  bool grouped = false;
  std::vector<std::int32_t> rows;        ///< [D]
  std::vector<std::int32_t> row_labels;  ///< [R]
  std::vector<std::int64_t> row_blocks;  ///< [R]

  std::vector<std::int64_t> examples;    ///< per label the document that is shown token by token, -1 if all are empty

  std::size_t index_of(std::int64_t id) const;
};

/// Groups of documents of one label that stand for documents where those are too many.
inline constexpr std::int32_t hash_groups = 256;

/// The table of documents by increasing id; one without a label gets "(none)".
document_table make_table(std::vector<document_entry> const& entries, bool grouped);

}  // namespace moeroute::cli

#endif
