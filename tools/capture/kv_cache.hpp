// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_KV_CACHE_HPP
#define MOEROUTE_CAPTURE_KV_CACHE_HPP

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <span>
#include <vector>

namespace moeroute::capture {

/// Keys and values of documents that go on token by token, for every layer.
///
/// A layer has one rectangle, [documents, key heads, slots, width], made when it first stores. A layer without a window
/// has a slot for every position; one with a window keeps the last `window` positions in a ring: a query then sees all
/// of it, and since keys carry their rotation their order does not matter. Only sources that see libtorch include this.
class kv_cache {
 public:
  /// windows [L], 0 = none; `longest`: positions that a document may come to have.
  kv_cache(std::vector<std::int64_t> const& windows, std::int64_t documents, std::int64_t longest, at::Device device);

  /// The next tokens are the first ones of the documents, packed, cut by offsets [documents + 1].
  void expect_documents(std::span<std::int64_t const> offsets);
  /// The next tokens are one for each document, behind those that it has.
  void expect_step();

  /// Keeps the keys and values [T, key heads, width] of the tokens that are expected.
  void store(std::size_t layer, at::Tensor const& keys, at::Tensor const& values);

  /// Attention of one query per document, [documents, heads, width], to what is stored: [documents, heads * value
  /// width]. `sinks` [heads], if there, take part of the probability and give nothing.
  at::Tensor attend(std::size_t layer, at::Tensor const& queries, double scale, at::Tensor const& sinks) const;

  /// Forgets all documents but these, which become 0, 1, ...
  void keep(std::span<std::int64_t const> documents);

  /// Tokens of each document.
  std::vector<std::int64_t> const& lengths() const { return lengths_; }

 private:
  // Where the expected tokens go, the same for all layers with as many slots.
  struct placement {
    at::Tensor rows;    // of the tokens that are kept; undefined: all of them
    at::Tensor slots;   // [kept], document * slots + slot
    at::Tensor hidden;  // [documents, 1, 1, used]: slots without a key; undefined: none
    std::int64_t used = 0;
  };
  struct layer {
    at::Tensor keys, values;
    std::int64_t slots;
  };

  at::Tensor upload(std::vector<std::int64_t> const& values) const;

  std::vector<layer> layers_;
  std::map<std::int64_t, placement> placements_;  // by number of slots
  std::vector<std::int64_t> lengths_;
  at::Device device_;
};

}  // namespace moeroute::capture

#endif
