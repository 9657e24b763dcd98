// SPDX-License-Identifier: Apache-2.0
#include "session.hpp"

#include <moeroute/core/error.hpp>
#include <moeroute/core/version.hpp>
#include <moeroute/io/sha256.hpp>
#include <moeroute/io/trace.hpp>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <functional>
#include <limits>
#include <optional>
#include <set>
#include <span>
#include <string_view>
#include <sys/file.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

#include "checkpoint.hpp"
#include "config_plan.hpp"
#include "counting.hpp"
#include "detokenizer.hpp"
#include "family.hpp"
#include "hub.hpp"
#include "json_view.hpp"
#include "model.hpp"
#include "output_folder.hpp"
#include "plan.hpp"
#include "progress.hpp"
#include "scoring.hpp"
#include "shard_builder.hpp"
#include "stream.hpp"
#include "tokenized_inputs.hpp"
#include "tokenizer.hpp"

namespace moeroute::capture {

std::atomic<bool> interrupted{false};

namespace {

namespace fs = std::filesystem;

std::string file_sha256(fs::path const& path) { return sha256_hex(mapped_file(path).bytes()); }

trace_manifest empty_manifest(capture_options const& options, fs::path const& folder, fs::path const& words_folder,
                              model_spec const& spec, checkpoint const& weights, execution const& where,
                              tokenized_inputs const& inputs, std::string const& weights_digest) {
  trace_manifest m;
  m.tool = std::string("moeroute-capture ") + version;
  auto const base = fs::weakly_canonical(folder).filename().string();
  m.model = {{"name", fs::is_directory(options.model) ? base : options.model},
             {"model_type", spec.kind->model_type},
             {"parameters", parameters(spec)},
             {"dtype", dtype_name(weights.main_type())},
             {"config_sha256", file_sha256(folder / "config.json")},
             {"weights_sha256", weights_digest}};
  if (options.inputs.ids_field.empty()) m.model["tokenizer_sha256"] = file_sha256(words_folder / "tokenizer.json");
  m.run = {{"device", where.device},
           {"dtype", dtype_name(where.type)},
           {"attention", attention_name(where.attention)},
           {"libtorch", torch_version()},
           {"threads", where.threads},
           {"batch_tokens", options.batch_tokens},
           {"shard_tokens", options.shard_tokens},
           {"inputs_sha256", inputs.sha256},
           {"documents_truncated", inputs.truncated},
           {"keep", options.keep},
           {"nonfinite",
            {{"router_logits", std::vector<std::uint64_t>(spec.moe_layers().size())}, {"next_token", 0}}}};
  if (options.quantize != "none") m.run["quantize"] = options.quantize;
  if (auto const& g = options.generate; g.tokens > 0)
    m.run["generate"] = {{"tokens", g.tokens},
                         {"temperature", g.temperature},
                         {"top_p", g.top_p},
                         {"seed", g.seed},
                         {"skip_special_tokens", g.skip_special_tokens},
                         {"end_tokens", end_tokens(folder)}};
  m.tensors = {{"logits", dtype_name(logits_type(spec, where.type))}, {"weights", "F32"}, {"ids", "I16"}};
  if (options.keep == "topk") m.tensors.erase("logits");
  for (auto const l : spec.moe_layers()) {
    m.layers.push_back({l, spec.router});
    m.layers.back().router.selection_bias = selection_bias(spec, weights, l);
  }
  return m;
}

/// The manifest of an unfinished trace, or of a part of it, if it belongs to this very capture. Throws otherwise.
trace_manifest resumed(output_folder const& out, fs::path const& file, trace_manifest const& fresh) {
  auto m = manifest_from_json(detail::parse_json(read_text(file), file.string()), file.string());
  auto const compare = [&](char const* section, nlohmann::ordered_json const& was, nlohmann::ordered_json const& is) {
    for (auto const& [key, value] : is.items())
      // The digest is empty as long as a stream run has not read the weights.
      if (key != "nonfinite" && value != "" && was.value(key, nlohmann::ordered_json()) != "" &&
          (!was.contains(key) || was[key] != value))
        throw format_error(file.string(), std::string(section) + '.' + key,
                           "was " + (was.contains(key) ? was[key].dump() : "absent") + ", is " + value.dump() +
                               " now; resume with the same model, texts and options, or use --overwrite");
    for (auto const& [key, value] : was.items())
      if (!is.contains(key))
        throw format_error(file.string(), std::string(section) + '.' + key,
                           "was " + value.dump() + ", is absent now; resume with the same options, or use --overwrite");
  };
  if (m.tool != fresh.tool) throw format_error(file.string(), "tool", "was " + m.tool + "; use --overwrite");
  compare("model", m.model, fresh.model);
  compare("run", m.run, fresh.run);
  compare("tensors", m.tensors, fresh.tensors);
  // Another part that is still at work replaces its files.
  if (file != out.partial() && !m.complete) return m;
  if (m.counts.has_value() && m.shards.empty()) {
    std::error_code error;
    if (auto const found = fs::file_size(out.path() / m.counts->file, error); error || found != m.counts->bytes)
      throw format_error((out.path() / m.counts->file).string(), std::uint64_t{0},
                         "is not what " + file.filename().string() + " says of it; use --overwrite");
  }
  if (m.model["weights_sha256"] == "") m.model["weights_sha256"] = fresh.model["weights_sha256"];
  for (auto const& s : m.shards)
    for (auto const& [name, bytes] : {std::pair(s.file, s.bytes), std::pair(s.documents_file, s.documents_bytes)}) {
      std::error_code error;
      if (auto const found = fs::file_size(out.path() / name, error); error || found != bytes)
        throw format_error((out.path() / name).string(), std::uint64_t{0},
                           "is not what " + file.filename().string() + " says of it; use --overwrite");
    }
  return m;
}

std::uint64_t nonfinite_count(trace_manifest const& m) {
  std::uint64_t n = m.run["nonfinite"]["next_token"].get<std::uint64_t>();
  for (auto const& layer : m.run["nonfinite"]["router_logits"]) n += layer.get<std::uint64_t>();
  return n;
}

void warn(std::string const& text) { std::fprintf(stderr, "moeroute: warning: %s\n", text.c_str()); }

int processors(int asked) {
  return asked > 0 ? asked : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

execution run_where(capture_options const& options, model_spec const& spec, dtype stored) {
  auto where = resolve_execution(options.device, options.dtype, processors(options.threads), stored);
  where.attention = resolve_attention(options.attention, spec, where);
  where.nf4 = options.quantize == "nf4";
  return where;
}

bool has_inputs(capture_options const& options) {
  return !options.inputs.files.empty() || !options.inputs.data.empty() || !options.inputs.texts.empty();
}

/// What config.json says of the type of the weights.
dtype stored_type(model_spec const& spec) {
  return spec.stored_dtype == "bfloat16" ? dtype::bf16 : spec.stored_dtype == "float16" ? dtype::f16 : dtype::f32;
}

/// Bytes on the disk that an earlier run of the command left and this one goes on with or replaces.
std::uint64_t disk_of_earlier_run(capture_options const& options) {
  std::uint64_t bytes = 0;
  if ((options.resume || options.overwrite) && fs::is_directory(options.out))
    for (auto const& entry : fs::directory_iterator(options.out))
      if (struct ::stat info{}; ::stat(entry.path().c_str(), &info) == 0) bytes += static_cast<std::uint64_t>(info.st_blocks) * 512;
  return bytes;
}

/// Packs documents for one pass.
stream_batch pack(std::vector<tokenized> const& documents, range batch) {
  stream_batch out;
  out.offsets.push_back(0);
  for (auto d = batch.first; d < batch.second; ++d) {
    out.ids.insert(out.ids.end(), documents[d].ids.begin(), documents[d].ids.end());
    out.offsets.push_back(static_cast<std::int64_t>(out.ids.size()));
  }
  return out;
}

capture_plan make_plan(capture_options const& options, model_spec const& spec, checkpoint const* weights,
                       execution const& where, tokenized_inputs const& inputs) {
  capture_plan plan;
  plan.parameters = parameters(spec);
  plan.device = where.device;
  plan.type = dtype_name(where.type);
  plan.on_host = where.device == "cpu";
  plan.mapped = weights != nullptr && plan.on_host && weights->main_type() == where.type && !where.nf4;
  plan.weights = plan.mapped ? weights->bytes() : plan.parameters * dtype_bytes(where.type);
  auto const more = options.generate.tokens;
  plan.documents = inputs.documents.size();
  plan.tokens = inputs.tokens;
  plan.generated = plan.documents * more;
  auto const tokens = plan.tokens + plan.generated;
  std::uint64_t longest = 0;
  for (auto const& d : inputs.documents) longest = std::max<std::uint64_t>(longest, d.ids.size() + more);
  plan.batch_tokens = std::max(longest, tokens == 0 ? options.batch_tokens : std::min(options.batch_tokens, tokens));
  if (more > 0) plan.cache = cache_bytes(spec, where.type, plan.batch_tokens, more + 1);
  plan.activations = activation_bytes(spec, where.type, plan.batch_tokens, !plan.on_host || more > 0);
  auto per_token = trace_bytes_per_token(spec, where.type);
  if (options.keep == "topk")
    per_token -= spec.moe_layers().size() * static_cast<std::uint64_t>(spec.router.experts) * dtype_bytes(logits_type(spec, where.type));
  // Pieces repeat the text with quotes and commas; then ids, labels and field names.
  auto const lines = inputs.text_bytes * 3 / 2 + inputs.tokens * 4 + plan.generated * 24 + plan.documents * 160;
  plan.trace = tokens * per_token + lines + (1u << 20);
  // Generated rows come step by step and are put in order at the end of the shard.
  plan.shard =
      std::min(tokens, std::max(longest, options.shard_tokens)) * per_token * (more > 0 ? 2 : 1) + inputs.text_bytes;
  if (options.keep == "counts") {
    std::set<std::string> labels;
    for (auto const& d : inputs.documents) labels.insert(d.labels.contains("label") ? d.labels.at("label") : "");
    std::vector<trace_layer_info> const layers(spec.moe_layers().size(), {0, spec.router});
    auto const state = counts_bytes(layers, inputs.documents.size(), labels.size());
    plan.trace = 3 * state + (1u << 20);  // the one before and the one being written
    plan.shard += 3 * state;              // with what is being read or written
  }
  plan.memory = free_memory();
  if (options.host_memory > 0) plan.memory = std::min(options.host_memory, plan.memory.value_or(options.host_memory));
  if (auto const device = device_memory(where)) plan.device_memory = device->first;
  if (!options.out.empty()) plan.disk = free_disk(options.out);
  if (plan.disk) *plan.disk += disk_of_earlier_run(options);

  auto const stages = stage_parameters(spec);
  auto const largest = *std::max_element(stages.begin(), stages.end());
  plan.stages = stages.size();
  plan.stage = largest * dtype_bytes(where.type);
  // A layer stands unpacked while it runs.
  auto const nf4 = where.nf4 ? nf4_bytes(spec, where.type) : nf4_needs();
  if (where.nf4) plan.weights = nf4.weights + plan.stage + nf4.packing;
  plan.stage_file = largest * dtype_bytes(stored_type(spec));
  bool const tied = weights != nullptr ? has_tied_head(spec, *weights) : spec.tied_head.value_or(false);
  plan.tied = tied ? stages.front() * dtype_bytes(where.type) : 0;
  if (weights != nullptr) {
    plan.stage_file = 0;
    for (auto const& names : stage_tensors(spec, *weights)) {
      std::uint64_t bytes = 0;
      for (auto const& name : names) bytes += weights->at_any(name).data.size();
      plan.stage_file = std::max(plan.stage_file, bytes);
    }
  }
  plan.stream = options.residency == "stream" || (options.residency == "auto" && more == 0 && !plan.fits_memory());
  if (plan.stream) {
    if (where.nf4) plan.weights = plan.parameters * dtype_bytes(where.type);  // each goes through NF4 on its way in
    plan.stage += nf4.packing;
    plan.hidden = inputs.tokens * hidden_bytes_per_token(spec, where.type);
    plan.spool = inputs.tokens * spool_bytes_per_token(spec, where.type);
    auto const left = plan.memory ? *plan.memory - std::min(*plan.memory, plan.host()) : plan.hidden;
    // What the user allows may be filled; of what is merely free, others want some too.
    plan.hidden_memory = std::min(plan.hidden, options.host_memory > 0 ? left : left / 2);
  }
  return plan;
}

// Which types and residencies there is room for.
std::string ways_to_run(capture_options options, model_spec const& spec) {
  std::string out;
  for (std::string const type : {"float32", "bfloat16"}) {
    auto where = resolve_execution(options.device, type, processors(options.threads), stored_type(spec));
    where.nf4 = options.quantize == "nf4";
    for (std::string const residency : {"all", "stream"}) {
      if (residency == "stream" && options.generate.tokens > 0) continue;
      options.residency = residency;
      auto const plan = make_plan(options, spec, nullptr, where, {});
      out += "  --dtype " + type + " --residency " + residency + ": " + size_text(plan.host()) + " of memory" +
             (plan.on_host ? "" : ", " + size_text(plan.on_device()) + " on " + plan.device) +
             (plan.fits_memory() ? ", fits\n" : ", does not fit\n");
    }
  }
  return out;
}

/// The score of every document of a data set with a preset, from the columns of a trace.
std::vector<scored_document> read_scores(fs::path const& folder, trace_manifest const& manifest,
                                         std::vector<tokenized> const& documents) {
  std::vector<scored_document> out;
  if (manifest.counts) {
    auto const counts = cli::read_counts(folder, *manifest.counts, manifest.layers);
    for (std::size_t d = 0; d < documents.size(); ++d)
      if (auto const& t = documents[d]; t.scored)
        out.push_back({static_cast<std::int64_t>(d), &*t.scored,
                       {counts.score_nats.at(d), t.ids.size() - std::min(t.ids.size(), t.scored_from), counts.score_greedy.at(d) != 0}});
    return out;
  }
  for (auto const& info : manifest.shards) {
    trace_shard const shard(folder, manifest, info);
    auto const ids = shard.file().vector<std::int32_t>("token_ids"), predicted = shard.file().vector<std::int32_t>("predicted");
    auto const logprob = shard.file().vector<float>("logprob");
    for (index_t i = 0; i < shard.spans().documents(); ++i)
      if (auto const& d = documents.at(static_cast<std::size_t>(shard.spans().id(i))); d.scored) {
        auto const first = shard.spans().first(i);
        auto const n = static_cast<std::size_t>(shard.spans().size(i));
        out.push_back({shard.spans().id(i), &*d.scored,
                       score_of({ids.data() + first, n}, {logprob.data() + first, n}, {predicted.data() + first, n}, d.scored_from)});
      }
  }
  return out;
}

bool is_scored(tokenized_inputs const& inputs) {
  return std::any_of(inputs.documents.begin(), inputs.documents.end(), [](auto const& d) { return d.scored.has_value(); });
}

cli::trace_counts no_counts(tokenized_inputs const& inputs, trace_manifest const& manifest) {
  std::vector<cli::document_entry> entries;
  for (auto const& d : inputs.documents) {
    auto const label = [&](char const* key) { return d.labels.contains(key) ? d.labels.at(key) : std::string(); };
    entries.push_back({static_cast<std::int64_t>(entries.size()), label("label"), label("passage"), d.ids.size(), 0, quiet_nan});
  }
  return empty_counts(std::move(entries), manifest.layers, is_scored(inputs));
}

/// Shards that `manifest`, of a process or of all, has.
std::size_t shards_in(trace_manifest const& m) {
  return m.counts ? static_cast<std::size_t>(m.counts->parts) : m.shards.size();
}

/// The manifest of the whole out of those of its parts.
trace_manifest joined(output_folder const& out, tokenized_inputs const& inputs, trace_manifest const& fresh,
                      std::vector<trace_manifest> const& parts, std::size_t shards) {
  auto m = fresh;
  auto& total = m.run["nonfinite"];
  std::size_t found = 0;
  for (auto const& part : parts) {
    found += shards_in(part);
    m.documents += part.documents;
    m.tokens += part.tokens;
    auto const& nonfinite = part.run["nonfinite"];
    total["next_token"] = total["next_token"].get<std::uint64_t>() + nonfinite["next_token"].get<std::uint64_t>();
    for (std::size_t l = 0; l < total["router_logits"].size(); ++l)
      total["router_logits"][l] = total["router_logits"][l].get<std::uint64_t>() + nonfinite["router_logits"].at(l).get<std::uint64_t>();
  }
  if (found != shards || m.documents != inputs.documents.size())
    throw format_error(out.path().string(), "shards", "of the parts are not those that the texts give; start again in another folder");
  if (m.run["keep"] == "counts") {
    auto counts = no_counts(inputs, fresh);
    for (auto const& part : parts)
      if (part.counts) merge(counts, cli::read_counts(out.path(), *part.counts, fresh.layers));
    m.counts = write_counts(out.path(), "counts.safetensors", counts);
  } else {
    for (std::size_t s = 0; s < shards; ++s) m.shards.push_back(parts[s % parts.size()].shards.at(s / parts.size()));
  }
  m.complete = true;
  return m;
}

/// The manifests of all parts; that of one which has not begun is empty. Throws if one belongs to another capture.
std::vector<trace_manifest> read_parts(output_folder const& out, trace_manifest const& fresh) {
  std::vector<trace_manifest> parts;
  for (std::size_t i = 0; i < out.part().count; ++i) {
    auto const file = out.path() / capture_part{i, out.part().count}.manifest();
    parts.push_back(fs::exists(file) ? resumed(out, file, fresh) : trace_manifest());
  }
  return parts;
}

/// This process has written its shards: completes the trace unless other parts are missing.
int finish(output_folder const& out, tokenized_inputs const& inputs, trace_manifest const& fresh, trace_manifest mine,
           std::size_t shards, capture_options const& options) {
  std::vector<trace_manifest> parts;
  std::optional<lock_file> joining;
  auto const& part = out.part();
  if (part.alone()) {
    parts.push_back(std::move(mine));
  } else {
    mine.complete = true;
    write_file(out.partial(), to_json(mine).dump(2) + "\n");
    // Every part says that it is complete before it waits here, so the last one finds all complete.
    joining.emplace(out.path() / "join.lock", true);
    std::string missing;
    if (out.finished()) {
      out.clear_unfinished();
      return 0;
    }
    parts = read_parts(out, fresh);
    for (std::size_t i = 0; i < parts.size(); ++i)
      if (!parts[i].complete) missing += (missing.empty() ? "" : ", ") + std::to_string(i + 1);
    if (!missing.empty()) {
      if (!options.quiet)
        std::fprintf(stderr, "%s: part %s is complete; the trace will be when these are: %s\n", out.path().c_str(), part.name().c_str(), missing.c_str());
      return 0;
    }
  }
  auto const manifest = joined(out, inputs, fresh, parts, shards);
  std::vector<std::string> score_lines;
  if (is_scored(inputs)) {
    auto const scores = report_scores(sources_of(options.inputs), read_scores(out.path(), manifest, inputs.documents));
    write_file(out.path() / "scores.json", scores.json.dump(1) + "\n");
    score_lines = scores.lines;
  }
  write_trace_manifest(out.path(), manifest);
  out.clear_unfinished();
  if (auto const n = nonfinite_count(manifest); n > 0)
    warn(out.path().string() + ": the model gave " + std::to_string(n) +
         " values that are NaN or infinite; counts are in manifest.json under run.nonfinite");
  if (!options.quiet)
    std::fprintf(stderr, "%s: %llu documents, %llu tokens, %zu shards\n", out.path().c_str(),
                 static_cast<unsigned long long>(manifest.documents), static_cast<unsigned long long>(manifest.tokens),
                 manifest.shards.size());
  for (auto const& line : score_lines)
    if (!options.quiet) std::puts(line.c_str());
  return 0;
}

}  // namespace

int capture(capture_options const& options) {
  bool const words_needed = has_inputs(options) && options.inputs.ids_field.empty() && options.tokenizer.empty();
  // A config.json alone is enough for a plan.
  bool const config_alone = options.plan_only && fs::is_regular_file(options.model);
  if (config_alone && has_inputs(options))
    throw usage_error(options.model + ": is a file; texts are planned for with the folder of a model");
  auto const folder = config_alone ? fs::path()
                                   : find_model(options.model, {.tokenizer = words_needed, .weights = !options.plan_only},
                                                {.offline = options.offline, .quiet = options.quiet});
  auto const spec = read_config(config_alone ? fs::path(options.model) : folder / "config.json", options.model_type);
  if (options.max_tokens > static_cast<std::uint64_t>(spec.max_positions))
    throw usage_error("--max-tokens " + std::to_string(options.max_tokens) +
                      ": the model has max_position_embeddings " + std::to_string(spec.max_positions));
  if (options.quantize != "none" &&
      (spec.stored.kind == quantization::mxfp4 || spec.stored.kind == quantization::bitsandbytes_4bit))
    throw usage_error(options.model + ": is stored in 4 bits already; leave --quantize out");
  auto const more = options.generate.tokens;
  if (more >= static_cast<std::uint64_t>(spec.max_positions) ||
      (more > 0 && options.max_tokens > static_cast<std::uint64_t>(spec.max_positions) - more))
    throw usage_error("--generate " + std::to_string(more) +
                      (options.max_tokens > 0 ? " behind --max-tokens " + std::to_string(options.max_tokens) : "") +
                      ": the model has max_position_embeddings " + std::to_string(spec.max_positions));
  if (more > 0 && options.residency == "stream")
    throw usage_error("--generate: every token needs all layers before the next; use --residency all");
  if (more > 0 && options.keep == "counts")
    throw usage_error("--generate: --keep counts wants the length of every document before it begins; use --keep topk");
  if (config_alone) {
    std::fputs((describe_config(spec) + ways_to_run(options, spec)).c_str(), stdout);
    return 0;
  }
  auto const ends = more > 0 ? end_tokens(folder) : std::vector<std::int32_t>();
  tokenizer words;
  std::optional<detokenizer> back;
  tokenized_inputs inputs;
  auto const words_folder = options.tokenizer.empty() ? folder : fs::path(options.tokenizer);
  if (has_inputs(options)) {
    if (options.inputs.ids_field.empty()) words = tokenizer::load(words_folder);
    if (options.inputs.ids_field.empty() && more > 0) back = detokenizer::load(words_folder);
    inputs = read_inputs(options, words, words_folder, spec);
    if (more > 0 && is_scored(inputs))
      throw usage_error("--generate: the documents of a data set with its scoring have their answers in them; "
                        "give prompts as text");
  }
  bool const has_weights =
      fs::exists(folder / "model.safetensors") || fs::exists(folder / "model.safetensors.index.json");
  if (options.plan_only && !has_weights) {
    auto const where = run_where(options, spec, stored_type(spec));
    auto const plan = make_plan(options, spec, nullptr, where, inputs);
    std::fputs(plan.text().c_str(), stdout);
    if (auto const obstacle = plan.obstacle(); !obstacle.empty()) throw resource_error(options.model + ": " + obstacle);
    return 0;
  }
  checkpoint const weights(folder);
  // What is packed is computed in bfloat16 unless the user asks for another type.
  auto const main = weights.main_type();
  auto const stored = main == dtype::f32 || main == dtype::bf16 || main == dtype::f16 ? main : dtype::bf16;
  auto const where = run_where(options, spec, stored);
  auto const plan = make_plan(options, spec, &weights, where, inputs);
  if (options.plan_only || !options.quiet) std::fputs(plan.text().c_str(), options.plan_only ? stdout : stderr);
  if (inputs.truncated > 0)
    warn(std::to_string(inputs.truncated) + " documents were cut to the longest that is allowed");
  if (auto const obstacle = plan.obstacle(); !obstacle.empty()) throw resource_error(options.model + ": " + obstacle);
  if (options.plan_only) return 0;
  if (inputs.documents.empty()) throw usage_error("no documents in the texts that were given");

  output_folder const out(options.out, options.part, options.resume, options.overwrite);
  // A stream run knows the digest when it has read the weights.
  auto fresh = empty_manifest(options, folder, words_folder, spec, weights, where, inputs,
                              plan.stream ? "" : weights_sha256(spec, weights, where.threads));
  auto manifest = fresh;
  if (options.resume && out.finished()) {
    manifest = resumed(out, out.path() / "manifest.json", fresh);
    out.clear_unfinished();
    if (!options.quiet) std::fprintf(stderr, "%s: is complete already\n", out.path().c_str());
    return 0;
  }
  if (options.resume && fs::exists(out.partial())) manifest = resumed(out, out.partial(), fresh);
  if (!out.part().alone()) read_parts(out, fresh);  // rather now than when all have run
  auto const done_before = shards_in(manifest);
  auto const scratch = plan.stream && options.resume ? layer_stream::first_shard(out.path(), out.part().name()) : std::nullopt;
  bool const goes_on = scratch && *scratch <= done_before;
  out.clear(manifest, goes_on);

  auto const shards = cut(inputs.documents, {0, inputs.documents.size()}, options.shard_tokens, more);
  std::uint64_t mine = 0;  // tokens of the shards of this part
  for (std::size_t s = out.part().index; s < shards.size(); s += out.part().count)
    for (auto d = shards[s].first; d < shards[s].second; ++d) mine += inputs.documents[d].ids.size() + more;
  if (auto const begun = shards_in(manifest); begun > 0 && out.part().shard(begun - 1) >= shards.size())
    throw format_error(out.partial().string(), "shards", "are more than the texts give; use --overwrite");
  auto const save = [&] { write_file(out.partial(), to_json(manifest).dump(2) + "\n"); };
  // Batches of the shards of this part, one after another.
  std::vector<range> batches;
  std::vector<std::size_t> first_batch{0};  // [shards of this part + 1]
  for (auto s = out.part().index; s < shards.size(); s += out.part().count) {
    auto const of_shard = cut(inputs.documents, shards[s], options.batch_tokens, 0);
    batches.insert(batches.end(), of_shard.begin(), of_shard.end());
    first_batch.push_back(batches.size());
  }
  auto const refuse_nonfinite = [&](bool any) {
    if (options.fail_on_nonfinite && any)
      throw format_error(options.model, "run",
                         "the model gave NaN or infinite values, and --fail-on-nonfinite was asked for");
  };
  bool const all_run = first_batch.size() == done_before + 1;
  std::optional<model> decoder;
  // Weights that are wrong leave nothing behind.
  if (!all_run && !plan.stream) decoder.emplace(spec, weights, where);
  if (shards_in(manifest) == 0) save();
  std::optional<layer_stream> streamed;
  auto const base = first_batch[goes_on ? *scratch : done_before];  // of what streamed knows
  if (all_run) {
    // All that is missing is the manifest.
    fresh.model["weights_sha256"] = manifest.model["weights_sha256"];
  } else if (plan.stream) {
    layer_stream::work work;
    for (auto b = base; b < batches.size(); ++b) {
      work.tokens.push_back(0);
      for (auto d = batches[b].first; d < batches[b].second; ++d) work.tokens.back() += inputs.documents[d].ids.size();
    }
    work.batch = [&](std::size_t b) { return pack(inputs.documents, batches[base + b]); };
    work.hidden_memory = plan.hidden_memory;
    work.inspect = [&](batch_output const& result) {
      bool const bad = std::any_of(result.layers.begin(), result.layers.end(), [](auto const& l) { return l.nonfinite > 0; });
      refuse_nonfinite(bad || result.nonfinite > 0);
    };
    streamed.emplace(out.path(), out.part().name(), spec, weights, where, goes_on ? *scratch : done_before, work);
    if (!streamed->run(!options.quiet)) {
      std::fprintf(stderr, "moeroute: %s: interrupted after %lld of %lld layers; continue with --resume\n", out.path().c_str(),
                   static_cast<long long>(std::max<std::int64_t>(0, streamed->stages_done() - 1)),
                   static_cast<long long>(spec.layers));
      return 130;
    }
    if (!options.quiet) std::fprintf(stderr, "%s\n", streamed->report().c_str());
    auto& digest = manifest.model["weights_sha256"];
    if (digest != "" && digest != streamed->sha256())
      throw format_error(out.partial().string(), "model.weights_sha256",
                         "was " + digest.dump() + ", is \"" + streamed->sha256() +
                             "\" now; resume with the same model, or use --overwrite");
    fresh.model["weights_sha256"] = digest = streamed->sha256();
    save();
  }
  std::optional<cli::trace_counts> counts;
  if (options.keep == "counts") {
    counts = no_counts(inputs, fresh);
    if (manifest.counts) merge(*counts, cli::read_counts(out.path(), *manifest.counts, fresh.layers));
  }
  progress bar(mine, manifest.tokens, !options.quiet);
  std::uint64_t done = manifest.tokens;
  auto const stopped = [&] {
    bar.clear();
    std::fprintf(stderr, "moeroute: %s: interrupted after %llu of %zu documents; continue with --resume\n",
                 out.path().c_str(), static_cast<unsigned long long>(manifest.documents), inputs.documents.size());
    return 130;
  };
  auto const text_of = [&](std::span<std::int32_t const> ids) {
    return back ? back->decode(ids, options.generate.skip_special_tokens) : std::string();
  };
  for (auto s = out.part().shard(shards_in(manifest)); s < shards.size(); s += out.part().count) {
    shard_builder shard(spec, where.type, options.keep != "topk");
    if (more > 0) {
      std::vector<prompt> prompts;
      for (auto d = shards[s].first; d < shards[s].second; ++d)
        prompts.push_back({inputs.documents[d].id, inputs.documents[d].ids});
      auto result = generate(*decoder, options.generate, ends, prompts, options.batch_tokens, [&](std::uint64_t rows) {
        bar.show(done += rows);
        return !interrupted;
      });
      if (!result) return stopped();
      for (std::size_t i = 0; i < prompts.size(); ++i) {
        auto& document = inputs.documents[shards[s].first + i];
        document.generated = std::move(result->documents[i]);
        document.ids.insert(document.ids.end(), document.generated->ids.begin(), document.generated->ids.end());
      }
      shard.add(inputs.documents, shards[s], result->rows);
    }
    auto const nth = shards_in(manifest);
    for (auto b = first_batch[nth]; more == 0 && b < first_batch[nth + 1]; ++b) {
      if (interrupted) return stopped();
      auto const packed = pack(inputs.documents, batches[b]);
      shard.add(inputs.documents, batches[b], streamed ? streamed->output(b - base) : decoder->run(packed.ids, packed.offsets));
      done += packed.ids.size();
      bar.show(done);
    }
    auto const before = manifest.counts;
    if (counts) {
      shard.count(inputs.documents, *counts, where.threads, manifest);
      manifest.counts = write_counts(out.path(), out.part().counts(static_cast<std::size_t>(counts->parts)), *counts);
    } else {
      shard.write(out.path(), s, inputs.documents, words, text_of, manifest);
    }
    refuse_nonfinite(nonfinite_count(manifest) > 0);
    save();
    if (streamed) streamed->release(first_batch[nth] - base, first_batch[nth + 1] - base);
    if (before) fs::remove(out.path() / before->file);
  }
  bar.clear();
  streamed.reset();
  layer_stream::remove(out.path(), out.part().name());
  return finish(out, inputs, fresh, std::move(manifest), shards.size(), options);
}

int tokenize(capture_options const& options) {
  auto const words =
      tokenizer::load(!options.tokenizer.empty() ? fs::path(options.tokenizer)
                                                 : find_model(options.model, {.weights = false},
                                                              {.offline = options.offline, .quiet = options.quiet}));
  read_documents(options.inputs, [&](document&& d) {
    auto const ids = words.encode(d.text);
    nlohmann::ordered_json line{{"id", d.id}, {"ids", ids}, {"pieces", nlohmann::ordered_json::array()}};
    for (auto const id : ids) line["pieces"].push_back(words.piece(id));
    std::puts(line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace).c_str());
  });
  if (std::fflush(stdout) != 0) throw io_error("standard output", "cannot write", errno);
  return 0;
}

}  // namespace moeroute::capture
