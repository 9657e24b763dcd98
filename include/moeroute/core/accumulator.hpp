// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CORE_ACCUMULATOR_HPP
#define MOEROUTE_CORE_ACCUMULATOR_HPP

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

namespace moeroute {

/// What merging promises. Every accumulator declares one.
enum class merge_law {
  exact,       ///< the state is integers: any split, order and number of threads give the same bytes
  approximate  ///< floating-point state: equal up to the tolerance that the accumulator's comment states
};

/// A statistic over tokens, written as a commutative monoid.
///
/// `A(options)` is the empty accumulator; `merge(empty)` changes nothing; updating with two batches equals updating two
/// accumulators and merging them. `update` and `merge` do all of their work or throw and change nothing. One `update` takes whole
/// documents. tests/support/laws.hpp checks every accumulator against this list.
template <class A>
concept accumulator =
    std::copyable<A> && std::equality_comparable<A> && requires(A a, A const& b, std::span<std::byte const> bytes) {
      typename A::options_type;  // all that fixes the shape of the state
      typename A::result_type;   // a plain struct
      { A::law } -> std::convertible_to<merge_law>;
      A(b.options());
      { b.options() } -> std::convertible_to<typename A::options_type>;
      { b.count() } -> std::same_as<std::uint64_t>;  // observations, not calls
      { a.merge(b) } -> std::same_as<void>;
      { b.result() } -> std::same_as<typename A::result_type>;
      { b.serialize() } -> std::same_as<std::vector<std::byte>>;
      { A::deserialize(bytes) } -> std::same_as<A>;  // format_error on anything that serialize cannot have written
    };

/// `check` throws what `update` would throw, and counts nothing: several accumulators can then be updated all or none.
template <class A, class... Batch>
concept accumulates = accumulator<A> && requires(A a, A const& b, Batch const&... batch) {
  { a.update(batch...) } -> std::same_as<void>;
  { b.check(batch...) } -> std::same_as<void>;
};

/// Merges in a fixed pairwise tree, so that even an approximate law does not depend on which thread finished first.
///
/// Empty  the empty accumulator of `options`.   Throws what merge throws.   Cost  parts.size() - 1 merges.
template <accumulator A>
A merge_all(std::span<A const> parts, typename A::options_type const& options) {
  if (parts.empty()) return A(options);
  if (parts.size() == 1) return parts.front();
  auto const half = parts.size() / 2;
  A left = merge_all(parts.first(half), options);
  left.merge(merge_all(parts.subspan(half), options));
  return left;
}

/// Several accumulators fed by one pass over the batch; all of them count a batch or none does.
///
/// Merge  as its parts.   Throws what a part throws, before any part has counted.
template <class... Parts>
class tee {
 public:
  explicit tee(Parts... parts) : parts_{std::move(parts)...} {}

  template <class... Batch>
    requires(accumulates<Parts, Batch...> && ...)
  void update(Batch const&... batch) {
    std::apply([&](auto const&... part) { (part.check(batch...), ...); }, parts_);
    std::apply([&](auto&... part) { (part.update(batch...), ...); }, parts_);
  }

  void merge(tee const& other) {
    auto merged = parts_;  // a part may refuse after another has merged
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      (std::get<I>(merged).merge(std::get<I>(other.parts_)), ...);
    }(std::index_sequence_for<Parts...>{});
    parts_ = std::move(merged);
  }

  template <std::size_t I>
  auto const& part() const noexcept {
    return std::get<I>(parts_);
  }
  template <class Part>
  Part const& part() const noexcept {
    return std::get<Part>(parts_);
  }

  friend bool operator==(tee const&, tee const&) = default;

 private:
  std::tuple<Parts...> parts_;
};

}  // namespace moeroute

#endif
