// SPDX-License-Identifier: Apache-2.0
#include "sampling.hpp"

#include <moeroute/io/sha256.hpp>
#include <moeroute/numeric/random.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

namespace moeroute::capture {

double draw_number(std::uint64_t seed, std::string_view document_id, std::uint32_t position) {
  constexpr std::uint64_t purpose = 0x67656e6572617465u;  // "generate"
  auto const name = sha256_hex(std::as_bytes(std::span<char const>(document_id))).substr(0, 16);
  return random_stream(seed, purpose, std::stoull(name, nullptr, 16), position).uniform();
}

std::int32_t draw_token(std::span<float const> probabilities, double top_p, double u) {
  std::vector<std::int32_t> ids(probabilities.size());
  std::iota(ids.begin(), ids.end(), 0);
  auto const p = [&](std::int32_t id) { return static_cast<double>(probabilities[static_cast<std::size_t>(id)]); };
  double sum = 0;
  for (auto const id : ids) sum += p(id);
  if (!(sum > 0) || !std::isfinite(sum)) return -1;
  if (top_p < 1) {
    // A heap rather than a sorted list: the few that remain are usually far fewer than all.
    auto const below = [&](std::int32_t a, std::int32_t b) { return p(a) != p(b) ? p(a) < p(b) : a > b; };
    std::make_heap(ids.begin(), ids.end(), below);
    auto first = ids.end();
    double reached = 0;
    while (first != ids.begin() && reached < top_p * sum) {
      std::pop_heap(ids.begin(), first, below);
      reached += p(*--first);
    }
    ids.erase(ids.begin(), first);
    std::sort(ids.begin(), ids.end());
    sum = reached;
  }
  double reached = 0;
  std::int32_t chosen = -1;
  for (auto const id : ids) {
    if (p(id) == 0) continue;
    chosen = id;
    if ((reached += p(id)) > u * sum) break;
  }
  return chosen;
}

}  // namespace moeroute::capture
