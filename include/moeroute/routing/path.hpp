// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_ROUTING_PATH_HPP
#define MOEROUTE_ROUTING_PATH_HPP

#include <moeroute/core/accumulator.hpp>
#include <moeroute/core/batch.hpp>
#include <moeroute/core/bytes.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/numeric/entropy.hpp>
#include <moeroute/numeric/random.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

namespace moeroute {

/// Estimated probability that the next draw is of a class that has been seen.
///
/// In     n draws; f1, f2: classes seen once, twice. Or n documents' worth of incidences: see paths.
/// Out    1 - f1/n (m f1)/(m f1 + 2 f2) with m = n - 1; Good's 1 - f1/n with its bias reduced.
/// Empty  NaN below two draws.   Cost  O(1).
/// Source Chao, Jost 2012, doi:10.1890/11-1952.1, equation 4a; without doubletons as their supplement. Differs: as
///        given.
inline double sample_coverage(double n, double f1, double f2, double units) noexcept {
  if (!(units >= 2) || !(n > 0)) return quiet_nan;
  if (f1 <= 0) return 1;
  double const a = (units - 1) * (f2 > 0 ? f1 : std::max(0.0, f1 - 1)), b = f2 > 0 ? 2 * f2 : 2;
  return std::clamp(1 - f1 / n * (a / (a + b)), 0.0, 1.0);
}
inline double sample_coverage(double n, double f1, double f2) noexcept { return sample_coverage(n, f1, f2, n); }

/// Entropy in nats of classes of which many have not been seen.
///
/// In     counts: whole numbers, of independent draws.
/// Out    Horvitz-Thompson sum over the seen classes with shares shrunk by Good's coverage 1 - f1/n; if all are
///        singletons, f1 = n - 1.
/// Empty  NaN if the sum is 0.   Cost  O(classes).
/// Throws argument_error for a negative, fractional or non-finite count.
/// Source Chao, Shen 2003, doi:10.1023/A:1026096204727; the case of singletons only as R's package entropy. Differs: as
///        given.
template <mass_vector X>
double entropy_chao_shen_nats(X const& counts) {
  auto const m = detail::masses_of(counts, "moeroute::entropy_chao_shen_nats");
  detail::require_whole(m, "moeroute::entropy_chao_shen_nats");
  if (m.total == 0) return quiet_nan;
  double singletons = static_cast<double>(std::count(m.values.begin(), m.values.end(), 1.0));
  if (singletons == m.total) singletons -= 1;
  double const coverage = 1 - singletons / m.total;
  double h = 0;
  for (double const v : m.values) {
    if (v == 0) continue;
    double const p = coverage * v / m.total;
    if (p > 0) h -= p * std::log(p) / -std::expm1(m.total * std::log1p(-p));
  }
  return std::max(0.0, h);
}

/// What of a token's choice in a layer belongs to its path.
enum class path_choice : std::uint32_t {
  first,  ///< slot 0
  set     ///< all slots, in any order
};

struct paths_options {
  index_t layers = 0, slots = 0;
  path_choice choice = path_choice::first;
  index_t capacity = index_t{1} << 18;  ///< distinct paths counted: all is exact up to here
  index_t sample = index_t{1} << 14;  ///< tokens kept with their paths: top paths, and the entropy beyond the capacity
  friend bool operator==(paths_options const&, paths_options const&) = default;
};

struct path_count {
  std::vector<std::int32_t> experts;  ///< [L] first choices, or [L,K] ascending within a layer; -1 = dropped
  double tokens = 0;                  ///< a count if exact, else an estimate from the sample
  bool exact = false;
};

struct paths_result {
  std::uint64_t tokens = 0, documents = 0;
  bool exact = true;  ///< every path is counted; otherwise what follows is estimated from the paths of smallest hash
  double distinct = quiet_nan;                            ///< paths seen
  double singletons = quiet_nan, doubletons = quiet_nan;  ///< paths of one token, of two
  double coverage = quiet_nan;  ///< probability that the path of one more token of these documents has been seen
  double coverage_documents = quiet_nan;  ///< the same for the paths of one more document: what counts for new text
  double entropy_nats = quiet_nan;        ///< plug-in; at most log(entropy_tokens), whatever the router does
  double entropy_miller_madow_nats = quiet_nan;
  double entropy_chao_shen_nats = quiet_nan;  ///< for many unseen paths
  std::uint64_t entropy_tokens = 0;           ///< tokens behind the entropies: all, or the sample
  std::vector<path_count> top;                ///< most frequent first
};

/// Paths of tokens through the layers: how many, how often, how many unseen.
///
/// In     trace_batch with the options' layers and slots; document ids unique over all shards.
/// Out    paths_result(top = number of paths listed).
/// Empty  NaN, tokens 0.
/// Merge  exact, in any order: kept are the `capacity` paths of smallest 128-bit hash, with exact counts, and the
///        `sample` tokens of smallest hash of document id and position. Whoever belongs there belongs there in every
///        part.
/// Cost   O(T L K) time; at most capacity * 80 + sample * (96 + 4 L K) bytes.
/// Bias   beyond the capacity: distinct, singletons and doubletons are unbiased (relative error of distinct about
///        1/sqrt(capacity)); top paths are those of the sample, so that a path of share p is missed with probability
///        exp(-sample p). Tokens are dependent: the entropies and `coverage` take them for independent draws,
///        coverage_documents does not. Two paths of one hash: never, in practice.
/// Throws argument_error or shape_error if layers, slots or tokens do not fit; nothing is counted then.
/// Source smallest hashes: Bar-Yossef et al. 2002, doi:10.1007/3-540-45726-7_1, (k-1)/h for distinct. Path entropy as
///        published is the plug-in one over log(distinct). Differs: coverage and corrected entropies beside it.
class paths {
 public:
  using options_type = paths_options;
  using result_type = paths_result;
  static constexpr merge_law law = merge_law::exact;

  explicit paths(paths_options options) : options_{options} {
    if (options.layers <= 0 || options.slots <= 0 || options.capacity < 2 || options.sample < 1)
      detail::raise("moeroute::paths: layers = ", options.layers, ", slots = ", options.slots,
                    ", capacity = ", options.capacity, ", sample = ", options.sample,
                    "; need layers, slots, sample > 0, capacity > 1");
    if (options.layers >= index_t{1} << 20 || options.slots >= index_t{1} << 20)
      detail::raise("moeroute::paths: layers = ", options.layers, ", slots = ", options.slots, " are no router's");
  }

  template <class L, class W, class Id>
  void check(trace_batch<L, W, Id> const& batch) const {
    if (static_cast<index_t>(batch.layers.size()) != options_.layers)
      detail::raise<shape_error>("moeroute::paths::update: batch has ", batch.layers.size(), " layers, options have ",
                                 options_.layers);
    validate(batch);
    for (auto const& layer : batch.layers)
      if (layer.slots() != options_.slots)
        detail::raise<shape_error>("moeroute::paths::update: a layer has ", layer.slots(), " slots, options have ",
                                   options_.slots);
  }
  template <class L, class W, class Id>
  void update(trace_batch<L, W, Id> const& batch) {
    check(batch);
    std::vector<hash_type> hashes;
    for (index_t d = 0; d < batch.documents.documents(); ++d) {
      index_t const first = batch.documents.first(d), size = batch.documents.size(d);
      hashes.clear();
      for (index_t t = first; t < first + size; ++t) hashes.push_back(hash_of(batch, t));
      for (index_t t = 0; t < size; ++t) {
        token const at = token_of(batch.documents.id(d), t);
        if (has_room(sample_, at, options_.sample))
          keep(sample_, at, sampled{hashes[static_cast<std::size_t>(t)], path_of(batch, first + t)}, options_.sample);
      }
      std::sort(hashes.begin(), hashes.end());
      for (auto i = hashes.begin(); i != hashes.end();) {
        auto const end = std::find_if(i, hashes.end(), [&](auto const& h) { return h != *i; });
        count_path(*i, {static_cast<std::uint64_t>(end - i), 1});
        ++incidences_;
        i = end;
      }
      tokens_ += static_cast<std::uint64_t>(size);
      ++documents_;
    }
  }

  void merge(paths const& other) {
    if (other.options_ != options_) detail::raise("moeroute::paths::merge: options differ");
    for (auto const& [hash, n] : other.kept_) count_path(hash, n);
    for (auto const& [at, s] : other.sample_) keep(sample_, at, s, options_.sample);
    beyond_ = beyond_ || other.beyond_;
    tokens_ += other.tokens_;
    documents_ += other.documents_;
    incidences_ += other.incidences_;
  }

  paths_options options() const noexcept { return options_; }
  std::uint64_t count() const noexcept { return tokens_; }
  paths_result result(index_t top = 10) const;

  std::vector<std::byte> serialize() const;
  static paths deserialize(std::span<std::byte const> bytes);

  friend bool operator==(paths const&, paths const&) = default;

 private:
  using hash_type = std::array<std::uint64_t, 2>;
  using token = std::tuple<std::uint64_t, std::int64_t, std::int64_t>;  // hash, document, position
  struct counts {
    std::uint64_t tokens = 0, documents = 0;
    friend bool operator==(counts const&, counts const&) = default;
  };
  struct sampled {
    hash_type hash;
    std::vector<std::int32_t> experts;
    friend bool operator==(sampled const&, sampled const&) = default;
  };

  index_t width() const noexcept { return options_.choice == path_choice::first ? 1 : options_.slots; }
  static token token_of(std::int64_t document, std::int64_t position) noexcept {
    return {mix64(mix64(static_cast<std::uint64_t>(document)) + static_cast<std::uint64_t>(position)), document,
            position};
  }

  /// Sums over the slots of a layer do not depend on their order; the chain over layers depends on theirs.
  template <class Path>
  static hash_type hash_path(index_t layers, index_t width, Path const& expert) noexcept {
    hash_type h{0x9ae16a3b2f90404fu, 0xc3a5c85c97cb3127u};
    for (index_t l = 0; l < layers; ++l) {
      std::uint64_t sum = 0, squares = 0;
      for (index_t k = 0; k < width; ++k) {
        std::uint64_t const m = mix64(static_cast<std::uint64_t>(static_cast<std::int64_t>(expert(l, k))));
        sum += m;
        squares += m * (m >> 32 | 1u);
      }
      h = {mix64(h[0] ^ sum), mix64(h[1] + squares)};
    }
    return h;
  }
  template <class Batch>
  hash_type hash_of(Batch const& batch, index_t t) const noexcept {
    return hash_path(options_.layers, width(),
                     [&](index_t l, index_t k) { return batch.layers[static_cast<std::size_t>(l)].ids()(t, k); });
  }
  template <class Batch>
  std::vector<std::int32_t> path_of(Batch const& batch, index_t t) const {
    std::vector<std::int32_t> path;
    for (auto const& layer : batch.layers) {
      for (index_t k = 0; k < width(); ++k) path.push_back(static_cast<std::int32_t>(layer.ids()(t, k)));
      std::sort(path.end() - width(), path.end());
    }
    return path;
  }

  template <class Map>
  static bool has_room(Map const& map, typename Map::key_type const& key, index_t capacity) {
    return std::ssize(map) < capacity || key < map.rbegin()->first;
  }
  template <class Map>
  static void keep(Map& map, typename Map::key_type const& key, typename Map::mapped_type value, index_t capacity) {
    map.insert_or_assign(key, std::move(value));
    if (std::ssize(map) > capacity) map.erase(std::prev(map.end()));
  }
  void count_path(hash_type const& hash, counts n) {
    auto const found = kept_.find(hash);
    if (found != kept_.end()) {
      found->second.tokens += n.tokens;
      found->second.documents += n.documents;
      return;
    }
    if (std::ssize(kept_) == options_.capacity) beyond_ = true;
    if (has_room(kept_, hash, options_.capacity)) keep(kept_, hash, n, options_.capacity);
  }

  paths_options options_;
  std::map<hash_type, counts> kept_;
  std::map<token, sampled> sample_;
  std::uint64_t tokens_ = 0, documents_ = 0;
  std::uint64_t incidences_ = 0;  // sum over documents of their distinct paths
  bool beyond_ = false;           // more than `capacity` paths have been seen
};

static_assert(accumulates<paths, trace_batch<>>);

inline paths_result paths::result(index_t top) const {
  paths_result r;
  r.tokens = tokens_;
  r.documents = documents_;
  r.exact = !beyond_;
  if (tokens_ == 0) return r;

  // Beyond the capacity the largest hash kept is a threshold: each smaller path is there with that probability,
  // whatever its count.
  auto const last = beyond_ ? std::prev(kept_.end()) : kept_.end();
  double const weight = beyond_ ? 0x1p64 / (static_cast<double>(last->first[0]) + 1) : 1;
  double once_in_documents = 0, twice_in_documents = 0;
  r.distinct = r.singletons = r.doubletons = 0;
  std::vector<std::uint64_t> of_paths;
  for (auto i = kept_.begin(); i != last; ++i) {
    auto const n = i->second;
    r.distinct += weight;
    r.singletons += n.tokens == 1 ? weight : 0;
    r.doubletons += n.tokens == 2 ? weight : 0;
    once_in_documents += n.documents == 1 ? weight : 0;
    twice_in_documents += n.documents == 2 ? weight : 0;
    if (!beyond_) of_paths.push_back(n.tokens);
  }
  r.coverage = sample_coverage(static_cast<double>(tokens_), r.singletons, r.doubletons);
  r.coverage_documents = sample_coverage(static_cast<double>(incidences_), once_in_documents, twice_in_documents,
                                         static_cast<double>(documents_));

  std::map<hash_type, std::pair<std::uint64_t, std::vector<std::int32_t> const*>> in_sample;
  for (auto const& [at, s] : sample_) {
    auto& entry = in_sample[s.hash];
    ++entry.first;
    entry.second = &s.experts;
  }
  r.entropy_tokens = tokens_;
  if (beyond_) {
    r.entropy_tokens = sample_.size();
    for (auto const& [hash, entry] : in_sample) of_paths.push_back(entry.first);
  }
  r.entropy_nats = moeroute::entropy_nats(of_paths);
  r.entropy_miller_madow_nats = moeroute::entropy_miller_madow_nats(of_paths);
  r.entropy_chao_shen_nats = moeroute::entropy_chao_shen_nats(of_paths);

  std::vector<std::pair<double, hash_type>> order;
  double const per_sampled = static_cast<double>(tokens_) / static_cast<double>(sample_.size());
  for (auto const& [hash, entry] : in_sample) {
    auto const counted = kept_.find(hash);
    order.push_back({-(counted != kept_.end() ? static_cast<double>(counted->second.tokens)
                                              : per_sampled * static_cast<double>(entry.first)),
                     hash});
  }
  std::sort(order.begin(), order.end());
  for (std::size_t i = 0; i < order.size() && std::cmp_less(i, top); ++i)
    r.top.push_back({*in_sample[order[i].second].second, -order[i].first, kept_.contains(order[i].second)});
  return r;
}

inline std::vector<std::byte> paths::serialize() const {
  byte_writer out;
  out.put(std::uint32_t{0x50415448});  // "PATH"
  out.put(static_cast<std::uint32_t>(options_.choice));
  for (auto const n : {options_.layers, options_.slots, options_.capacity, options_.sample})
    out.put(static_cast<std::int64_t>(n));
  std::vector<std::uint64_t> counted{tokens_, documents_, incidences_, beyond_ ? 1u : 0u};
  for (auto const& [hash, n] : kept_)
    for (auto const x : {hash[0], hash[1], n.tokens, n.documents}) counted.push_back(x);
  out.put(counted);
  std::vector<std::int64_t> places;
  std::vector<std::int32_t> experts;
  for (auto const& [at, s] : sample_) {
    places.push_back(std::get<1>(at));
    places.push_back(std::get<2>(at));
    for (auto const e : s.experts) experts.push_back(e);
  }
  out.put(places);
  out.put(experts);
  return std::move(out).bytes();
}

inline paths paths::deserialize(std::span<std::byte const> bytes) {
  byte_reader in(bytes);
  if (in.get<std::uint32_t>() != 0x50415448) in.fail("is not a paths");
  auto const choice = in.get<std::uint32_t>();
  std::int64_t n[4];
  for (auto& x : n) x = in.get<std::int64_t>();
  if (choice > 1 || n[0] <= 0 || n[1] <= 0 || n[0] >= index_t{1} << 20 || n[1] >= index_t{1} << 20 || n[2] < 2 ||
      n[3] < 1)
    in.fail("paths has impossible options");
  paths a({static_cast<index_t>(n[0]), static_cast<index_t>(n[1]), static_cast<path_choice>(choice),
           static_cast<index_t>(n[2]), static_cast<index_t>(n[3])});
  auto const counted = in.get_vector<std::uint64_t>();
  auto const places = in.get_vector<std::int64_t>();
  auto const experts = in.get_vector<std::int32_t>();
  in.finish();
  auto const width = static_cast<std::size_t>(a.options_.layers * a.width());
  if (counted.size() < 4 || counted.size() % 4 != 0 || counted[3] > 1 ||
      std::cmp_greater(counted.size() / 4 - 1, n[2]) || places.size() % 2 != 0 ||
      std::cmp_greater(places.size() / 2, n[3]) || experts.size() != places.size() / 2 * width)
    in.fail("paths has parts that do not fit");
  a.tokens_ = counted[0];
  a.documents_ = counted[1];
  a.incidences_ = counted[2];
  a.beyond_ = counted[3] == 1;
  if (a.beyond_ && counted.size() / 4 - 1 != static_cast<std::size_t>(n[2]))
    in.fail("paths has room left, but is said to be full");
  std::uint64_t tokens = 0;
  for (std::size_t i = 4; i < counted.size(); i += 4) {
    hash_type const hash{counted[i], counted[i + 1]};
    if (i > 4 && !(a.kept_.rbegin()->first < hash)) in.fail("paths has hashes out of order");
    if (counted[i + 3] == 0 || counted[i + 3] > a.documents_ || counted[i + 2] < counted[i + 3] ||
        counted[i + 2] > a.tokens_ - tokens)
      in.fail("paths has a path with more or fewer tokens than there can be");
    tokens += counted[i + 2];
    a.kept_.emplace_hint(a.kept_.end(), hash, counts{counted[i + 2], counted[i + 3]});
  }
  if (!a.beyond_ && tokens != a.tokens_) in.fail("paths has tokens without a path");
  if (places.size() / 2 > a.tokens_) in.fail("paths has more sampled tokens than tokens");
  for (std::size_t i = 0; i < places.size() / 2; ++i) {
    token const at = token_of(places[2 * i], places[2 * i + 1]);
    if (i > 0 && !(a.sample_.rbegin()->first < at)) in.fail("paths has sampled tokens out of order");
    std::vector<std::int32_t> path(experts.data() + i * width, experts.data() + (i + 1) * width);
    for (index_t l = 0; l < a.options_.layers; ++l)
      if (!std::is_sorted(path.begin() + l * a.width(), path.begin() + (l + 1) * a.width()))
        in.fail("paths has a set out of order");
    hash_type const hash = hash_path(a.options_.layers, a.width(), [&](index_t l, index_t k) {
      return path[static_cast<std::size_t>(l * a.width() + k)];
    });
    a.sample_.emplace_hint(a.sample_.end(), at, sampled{hash, std::move(path)});
  }
  return a;
}

}  // namespace moeroute

#endif
