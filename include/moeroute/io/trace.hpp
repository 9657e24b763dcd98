// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_IO_TRACE_HPP
#define MOEROUTE_IO_TRACE_HPP

#include <moeroute/core/batch.hpp>
#include <moeroute/core/router_spec.hpp>
#include <moeroute/io/file.hpp>
#include <moeroute/io/safetensors.hpp>
#include <moeroute/io/sha256.hpp>

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moeroute {

// The layout on disk is docs/design/trace-format.md.

inline constexpr int trace_format_version = 1;

/// Values of the phase column: tokens that were given, and tokens that the model made itself.
inline constexpr std::uint8_t trace_prefill = 0, trace_decode = 1;

/// What a model wrote behind a prompt.
struct trace_generation {
  std::vector<std::int32_t> ids;
  std::string text;    ///< decoded by the tokenizer; empty where there is none
  bool ended = false;  ///< by an end token, which is the last id, rather than by the limit
};

/// One document of a trace: a line of documents-NNNNN.jsonl.
struct trace_document {
  std::int64_t document = 0;                   ///< global id, unique in the whole trace
  std::string id;                              ///< the user's name for it
  std::map<std::string, std::string> labels;   ///< such as language, domain, passage
  std::string source;                          ///< file:line it came from
  std::uint64_t tokens = 0;
  double loss = quiet_nan;                     ///< mean nats per predicted token; NaN if unknown
  std::vector<std::string> pieces;             ///< printable text of each token, or empty
  std::optional<trace_generation> generated;   ///< the last tokens, if a model wrote them
};

struct trace_shard_info {
  std::string file, documents_file;
  std::uint64_t documents = 0, tokens = 0;
  std::uint64_t bytes = 0, documents_bytes = 0;
  std::string sha256, documents_sha256;
};

/// The state of accumulators that a trace has instead of shards.
struct trace_counts_info {
  std::string file;
  std::uint64_t parts = 0;  ///< pieces of the capture that are in it
  std::uint64_t bytes = 0;
  std::string sha256;
};

struct trace_layer_info {
  index_t layer = 0;  ///< the model's own number
  router_spec router;
};

/// What manifest.json says. `model` and `run` are free-form: names, hashes, dtype, device.
struct trace_manifest {
  std::string tool;
  nlohmann::ordered_json model = nlohmann::ordered_json::object();
  nlohmann::ordered_json run = nlohmann::ordered_json::object();
  nlohmann::ordered_json tensors = nlohmann::ordered_json::object();
  std::vector<trace_layer_info> layers;
  std::vector<trace_shard_info> shards;
  std::optional<trace_counts_info> counts;
  std::uint64_t documents = 0, tokens = 0;
  bool complete = false;
};

namespace detail {

inline constexpr std::pair<score_function, std::string_view> score_names[] = {
    {score_function::softmax, "softmax"},
    {score_function::sigmoid, "sigmoid"},
    {score_function::softmax_after_top_k, "softmax_after_topk"},
    {score_function::sparsemixer, "sparsemixer"}};
inline constexpr std::pair<group_score, std::string_view> group_names[] = {{group_score::maximum, "max"},
                                                                           {group_score::top_two_sum, "top2_sum"}};
template <class Enum, std::size_t N>
std::string_view name_of(std::pair<Enum, std::string_view> const (&names)[N], Enum value) {
  for (auto const& [v, name] : names)
    if (v == value) return name;
  return names[0].second;
}

// Reads fields of a JSON object; what is wrong is reported with file and field.
class json_fields {
 public:
  json_fields(nlohmann::ordered_json const& object, std::string file, std::string place)
      : object_{object}, file_{std::move(file)}, place_{std::move(place)} {
    if (!object.is_object()) fail("", "is not an object");
  }
  template <class T>
  T get(char const* name) const {
    auto const it = object_.find(name);
    if (it == object_.end()) fail(name, "is missing");
    try {
      if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>)
        if (!it->is_number_integer()) fail(name, "is not an integer");
      if constexpr (std::is_unsigned_v<T> && !std::is_same_v<T, bool>)
        if (!it->is_number_unsigned()) fail(name, "is negative");
      if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>)  // get would wrap around
        if (it->is_number_unsigned() ? !std::in_range<T>(it->template get<std::uint64_t>()) : !std::in_range<T>(it->template get<std::int64_t>()))
          fail(name, "is out of range");
      return it->template get<T>();
    } catch (nlohmann::json::exception const&) {
      fail(name, "has the wrong type");
    }
  }
  template <class T>
  T get(char const* name, T fallback) const {
    return object_.contains(name) ? get<T>(name) : fallback;
  }
  template <class Enum, std::size_t N>
  Enum get_enum(char const* name, std::pair<Enum, std::string_view> const (&names)[N]) const {
    auto const text = get<std::string>(name);
    for (auto const& [value, known] : names)
      if (text == known) return value;
    fail(name, "has the unknown value '" + text + "'");
  }
  nlohmann::ordered_json const& child(char const* name) const {
    auto const it = object_.find(name);
    if (it == object_.end()) fail(name, "is missing");
    return *it;
  }
  [[noreturn]] void fail(std::string const& name, std::string const& what) const {
    throw format_error(file_, place_ + (place_.empty() || name.empty() ? "" : ".") + name, what);
  }

 private:
  nlohmann::ordered_json const& object_;
  std::string file_, place_;
};

inline nlohmann::ordered_json parse_json(std::string_view text, std::string const& file, std::string const& place = {}) {
  try {
    return nlohmann::ordered_json::parse(text);
  } catch (nlohmann::json::parse_error const& e) {
    throw format_error(file, (place.empty() ? "" : place + ", ") + "byte " + std::to_string(e.byte), "is not valid JSON");
  } catch (nlohmann::json::out_of_range const&) {
    throw format_error(file, place.empty() ? "top level" : place, "holds a number beyond all bounds");
  }
}

// A manifest must not make us read elsewhere.
inline void check_file_name(json_fields const& entry, char const* field, std::string const& name) {
  if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos)
    entry.fail(field, "'" + name + "' is not a plain file name");
}

}  // namespace detail

inline nlohmann::ordered_json to_json(router_spec const& spec) {
  nlohmann::ordered_json json{{"score", detail::name_of(detail::score_names, spec.score)},
                              {"experts", spec.experts},
                              {"top_k", spec.top_k},
                              {"renormalize", spec.renormalize},
                              {"renormalize_epsilon", spec.renormalize_epsilon},
                              {"scale", spec.scale},
                              {"groups", spec.groups},
                              {"groups_kept", spec.groups_kept},
                              {"group_score", detail::name_of(detail::group_names, spec.group_rule)},
                              {"shared_experts", spec.shared_experts}};
  if (spec.score == score_function::sparsemixer) json["jitter_eps"] = spec.jitter_eps;
  if (!spec.selection_bias.empty()) json["selection_bias"] = spec.selection_bias;
  return json;
}

/// Throws format_error naming `file` and the field.
inline router_spec router_spec_from_json(nlohmann::ordered_json const& json, std::string const& file, std::string const& place) {
  detail::json_fields const fields(json, file, place);
  router_spec spec;
  spec.score = fields.get_enum("score", detail::score_names);
  spec.experts = fields.get<index_t>("experts");
  spec.top_k = fields.get<index_t>("top_k");
  spec.renormalize = fields.get<bool>("renormalize", false);
  spec.renormalize_epsilon = fields.get<double>("renormalize_epsilon", 0.0);
  spec.jitter_eps = spec.score == score_function::sparsemixer ? fields.get<double>("jitter_eps") : fields.get("jitter_eps", 0.0);
  spec.scale = fields.get<double>("scale", 1.0);
  spec.groups = fields.get<index_t>("groups", 1);
  spec.groups_kept = fields.get<index_t>("groups_kept", 1);
  if (json.contains("group_score")) spec.group_rule = fields.get_enum("group_score", detail::group_names);
  spec.shared_experts = fields.get<index_t>("shared_experts", 0);
  if (json.contains("selection_bias")) spec.selection_bias = fields.get<std::vector<double>>("selection_bias");
  try {
    validate(spec);
  } catch (argument_error const& e) {
    fields.fail("", e.what());
  }
  // Ids are stored as I16.
  if (spec.experts > 32767) fields.fail("experts", "exceeds 32767");
  return spec;
}

inline nlohmann::ordered_json to_json(trace_manifest const& m) {
  auto layers = nlohmann::ordered_json::array();
  for (auto const& l : m.layers) layers.push_back({{"layer", l.layer}, {"router", to_json(l.router)}});
  auto shards = nlohmann::ordered_json::array();
  for (auto const& s : m.shards)
    shards.push_back({{"file", s.file},
                      {"documents_file", s.documents_file},
                      {"documents", s.documents},
                      {"tokens", s.tokens},
                      {"bytes", s.bytes},
                      {"sha256", s.sha256},
                      {"documents_bytes", s.documents_bytes},
                      {"documents_sha256", s.documents_sha256}});
  nlohmann::ordered_json json{{"format", "moeroute.trace"}, {"version", trace_format_version}, {"tool", m.tool},
                              {"model", m.model},           {"run", m.run},                    {"tensors", m.tensors},
                              {"layers", layers},           {"documents", m.documents},        {"tokens", m.tokens},
                              {"shards", shards}};
  if (m.counts)
    json["counts"] = {{"file", m.counts->file}, {"parts", m.counts->parts}, {"bytes", m.counts->bytes}, {"sha256", m.counts->sha256}};
  json["complete"] = m.complete;
  return json;
}

/// Throws format_error naming `file` and the field, also for a version that this program does not know.
inline trace_manifest manifest_from_json(nlohmann::ordered_json const& json, std::string const& file) {
  detail::json_fields const fields(json, file, "");
  trace_manifest m;
  if (fields.get<std::string>("format") != "moeroute.trace") fields.fail("format", "is not 'moeroute.trace'");
  auto const found = fields.get<int>("version");
  if (found != trace_format_version)
    fields.fail("version", "is " + std::to_string(found) + ", this program reads version " + std::to_string(trace_format_version) +
                               (found > trace_format_version ? "; use a newer moeroute" : ""));
  m.tool = fields.get<std::string>("tool", "");
  for (auto [name, target] : {std::pair{"model", &m.model}, std::pair{"run", &m.run}, std::pair{"tensors", &m.tensors}})
    if (json.contains(name)) {
      *target = json.at(name);
      if (!target->is_object()) fields.fail(name, "is not an object");
    }
  m.documents = fields.get<std::uint64_t>("documents");
  m.tokens = fields.get<std::uint64_t>("tokens");
  m.complete = fields.get<bool>("complete");
  auto const& layers = fields.child("layers");
  if (!layers.is_array() || layers.empty()) fields.fail("layers", "is not a list of layers");
  for (std::size_t i = 0; i < layers.size(); ++i) {
    std::string const place = "layers[" + std::to_string(i) + "]";
    detail::json_fields const entry(layers[i], file, place);
    m.layers.push_back({entry.get<index_t>("layer"), router_spec_from_json(entry.child("router"), file, place + ".router")});
    if (i > 0 && m.layers[i].layer <= m.layers[i - 1].layer) entry.fail("layer", "does not increase");
  }
  auto const& shards = fields.child("shards");
  if (!shards.is_array()) fields.fail("shards", "is not a list");
  std::uint64_t documents = 0, tokens = 0;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    detail::json_fields const entry(shards[i], file, "shards[" + std::to_string(i) + "]");
    trace_shard_info s;
    s.file = entry.get<std::string>("file");
    s.documents_file = entry.get<std::string>("documents_file");
    detail::check_file_name(entry, "file", s.file);
    detail::check_file_name(entry, "documents_file", s.documents_file);
    s.documents = entry.get<std::uint64_t>("documents");
    s.tokens = entry.get<std::uint64_t>("tokens");
    s.bytes = entry.get<std::uint64_t>("bytes");
    s.sha256 = entry.get<std::string>("sha256", "");
    s.documents_bytes = entry.get<std::uint64_t>("documents_bytes");
    s.documents_sha256 = entry.get<std::string>("documents_sha256", "");
    documents += s.documents;
    tokens += s.tokens;
    m.shards.push_back(std::move(s));
  }
  if (json.contains("counts")) {
    detail::json_fields const entry(json.at("counts"), file, "counts");
    m.counts = {entry.get<std::string>("file"), entry.get<std::uint64_t>("parts"), entry.get<std::uint64_t>("bytes"), entry.get<std::string>("sha256", "")};
    detail::check_file_name(entry, "file", m.counts->file);
    if (!m.shards.empty()) fields.fail("shards", "stand beside counts");
    return m;
  }
  if (documents != m.documents || tokens != m.tokens) fields.fail("shards", "documents or tokens do not add up to the totals");
  return m;
}

inline std::string document_line(trace_document const& d) {
  nlohmann::ordered_json json{{"document", d.document}, {"id", d.id}, {"labels", d.labels}, {"source", d.source}, {"tokens", d.tokens}};
  json["loss"] = std::isfinite(d.loss) ? nlohmann::ordered_json(d.loss) : nlohmann::ordered_json(nullptr);
  if (!d.pieces.empty()) json["pieces"] = d.pieces;
  if (d.generated)
    json["generated"] = {{"ids", d.generated->ids}, {"text", d.generated->text}, {"stop", d.generated->ended ? "end" : "length"}};
  // Bytes that are not UTF-8 cannot stand in JSON: they become U+FFFD here, in the names only.
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

inline trace_document document_from_line(std::string_view line, std::string const& file, std::string const& place) {
  auto const json = detail::parse_json(line, file, place);
  detail::json_fields const fields(json, file, place);
  trace_document d;
  d.document = fields.get<std::int64_t>("document");
  d.id = fields.get<std::string>("id");
  d.labels = fields.get<std::map<std::string, std::string>>("labels", {});
  d.source = fields.get<std::string>("source", "");
  d.tokens = fields.get<std::uint64_t>("tokens");
  if (json.contains("loss") && !json["loss"].is_null()) d.loss = fields.get<double>("loss");
  if (json.contains("pieces")) {
    d.pieces = fields.get<std::vector<std::string>>("pieces");
    if (d.pieces.size() != d.tokens) fields.fail("pieces", "has " + std::to_string(d.pieces.size()) + " entries for " + std::to_string(d.tokens) + " tokens");
  }
  if (json.contains("generated")) {
    detail::json_fields const inner(json["generated"], file, place + ", generated");
    d.generated = {inner.get<std::vector<std::int32_t>>("ids"), inner.get<std::string>("text", ""),
                   inner.get<std::string>("stop", "length") == "end"};
    if (d.generated->ids.size() > d.tokens) inner.fail("ids", "are more than the document has tokens");
  }
  return d;
}

/// One MoE layer of a shard that is to be written; the memory stays the caller's. logits.data empty = not recorded.
struct trace_layer_data {
  index_t layer = 0;
  tensor_data logits;   ///< [T,E] F32, BF16 or F16; the name is set by the writer
  tensor_data ids;      ///< [T,K] I16
  tensor_data weights;  ///< [T,K] F32, BF16 or F16
};

/// Columns of a shard by their names in docs/design/trace-format.md.
struct trace_shard_data {
  std::vector<std::int64_t> offsets, document;
  std::vector<std::int32_t> token_ids, position, predicted;
  std::vector<float> logprob;
  std::vector<std::uint8_t> phase;
  std::vector<trace_layer_data> layers;
};

inline std::string trace_shard_name(std::size_t index) {
  char name[40];
  std::snprintf(name, sizeof name, "shard-%05zu.safetensors", index);
  return name;
}
inline std::string trace_documents_name(std::size_t index) {
  char name[40];
  std::snprintf(name, sizeof name, "documents-%05zu.jsonl", index);
  return name;
}

/// Writes shard `index` and its documents atomically and returns what the manifest says of them. Equal content gives equal bytes.
inline trace_shard_info write_trace_shard(std::filesystem::path const& folder, std::size_t index, trace_shard_data const& data,
                                          std::vector<trace_document> const& documents) {
  auto const tokens = static_cast<index_t>(data.token_ids.size());
  auto const count = static_cast<index_t>(documents.size());
  std::vector<tensor_data> tensors;
  auto const add = [&]<class T>(char const* name, index_t size, std::vector<T> const& values) {
    if (!values.empty() || size == 0) tensors.push_back(make_tensor(name, {size}, std::span<T const>(values)));
  };
  add("token_ids", tokens, data.token_ids);
  add("offsets", count + 1, data.offsets);
  add("document", count, data.document);
  add("position", tokens, data.position);
  add("logprob", tokens, data.logprob);
  add("predicted", tokens, data.predicted);
  add("phase", tokens, data.phase);
  for (auto const& layer : data.layers) {
    std::string const prefix = "layers." + std::to_string(layer.layer) + ".";
    for (auto [name, tensor] : {std::pair{"logits", &layer.logits}, std::pair{"ids", &layer.ids}, std::pair{"weights", &layer.weights}})
      if (!tensor->shape.empty()) tensors.push_back({prefix + name, tensor->type, tensor->shape, tensor->data});
  }
  trace_shard_info info;
  info.file = trace_shard_name(index);
  info.documents_file = trace_documents_name(index);
  info.documents = documents.size();
  info.tokens = static_cast<std::uint64_t>(tokens);
  std::string lines;
  for (auto const& d : documents) lines += document_line(d);
  write_file(folder / info.documents_file, lines);
  write_safetensors(folder / info.file, std::move(tensors));
  mapped_file const written(folder / info.file);
  info.bytes = written.bytes().size();
  info.sha256 = sha256_hex(written.bytes());
  info.documents_bytes = lines.size();
  info.documents_sha256 = sha256_hex(std::as_bytes(std::span<char const>(lines)));
  return info;
}

inline void write_trace_manifest(std::filesystem::path const& folder, trace_manifest const& manifest) {
  write_file(folder / "manifest.json", to_json(manifest).dump(2) + "\n");
}

/// One open shard: mapped tensors and its documents.
class trace_shard {
 public:
  trace_shard(std::filesystem::path const& folder, trace_manifest const& manifest, trace_shard_info const& info)
      : file_{folder / info.file}, layers_{&manifest.layers} {
    if (file_.file_bytes() != info.bytes)
      throw format_error(file_.path(), std::uint64_t{0},
                         "has " + std::to_string(file_.file_bytes()) + " bytes, the manifest says " + std::to_string(info.bytes));
    read_documents(folder / info.documents_file, info);
    auto const offsets = file_.vector<std::int64_t>("offsets"), document = file_.vector<std::int64_t>("document");
    try {
      spans_ = document_spans(offsets, document);
    } catch (argument_error const& e) {
      throw format_error(file_.path(), "offsets", e.what());
    }
    if (spans_.documents() != static_cast<index_t>(info.documents) || spans_.tokens() != static_cast<index_t>(info.tokens))
      throw format_error(file_.path(), "offsets", "documents or tokens differ from the manifest");
    for (char const* column : {"token_ids", "position", "logprob", "predicted", "phase"})
      if (auto const* t = file_.find(column); t != nullptr && t->shape != std::vector<index_t>{spans_.tokens()})
        throw format_error(file_.path(), column, "does not have one value per token");
    for (index_t d = 0; d < spans_.documents(); ++d) {
      auto const& line = documents_[static_cast<std::size_t>(d)];
      if (line.document != spans_.id(d) || static_cast<index_t>(line.tokens) != spans_.size(d))
        throw format_error((folder / info.documents_file).string(), "line " + std::to_string(d + 1), "does not belong to document " +
                           std::to_string(spans_.id(d)) + " of " + info.file);
    }
  }

  safetensors_file const& file() const noexcept { return file_; }
  document_spans const& spans() const noexcept { return spans_; }
  std::vector<trace_document> const& documents() const noexcept { return documents_; }
  bool has(index_t layer, char const* what) const { return file_.find(name(layer, what)) != nullptr; }
  /// Element type of the logits of the first MoE layer; F32 when there are none.
  dtype logit_type() const {
    auto const* t = file_.find(name(layers_->front().layer, "logits"));
    return t == nullptr ? dtype::f32 : t->type;
  }

  /// Routing of MoE layer number `l` of the manifest. Throws format_error if ids are out of range or shapes disagree.
  template <real_scalar Logit, real_scalar Weight = float>
  routing_batch<Logit, Weight, std::int16_t> layer(std::size_t l) const {
    auto const& info = (*layers_)[l];
    auto const ids = file_.matrix<std::int16_t>(name(info.layer, "ids"));
    matrix_view<Weight> weights;
    matrix_view<Logit> logits;
    if (has(info.layer, "weights")) weights = file_.matrix<Weight>(name(info.layer, "weights"));
    if (has(info.layer, "logits")) logits = file_.matrix<Logit>(name(info.layer, "logits"));
    if (ids.rows() != spans_.tokens() || ids.cols() != info.router.top_k)
      throw format_error(file_.path(), name(info.layer, "ids"), "has a shape that does not fit the manifest");
    try {
      return {info.router.experts, ids, weights, logits};
    } catch (argument_error const& e) {
      throw format_error(file_.path(), "layers." + std::to_string(info.layer), e.what());
    }
  }

 private:
  static std::string name(index_t layer, char const* what) { return "layers." + std::to_string(layer) + "." + what; }

  void read_documents(std::filesystem::path const& path, trace_shard_info const& info) {
    mapped_file const file(path);
    std::string_view text(reinterpret_cast<char const*>(file.bytes().data()), file.bytes().size());
    if (text.size() != info.documents_bytes)
      throw format_error(path.string(), std::uint64_t{0},
                         "has " + std::to_string(text.size()) + " bytes, the manifest says " + std::to_string(info.documents_bytes));
    for (std::size_t line = 1; !text.empty(); ++line) {
      auto const end = std::min(text.find('\n'), text.size() - 1);
      documents_.push_back(document_from_line(text.substr(0, end + 1), path.string(), "line " + std::to_string(line)));
      text.remove_prefix(end + 1);
    }
    if (documents_.size() != info.documents)
      throw format_error(path.string(), "line " + std::to_string(documents_.size()), "is the last, the manifest says " +
                         std::to_string(info.documents) + " documents");
  }

  safetensors_file file_;
  std::vector<trace_layer_info> const* layers_;
  std::vector<trace_document> documents_;
  document_spans spans_;
};

/// A finished trace folder. One of counts has no shards. Throws format_error for a folder that is no trace or one whose capture was not finished.
class trace_reader {
 public:
  explicit trace_reader(std::filesystem::path folder) : folder_{std::move(folder)} {
    auto const path = folder_ / "manifest.json";
    // manifest.partial.json, or manifest.part-1-of-3.json and the like.
    if (!std::filesystem::exists(path) && std::filesystem::is_directory(folder_))
      for (auto const& entry : std::filesystem::directory_iterator(folder_))
        if (entry.path().filename().string().starts_with("manifest.part"))
          throw format_error(folder_.string(), "manifest.json", "is missing: the capture was not finished; run it again with --resume");
    manifest_ = manifest_from_json(detail::parse_json(read_text(path), path.string()), path.string());
    if (!manifest_.complete)
      throw format_error(path.string(), "complete", "is false: the capture was not finished; run it again with --resume");
  }

  std::filesystem::path const& folder() const noexcept { return folder_; }
  trace_manifest const& manifest() const noexcept { return manifest_; }
  std::size_t shards() const noexcept { return manifest_.shards.size(); }
  trace_shard shard(std::size_t i) const { return {folder_, manifest_, manifest_.shards[i]}; }

 private:
  std::filesystem::path folder_;
  trace_manifest manifest_;
};

}  // namespace moeroute

#endif
