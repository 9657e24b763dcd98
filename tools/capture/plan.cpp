// SPDX-License-Identifier: Apache-2.0
#include "plan.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sys/statvfs.h>

#include "model.hpp"

namespace moeroute::capture {
namespace {

std::uint64_t elements(expected_tensor const& t) {
  std::uint64_t n = 1;
  for (auto const d : t.shape) n *= static_cast<std::uint64_t>(d);
  return n;
}

std::optional<std::uint64_t> number_in(char const* path) {
  std::ifstream file(path);
  std::uint64_t n = 0;
  return file >> n ? std::optional(n) : std::nullopt;
}

}  // namespace

std::string size_text(std::uint64_t bytes) {
  constexpr std::array units{"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < units.size()) value /= 1024, ++unit;
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
  return text.data();
}

std::size_t stage_of(model_spec const& spec, std::string const& name) {
  auto const& n = spec.kind->names;
  auto const stem = n.attention_norm.substr(0, n.attention_norm.find("{l}"));
  if (name.starts_with(stem)) return std::strtoull(name.c_str() + stem.size(), nullptr, 10) + 1;
  return name == n.embedding ? 0 : static_cast<std::size_t>(stage_count(spec)) - 1;
}

std::vector<std::uint64_t> stage_parameters(model_spec const& spec) {
  std::vector<std::uint64_t> out(static_cast<std::size_t>(stage_count(spec)));
  for (auto const& t : expected_tensors(spec)) out[stage_of(spec, t.name)] += elements(t);
  return out;
}

nf4_needs nf4_bytes(model_spec const& spec, dtype type) {
  nf4_needs out;
  for (auto const& t : expected_tensors(spec)) {
    auto const n = elements(t);
    // 4 bits each, and a float32 for every 64.
    out.weights += t.linear_map ? n / 2 + n / 16 : n * static_cast<std::uint64_t>(dtype_bytes(type));
    if (t.linear_map) out.packing = std::max(out.packing, 24 * n);
  }
  return out;
}

std::uint64_t activation_bytes(model_spec const& s, dtype type, std::uint64_t tokens, bool whole_rows) {
  auto const u = [](std::int64_t n) { return static_cast<std::uint64_t>(n); };
  auto const element = static_cast<std::uint64_t>(dtype_bytes(type));
  auto const k = u(s.router.top_k), attention = u(s.heads * std::max(s.head_width, s.value_width));
  auto const wide = std::max(s.dense_width, s.shared_width);
  // Residual, norms in float32, q, k, v with their rotation and padding, and the slots of all chosen experts.
  auto const per_token = 4 * 3 * u(s.hidden) +
                         element * (4 * u(s.hidden) + 10 * attention + k * (4 * u(s.hidden) + 3 * u(s.expert_width)) + 3 * u(wide));
  auto const recorded = s.moe_layers().size() *
                        (u(s.router.experts) * static_cast<std::uint64_t>(dtype_bytes(logits_type(s, type))) + k * 14);
  auto const rows = whole_rows ? std::min(tokens, u(head_rows(s))) : 0;
  return tokens * (per_token + 2 * recorded) + rows * u(s.vocabulary) * 12;
}

std::uint64_t cache_bytes(model_spec const& s, dtype type, std::uint64_t tokens, std::uint64_t shortest) {
  auto const heads = static_cast<std::uint64_t>(s.kind->latent ? s.heads : s.kv_heads);
  auto const width = static_cast<std::uint64_t>(s.head_width + s.value_width);
  std::uint64_t positions = 0;
  auto const documents = std::max<std::uint64_t>(1, tokens / shortest);
  for (auto const window : s.windows)
    positions += window == 0 ? tokens : std::min(tokens, documents * static_cast<std::uint64_t>(window));
  return positions * heads * width * static_cast<std::uint64_t>(dtype_bytes(type));
}

std::uint64_t trace_bytes_per_token(model_spec const& s, dtype type) {
  auto const layer =
      s.router.experts * static_cast<std::int64_t>(dtype_bytes(logits_type(s, type))) + s.router.top_k * 6;
  return s.moe_layers().size() * static_cast<std::uint64_t>(layer) + 17;  // token, position, logprob, predicted, phase
}

std::optional<std::uint64_t> free_memory() {
  std::optional<std::uint64_t> best;
  std::ifstream info("/proc/meminfo");
  for (std::string key, rest; info >> key && std::getline(info, rest);)
    if (key == "MemAvailable:") best = std::stoull(rest) * 1024;
  auto const limit = number_in("/sys/fs/cgroup/memory.max"), used = number_in("/sys/fs/cgroup/memory.current");
  if (limit && used) {
    // Cached files count as used there, though they give way.
    std::uint64_t cached = 0;
    std::ifstream stat("/sys/fs/cgroup/memory.stat");
    for (std::string key, value; stat >> key >> value;)
      if (key == "inactive_file" || key == "active_file") cached += std::stoull(value);
    auto const busy = *used - std::min(*used, cached);
    auto const left = *limit - std::min(*limit, busy);
    best = best ? std::min(*best, left) : left;
  }
  return best;
}

std::optional<std::uint64_t> free_disk(std::filesystem::path path) {
  path = std::filesystem::absolute(path);
  while (!std::filesystem::exists(path) && path.has_relative_path()) path = path.parent_path();
  struct ::statvfs info {};
  if (::statvfs(path.c_str(), &info) != 0) return std::nullopt;
  return static_cast<std::uint64_t>(info.f_bavail) * info.f_frsize;
}

std::uint64_t capture_plan::host() const {
  if (!stream) return process_bytes + shard + (on_host ? weights + activations + cache : 0);
  // Shards are put together when the weights are gone.
  return process_bytes + std::max(shard, stage_file + hidden_memory + (on_host ? stage + tied + activations : 0));
}

std::uint64_t capture_plan::disk_needed() const {
  // The spool gives back what went into a shard.
  return stream ? std::max(spool + 2 * hidden, trace + shard) : trace;
}

std::uint64_t capture_plan::on_device() const {
  return on_host ? 0 : (stream ? stage + tied : weights) + activations + cache;
}

bool capture_plan::fits_memory() const {
  return (!memory || host() <= *memory) && (!device_memory || on_device() <= *device_memory);
}

std::string capture_plan::text() const {
  auto const free = [](std::optional<std::uint64_t> const& n) {
    return n ? " (free: " + size_text(*n) + ")" : std::string();
  };
  std::string out = "plan: " + std::to_string(parameters) + " parameters, " + type + " on " + device +
                    (stream ? ", layer by layer" : ", all in memory") + "\n";
  if (stream) {
    out += "  weights      " + size_text(weights) + " in " + std::to_string(stages) + " stages, the largest " + size_text(stage) +
           (on_host ? "" : free(device_memory)) + ", the next is read meanwhile: " + size_text(stage_file) +
           (tied > 0 ? "; the embedding stays for the head: " + size_text(tied) : "") + "\n";
  } else {
    out += "  weights      " + size_text(weights) + (mapped ? ", mapped from the file" : "") + ", " + size_text(stage) +
           " the largest layer" + (on_host ? "" : free(device_memory)) + "\n";
  }
  out += "  activations  " + size_text(activations) + " for batches of " + std::to_string(batch_tokens) + " tokens\n";
  if (cache > 0) out += "  cache        " + size_text(cache) + " of keys and values\n";
  if (documents > 0) {
    if (stream) {
      out += "  hidden       " + size_text(hidden) + ", " + size_text(hidden_memory) + " of it in host memory, twice on disk\n";
      out += "  spool        " + size_text(spool) + " on disk until the last layer is done\n";
    }
    out += "  shard        " + size_text(shard) + " in host memory\n";
    out += "  input        " + std::to_string(documents) + " documents, " + std::to_string(tokens) + " tokens" +
           (generated > 0 ? ", up to " + std::to_string(generated) + " generated" : "") + "\n";
    out += "  trace        " + size_text(trace) + "\n";
    out += "  disk         " + size_text(disk_needed()) + " at the fullest moment" + free(disk) + "\n";
  }
  out += "  host memory  " + size_text(host()) + " at the fullest moment" + free(memory) + "\n";
  return out;
}

std::string capture_plan::obstacle() const {
  std::string const other = stream || generated > 0 ? "" : "--residency stream, ";
  if (memory && host() > *memory)
    return "needs " + size_text(host()) + " of memory, " + size_text(*memory) + " are free; try " + other +
           "--dtype bfloat16, a smaller --batch-tokens or --shard-tokens";
  if (device_memory && on_device() > *device_memory)
    return "needs " + size_text(on_device()) + " on " + device + ", " + size_text(*device_memory) + " are free; try " + other +
           "--dtype bfloat16 or a smaller --batch-tokens";
  if (disk && disk_needed() > *disk)
    return "the trace needs " + size_text(disk_needed()) + " of disk, " + size_text(*disk) +
           " are free; use --max-docs or another folder";
  return {};
}

}  // namespace moeroute::capture
