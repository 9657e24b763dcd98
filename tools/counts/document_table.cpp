// SPDX-License-Identifier: Apache-2.0
#include <counts/document_table.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

namespace moeroute::cli {

namespace {

// FNV-1a: a fixed function of the text, so that every shard and run groups alike.
std::uint64_t text_hash(std::string const& text) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (char const c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash ^ (hash >> 32);
}

std::string label_of(document_entry const& e) { return e.label.empty() ? "(none)" : e.label; }

}  // namespace

void mean_loss::add(double loss, std::uint64_t predicted) {
  exact_sum one(bound);
  if (std::isfinite(loss)) one.add(loss);
  sum_.merge(one, predicted);
}

double mean_loss::value() const {
  bool const known = sum_.count() > 0 && sum_.out_of_range() == 0;
  return known ? sum_.sum() / static_cast<double>(sum_.count()) : quiet_nan;
}

mean_loss mean_loss::deserialize(byte_reader& in) {
  mean_loss out;
  out.sum_ = exact_sum::deserialize(in);
  if (out.sum_.bound() != bound) in.fail("a loss has another bound");
  return out;
}

document_table make_table(std::vector<document_entry> const& entries, bool grouped) {
  document_table table;
  std::map<std::string, std::int32_t> label_index;
  for (auto const& e : entries) label_index[label_of(e)] = 0;
  for (auto& [name, index] : label_index) {
    index = static_cast<std::int32_t>(table.label_list.size());
    table.label_list.push_back({name});
  }
  std::vector<mean_loss> losses(label_index.size());
  table.examples.assign(label_index.size(), -1);
  std::map<std::string, std::int64_t> block_index;
  std::vector<std::int64_t> blocks;
  table.documents = entries.size();
  for (auto const& e : entries) {
    auto const c = static_cast<std::size_t>(label_index[label_of(e)]);
    table.ids.push_back(e.id);
    table.labels.push_back(static_cast<std::int32_t>(c));
    table.label_list[c].documents += 1;
    table.label_list[c].tokens += e.tokens;
    table.tokens += e.tokens;
    losses[c].add(e.loss, e.predicted);
    // The first document; among parallel passages the first passage that all share would do as well.
    if (table.examples[c] < 0 && e.tokens > 0) table.examples[c] = e.id;
    if (e.block.empty()) {
      blocks.push_back(static_cast<std::int64_t>(table.blocks++));
    } else {
      auto const [it, fresh] = block_index.try_emplace(e.block, static_cast<std::int64_t>(table.blocks));
      if (fresh) ++table.blocks;
      blocks.push_back(it->second);
      table.has_blocks = true;
    }
  }
  for (std::size_t c = 0; c < losses.size(); ++c) table.label_list[c].loss = losses[c].value();

  table.grouped = grouped;
  if (grouped) {
    auto const labels = static_cast<std::int32_t>(label_index.size());
    for (std::int32_t c = 0; c < labels; ++c)
      for (std::int32_t h = 0; h < hash_groups; ++h) {
        table.row_labels.push_back(c);
        table.row_blocks.push_back(h);
      }
    for (std::size_t d = 0; d < entries.size(); ++d) {
      auto const key = entries[d].block.empty() ? std::to_string(entries[d].id) : entries[d].block;
      table.rows.push_back(table.labels[d] * hash_groups + static_cast<std::int32_t>(text_hash(key) % hash_groups));
    }
  } else {
    table.rows.resize(entries.size());
    std::iota(table.rows.begin(), table.rows.end(), 0);
    table.row_labels = table.labels;
    table.row_blocks = blocks;
  }
  return table;
}

std::size_t document_table::index_of(std::int64_t id) const {
  return static_cast<std::size_t>(std::lower_bound(ids.begin(), ids.end(), id) - ids.begin());
}

}  // namespace moeroute::cli
