// SPDX-License-Identifier: Apache-2.0
#include "bpe.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <queue>
#include <tuple>
#include <utility>

#include "utf8.hpp"

namespace moeroute::capture {
namespace {

constexpr std::uint32_t no_rank = std::numeric_limits<std::uint32_t>::max();
constexpr std::size_t few = 64;  // symbols up to which a scan for the best merge beats a heap

struct candidate {
  std::uint32_t rank;
  std::size_t at;
  std::int32_t id;
  bool operator>(candidate const& other) const { return std::tie(rank, at) > std::tie(other.rank, other.at); }
};

}  // namespace

byte_alphabet::byte_alphabet() {
  // Printable Latin-1 stands for itself, everything else for the code points from U+0100 up, in order.
  char32_t spare = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    bool const printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    char32_t const c = printable ? static_cast<char32_t>(byte) : spare++;
    append_utf8(characters_[byte], c);
    bytes_.emplace(c, static_cast<unsigned char>(byte));
  }
}

std::optional<std::string> byte_alphabet::bytes(std::string_view token) const {
  std::string out;
  while (!token.empty()) {
    code_point const c = first_code_point(token);
    auto const place = c.length == 0 ? bytes_.end() : bytes_.find(c.value);
    if (place == bytes_.end()) return std::nullopt;
    out.push_back(static_cast<char>(place->second));
    token.remove_prefix(c.length);
  }
  return out;
}

void pair_table::set(std::int32_t left, std::int32_t right, std::uint32_t rank, std::int32_t id) {
  if (2 * count_ >= entries_.size()) {
    auto const old = std::exchange(entries_, std::vector<entry>(2 * entries_.size()));
    --shift_;
    for (auto const& e : old)
      if (e.pair != ~std::uint64_t{0}) entries_[place(e.pair)] = e;
  }
  auto& e = entries_[place(key(left, right))];
  if (e.pair == ~std::uint64_t{0}) ++count_;
  e = {key(left, right), rank, id};
}

piece_cache::entry& piece_cache::at(std::string_view piece) {
  constexpr std::size_t size = std::size_t{1} << 15;
  if (entries_.empty()) entries_.resize(size);
  std::uint64_t hash = piece.size();
  for (std::size_t i = 0; i < piece.size(); i += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, piece.data() + i, std::min<std::size_t>(8, piece.size() - i));
    hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 32;
  }
  return entries_[hash & (size - 1)];
}

void bpe::add_merge(std::int32_t left, std::int32_t right, std::int32_t merged, std::uint32_t rank) {
  merges_.set(left, right, rank, merged);
}

void bpe::finish() {
  for (auto const& [c, id] : characters) {
    if (c >= by_code_point_.size()) by_code_point_.resize(c + 1, -1);
    by_code_point_[c] = id;
  }
  // The first and last symbol of every token that merges make; a token that no merge makes is its own.
  std::vector<pair_table::entry> merges;
  std::int32_t largest = -1;
  for (auto const& e : merges_.entries())
    if (e.left() >= 0) {
      merges.push_back(e);
      largest = std::max({largest, e.left(), e.right(), e.id});
    }
  std::sort(merges.begin(), merges.end(), [](auto const& a, auto const& b) { return a.rank < b.rank; });
  std::vector<std::pair<std::int32_t, std::int32_t>> ends(static_cast<std::size_t>(largest + 1));
  for (std::size_t id = 0; id < ends.size(); ++id) ends[id].first = ends[id].second = static_cast<std::int32_t>(id);
  auto const of = [&ends](std::int32_t id) -> auto& { return ends[static_cast<std::size_t>(id)]; };
  // Ranks mostly put parts before wholes, then this is settled after two rounds. Where it is not, or where a token is both
  // a symbol and made by merges, nothing is cut.
  bool settled = false;
  for (int round = 0; round < 100 && !settled; ++round) {
    settled = true;
    for (auto const& m : merges) {
      std::pair const now(of(m.left()).first, of(m.right()).second);
      settled = settled && of(m.id) == now;
      of(m.id) = now;
    }
  }
  auto const made = [&](std::int32_t id) { return id >= 0 && id <= largest && of(id) != std::pair(id, id); };
  bool const mixed = std::any_of(byte_ids.begin(), byte_ids.end(), made) ||
                     std::any_of(characters.begin(), characters.end(), [&](auto const& c) { return made(c.second); });
  cuts_ = settled && !mixed && !ignore_merges;
  for (auto const& m : merges) joints_.set(of(m.left()).second, of(m.right()).first, 0, 0);
}

std::pair<std::int32_t, std::size_t> bpe::first_symbol(std::string_view text) const {
  if (characters.empty()) return {byte_ids[static_cast<unsigned char>(text.front())], 1};
  auto const c = first_code_point(text);
  if (c.length == 0) return {-1, 1};  // not UTF-8, which nobody passes on
  return {character(c.value), c.length};
}

void bpe::add_symbols(std::string_view piece) const {
  few_.clear();
  bool last_unknown = false;
  auto const add = [&](std::int32_t id) {
    bool const is_unknown = id < 0;
    bool const fused = is_unknown && last_unknown && fuse_unknown;
    if (is_unknown && unknown < 0) return;  // it gives no token, and separates nothing
    last_unknown = is_unknown;
    if (!fused) few_.push_back(is_unknown ? unknown : id);
  };
  while (!piece.empty()) {
    auto const [id, length] = first_symbol(piece);
    auto const bytes = piece.substr(0, length);
    piece.remove_prefix(length);
    auto const known = [this](char c) { return byte_ids[static_cast<unsigned char>(c)] >= 0; };
    if (id < 0 && !characters.empty() && std::all_of(bytes.begin(), bytes.end(), known))
      for (char const c : bytes) add(byte_ids[static_cast<unsigned char>(c)]);
    else
      add(id);
  }
}

void bpe::encode(std::string_view piece, std::vector<std::int32_t>& ids) const {
  if (piece.empty()) return;
  if (piece.size() <= piece_cache::longest) return remembered(piece, ids);
  if (!cuts_) return merged(piece, ids);
  auto begin = piece;
  auto [left, length] = first_symbol(piece);
  piece.remove_prefix(length);
  auto const flush = [&] {
    auto const part = begin.substr(0, begin.size() - piece.size());
    part.size() <= piece_cache::longest ? remembered(part, ids) : merged(part, ids);
    begin = piece;
  };
  while (!piece.empty()) {
    auto const [right, size] = first_symbol(piece);
    if (left >= 0 && right >= 0 && joints_.find(left, right) == nullptr) flush();
    left = right;
    piece.remove_prefix(size);
  }
  flush();
}

void bpe::remembered(std::string_view piece, std::vector<std::int32_t>& ids) const {
  auto& entry = cache_.at(piece);
  if (!piece_cache::holds(entry, piece)) {
    auto const before = ids.size();
    merged(piece, ids);
    auto const count = ids.size() - before;
    if (count > piece_cache::most_ids) return;
    std::copy(piece.begin(), piece.end(), entry.text.begin());
    entry.length = static_cast<std::uint8_t>(piece.size());
    entry.count = static_cast<std::uint8_t>(count);
    std::copy(ids.begin() + static_cast<std::ptrdiff_t>(before), ids.end(), entry.ids.begin());
    return;
  }
  ids.insert(ids.end(), entry.ids.begin(), entry.ids.begin() + entry.count);
}

void bpe::merged(std::string_view piece, std::vector<std::int32_t>& ids) const {
  if (ignore_merges) {
    if (auto const place = whole.find(piece); place != whole.end()) {
      ids.push_back(place->second);
      return;
    }
  }
  add_symbols(piece);
  if (few_.size() > few) return merge_many(ids);
  merge_few();
  ids.insert(ids.end(), few_.begin(), few_.end());
}

void bpe::merge_few() const {
  auto const rank = [this](std::size_t i) {
    auto const* m = merges_.find(few_[i], few_[i + 1]);
    return m == nullptr ? no_rank : m->rank;
  };
  ranks_.clear();
  for (std::size_t i = 0; i + 1 < few_.size(); ++i) ranks_.push_back(rank(i));
  while (!ranks_.empty()) {
    auto const best = std::min_element(ranks_.begin(), ranks_.end());
    if (*best == no_rank) return;
    auto const at = static_cast<std::size_t>(best - ranks_.begin());
    few_[at] = merges_.find(few_[at], few_[at + 1])->id;
    few_.erase(few_.begin() + static_cast<std::ptrdiff_t>(at + 1));
    ranks_.erase(best);
    if (at > 0) ranks_[at - 1] = rank(at - 1);
    if (at < ranks_.size()) ranks_[at] = rank(at);
  }
}

void bpe::merge_many(std::vector<std::int32_t>& ids) const {
  std::vector<symbol> symbols;
  symbols.reserve(few_.size());
  for (auto const id : few_) {
    auto const n = static_cast<std::ptrdiff_t>(symbols.size());
    symbols.push_back({id, n - 1, n + 1, true});
  }
  symbols.back().next = -1;

  std::priority_queue<candidate, std::vector<candidate>, std::greater<>> queue;
  auto const consider = [&](std::ptrdiff_t left) {
    auto const at = static_cast<std::size_t>(left);
    auto const right = symbols[at].next;
    if (right < 0) return;
    if (auto const* m = merges_.find(symbols[at].id, symbols[static_cast<std::size_t>(right)].id))
      queue.push({m->rank, at, m->id});
  };
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i) consider(static_cast<std::ptrdiff_t>(i));
  while (!queue.empty()) {
    candidate const top = queue.top();
    queue.pop();
    symbol& left = symbols[top.at];
    if (!left.alive || left.next < 0) continue;
    symbol& right = symbols[static_cast<std::size_t>(left.next)];
    // Either side may have been merged since this candidate was queued.
    auto const* m = merges_.find(left.id, right.id);
    if (m == nullptr || m->id != top.id) continue;
    left.id = m->id;
    right.alive = false;
    left.next = right.next;
    if (left.next >= 0) symbols[static_cast<std::size_t>(left.next)].previous = static_cast<std::ptrdiff_t>(top.at);
    if (left.previous >= 0) consider(left.previous);
    consider(static_cast<std::ptrdiff_t>(top.at));
  }
  for (std::ptrdiff_t i = 0; i >= 0; i = symbols[static_cast<std::size_t>(i)].next)
    ids.push_back(symbols[static_cast<std::size_t>(i)].id);
}

}  // namespace moeroute::capture
