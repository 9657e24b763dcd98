// SPDX-License-Identifier: Apache-2.0
#include "hub.hpp"

#include <moeroute/core/error.hpp>
#include <moeroute/io/file.hpp>
#include <moeroute/io/sha256.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <sys/file.h>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

#include "http.hpp"
#include "json_view.hpp"
#include "plan.hpp"
#include "progress.hpp"
#include "session.hpp"
#include "sha1.hpp"

namespace moeroute::capture {
namespace {

namespace fs = std::filesystem;

constexpr auto weights_file = "model.safetensors", index_file = "model.safetensors.index.json";
// What is fetched beside the weights, if the model has it.
constexpr std::array<std::string_view, 5> small_files{"config.json", "generation_config.json", "tokenizer.json",
                                                      "tokenizer_config.json", "special_tokens_map.json"};

std::string variable(char const* name) {
  char const* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

bool is_set(char const* name) {
  auto value = variable(name);
  std::transform(value.begin(), value.end(), value.begin(),
                 [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c; });
  return value == "1" || value == "ON" || value == "YES" || value == "TRUE";
}

fs::path hugging_face_home() {
  if (auto const p = variable("HF_HOME"); !p.empty()) return p;
  if (auto const p = variable("XDG_CACHE_HOME"); !p.empty()) return fs::path(p) / "huggingface";
  return fs::path(variable("HOME")) / ".cache" / "huggingface";
}

fs::path hugging_face_cache() {
  for (char const* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"})
    if (auto const p = variable(name); !p.empty()) return p;
  return hugging_face_home() / "hub";
}

bool consists_of(std::string_view text, std::string_view more) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || more.find(c) != more.npos;
  });
}

bool is_hex(std::string_view text, std::size_t digits) {
  return text.size() == digits && text.find_first_not_of("0123456789abcdef") == text.npos;
}

/// "owner/name@revision", taken apart.
struct hub_name {
  std::string owner, name, revision = "main";

  std::string folder() const { return "models--" + owner + "--" + name; }

  /// None where it cannot be one: what is in here becomes part of paths and addresses.
  static std::optional<hub_name> parse(std::string_view text) {
    hub_name out;
    if (auto const at = text.find('@'); at != text.npos) {
      out.revision = text.substr(at + 1);
      text = text.substr(0, at);
    }
    auto const slash = text.find('/');
    if (slash == text.npos) return std::nullopt;
    out.owner = text.substr(0, slash);
    out.name = text.substr(slash + 1);
    for (auto const* part : {&out.owner, &out.name})
      if (!consists_of(*part, "-_.") || part->front() == '.' || part->back() == '.' || part->find("--") != part->npos)
        return std::nullopt;
    auto const& r = out.revision;
    if (!consists_of(r, "-_./") || r.front() == '/' || r.back() == '/' || r.find("..") != r.npos ||
        r.find("//") != r.npos)
      return std::nullopt;
    return out;
  }
};

/// A file of the listing, by its name at the top of the repository.
struct remote_file {
  std::string name, checksum;  // SHA-256 if 64 digits, git's SHA-1 if 40, not known if empty
  std::uint64_t size = 0;
};

struct listing {
  std::string commit;
  std::vector<remote_file> files;

  remote_file const* find(std::string_view name) const {
    auto const place = std::find_if(files.begin(), files.end(), [&](auto const& f) { return f.name == name; });
    return place == files.end() ? nullptr : &*place;
  }
};

/// The checksum that names a blob: SHA-256 of what lies in large file storage, git's object id of the rest.
class blob_hash {
 public:
  explicit blob_hash(remote_file const& file) : large_{file.checksum.size() == 64} {
    if (!large_) update(std::as_bytes(std::span<char const>("blob " + std::to_string(file.size) + '\0')));
  }
  void update(std::span<std::byte const> bytes) { large_ ? sha256_.update(bytes) : sha1_.update(bytes); }
  std::string hex() { return large_ ? sha256_.hex() : sha1_.hex(); }

 private:
  bool large_;
  moeroute::sha256 sha256_;
  sha1 sha1_;
};

// The shards that an index names.
std::set<std::string> shards_of(fs::path const& index, std::string const& shown) {
  auto const text = read_text(index);
  auto const json = parse_json(std::as_bytes(std::span<char const>(text)), shown);
  auto const map = json_view(json, shown).at("weight_map");
  if (!map.raw().is_object()) map.refuse("expected an object of tensor to file");
  std::set<std::string> names;
  for (auto const& [tensor, file] : map.raw().items()) {
    auto const& name = json_view(file, shown, "weight_map." + tensor).string();
    if (!consists_of(name, "-_.") || !name.ends_with(".safetensors"))
      map.refuse("names a file that is no shard of weights");
    names.insert(name);
  }
  return names;
}

/// The first file that a run needs and the folder has not; empty if it is all there.
std::string missing_file(fs::path const& folder, model_needs needs) {
  auto const there = [&](std::string const& name) { return fs::exists(folder / name); };
  if (!there("config.json")) return "config.json";
  if (needs.tokenizer && !there("tokenizer.json")) return "tokenizer.json";
  if (!needs.weights || there(weights_file)) return "";
  if (!there(index_file)) return weights_file;
  for (auto const& name : shards_of(folder / index_file, (folder / index_file).string()))
    if (!there(name)) return name;
  return "";
}

std::string gigabytes(std::uint64_t bytes) {
  std::array<char, 32> text{};
  auto const x = static_cast<double>(bytes);
  std::snprintf(text.data(), text.size(),
                bytes < 1'000'000       ? "%.1f kB"
                : bytes < 1'000'000'000 ? "%.1f MB"
                                        : "%.1f GB",
                x / (bytes < 1'000'000       ? 1e3
                     : bytes < 1'000'000'000 ? 1e6
                                             : 1e9));
  return text.data();
}

std::optional<std::uint64_t> number(std::string_view text) {
  std::uint64_t out = 0;
  auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size() ? std::optional(out) : std::nullopt;
}

// HF_TOKEN, or what `hf auth login` left. It goes into a header, so nothing but visible ASCII.
std::string access_token() {
  std::string token;
  for (char const* name : {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})
    if (token.empty()) token = variable(name);
  if (token.empty() && !is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN")) {
    auto const given = variable("HF_TOKEN_PATH");
    auto const path = given.empty() ? hugging_face_home() / "token" : fs::path(given);
    if (fs::is_regular_file(path)) token = read_text(path);
  }
  auto const is_blank = [](char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; };
  while (!token.empty() && is_blank(token.back())) token.pop_back();
  token.erase(token.begin(), std::find_if_not(token.begin(), token.end(), is_blank));
  if (!std::all_of(token.begin(), token.end(), [](char c) { return c > ' ' && c < '\x7f'; }))
    throw download_error("the Hugging Face token holds a character that no token has");
  return token;
}

/// A file that grows by appending.
class open_file {
 public:
  explicit open_file(fs::path const& path)
      : path_{path.string()}, fd_{::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644)} {
    if (fd_ < 0) throw io_error(path_, "cannot create", errno);
  }
  open_file(open_file const&) = delete;
  open_file& operator=(open_file const&) = delete;
  ~open_file() { ::close(fd_); }

  std::uint64_t size() const { return static_cast<std::uint64_t>(std::max<off_t>(::lseek(fd_, 0, SEEK_END), 0)); }
  void empty() const { check(::ftruncate(fd_, 0), "cannot cut"); }
  void sync() const { check(::fsync(fd_), "cannot sync"); }
  void write(std::span<std::byte const> bytes) const {
    while (!bytes.empty()) {
      auto const n = ::write(fd_, bytes.data(), bytes.size());
      if (n < 0 && errno == EINTR) continue;
      check(n, "cannot write");
      bytes = bytes.subspan(static_cast<std::size_t>(n));
    }
  }
  /// Passes what is there to `take`.
  void read(auto take) const {
    if (size() > 0) take(mapped_file(path_).bytes());
  }

 private:
  void check(auto result, char const* action) const {
    if (result < 0) throw io_error(path_, action, errno);
  }

  std::string path_;
  int fd_;
};

/// One hub: where it is, who we are there, and how often we try.
class hub {
 public:
  hub() : endpoint_{variable("HF_ENDPOINT")}, token_{access_token()} {
    if (endpoint_.empty()) endpoint_ = "https://huggingface.co";
    while (endpoint_.ends_with('/')) endpoint_.pop_back();
    check_address("HF_ENDPOINT", endpoint_);
    if (auto const seconds = number(variable("HF_HUB_DOWNLOAD_TIMEOUT")); seconds && *seconds > 0 && *seconds < 86'400)
      patience_ = static_cast<long>(*seconds);
  }

  std::string const& endpoint() const { return endpoint_; }

  /// Commit, names, sizes and checksums of a revision.
  listing list(hub_name const& model) const {
    constexpr std::size_t limit = 16u << 20;
    std::string text;
    auto const shown =
        endpoint_ + "/api/models/" + model.owner + '/' + model.name + "/revision/" + escaped(model.revision);
    retrying([&] {
      text.clear();
      follow({.url = shown + "?blobs=true"}, [&](http_response const& r, std::span<std::byte const> bytes) {
        if (r.status == 200) text.append(reinterpret_cast<char const*>(bytes.data()), bytes.size());
        if (text.size() > limit) throw download_error(shown + ": the answer does not end");
        return true;
      });
      return true;
    });
    try {
      return parse(text, shown, model);
    } catch (format_error const& e) {
      throw download_error(std::string("not the answer of a Hugging Face hub: ") + e.what());
    }
  }

  /// Where the listing left them out: the checksum and the size that the hub has in its headers.
  void complete(remote_file& file, hub_name const& model, std::string const& commit) const {
    auto const shown = address(model, commit, file.name);
    http_response last;
    retrying([&] {
      last = follow(
          {.url = shown, .head = true}, [](auto const&, auto const&) { return true; }, true);
      return true;
    });
    auto tag = last.header("x-linked-etag");
    if (tag.empty()) tag = last.header("etag");
    if (tag.starts_with("W/")) tag.erase(0, 2);
    std::erase(tag, '"');
    auto const linked = last.header("x-linked-size");
    auto const size = number(linked.empty() ? last.header("content-length") : linked);
    if ((!is_hex(tag, 40) && !is_hex(tag, 64)) || !size)
      throw download_error(shown + ": the hub names no checksum or no size, and a file is not taken without");
    file.checksum = tag;
    file.size = *size;
  }

  /// Fetches a file to `to`, which may hold the beginning of it. `seen` is told how many bytes are there.
  void fetch(remote_file const& file, hub_name const& model, std::string const& commit, open_file const& to,
             std::function<void(std::uint64_t)> const& seen) const;

 private:
  std::string address(hub_name const& model, std::string const& commit, std::string const& file) const {
    return endpoint_ + '/' + model.owner + '/' + model.name + "/resolve/" + commit + '/' + file;
  }

  static std::string escaped(std::string const& revision) {
    std::string out;
    for (char const c : revision) out += c == '/' ? "%2F" : std::string(1, c);
    return out;
  }

  static listing parse(std::string const& text, std::string const& shown, hub_name const& model) {
    auto const json = parse_json(std::as_bytes(std::span<char const>(text)), shown);
    json_view const top(json, shown);
    listing out;
    out.commit = top.at("sha").string();
    if (!is_hex(out.commit, 40)) top.at("sha").refuse("is not a commit");
    if (is_hex(model.revision, 40) && model.revision != out.commit)
      top.at("sha").refuse("is not the commit that was asked for");
    for (auto const& entry : top.at("siblings").elements()) {
      auto const name = entry.at("rfilename");
      check_path(name);
      if (name.string().find('/') != std::string::npos) continue;
      remote_file file{.name = name.string(), .checksum = {}};
      if (out.files.size() == 10'000) name.refuse("is one of more files than any model has");
      if (out.find(file.name) != nullptr) name.refuse("\"" + file.name + "\" stands there twice");
      constexpr std::int64_t most = std::int64_t{1} << 50;
      if (entry.has("lfs")) {
        auto const large = entry.at("lfs");
        file.checksum = large.at("sha256").string();
        file.size = static_cast<std::uint64_t>(large.at("size").integer(0, most));
        if (!is_hex(file.checksum, 64)) large.at("sha256").refuse("is not a SHA-256");
      } else if (entry.has("blobId") && entry.has("size")) {
        file.checksum = entry.at("blobId").string();
        file.size = static_cast<std::uint64_t>(entry.at("size").integer(0, most));
        if (!is_hex(file.checksum, 40)) entry.at("blobId").refuse("is not a git object id");
      }
      out.files.push_back(std::move(file));
    }
    return out;
  }

  // No honest repository has such a path, so the whole answer is refused and not this file alone.
  static void check_path(json_view const& name) {
    std::string_view rest = name.string();
    bool good = !rest.empty() && rest.find('\\') == rest.npos &&
                std::none_of(rest.begin(), rest.end(), [](char c) { return static_cast<unsigned char>(c) < ' '; });
    for (bool more = good; more;) {
      auto const slash = rest.find('/');
      auto const part = rest.substr(0, slash);
      good = good && !part.empty() && part != "." && part != "..";
      more = slash != rest.npos;
      if (more) rest.remove_prefix(slash + 1);
    }
    if (!good) name.refuse("is a path that leads out of the repository");
  }

  // A status other than success: trying again may mend it or not.
  [[noreturn]] void refused(http_response const& r) const {
    auto const said = endpoint_ + " answers " + std::to_string(r.status);
    switch (r.status) {
      case 401:
        throw download_error(
            said +
            ": no such model, or one that needs a token; check the name, and set HF_TOKEN or run `hf auth login`");
      case 403:
        throw download_error(
            said + ": this account may not read it; accept its terms on the model's page, or use a token that may");
      case 404:
        throw download_error(said + ": no such model, revision or file");
      default:
        break;
    }
    bool const passing = r.status == 408 || r.status == 425 || r.status == 429 || r.status >= 500;
    if (!passing) throw download_error(said);
    wait_ = number(r.header("retry-after"));
    throw connection_error(said + (r.status == 429 ? " (too many requests)" : ""));
  }

  // One request through all redirections. The token goes to the endpoint and to nobody else.
  http_response follow(http_request request, http_body const& body, bool stop_at_link = false) const {
    request.patience = patience_;
    for (int hops = 0;; ++hops) {
      bool const ours = same_origin(request.url, endpoint_);
      request.token = ours ? token_ : "";
      auto const r = http_exchange(request, [&](http_response const& head, std::span<std::byte const> bytes) {
        return head.status < 300 ? body(head, bytes) : true;
      });
      if (r.status == 200 || (request.from > 0 && (r.status == 206 || r.status == 416))) return r;
      if (stop_at_link && r.status >= 300 && r.status < 400 && !r.header("x-linked-etag").empty()) return r;
      if (r.status < 300 || r.status >= 400 || r.location.empty()) refused(r);
      if (hops == 5) throw download_error(endpoint_ + " redirects without end");
      if (request.url.starts_with("https:") && !r.location.starts_with("https:"))
        throw download_error(endpoint_ + " redirects from https to an address that is not safe");
      request.url = r.location;
    }
  }

  // Does it until it says that it is done. Five tries in a row without progress are the end, or a thousand with little.
  template <class Once>
  void retrying(Once once) const {
    for (int failures = 0, tries = 1;; ++tries) {
      try {
        if (once()) return;
        if (tries == 1000) throw download_error("the connection breaks again and again");
        failures = 0;
      } catch (connection_error const& e) {
        if (++failures == 5)
          throw download_error(std::string(e.what()) + "; tried 5 times, the same command goes on from there");
        pause(std::chrono::milliseconds(wait_ ? std::min<std::uint64_t>(*wait_, 60) * 1000 : 250u << failures));
        wait_.reset();
      }
    }
  }

  static void pause(std::chrono::milliseconds time) {
    auto const end = std::chrono::steady_clock::now() + time;
    while (std::chrono::steady_clock::now() < end) {
      if (interrupted) throw download_interrupted("interrupted");
      std::this_thread::sleep_for(std::min(time, std::chrono::milliseconds(50)));
    }
  }

  std::string endpoint_, token_;
  long patience_ = 10;
  mutable std::optional<std::uint64_t> wait_;  // seconds that the last refusal asked for
};

void hub::fetch(remote_file const& file, hub_name const& model, std::string const& commit, open_file const& to,
                std::function<void(std::uint64_t)> const& seen) const {
  constexpr std::uint64_t progress = 4096;  // less in one try counts as none
  int wrong = 0;
  retrying([&] {
    std::uint64_t have = to.size();
    if (have > file.size) to.empty(), have = 0;
    std::uint64_t const before = have;
    blob_hash hash(file);
    to.read([&](auto bytes) { hash.update(bytes); });
    auto const refuse = [&](std::string const& what) {
      to.empty();
      throw download_error(what);
    };
    auto const broken = [&](std::string const& what) {
      if (have >= before + progress) return false;
      throw connection_error(what + " after " + std::to_string(have) + " of " + std::to_string(file.size) + " bytes");
    };
    bool begun = false;
    if (have < file.size) try {
        auto const last =
            follow({.url = address(model, commit, file.name), .from = have}, [&](auto const& r, auto bytes) {
              if (!std::exchange(begun, true)) {
                if (r.status == 200 && have > 0) to.empty(), have = 0, hash = blob_hash(file);
                auto const part = "bytes " + std::to_string(have) + '-' + std::to_string(file.size - 1) + '/' +
                                  std::to_string(file.size);
                if (r.status == 206 && r.header("content-range") != part)
                  refuse("the server sends another part than the one asked for");
                auto const length = number(r.header("content-length"));
                if (length && *length != file.size - have)
                  refuse("the hub states " + std::to_string(file.size) + " bytes, the server " +
                         std::to_string(have + *length));
              }
              if (bytes.size() > file.size - have)
                refuse("the server sends more than the " + std::to_string(file.size) + " bytes that the hub states");
              to.write(bytes);
              hash.update(bytes);
              have += bytes.size();
              seen(have);
              return true;
            });
        if (last.status == 416) {
          if (++wrong == 2) refuse("the server does not go on where it stopped");
          to.empty();
          return false;
        }
      } catch (connection_error const& e) {
        return broken(begun ? "the connection broke" : e.what());
      }
    if (have < file.size) return broken("the connection ended");
    if (hash.hex() == file.checksum) return true;
    // What was there from an earlier run may have been the fault: once more, from the first byte.
    if (before == 0 || ++wrong == 2) refuse("has another checksum than the hub states; what came was thrown away");
    to.empty();
    return false;
  });
}

/// Keeps others, Python's library too, from doing the same at the same time.
class file_lock {
 public:
  explicit file_lock(fs::path const& path) {
    fs::create_directories(path.parent_path());
    fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd_ < 0) throw io_error(path.string(), "cannot create", errno);
    while (::flock(fd_, LOCK_EX) != 0 && errno == EINTR && !interrupted) {
    }
  }
  file_lock(file_lock const&) = delete;
  file_lock& operator=(file_lock const&) = delete;
  ~file_lock() { ::close(fd_); }

 private:
  int fd_;
};

/// The place of one model in the cache.
class cached_model {
 public:
  cached_model(fs::path const& cache, hub_name const& model)
      : folder_{cache / model.folder()}, locks_{cache / ".locks" / model.folder()}, model_{model} {}

  fs::path const& folder() const { return folder_; }
  fs::path snapshot(std::string const& commit) const { return folder_ / "snapshots" / commit; }
  fs::path blob(remote_file const& file) const { return folder_ / "blobs" / file.checksum; }

  /// The snapshot of the revision, if there is one.
  std::optional<fs::path> find() const {
    auto commit = model_.revision;
    if (auto const ref = folder_ / "refs" / model_.revision; fs::is_regular_file(ref)) commit = read_text(ref);
    commit.erase(std::find_if(commit.begin(), commit.end(), [](char c) { return c == '\n' || c == '\r' || c == ' '; }),
                 commit.end());
    if (!consists_of(commit, "") || !fs::is_directory(snapshot(commit))) return std::nullopt;
    return snapshot(commit);
  }

  bool has(remote_file const& file) const {
    std::error_code error;
    return fs::file_size(blob(file), error) == file.size && !error;
  }

  /// Fetches the blobs that are not there, and says before how much that is.
  void fetch(hub const& server, std::string const& commit, std::vector<remote_file> const& files, bool quiet) const {
    std::uint64_t total = 0, there = 0;
    std::size_t count = 0;
    for (auto const& file : files) {
      if (has(file)) continue;
      std::error_code error;
      auto const begun = fs::file_size(incomplete(file), error);
      there += error ? 0 : std::min(begun, file.size);
      total += file.size;
      ++count;
    }
    if (count == 0) return;
    fs::create_directories(folder_ / "blobs");
    if (auto const room = free_disk(folder_); room && *room < total - there)
      throw download_error("needs " + gigabytes(total - there) + ", the disk of " + folder_.string() + " has " +
                           gigabytes(*room));
    if (!quiet)
      std::fprintf(stderr, "moeroute: fetching %zu %s of %s/%s, %s%s, from %s into %s\n", count,
                   count == 1 ? "file" : "files", model_.owner.c_str(), model_.name.c_str(), gigabytes(total).c_str(),
                   there == 0 ? "" : (" (" + gigabytes(there) + " are there)").c_str(), server.endpoint().c_str(),
                   folder_.c_str());
    constexpr std::uint64_t mega = 1'000'000;
    progress bar(total / mega, there / mega, !quiet, "MB");
    std::uint64_t done = 0;
    for (auto const& file : files) {
      if (has(file)) continue;
      try {
        fetch(server, commit, file, [&](std::uint64_t bytes) { bar.show((done + bytes) / mega); });
      } catch (download_error const& e) {
        throw download_error(file.name + ": " + e.what());
      }
      done += file.size;
    }
  }

  /// Makes the fetched files appear, in this order, and then the name of the revision.
  void publish(std::string const& commit, std::vector<remote_file> const& files) const {
    file_lock const lock(locks_ / "snapshots.lock");
    fs::create_directories(snapshot(commit));
    for (auto const& file : files) {
      auto const pointer = snapshot(commit) / file.name;
      if (fs::exists(pointer)) continue;
      fs::remove(pointer);  // a link to a blob that is gone
      fs::create_symlink(fs::path("../../blobs") / file.checksum, pointer);
    }
    if (model_.revision == commit) return;
    auto const ref = folder_ / "refs" / model_.revision;
    fs::create_directories(ref.parent_path());
    write_file(ref, commit);
  }

 private:
  fs::path incomplete(remote_file const& file) const { return blob(file).string() + ".incomplete"; }

  void fetch(hub const& server, std::string const& commit, remote_file const& file,
             std::function<void(std::uint64_t)> const& seen) const {
    file_lock const lock(locks_ / (file.checksum + ".lock"));
    if (has(file)) return;  // while we waited
    open_file const to(incomplete(file));
    server.fetch(file, model_, commit, to, seen);
    to.sync();
    fs::rename(incomplete(file), blob(file));
  }

  fs::path folder_, locks_;
  hub_name model_;
};

fs::path download(cached_model const& cache, hub_name const& model, model_needs needs, bool quiet) {
  hub const server;
  auto const found = server.list(model);
  auto const known = [&](std::string const& name, std::string const& otherwise) {
    auto const* file = found.find(name);
    if (file == nullptr) throw download_error(otherwise);
    remote_file out = *file;
    if (out.checksum.empty()) server.complete(out, model, found.commit);
    return out;
  };
  std::vector<remote_file> files;
  for (auto const name : small_files)
    if (found.find(name) != nullptr) files.push_back(known(std::string(name), ""));
  if (found.find("config.json") == nullptr)
    throw download_error("the hub has no config.json of it; this is no model for this program");
  if (needs.tokenizer && found.find("tokenizer.json") == nullptr)
    throw download_error("the hub has no tokenizer.json of it; use --tokenizer FOLDER or --token-ids");
  if (needs.weights && found.find(weights_file) != nullptr) {
    files.push_back(known(weights_file, ""));
  } else if (needs.weights) {
    auto const index =
        known(index_file, "the hub has no safetensors of it, and no other kind of weights is ever opened");
    cache.fetch(server, found.commit, {index}, quiet);
    for (auto const& name : shards_of(cache.blob(index), index_file))
      files.push_back(known(name, std::string(index_file) + " names " + name + ", which the hub does not have"));
    files.push_back(index);
  }
  cache.fetch(server, found.commit, files, quiet);
  // The weights, their index last, are the last to appear: with them, all is there.
  cache.publish(found.commit, files);
  return cache.snapshot(found.commit);
}

}  // namespace

fs::path find_model(std::string const& name, model_needs needs, hub_options options) {
  if (fs::is_directory(name)) return name;
  auto const model = hub_name::parse(name);
  if (!model) throw io_error(name, "no such model folder", ENOENT);
  cached_model const cache(hugging_face_cache(), *model);
  auto const cached = cache.find();
  auto const missing = cached ? missing_file(*cached, needs) : "";
  if (cached && missing.empty()) return *cached;
  if (options.offline || is_set("HF_HUB_OFFLINE") || is_set("TRANSFORMERS_OFFLINE"))
    throw download_error(
        name + ": no such folder, and " +
        (cached ? "the Hugging Face cache lacks " + missing + " of it" : "not in the Hugging Face cache") + " (" +
        cache.folder().string() + "); nothing is fetched because of --offline or HF_HUB_OFFLINE");
  try {
    return download(cache, *model, needs, options.quiet);
  } catch (download_error const& e) {
    throw download_error(name + ": " + e.what());
  }
}

}  // namespace moeroute::capture
