// SPDX-License-Identifier: Apache-2.0
#include "bpe.hpp"

#include <algorithm>
#include <queue>
#include <tuple>

#include "utf8.hpp"

namespace moeroute::capture {
namespace {

std::uint64_t key(std::int32_t left, std::int32_t right) {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) | static_cast<std::uint32_t>(right);
}

struct symbol {
  std::int32_t id;
  std::ptrdiff_t previous, next;  // -1 at the ends
  bool alive;
};

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

void bpe::add_merge(std::int32_t left, std::int32_t right, std::int32_t merged, std::uint32_t rank) {
  merges_.insert_or_assign(key(left, right), merge{rank, merged});
}

bpe::merge const* bpe::find(std::int32_t left, std::int32_t right) const {
  auto const place = merges_.find(key(left, right));
  return place == merges_.end() ? nullptr : &place->second;
}

void bpe::first_symbols(std::string_view& text, std::vector<std::int32_t>& ids) const {
  if (characters.empty()) {
    ids.push_back(byte_ids[static_cast<unsigned char>(text.front())]);
    text.remove_prefix(1);
    return;
  }
  auto const character = text.substr(0, first_code_point(text).length);
  text.remove_prefix(character.size());
  if (auto const place = characters.find(character); place != characters.end()) {
    ids.push_back(place->second);
    return;
  }
  for (char const c : character) ids.push_back(byte_ids[static_cast<unsigned char>(c)]);
  if (std::find(ids.begin(), ids.end(), -1) != ids.end()) ids.assign(1, -1);
}

std::size_t bpe::encode(std::string_view piece, std::vector<std::int32_t>& ids) const {
  if (ignore_merges) {
    if (auto const place = whole.find(piece); place != whole.end()) {
      ids.push_back(place->second);
      return 0;
    }
  }
  std::vector<symbol> symbols;
  symbols.reserve(piece.size());
  std::size_t lost = 0;
  bool last_unknown = false;
  std::vector<std::int32_t> first;
  while (!piece.empty()) {
    first.clear();
    first_symbols(piece, first);
    for (auto const id : first) {
      bool const is_unknown = id < 0;
      if (is_unknown && unknown < 0) {
        ++lost;
        continue;
      }
      if (is_unknown && last_unknown && fuse_unknown) continue;
      last_unknown = is_unknown;
      auto const n = static_cast<std::ptrdiff_t>(symbols.size());
      symbols.push_back({is_unknown ? unknown : id, n - 1, n + 1, true});
    }
  }
  if (symbols.empty()) return lost;
  symbols.back().next = -1;

  std::priority_queue<candidate, std::vector<candidate>, std::greater<>> queue;
  auto const consider = [&](std::ptrdiff_t left) {
    auto const at = static_cast<std::size_t>(left);
    auto const right = symbols[at].next;
    if (right < 0) return;
    if (merge const* m = find(symbols[at].id, symbols[static_cast<std::size_t>(right)].id))
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
    merge const* m = find(left.id, right.id);
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
  return lost;
}

}  // namespace moeroute::capture
