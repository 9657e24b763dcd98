// SPDX-License-Identifier: Apache-2.0
#include <counts/counts_file.hpp>

#include <algorithm>
#include <cmath>
#include <list>

namespace moeroute::cli {

namespace {

using json = nlohmann::ordered_json;

template <class State>
std::vector<std::byte> bytes_of(State const& state) {
  if constexpr (requires { state.serialize(); }) {
    return state.serialize();
  } else {
    byte_writer out;
    state.serialize(out);
    return std::move(out).bytes();
  }
}

template <class State>
State state_of(safetensors_file const& file, std::string const& name) {
  auto const& tensor = file.at(name);
  try {
    if constexpr (requires { State::deserialize(tensor.data); }) {
      return State::deserialize(tensor.data);
    } else {
      byte_reader in(tensor.data);
      auto state = State::deserialize(in);
      in.finish();
      return state;
    }
  } catch (format_error const& e) {
    throw format_error(file.path(), "tensor '" + name + "', " + e.place(), std::string(e.what()).substr(e.file().size() + e.place().size() + 3));
  }
}

json table_json(trace_counts const& c) {
  json labels = json::array();
  for (auto const& l : c.table.label_list) labels.push_back({{"name", l.name}, {"documents", l.documents}, {"tokens", l.tokens}});
  return {{"label_key", c.label_key},         {"block_key", c.block_key},   {"labels", labels},
          {"documents", c.table.documents},   {"tokens", c.table.tokens},   {"blocks", c.table.blocks},
          {"has_blocks", c.table.has_blocks}, {"grouped", c.table.grouped}};
}

}  // namespace

trace_counts empty_counts(document_table table, std::vector<trace_layer_info> const& layers, bool scored) {
  trace_counts out;
  for (auto const& l : layers) out.layers.push_back(empty_statistics(l.router, table, true));
  out.losses.resize(table.label_list.size());
  if (scored) {
    out.score_nats.resize(static_cast<std::size_t>(table.documents), quiet_nan);
    out.score_greedy.resize(static_cast<std::size_t>(table.documents));
  }
  out.table = std::move(table);
  return out;
}

void merge(trace_counts& into, trace_counts const& from) {
  if (table_json(from) != table_json(into) ||
      into.layers.size() != from.layers.size() || into.score_nats.size() != from.score_nats.size())
    throw argument_error("moeroute: counts of other documents cannot be merged");
  for (std::size_t l = 0; l < into.layers.size(); ++l) merge(into.layers[l], from.layers[l]);
  for (std::size_t c = 0; c < into.losses.size(); ++c) into.losses[c].merge(from.losses[c]);
  for (std::size_t d = 0; d < into.score_nats.size(); ++d)
    if (!std::isnan(from.score_nats[d])) {
      into.score_nats[d] = from.score_nats[d];
      into.score_greedy[d] = from.score_greedy[d];
    }
  into.parts += from.parts;
}

trace_counts_info write_counts(std::filesystem::path const& folder, std::string const& name, trace_counts const& counts) {
  std::vector<tensor_data> tensors;
  std::list<std::vector<std::byte>> states;
  auto const add = [&](std::string tensor, auto const& state) {
    auto const& bytes = states.emplace_back(bytes_of(state));
    tensors.push_back({std::move(tensor), dtype::u8, {static_cast<index_t>(bytes.size())}, bytes});
  };
  auto const& table = counts.table;
  auto const rows = static_cast<index_t>(table.row_labels.size());
  tensors.push_back(make_tensor("row_labels", {rows}, std::span<std::int32_t const>(table.row_labels)));
  tensors.push_back(make_tensor("row_blocks", {rows}, std::span<std::int64_t const>(table.row_blocks)));
  for (std::size_t c = 0; c < counts.losses.size(); ++c) add("loss." + std::to_string(c), counts.losses[c]);
  for (std::size_t l = 0; l < counts.layers.size(); ++l) {
    auto const& layer = counts.layers[l];
    auto const prefix = "moe_layers." + std::to_string(l) + ".";
    add(prefix + "load", layer.total);
    for (std::size_t c = 0; c < layer.by_label.size(); ++c) add(prefix + "activation." + std::to_string(c), layer.by_label[c]);
    if (layer.decision) add(prefix + "gate", *layer.decision);
    if (layer.agreement) add(prefix + "selection_agreement", *layer.agreement);
    add(prefix + "document_counts", layer.documents);
  }
  if (!counts.score_nats.empty()) {
    auto const n = static_cast<index_t>(counts.score_nats.size());
    tensors.push_back(make_tensor("score_nats", {n}, std::span<double const>(counts.score_nats)));
    tensors.push_back(make_tensor("score_greedy", {n}, std::span<std::uint8_t const>(counts.score_greedy)));
  }
  auto described = table_json(counts);
  described["parts"] = counts.parts;
  write_safetensors(folder / name, std::move(tensors),
                    {{"table", described.dump(-1, ' ', false, json::error_handler_t::replace)}});
  mapped_file const written(folder / name);
  return {name, counts.parts, written.bytes().size(), sha256_hex(written.bytes())};
}

trace_counts read_counts(std::filesystem::path const& folder, trace_counts_info const& info,
                         std::vector<trace_layer_info> const& layers) {
  safetensors_file const file(folder / info.file);
  if (file.file_bytes() != info.bytes)
    throw format_error(file.path(), std::uint64_t{0},
                       "has " + std::to_string(file.file_bytes()) + " bytes, the manifest says " + std::to_string(info.bytes));
  auto const text = file.metadata().find("table");
  if (text == file.metadata().end()) throw format_error(file.path(), "__metadata__", "has no 'table'");
  auto const parsed = detail::parse_json(text->second, file.path(), "table");
  detail::json_fields const fields(parsed, file.path(), "table");
  trace_counts out;
  out.label_key = fields.get<std::string>("label_key");
  out.block_key = fields.get<std::string>("block_key");
  out.parts = fields.get<std::uint64_t>("parts");
  auto& table = out.table;
  table.documents = fields.get<std::uint64_t>("documents");
  table.tokens = fields.get<std::uint64_t>("tokens");
  table.blocks = fields.get<std::uint64_t>("blocks");
  table.has_blocks = fields.get<bool>("has_blocks");
  table.grouped = fields.get<bool>("grouped");
  auto const& labels = fields.child("labels");
  if (!labels.is_array() || labels.empty()) fields.fail("labels", "is not a list of labels");
  for (std::size_t c = 0; c < labels.size(); ++c) {
    auto const number = std::to_string(c);
    detail::json_fields const entry(labels[c], file.path(), "table.labels[" + number + "]");
    table.label_list.push_back({entry.get<std::string>("name"), entry.get<std::uint64_t>("documents"), entry.get<std::uint64_t>("tokens")});
    out.losses.push_back(state_of<mean_loss>(file, "loss." + number));
    table.label_list.back().loss = out.losses.back().value();
  }
  auto const row_labels = file.vector<std::int32_t>("row_labels");
  auto const row_blocks = file.vector<std::int64_t>("row_blocks");
  if (row_labels.size() != row_blocks.size()) throw format_error(file.path(), "tensor 'row_blocks'", "has another length than row_labels");
  for (index_t r = 0; r < row_labels.size(); ++r) {
    if (row_labels[r] < 0 || static_cast<std::size_t>(row_labels[r]) >= labels.size())
      throw format_error(file.path(), "tensor 'row_labels'", "names a label that there is not");
    table.row_labels.push_back(row_labels[r]);
    table.row_blocks.push_back(row_blocks[r]);
  }
  for (std::size_t l = 0; l < layers.size(); ++l) {
    auto const prefix = "moe_layers." + std::to_string(l) + ".";
    auto layer = empty_statistics(layers[l].router, table, file.find(prefix + "gate") != nullptr);
    // Options that differ would not merge, and say so later with less to go by.
    auto const read = [&]<class State>(State& into, std::string const& name) {
      auto state = state_of<State>(file, prefix + name);
      if (state.options() != into.options()) throw format_error(file.path(), "tensor '" + prefix + name + "'", "does not fit the manifest's router or the table");
      into = std::move(state);
    };
    read(layer.total, "load");
    for (std::size_t c = 0; c < layer.by_label.size(); ++c) read(layer.by_label[c], "activation." + std::to_string(c));
    if (layer.decision) read(*layer.decision, "gate");
    if (layer.agreement) read(*layer.agreement, "selection_agreement");
    read(layer.documents, "document_counts");
    out.layers.push_back(std::move(layer));
  }
  if (file.find("score_nats") != nullptr) {
    auto const nats = file.vector<double>("score_nats");
    auto const greedy = file.vector<std::uint8_t>("score_greedy");
    if (static_cast<std::uint64_t>(nats.size()) != table.documents || greedy.size() != nats.size())
      throw format_error(file.path(), "tensor 'score_nats'", "does not have one value per document");
    out.score_nats.assign(nats.data(), nats.data() + nats.size());
    out.score_greedy.assign(greedy.data(), greedy.data() + greedy.size());
  }
  return out;
}

}  // namespace moeroute::cli
