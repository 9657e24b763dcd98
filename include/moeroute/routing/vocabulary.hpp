// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_ROUTING_VOCABULARY_HPP
#define MOEROUTE_ROUTING_VOCABULARY_HPP

#include <moeroute/core/accumulator.hpp>
#include <moeroute/core/adapt.hpp>
#include <moeroute/core/batch.hpp>
#include <moeroute/core/bytes.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/numeric/random.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

namespace moeroute {

namespace detail {

inline constexpr std::uint64_t purpose_vocabulary_half = 0x766f636162686c66u,
                               purpose_vocabulary_shift = 0x766f636162736866u;

inline void check_tokens(vector_view<std::int32_t> tokens, document_spans const& spans, char const* function) {
  if (tokens.size() != spans.tokens())
    raise<shape_error>(function, ": ", tokens.size(), " token ids, the documents have ", spans.tokens(), " tokens");
  for (index_t t = 0; t < tokens.size(); ++t)
    if (tokens[t] < -1) raise(function, ": token id ", tokens[t], " at token ", t, "; -1 means none");
}

/// Counts by key, one per half of the documents: open addressing, at most 3/4 full, 24 bytes per place.
class half_counts {
 public:
  using counts = std::array<std::uint64_t, 2>;

  std::size_t size() const noexcept { return size_; }

  counts& operator[](std::uint64_t key) {
    if (4 * (size_ + 1) > 3 * places_.size())
      rebuild(std::max<std::size_t>(16, 2 * places_.size()), [](auto) { return true; });
    auto& found = find(key);
    if (found.tag == 0) {
      found.tag = key + 1;
      ++size_;
    }
    return found.count;
  }
  template <class Keep>
  void keep_if(Keep const& keep) {
    rebuild(places_.size(), keep);
  }
  template <class F>
  void for_each(F const& f) const {
    for (auto const& p : places_)
      if (p.tag != 0) f(p.tag - 1, p.count);
  }
  std::vector<std::pair<std::uint64_t, counts>> sorted() const {
    std::vector<std::pair<std::uint64_t, counts>> out;
    out.reserve(size_);
    for_each([&](std::uint64_t key, counts const& c) { out.emplace_back(key, c); });
    std::sort(out.begin(), out.end(), [](auto const& a, auto const& b) { return a.first < b.first; });
    return out;
  }

 private:
  struct place {
    std::uint64_t tag = 0;  // key + 1; 0 is free
    counts count{};
  };

  place& find(std::uint64_t key) noexcept {
    auto at = static_cast<std::size_t>(mix64(key)) & (places_.size() - 1);
    while (places_[at].tag != 0 && places_[at].tag != key + 1) at = (at + 1) & (places_.size() - 1);
    return places_[at];
  }
  template <class Keep>
  void rebuild(std::size_t places, Keep const& keep) {
    std::vector<place> old(places);
    old.swap(places_);
    size_ = 0;
    for (auto const& p : old)
      if (p.tag != 0 && keep(p.tag - 1)) {
        find(p.tag - 1) = p;
        ++size_;
      }
  }

  std::vector<place> places_;  // a power of two of them
  std::size_t size_ = 0;
};

}  // namespace detail

struct vocabulary_options {
  index_t experts = 0;
  index_t capacity = index_t{1} << 20;  ///< pairs (token id, expert) kept at most, one more pair per token id included
  std::uint64_t seed = 1;               ///< of the halves
  friend bool operator==(vocabulary_options const&, vocabulary_options const&) = default;
};

/// Which experts the occurrences of each token id chose. X token ids, ascending; the experts of id x are first[x] ..
/// first[x+1]-1. Every count has two parts: one per half of the documents.
struct vocabulary_result {
  using halves = std::array<std::uint64_t, 2>;

  index_t experts = 0;
  std::uint64_t tokens = 0;      ///< all that were fed
  std::uint64_t without_id = 0;  ///< of them with id -1
  std::uint64_t dropped = 0;     ///< slots with id -1 of tokens with a token id
  double kept_share = 1;         ///< probability with which a token id is in the table: below 1 if capacity was reached
  std::uint64_t seed = 0;        ///< of the halves
  std::vector<std::int32_t> token;    ///< [X]
  std::vector<halves> occurrences;    ///< [X]
  std::vector<std::size_t> first{0};  ///< [X+1]
  std::vector<std::int32_t> expert;   ///< [cells] ascending within a token id
  std::vector<halves> count;          ///< [cells] slots
};

/// Half of the documents, 0 or 1, that a document belongs to: the same in every shard.
inline std::size_t vocabulary_half(std::uint64_t seed, std::int64_t document) {
  return static_cast<std::size_t>(
      random_stream(seed, detail::purpose_vocabulary_half, static_cast<std::uint64_t>(document))() & 1);
}

/// The gold next token of every token, -1 for the last one of a document.
/// Throws shape_error or argument_error as vocabulary.
inline std::vector<std::int32_t> next_tokens(vector_view<std::int32_t> tokens, document_spans const& spans) {
  detail::check_tokens(tokens, spans, "moeroute::next_tokens");
  std::vector<std::int32_t> next(static_cast<std::size_t>(tokens.size()), -1);
  for (index_t d = 0; d < spans.documents(); ++d)
    for (index_t t = spans.first(d); t + 1 < spans.first(d) + spans.size(d); ++t)
      next[static_cast<std::size_t>(t)] = tokens[t + 1];
  return next;
}

/// Token ids rotated within each document by a random offset: the null "given the document, the token id does not
/// matter".
///
/// Every id keeps its number of occurrences in every document, and both the text and the routing keep their own local
/// order; only what joins them is broken. A document of one token cannot be rotated, so that nothing is found in it. A
/// place or a topic within the document that decides both token and expert is broken too, and then counts as the
/// token's.
/// In     token ids [T], -1 = none; the offset is a function of seed, global document id and replicate.
/// Out    token ids [T].   Cost  O(T).
/// Throws shape_error or argument_error as vocabulary.
/// Source ours. Circular shifts keep local dependence, not drift: Harris 2020, doi:10.1101/2020.11.29.402719. Differs:
///        by document.
inline std::vector<std::int32_t> rotated_tokens(vector_view<std::int32_t> tokens, document_spans const& spans,
                                                std::uint64_t seed, std::uint32_t replicate) {
  detail::check_tokens(tokens, spans, "moeroute::rotated_tokens");
  std::vector<std::int32_t> out(static_cast<std::size_t>(tokens.size()));
  // Offsets are starts of runs of one id: a run cut in two would make the rotated text more varied than the text.
  std::vector<index_t> starts;
  for (index_t d = 0; d < spans.documents(); ++d) {
    auto const n = spans.size(d), from = spans.first(d);
    if (n == 0) continue;
    starts.assign(1, 0);
    for (index_t t = 1; t < n; ++t)
      if (tokens[from + t] != tokens[from + t - 1]) starts.push_back(t);
    random_stream random(seed, detail::purpose_vocabulary_shift, static_cast<std::uint64_t>(spans.id(d)), replicate);
    auto const offset = starts[static_cast<std::size_t>(random.index(static_cast<std::uint64_t>(starts.size())))];
    for (index_t t = 0; t < n; ++t) out[static_cast<std::size_t>(from + t)] = tokens[from + (t + offset) % n];
  }
  return out;
}

/// How often each token id chose each expert of a layer, in both halves of the documents.
///
/// In     routing_batch, its document_spans, token ids [T]: the input ids, the model's predicted next ids, or
///        next_tokens of the input ids; -1 = none. Parallel documents belong to one half: give them one document id
///        here.
/// Out    vocabulary_result; vocabulary_summary.hpp has the published mean and the sound ones.   Empty  no token ids.
/// Merge  exact. Where the pairs exceed capacity, all token ids whose hash does not begin with one more zero bit are
///        left out, as often as needed: a random sample of ids with complete counts, the same for every order of the
///        data.
/// Cost   O(T K) time; at most 24 bytes times 4/3 capacity rounded up to a power of two: 48 MiB at the default
///        capacity, and half as much more for the moment in which it grows.
/// Throws argument_error or shape_error if experts, tokens or capacity (at least experts + 1) do not fit; nothing is
///        counted then.
/// Source OLMoE, arXiv:2409.02060, section 5.4, and do_token_analysis_layers_experts of its
///        scripts/run_moe_analysis.py: counts as given. Differs: a gold next token never crosses a document; a token
///        whose slots were dropped still occurs.
class vocabulary {
 public:
  using options_type = vocabulary_options;
  using result_type = vocabulary_result;
  static constexpr merge_law law = merge_law::exact;

  explicit vocabulary(vocabulary_options options) : options_{options} {
    if (options.experts <= 0 || options.experts > std::numeric_limits<std::int32_t>::max() ||
        options.capacity <= options.experts)
      detail::raise("moeroute::vocabulary: experts = ", options.experts, ", capacity = ", options.capacity,
                    "; need 0 < experts < 2^31 and capacity > experts");
  }

  template <class L, class W, class Id>
  void check(routing_batch<L, W, Id> const& batch, document_spans const& spans,
             vector_view<std::int32_t> tokens) const {
    if (batch.experts() != options_.experts)
      detail::raise("moeroute::vocabulary::update: batch has ", batch.experts(), " experts, options have ",
                    options_.experts);
    if (batch.tokens() != spans.tokens())
      detail::raise<shape_error>("moeroute::vocabulary::update: batch has ", batch.tokens(),
                                 " tokens, the documents have ", spans.tokens());
    detail::check_tokens(tokens, spans, "moeroute::vocabulary::update");
  }
  template <class L, class W, class Id>
  void update(routing_batch<L, W, Id> const& batch, document_spans const& spans, vector_view<std::int32_t> tokens) {
    check(batch, spans, tokens);
    auto const ids = batch.ids();
    for (index_t d = 0; d < spans.documents(); ++d) {
      auto const half = vocabulary_half(options_.seed, spans.id(d));
      for (index_t t = spans.first(d); t < spans.first(d) + spans.size(d); ++t) {
        ++tokens_;
        if (tokens[t] < 0) {
          ++without_id_;
          continue;
        }
        std::array<std::uint64_t, 2> one{};
        one[half] = 1;
        add(key(tokens[t], options_.experts), one);
        auto const row = ids.row(t);
        for (index_t k = 0; k < row.size(); ++k)
          if (std::cmp_less(row[k], 0))
            ++dropped_;
          else
            add(key(tokens[t], static_cast<index_t>(row[k])), one);
      }
    }
  }

  void merge(vocabulary const& other, std::uint64_t times = 1) {
    if (other.options_ != options_) detail::raise("moeroute::vocabulary::merge: options differ");
    if (times == 0) return;
    if (&other == this) return merge(vocabulary(other), times);  // its table would change while it is read
    if (other.level_ > level_) thin(other.level_);
    other.cells_.for_each([&](std::uint64_t k, auto const& c) { add(k, {times * c[0], times * c[1]}); });
    tokens_ += times * other.tokens_;
    without_id_ += times * other.without_id_;
    dropped_ += times * other.dropped_;
  }

  vocabulary_options options() const noexcept { return options_; }
  std::uint64_t count() const noexcept { return tokens_; }
  vocabulary_result result() const {
    vocabulary_result r;
    r.experts = options_.experts;
    r.tokens = tokens_;
    r.without_id = without_id_;
    r.dropped = dropped_;
    r.kept_share = std::ldexp(1.0, -level_);
    r.seed = options_.seed;
    for (auto const& [k, c] : cells_.sorted()) {
      auto const expert = static_cast<index_t>(k % width());
      if (expert < options_.experts) {
        r.expert.push_back(static_cast<std::int32_t>(expert));
        r.count.push_back(c);
      } else {  // the last pair of a token id holds its occurrences
        r.token.push_back(token_of(k));
        r.occurrences.push_back(c);
        r.first.push_back(r.expert.size());
      }
    }
    return r;
  }

  std::vector<std::byte> serialize() const {
    byte_writer out;
    out.put(std::uint32_t{0x564f4342});  // "VOCB"
    out.put(static_cast<std::int64_t>(options_.experts));
    out.put(static_cast<std::int64_t>(options_.capacity));
    for (auto const n : {options_.seed, tokens_, without_id_, dropped_, static_cast<std::uint64_t>(level_)}) out.put(n);
    std::vector<std::uint64_t> keys, counts;
    for (auto const& [k, c] : cells_.sorted()) {
      keys.push_back(k);
      counts.push_back(c[0]);
      counts.push_back(c[1]);
    }
    out.put(keys);
    out.put(counts);
    return std::move(out).bytes();
  }
  static vocabulary deserialize(std::span<std::byte const> bytes) {
    byte_reader in(bytes);
    if (in.get<std::uint32_t>() != 0x564f4342) in.fail("is not a vocabulary");
    vocabulary_options options;
    options.experts = static_cast<index_t>(in.get<std::int64_t>());
    options.capacity = static_cast<index_t>(in.get<std::int64_t>());
    options.seed = in.get<std::uint64_t>();
    if (options.experts <= 0 || options.experts > std::numeric_limits<std::int32_t>::max() ||
        options.capacity <= options.experts)
      in.fail("vocabulary has impossible options");
    vocabulary a(options);
    a.tokens_ = in.get<std::uint64_t>();
    a.without_id_ = in.get<std::uint64_t>();
    a.dropped_ = in.get<std::uint64_t>();
    auto const level = in.get<std::uint64_t>();
    auto const keys = in.get_vector<std::uint64_t>(), counts = in.get_vector<std::uint64_t>();
    in.finish();
    if (a.without_id_ > a.tokens_ || level > 64 || counts.size() != 2 * keys.size() ||
        keys.size() > static_cast<std::size_t>(options.capacity))
      in.fail("vocabulary has impossible counts");
    a.level_ = static_cast<int>(level);
    std::uint64_t left = a.tokens_ - a.without_id_;  // occurrences that the pairs have not yet explained
    for (std::size_t i = 0; i < keys.size(); ++i) {
      bool const occurrences = keys[i] % a.width() == a.width() - 1;
      bool const ends_here = i + 1 == keys.size() || keys[i + 1] / a.width() != keys[i] / a.width();
      auto const x = counts[2 * i], y = counts[2 * i + 1];
      if ((i > 0 && keys[i] <= keys[i - 1]) || keys[i] / a.width() > std::numeric_limits<std::int32_t>::max() ||
          occurrences != ends_here || !a.keeps(keys[i]) || (x == 0 && y == 0))
        in.fail("vocabulary has an impossible pair");
      if (occurrences) {
        if (x > left || y > left - x) in.fail("vocabulary has more occurrences than tokens");
        left -= x + y;
      }
      a.cells_[keys[i]] = {x, y};
    }
    if (level == 0 && left != 0) in.fail("vocabulary lacks occurrences");
    return a;
  }

  friend bool operator==(vocabulary const& a, vocabulary const& b) { return a.serialize() == b.serialize(); }

 private:
  // Pairs of a token id are neighbours in the order of keys; expert number E stands for the occurrences.
  std::uint64_t width() const noexcept { return static_cast<std::uint64_t>(options_.experts) + 1; }
  std::uint64_t key(std::int32_t token, index_t expert) const noexcept {
    return static_cast<std::uint64_t>(token) * width() + static_cast<std::uint64_t>(expert);
  }
  std::int32_t token_of(std::uint64_t k) const noexcept { return static_cast<std::int32_t>(k / width()); }
  bool keeps(std::uint64_t k) const noexcept { return level_ == 0 || std::countl_zero(mix64(k / width())) >= level_; }

  // One token id has at most E + 1 <= capacity pairs, and 64 equal hash bits are one token id: thinning ends.
  void add(std::uint64_t k, std::array<std::uint64_t, 2> const& n) {
    if (!keeps(k)) return;
    auto& c = cells_[k];
    c[0] += n[0];
    c[1] += n[1];
    while (cells_.size() > static_cast<std::size_t>(options_.capacity)) thin(level_ + 1);
  }
  void thin(int level) {
    level_ = level;
    cells_.keep_if([this](std::uint64_t k) { return keeps(k); });
  }

  vocabulary_options options_;
  std::uint64_t tokens_ = 0, without_id_ = 0, dropped_ = 0;
  int level_ = 0;
  detail::half_counts cells_;
};

static_assert(accumulates<vocabulary, routing_batch<>, document_spans, vector_view<std::int32_t>>);

}  // namespace moeroute

#endif
