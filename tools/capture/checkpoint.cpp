// SPDX-License-Identifier: Apache-2.0
#include "checkpoint.hpp"

#include <moeroute/core/parallel.hpp>
#include <moeroute/io/sha256.hpp>

#include <algorithm>
#include <cstdlib>
#include <fcntl.h>
#include <new>
#include <set>
#include <sys/mman.h>
#include <sys/stat.h>
#include <tuple>
#include <unistd.h>

#include "json_view.hpp"

namespace moeroute::capture {
namespace {

namespace fs = std::filesystem;

// A file open for reading at any place, by any thread.
class readable_file {
 public:
  explicit readable_file(std::string const& path) : path_{path}, fd_{::open(path.c_str(), O_RDONLY | O_CLOEXEC)} {
    if (fd_ < 0) throw io_error(path_, "cannot open", errno);
  }
  readable_file(readable_file const&) = delete;
  readable_file& operator=(readable_file const&) = delete;
  ~readable_file() { ::close(fd_); }

  void read(std::byte* to, std::size_t size, std::uint64_t offset) const {
    while (size > 0) {
      auto const n = ::pread(fd_, to, size, static_cast<::off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) throw io_error(path_, "cannot read", errno);
      if (n == 0) throw format_error(path_, offset, "the file has become shorter");
      to += n;
      offset += static_cast<std::uint64_t>(n);
      size -= static_cast<std::size_t>(n);
    }
  }

 private:
  std::string path_;
  int fd_;
};

}  // namespace

std::string shape_text(std::vector<std::int64_t> const& shape) {
  std::string text = "[";
  for (auto const d : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(d);
  return text + "]";
}

checkpoint::checkpoint(fs::path const& folder) : folder_{folder} {
  auto const index_path = folder / "model.safetensors.index.json";
  if (fs::exists(folder / "model.safetensors") || !fs::exists(index_path)) {
    files_.push_back(std::make_shared<safetensors_file>(folder / "model.safetensors"));
    for (auto const& t : files_.front()->tensors()) places_[t.name] = {0, t.name};
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
    auto const& file = files_.emplace_back(std::make_shared<safetensors_file>(folder / name));
    for (auto const& tensor : tensors) {
      (void)file->at(tensor);
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
  return files_[place == places_.end() ? 0 : place->second.file]->path();
}

tensor_view const& checkpoint::at_any(std::string const& name) const {
  auto const place = places_.find(name);
  if (place == places_.end())
    throw format_error(files_.size() == 1 ? files_.front()->path() : (folder_ / "model.safetensors.index.json").string(),
                       "tensor " + name, "is missing");
  if (memory_) return held_.at(name);
  return files_[place->second.file]->at(place->second.stored);
}

std::vector<std::string> checkpoint::names() const {
  std::vector<std::string> all;
  for (auto const& [name, place] : places_) all.push_back(name);
  return all;
}

checkpoint checkpoint::read(std::vector<std::string> const& names, int threads) const {
  constexpr std::size_t page = 4096;
  constexpr std::size_t most = std::size_t{8} << 20;  // of one tensor at once, so that threads share a large one
  struct piece {
    std::size_t file;
    std::uint64_t offset;
    std::size_t size, at;
    std::string const* name;
  };
  std::vector<piece> tensors;
  for (auto const& name : names) {
    auto const& t = at_any(name);
    tensors.push_back({places_.at(name).file, t.file_offset, t.data.size(), 0, &name});
  }
  std::sort(tensors.begin(), tensors.end(),
            [](auto const& a, auto const& b) { return std::tie(a.file, a.offset) < std::tie(b.file, b.offset); });
  std::size_t end = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    auto& t = tensors[i];
    bool const follows = i > 0 && tensors[i - 1].file == t.file && tensors[i - 1].offset + tensors[i - 1].size == t.offset;
    t.at = follows ? end : (end + page - 1) / page * page + static_cast<std::size_t>(t.offset % page);
    end = t.at + t.size;
  }
  checkpoint out;
  out.folder_ = folder_;
  out.files_ = files_;
  auto const total = std::max(end, page);
  // Straight from the system and straight back: the heap would keep what a layer took.
  void* const memory = ::mmap(nullptr, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  std::shared_ptr<std::byte> const region(static_cast<std::byte*>(memory),
                                          [total](std::byte* p) { ::munmap(p, total); });
  out.memory_ = region;
  std::map<std::size_t, readable_file> open;
  std::vector<piece> parts;
  for (auto const& t : tensors) {
    out.places_[*t.name] = places_.at(*t.name);
    auto view = at_any(*t.name);
    view.data = {region.get() + t.at, t.size};
    out.held_.emplace(*t.name, std::move(view));
    open.try_emplace(t.file, files_[t.file]->path());
    for (std::size_t done = 0; done < t.size; done += most)
      parts.push_back({t.file, t.offset + done, std::min(most, t.size - done), t.at + done, t.name});
  }
  parallel_for(static_cast<index_t>(parts.size()), threads, [&](index_t i) {
    auto const& p = parts[static_cast<std::size_t>(i)];
    open.at(p.file).read(region.get() + p.at, p.size, p.offset);
  });
  return out;
}

std::string checkpoint::digest(std::vector<std::string> const& names, int threads) const {
  std::vector<std::string> lines(names.size());
  parallel_for(static_cast<index_t>(names.size()), threads, [&](index_t i) {
    auto const& name = names[static_cast<std::size_t>(i)];
    auto const& t = at_any(name);
    lines[static_cast<std::size_t>(i)] = name + ' ' + std::string(dtype_name(t.type)) + ' ' +
                                         shape_text({t.shape.begin(), t.shape.end()}) + ' ' + sha256_hex(t.data) + '\n';
  });
  moeroute::sha256 all;
  for (auto const& line : lines) all.update(std::as_bytes(std::span<char const>(line)));
  return all.hex();
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
    throw format_error(files_[place.file]->path(), "tensor " + place.stored,
                       "has no place in a model of this family and configuration; running without it would be another "
                       "model");
  }
}

dtype checkpoint::main_type() const {
  std::map<dtype, std::uint64_t> sizes;
  for (auto const& file : files_)
    for (auto const& t : file->tensors()) sizes[t.type] += t.data.size();
  auto const most =
      std::max_element(sizes.begin(), sizes.end(), [](auto const& a, auto const& b) { return a.second < b.second; });
  return most == sizes.end() ? dtype::f32 : most->first;
}

std::uint64_t checkpoint::bytes() const {
  std::uint64_t total = 0;
  for (auto const& file : files_) total += file->file_bytes();
  return total;
}

std::string checkpoint::state_of_files() const {
  std::string text;
  for (auto const& file : files_) {
    struct ::stat info {};
    if (::stat(file->path().c_str(), &info) != 0) throw io_error(file->path(), "cannot read", errno);
    text += fs::path(file->path()).filename().string() + ' ' + std::to_string(info.st_size) + ' ' +
            std::to_string(info.st_mtim.tv_sec) + '.' + std::to_string(info.st_mtim.tv_nsec) + '\n';
  }
  return sha256_hex(std::as_bytes(std::span<char const>(text)));
}

}  // namespace moeroute::capture
