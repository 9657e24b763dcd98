// SPDX-License-Identifier: Apache-2.0
#include <moeroute/io/sha256.hpp>
#include <moeroute/numeric/random.hpp>

#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include "support/golden.hpp"

using namespace moeroute;

namespace {

std::span<std::byte const> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

}  // namespace

TEST_CASE("sha256: the examples of FIPS 180-4") {
  CHECK(sha256_hex(bytes("")) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256_hex(bytes("abc")) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256_hex(bytes("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")) ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  sha256 hash;
  std::string const thousand(1000, 'a');
  for (int i = 0; i < 1000; ++i) hash.update(bytes(thousand));
  CHECK(hash.hex() == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("sha256: Python's hashlib at every place where padding turns, whole and in pieces") {
  for (auto const& c : golden("io", "sha256")) {
    std::vector<std::byte> data;
    for (std::size_t i = 0; i < c[0].get<std::size_t>(); ++i)
      data.push_back(static_cast<std::byte>((i * 31 + 7) % 251));
    INFO(data.size());
    CHECK(sha256_hex(data) == c[1].get<std::string>());
    for (std::size_t const piece : {1u, 7u, 63u, 64u, 65u}) {
      sha256 hash;
      for (std::size_t at = 0; at < data.size(); at += piece)
        hash.update(std::span(data).subspan(at, std::min(piece, data.size() - at)));
      CHECK(hash.hex() == c[1].get<std::string>());
    }
  }
}

TEST_CASE("sha256: the instructions of the processor give what the portable rounds give") {
#if defined(__x86_64__)
  using rule = detail::sha256_rule;
  if (!rule::has_instructions()) return;
  random_stream random(1, 0);
  for (std::size_t const blocks : {1u, 2u, 5u}) {
    std::vector<std::byte> data(64 * blocks);
    for (auto& b : data) b = static_cast<std::byte>(random());
    rule::state s, t;
    for (std::size_t i = 0; i < s.size(); ++i) s[i] = t[i] = static_cast<std::uint32_t>(random());
    rule::compress_portably(s, data.data(), blocks);
    rule::compress_with_instructions(t, data.data(), blocks);
    CHECK(s == t);
  }
#endif
}
