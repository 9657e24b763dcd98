// SPDX-License-Identifier: Apache-2.0
#include "checkpoint.hpp"

#include <moeroute/io/sha256.hpp>

#include <algorithm>
#include <cstdlib>
#include <set>

#include "json_view.hpp"

namespace moeroute::capture {
namespace {

namespace fs = std::filesystem;

std::string shape_text(std::vector<std::int64_t> const& shape) {
  std::string text = "[";
  for (auto const d : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(d);
  return text + "]";
}

}  // namespace

checkpoint::checkpoint(fs::path const& folder) : folder_{folder} {
  auto const index_path = folder / "model.safetensors.index.json";
  if (fs::exists(folder / "model.safetensors") || !fs::exists(index_path)) {
    files_.emplace_back(folder / "model.safetensors");
    for (auto const& t : files_.front().tensors()) places_[t.name] = {0, t.name};
    rename();
    return;
  }
  auto const json = read_json(index_path);
  auto const map = json_view(json, index_path.string()).at("weight_map");
  if (!map.raw().is_object()) map.refuse("expected an object of tensor to file");
  std::map<std::string, std::vector<std::string>> by_file;
  for (auto const& [tensor, file] : map.raw().items()) {
    auto const& name = json_view(file, map.file(), "weight_map." + tensor).string();
    if (name.empty() || name.find('/') != std::string::npos || name == "..")
      map.refuse("\"" + name + "\" is not a plain file name");
    by_file[name].push_back(tensor);
  }
  if (by_file.empty()) map.refuse("names no file");
  for (auto const& [name, tensors] : by_file) {
    auto const& file = files_.emplace_back(folder / name);
    for (auto const& tensor : tensors) {
      (void)file.at(tensor);
      places_[tensor] = {files_.size() - 1, tensor};
    }
  }
  rename();
}

void checkpoint::rename() {
  constexpr std::string_view plain = "model.", wrapper = "language_model.", head = "lm_head.";
  std::string_view prefix = plain;
  for (std::string_view const p : {plain, std::string_view("language_model.model."), std::string_view("model.language_model."), std::string_view()})
    if (has(std::string(p) + "embed_tokens.weight")) {
      prefix = p;
      break;
    }
  if (prefix == plain) return;
  std::map<std::string, location> renamed;
  for (auto& [name, place] : places_) {
    std::string_view rest(name);
    if (rest.starts_with(wrapper) && rest.substr(wrapper.size()).starts_with(head)) rest.remove_prefix(wrapper.size());
    if (rest.starts_with(head))
      renamed.emplace(rest, std::move(place));
    else if (rest.starts_with(prefix))
      renamed.emplace(std::string(plain).append(rest.substr(prefix.size())), std::move(place));
  }
  places_ = std::move(renamed);
}

std::string const& checkpoint::path_of(std::string const& name) const {
  auto const place = places_.find(name);
  return files_[place == places_.end() ? 0 : place->second.file].path();
}

tensor_view const& checkpoint::at_any(std::string const& name) const {
  auto const place = places_.find(name);
  if (place == places_.end())
    throw format_error(files_.size() == 1 ? files_.front().path() : (folder_ / "model.safetensors.index.json").string(),
                       "tensor " + name, "is missing");
  return files_[place->second.file].at(place->second.stored);
}

tensor_view const& checkpoint::at(std::string const& name, std::vector<std::int64_t> const& shape) const {
  auto const& tensor = at_any(name);
  if (tensor.type != dtype::f32 && tensor.type != dtype::bf16 && tensor.type != dtype::f16)
    throw format_error(path_of(name), "tensor " + tensor.name,
                       "is " + std::string(dtype_name(tensor.type)) + ", expected F32, BF16 or F16");
  if (!std::equal(tensor.shape.begin(), tensor.shape.end(), shape.begin(), shape.end()))
    throw format_error(path_of(name), "tensor " + tensor.name,
                       "has shape " + shape_text({tensor.shape.begin(), tensor.shape.end()}) +
                           ", config.json asks for " + shape_text(shape));
  return tensor;
}

void checkpoint::refuse_unknown(std::set<std::string> const& known, std::int64_t layers) const {
  constexpr std::string_view stem = "model.layers.";
  for (auto const& [name, place] : places_) {
    // Frequencies of the rotation, which some older files hold, follow from the configuration.
    if (known.contains(name) || name.ends_with("rotary_emb.inv_freq")) continue;
    if (name.starts_with(stem) && std::strtoll(name.c_str() + stem.size(), nullptr, 10) >= layers) continue;
    throw format_error(files_[place.file].path(), "tensor " + place.stored,
                       "has no place in a model of this family and configuration; running without it would be another "
                       "model");
  }
}

dtype checkpoint::main_type() const {
  std::map<dtype, std::uint64_t> sizes;
  for (auto const& file : files_)
    for (auto const& t : file.tensors()) sizes[t.type] += t.data.size();
  auto const most =
      std::max_element(sizes.begin(), sizes.end(), [](auto const& a, auto const& b) { return a.second < b.second; });
  return most == sizes.end() ? dtype::f32 : most->first;
}

std::uint64_t checkpoint::bytes() const {
  std::uint64_t total = 0;
  for (auto const& file : files_) total += file.file_bytes();
  return total;
}

std::string checkpoint::sha256() const {
  if (files_.size() == 1) return sha256_hex(mapped_file(files_.front().path()).bytes());
  std::string digests;
  for (auto const& file : files_) digests += sha256_hex(mapped_file(file.path()).bytes());
  return sha256_hex(std::as_bytes(std::span<char const>(digests)));
}

}  // namespace moeroute::capture
