// SPDX-License-Identifier: Apache-2.0
#include "targets.hpp"

#include <moeroute/core/error.hpp>
#include <moeroute/io/safetensors.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "family.hpp"
#include "support/temporary_folder.hpp"
#include "tokenizer.hpp"
#include "utf8.hpp"

namespace moeroute::fuzz {
namespace {

// abort() rather than an exception: libFuzzer keeps the input then.
void promise(bool kept, char const* what) {
  if (kept) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

std::filesystem::path file(std::string const& name, std::string_view bytes) {
  static temporary_folder const folder;
  auto path = folder / name;
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

bool same(tensor_view const& a, tensor_view const& b) {
  return a.name == b.name && a.type == b.type && a.shape == b.shape && std::ranges::equal(a.data, b.data);
}

}  // namespace

bool safetensors(std::string_view bytes) try {
  safetensors_file const read(file("read.safetensors", bytes));
  std::vector<tensor_data> copies;
  std::uint64_t total = 0;
  for (auto const& t : read.tensors()) {
    promise(read.find(t.name) == &t, "every tensor is found by its name");
    promise(t.file_offset <= read.file_bytes() && t.data.size() <= read.file_bytes() - t.file_offset,
            "every tensor lies inside the file");
    total += t.data.size();
    copies.push_back({t.name, t.type, t.shape, t.data});
  }
  promise(total <= read.file_bytes(), "no two tensors overlap");
  auto const path = file("written.safetensors", "");
  write_safetensors(path, copies, read.metadata());
  safetensors_file const again(path);
  promise(again.metadata() == read.metadata() && std::ranges::equal(again.tensors(), read.tensors(), same),
          "a file that was read can be written and read again");
  return true;
} catch (format_error const&) {
  return false;
}

bool config(std::string_view bytes) try {
  auto const spec = capture::read_config(file("config.json", bytes));
  auto const layers = static_cast<std::size_t>(spec.layers);
  promise(spec.layers > 0 && spec.moe.size() == layers && spec.windows.size() == layers, "something for every layer");
  promise(!spec.moe_layers().empty(), "a layer of experts");
  promise(spec.heads % spec.kv_heads == 0 && spec.head_width > 0 && spec.value_width > 0, "heads that can be shared");
  promise(spec.router.top_k <= spec.router.experts && spec.router.experts % spec.router.groups == 0,
          "a possible choice");
  promise(spec.rope.width <= spec.head_width &&
              static_cast<std::int64_t>(spec.rope.frequencies.size()) * 2 == spec.rope.width,
          "a frequency for every pair");
  for (auto const* frequencies : {&spec.rope.frequencies, &spec.rope.long_frequencies})
    promise(std::ranges::all_of(*frequencies, [](double f) { return std::isfinite(f); }), "finite frequencies");
  promise(std::isfinite(spec.rope.scale) && std::isfinite(spec.attention_scale), "finite scales");
  promise(capture::parameters(spec) > 0, "weights");
  return true;
} catch (format_error const&) {
  return false;
}

bool tokenizer(std::string_view bytes) {
  auto const part = [&bytes] {
    auto const end = std::min(bytes.find('\0'), bytes.size());
    auto const head = bytes.substr(0, end);
    bytes.remove_prefix(std::min(end + 1, bytes.size()));
    return head;
  };
  auto const folder = file("tokenizer.json", part()).parent_path();
  auto const text = capture::replace_invalid_utf8(part());
  if (bytes.empty())
    std::filesystem::remove(folder / "tokenizer_config.json");
  else
    file("tokenizer_config.json", bytes);
  try {
    auto const words = capture::tokenizer::load(folder);
    for (std::string_view const given :
         {std::string_view(text),
          std::string_view("I'll route 12345 tokens,\r\n  don't\tstop! É e\u0301 漢字 👩‍🔬 ½ <|end|>")})
      for (auto const id : words.encode(given)) {
        promise(id >= 0, "ids are not negative");
        promise(capture::find_invalid_utf8(words.piece(id)) == std::string_view::npos, "pieces are UTF-8");
      }
    return true;
  } catch (format_error const&) {
    return false;
  } catch (std::runtime_error const& e) {
    // Patterns that need too many steps, and replacements without measure, show themselves only at a text.
    std::string_view const what = e.what();
    if (!what.starts_with("regular expression ") && !what.starts_with("normalizer ")) throw;
    return false;
  }
}

}  // namespace moeroute::fuzz
