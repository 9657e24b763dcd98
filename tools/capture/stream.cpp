// SPDX-License-Identifier: Apache-2.0
#include "stream.hpp"

#include <moeroute/io/sha256.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <fcntl.h>
#include <future>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

#include "json_view.hpp"
#include "session.hpp"

namespace moeroute::capture {
namespace {

namespace fs = std::filesystem;
using clock = std::chrono::steady_clock;

std::string stem(std::string const& name) { return "scratch-" + name; }
fs::path mark_file(fs::path const& folder, std::string const& name) { return folder / (stem(name) + ".json"); }
fs::path hidden_file(fs::path const& folder, std::string const& name) { return folder / (stem(name) + ".hidden.tmp"); }
fs::path spool_file(fs::path const& folder, std::string const& name) { return folder / (stem(name) + ".spool.tmp"); }

constexpr std::size_t batch_bytes = 8;  // of a record, beside those of its tokens: the count of non-finite values

double seconds_since(clock::time_point start) { return std::chrono::duration<double>(clock::now() - start).count(); }

std::uint64_t routing_bytes(model_spec const& spec, dtype type) {
  return static_cast<std::uint64_t>(spec.router.experts) * dtype_bytes(logits_type(spec, type)) +
         static_cast<std::uint64_t>(spec.router.top_k) * (sizeof(std::int16_t) + sizeof(float));
}

std::string of_stages(std::vector<std::string> const& digests) {
  std::string all;
  for (auto const& digest : digests) all += digest;
  return sha256_hex(std::as_bytes(std::span<char const>(all)));
}

template <class T>
std::span<std::byte> bytes_of(std::vector<T>& values) {
  return std::as_writable_bytes(std::span<T>(values));
}
template <class T>
std::span<std::byte const> bytes_of(std::vector<T> const& values) {
  return std::as_bytes(std::span<T const>(values));
}
template <class T>
std::span<std::byte const> bytes_of(T const& value) {
  return std::as_bytes(std::span<T const, 1>(&value, 1));
}

bool has_size(fs::path const& path, std::uint64_t size) {
  std::error_code error;
  return fs::file_size(path, error) == size && !error;
}

}  // namespace

std::string weights_sha256(model_spec const& spec, checkpoint const& weights, int threads) {
  std::vector<std::string> digests;
  for (auto const& names : stage_tensors(spec, weights)) digests.push_back(weights.digest(names, threads));
  return of_stages(digests);
}

std::uint64_t spool_bytes_per_token(model_spec const& spec, dtype type) {
  return spec.moe_layers().size() * routing_bytes(spec, type) + sizeof(float) + sizeof(std::int32_t);
}

std::uint64_t hidden_bytes_per_token(model_spec const& spec, dtype type) {
  return static_cast<std::uint64_t>(spec.hidden) * dtype_bytes(type);
}

layer_stream::scratch_file::scratch_file(fs::path path, std::uint64_t size) : path_{path.string()} {
  fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) throw io_error(path_, "cannot create", errno);
  if (::ftruncate(fd_, static_cast<::off_t>(size)) != 0) {
    int const error = errno;
    ::close(fd_);
    throw io_error(path_, "cannot write", error);
  }
}

layer_stream::scratch_file::~scratch_file() { ::close(fd_); }

void layer_stream::scratch_file::read(std::uint64_t at, std::span<std::byte> to) const {
  while (!to.empty()) {
    auto const n = ::pread(fd_, to.data(), to.size(), static_cast<::off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) throw io_error(path_, "cannot read", n == 0 ? EIO : errno);
    to = to.subspan(static_cast<std::size_t>(n));
    at += static_cast<std::uint64_t>(n);
  }
}

void layer_stream::scratch_file::write(std::uint64_t at, std::span<std::byte const> from) const {
  while (!from.empty()) {
    auto const n = ::pwrite(fd_, from.data(), from.size(), static_cast<::off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw io_error(path_, "cannot write", errno);
    from = from.subspan(static_cast<std::size_t>(n));
    at += static_cast<std::uint64_t>(n);
  }
}

void layer_stream::scratch_file::sync() const {
  if (::fdatasync(fd_) != 0) throw io_error(path_, "cannot sync", errno);
}

void layer_stream::scratch_file::punch(std::uint64_t at, std::uint64_t size) const {
  // A file system that cannot do it keeps the bytes until the end.
  (void)::fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<::off_t>(at), static_cast<::off_t>(size));
}

layer_stream::layer_stream(fs::path folder, std::string const& name, model_spec const& spec, checkpoint const& weights,
                           execution const& where, std::size_t first_shard, work todo)
    : mark_{mark_file(folder, name)},
      spec_{spec},
      weights_{weights},
      where_{where},
      first_shard_{first_shard},
      todo_{std::move(todo)},
      before_{[&] {
        std::vector<std::uint64_t> sums{0};
        for (auto const n : todo_.tokens) sums.push_back(sums.back() + n);
        return sums;
      }()},
      moe_{spec.moe_layers()},
      layer_bytes_{routing_bytes(spec, where.type)},
      hidden_bytes_{hidden_bytes_per_token(spec, where.type)},
      digests_{[&] {
        std::vector<std::string> done;
        if (!fs::exists(mark_)) return done;
        auto const json = read_json(mark_);
        json_view const view(json, mark_.string());
        if (view.at("files").string() != weights_.state_of_files())
          throw format_error(mark_.string(), "files",
                             "the weights were written anew since; resume with the same model, or use --overwrite");
        for (auto const& digest : view.at("stages").elements()) done.push_back(digest.string());
        bool const whole = has_size(spool_file(folder, name), spool_at(todo_.tokens.size(), 0)) &&
                           (static_cast<std::int64_t>(done.size()) == stage_count(spec_) ||
                            has_size(hidden_file(folder, name), 2 * before_.back() * hidden_bytes_));
        if (!whole || static_cast<std::int64_t>(done.size()) > stage_count(spec_)) done.clear();
        return done;
      }()},
      names_{stage_tensors(spec, weights)},
      kept_(todo_.tokens.size()),
      hidden_file_{hidden_file(folder, name), 2 * before_.back() * hidden_bytes_},
      spool_file_{spool_file(folder, name), spool_at(todo_.tokens.size(), 0)} {
  if (digests_.empty()) write_mark();
}

std::optional<std::size_t> layer_stream::first_shard(fs::path const& folder, std::string const& name) {
  auto const mark = mark_file(folder, name);
  if (!fs::exists(mark)) return std::nullopt;
  auto const json = read_json(mark);
  return static_cast<std::size_t>(json_view(json, mark.string()).at("first_shard").integer(0, 1 << 30));
}

bool layer_stream::is_scratch(std::string const& file, std::string const& name) { return file.starts_with(stem(name) + '.'); }

void layer_stream::remove(fs::path const& folder, std::string const& name) {
  // The mark first: without it the rest means nothing.
  for (auto const& file : {mark_file(folder, name), hidden_file(folder, name), spool_file(folder, name)}) fs::remove(file);
}

void layer_stream::write_mark() const {
  nlohmann::ordered_json const mark{
      {"first_shard", first_shard_}, {"files", weights_.state_of_files()}, {"stages", digests_}};
  write_file(mark_, mark.dump() + "\n");
}

std::uint64_t layer_stream::spool_at(std::size_t batch, std::size_t record) const {
  auto const records = moe_.size() + 1;
  auto const whole = moe_.size() * layer_bytes_ + sizeof(float) + sizeof(std::int32_t);
  auto at = before_[batch] * whole + batch * records * batch_bytes;
  if (record > 0) at += record * ((before_[batch + 1] - before_[batch]) * layer_bytes_ + batch_bytes);
  return at;
}

std::uint64_t layer_stream::hidden_at(std::int64_t stage, std::size_t batch) const {
  return ((stage % 2 == 0 ? 0 : before_.back()) + before_[batch]) * hidden_bytes_;
}

std::vector<std::byte> layer_stream::take_hidden(std::int64_t stage, std::size_t batch) {
  if (!kept_[batch].empty()) return std::exchange(kept_[batch], {});
  std::vector<std::byte> bytes(static_cast<std::size_t>((before_[batch + 1] - before_[batch]) * hidden_bytes_));
  hidden_file_.read(hidden_at(stage, batch), bytes);
  return bytes;
}

void layer_stream::put_hidden(std::int64_t stage, std::size_t batch, std::vector<std::byte>&& bytes) {
  hidden_file_.write(hidden_at(stage, batch), bytes);
  if (before_[batch + 1] * hidden_bytes_ <= todo_.hidden_memory) kept_[batch] = std::move(bytes);
}

void layer_stream::spool(std::size_t record, std::size_t batch, batch_output const& out) const {
  auto at = spool_at(batch, record);
  auto const put = [&](std::span<std::byte const> bytes) {
    spool_file_.write(at, bytes);
    at += bytes.size();
  };
  if (record == moe_.size()) {
    put(bytes_of(out.logprob));
    put(bytes_of(out.predicted));
    put(bytes_of(out.nonfinite));
    return;
  }
  auto const& layer = out.layers.front();
  put(layer.logits);
  put(bytes_of(layer.ids));
  put(bytes_of(layer.weights));
  put(bytes_of(layer.nonfinite));
}

batch_output layer_stream::output(std::size_t batch) const {
  auto const tokens = static_cast<std::size_t>(before_[batch + 1] - before_[batch]);
  auto at = spool_at(batch, 0);
  auto const get = [&](std::span<std::byte> bytes) {
    spool_file_.read(at, bytes);
    at += bytes.size();
  };
  batch_output out;
  auto const k = tokens * static_cast<std::size_t>(spec_.router.top_k);
  for (std::size_t l = 0; l < moe_.size(); ++l) {
    layer_output layer;
    layer.ids.resize(k);
    layer.weights.resize(k);
    layer.logits.resize(tokens * static_cast<std::size_t>(layer_bytes_) - k * (sizeof(std::int16_t) + sizeof(float)));
    get(layer.logits);
    get(bytes_of(layer.ids));
    get(bytes_of(layer.weights));
    get(std::as_writable_bytes(std::span(&layer.nonfinite, 1)));
    out.layers.push_back(std::move(layer));
  }
  out.logprob.resize(tokens);
  out.predicted.resize(tokens);
  get(bytes_of(out.logprob));
  get(bytes_of(out.predicted));
  get(std::as_writable_bytes(std::span(&out.nonfinite, 1)));
  return out;
}

void layer_stream::release(std::size_t first, std::size_t last) const {
  spool_file_.punch(spool_at(first, 0), spool_at(last, 0) - spool_at(first, 0));
}

layer_stream::fetched layer_stream::fetch(std::int64_t stage, bool embedding_too) const {
  auto const start = clock::now();
  auto const& own = names_[static_cast<std::size_t>(stage)];
  auto names = own;
  if (embedding_too) names.insert(names.end(), names_.front().begin(), names_.front().end());
  // More than a few readers only disturb each other.
  int const threads = std::clamp(where_.threads, 1, 8);
  auto part = weights_.read(names, threads);
  auto digest = part.digest(own, threads);
  std::uint64_t bytes = 0;
  for (auto const& name : names) bytes += part.at_any(name).data.size();
  return {std::move(part), std::move(digest), bytes, seconds_since(start)};
}

bool layer_stream::run_stage(model const& decoder, std::int64_t stage, progress& bar) {
  bool const head = stage == spec_.layers + 1;
  auto const record = static_cast<std::size_t>(std::lower_bound(moe_.begin(), moe_.end(), stage - 1) - moe_.begin());
  for (std::size_t b = 0; b < todo_.tokens.size(); ++b) {
    if (interrupted) return false;
    auto const batch = todo_.batch(b);
    std::vector<std::byte> hidden;
    if (stage > 0) hidden = take_hidden(stage - 1, b);
    batch_output out;
    decoder.run_stage(stage, batch.ids, batch.offsets, hidden, out);
    if (todo_.inspect) todo_.inspect(out);
    if (head || !out.layers.empty()) spool(head ? moe_.size() : record, b, out);
    if (!head) put_hidden(stage, b, std::move(hidden));
    bar.show(static_cast<std::uint64_t>(stage) * before_.back() + before_[b + 1]);
  }
  return true;
}

bool layer_stream::run(bool show_progress) {
  auto const stages = stage_count(spec_), first = stages_done();
  if (first == stages) return true;
  model decoder(spec_, weights_, where_, residency::stream);
  bool const tied = has_tied_head(spec_, weights_);
  auto const ahead = [&](std::int64_t stage) {
    bool const embedding_too = tied && stage == stages - 1 && first > 0;
    return std::async(std::launch::async, [this, stage, embedding_too] { return fetch(stage, embedding_too); });
  };
  // Every token counts once in every stage.
  progress bar(static_cast<std::uint64_t>(stages) * before_.back(), static_cast<std::uint64_t>(first) * before_.back(),
               show_progress);
  auto next = ahead(first);
  for (auto stage = first; stage < stages; ++stage) {
    std::string digest;
    {
      auto start = clock::now();
      auto const now = next.get();
      waiting_ += seconds_since(start);
      reading_ += now.seconds;
      bytes_read_ += now.bytes;
      digest = now.digest;
      start = clock::now();
      decoder.load(stage, now.part);
      loading_ += seconds_since(start);
    }
    // Only now, so that three layers are never in memory.
    if (stage + 1 < stages) next = ahead(stage + 1);
    auto const start = clock::now();
    if (!run_stage(decoder, stage, bar)) return false;
    computing_ += seconds_since(start);
    decoder.unload(stage);
    hidden_file_.sync();
    spool_file_.sync();
    digests_.push_back(std::move(digest));
    write_mark();
    ++stages_run_;
  }
  kept_.clear();
  return true;
}

std::string layer_stream::sha256() const { return of_stages(digests_); }

std::string layer_stream::report() const {
  std::array<char, 256> text{};
  std::snprintf(text.data(), text.size(),
                "weights: %llu bytes read in %lld stages, each once; %.2f s of reading, %.2f s waited for it, %.2f s of "
                "loading, %.2f s of computing",
                static_cast<unsigned long long>(bytes_read_), static_cast<long long>(stages_run_), reading_, waiting_, loading_,
                computing_);
  return text.data();
}

}  // namespace moeroute::capture
