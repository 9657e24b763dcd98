// SPDX-License-Identifier: Apache-2.0
// Two machines count, one adds up: the state is the same bytes however the documents were dealt out.
#include <moeroute/routing/load.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <vector>

int main() {
  std::vector<std::int16_t> const ids{0, 1, 1, 2, 2, 0, 3, 1, 0, 3};  // [5 tokens, 2 slots], row after row
  auto const tokens = [&](moeroute::index_t begin, moeroute::index_t end) {
    return moeroute::matrix_view<std::int16_t>(ids.data() + 2 * begin, end - begin, 2);
  };
  moeroute::load first({4}), second({4}), whole({4});
  first.update(tokens(0, 3));
  second.update(tokens(3, 5));
  whole.update(tokens(0, 5));

  std::vector<std::byte> const sent = second.serialize();  // over the network, or into a file
  first.merge(moeroute::load::deserialize(sent));
  std::printf("merged == counted at once: %s\n", first == whole ? "yes" : "no");
  for (auto const slots : first.result().counts) std::printf("%llu ", static_cast<unsigned long long>(slots));
  std::printf("slots\n");
}
