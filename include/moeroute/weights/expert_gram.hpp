// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_WEIGHTS_EXPERT_GRAM_HPP
#define MOEROUTE_WEIGHTS_EXPERT_GRAM_HPP

#include <moeroute/core/accumulator.hpp>
#include <moeroute/core/adapt.hpp>
#include <moeroute/core/bytes.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/parallel.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/weights/detail/dot_products.hpp>

#if __has_include(<xtensor/containers/xtensor.hpp>)
#include <xtensor/containers/xtensor.hpp>
#else
#include <xtensor/xtensor.hpp>
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ranges>
#include <span>
#include <utility>
#include <vector>

namespace moeroute {

struct expert_gram_options {
  index_t layers = 1;
  index_t experts = 0;  ///< per layer
  std::vector<index_t>
      deltas{};  ///< distances Δ of the layer pairs to compare, increasing, 1..layers-1; Δ = 0 is always there
  friend bool operator==(expert_gram_options const&, expert_gram_options const&) = default;
};

/// Layers first <= second; equal for the pairs within a layer. Numbers count MoE layers from 0.
struct expert_layer_pair {
  index_t first = 0, second = 0;
  friend bool operator==(expert_layer_pair const&, expert_layer_pair const&) = default;
};

struct expert_gram_result {
  index_t layers = 0;
  std::uint64_t columns = 0;             ///< weights per expert
  std::vector<expert_layer_pair> pairs;  ///< [P]: all (l,l), then by Δ and l
  xt::xtensor<double, 3> dots;           ///< [P,E,E]: row = expert of the first layer, column = expert of the second
};

/// A matrix whose rows are experts, or a range of one vector per expert.
template <class X>
concept weight_tile = real_matrix<X> ||
    (std::ranges::sized_range<X const>&& real_vector<std::ranges::range_value_t<X const>>);

/// Dot products of the flattened weights of all experts, in one pass over column tiles.
///
/// In     tiles [L E, n]: row l E + e holds the next n weights of expert e of MoE layer l, in one order for all
///        experts. A tile is a matrix (a fused [E, F D] tensor is one) or a range of L E vectors (one mapped tensor per
///        expert). Tensors of different shape (gate, up, down) follow one another, tensors larger than memory come in
///        pieces.
/// Out    see expert_gram_result. Products are added in binary32 (double input: binary64) over 1,024 columns, then in
///        double: error of a dot product at most 68 * 2^-24 * sum |a b| (double: 132 * 2^-53), about 1e-8 of it in
///        practice. The same bits for any number of threads and at every dispatch level. A weight that is not finite
///        makes the dot products of its expert NaN or infinite.
/// Empty  dots are 0.
/// Merge  approximate, because blocks of 1,024 columns are counted from the start of a tile: within the bound above.
/// Cost   O(P E^2) per column. Memory  8 P E^2 bytes of state and as much per thread in update, and 4 KiB L E (double:
///        8) per thread; nothing else is copied or widened.
/// Throws argument_error for options out of range, shape_error if a tile does not have L E rows of one length; nothing
///        is added then.
/// Bias   binary32 products leave its range for weights beyond about 1e18 (infinite) or below 1e-20 (lost).
/// Source a Gram matrix. Differs: nothing to differ from.
class expert_gram {
 public:
  using options_type = expert_gram_options;
  using result_type = expert_gram_result;
  static constexpr merge_law law = merge_law::approximate;

  explicit expert_gram(expert_gram_options options) : options_{std::move(options)} {
    if (auto const* bad = fault(options_))
      detail::raise("moeroute::expert_gram: layers = ", options_.layers, ", experts = ", options_.experts, ", ",
                    options_.deltas.size(), " deltas: ", bad);
    list_pairs();
    dots_.resize(pairs_.size() * block());
  }

  /// `times`: as if every column of the tile had come so often.
  template <weight_tile Tile>
  void update(Tile const& tile, int threads = 1, unsigned times = 1) {
    add(rows_of(tile), times, threads);
  }
  template <weight_tile Tile>
  void check(Tile const& tile) const {
    check_rows(rows_of(tile));
  }

  void merge(expert_gram const& other) {
    if (options_ != other.options_)
      detail::raise("moeroute::expert_gram::merge: ", options_.layers, " layers of ", options_.experts, " experts, ",
                    options_.deltas.size(), " deltas, and ", other.options_.layers, " of ", other.options_.experts,
                    ", ", other.options_.deltas.size());
    for (std::size_t i = 0; i < dots_.size(); ++i) dots_[i] += other.dots_[i];
    columns_ += other.columns_;
  }

  expert_gram_result result() const {
    auto const experts = static_cast<std::size_t>(options_.experts);
    expert_gram_result r;
    r.layers = options_.layers;
    r.columns = columns_;
    r.pairs = pairs_;
    r.dots = xt::xtensor<double, 3>::from_shape({pairs_.size(), experts, experts});
    std::copy(dots_.begin(), dots_.end(), r.dots.begin());
    for (std::size_t p = 0; p < static_cast<std::size_t>(options_.layers); ++p)
      for (std::size_t i = 0; i < experts; ++i)
        for (std::size_t j = 0; j < i; ++j) r.dots(p, i, j) = r.dots(p, j, i);
    return r;
  }

  options_type options() const { return options_; }
  /// Columns seen.
  std::uint64_t count() const noexcept { return columns_; }
  friend bool operator==(expert_gram const& a, expert_gram const& b) { return a.serialize() == b.serialize(); }

  std::vector<std::byte> serialize() const {
    byte_writer w;
    w.put(static_cast<std::int64_t>(options_.layers));
    w.put(static_cast<std::int64_t>(options_.experts));
    w.put(std::vector<std::int64_t>(options_.deltas.begin(), options_.deltas.end()));
    w.put(columns_);
    w.put(dots_);
    return std::move(w).bytes();
  }
  static expert_gram deserialize(std::span<std::byte const> bytes) {
    byte_reader r(bytes);
    expert_gram_options options;
    options.layers = static_cast<index_t>(r.get<std::int64_t>());
    options.experts = static_cast<index_t>(r.get<std::int64_t>());
    auto const deltas = r.get_vector<std::int64_t>();
    options.deltas.assign(deltas.begin(), deltas.end());
    auto const columns = r.get<std::uint64_t>();
    auto dots = r.get_vector<double>();
    r.finish();
    if (auto const* bad = fault(options)) r.fail(bad);
    std::uint64_t pairs = static_cast<std::uint64_t>(options.layers);  // no overflow: see fault()
    for (auto const delta : options.deltas) pairs += static_cast<std::uint64_t>(options.layers - delta);
    auto const experts = static_cast<std::uint64_t>(options.experts);
    if (dots.size() / experts / experts != pairs || dots.size() % (experts * experts) != 0)
      r.fail("dot products do not fit the options");
    if (columns == 0 && std::any_of(dots.begin(), dots.end(), [](double d) { return d != 0; }))
      r.fail("dot products without columns");
    expert_gram g(std::move(options));
    g.columns_ = columns;
    g.dots_ = std::move(dots);
    return g;
  }

 private:
  static constexpr index_t chunk = 64 * detail::dot_block;  // of one thread; its sums are added in order of columns

  static char const* fault(expert_gram_options const& o) noexcept {
    if (o.layers <= 0 || o.experts <= 0) return "both must be positive";
    if (o.layers > 1 << 15 || o.experts > 1 << 15) return "more than 32,768";
    index_t before = 0;
    for (auto const delta : o.deltas) {
      if (delta <= before || delta >= o.layers) return "deltas must increase from 1 to at most layers - 1";
      before = delta;
    }
    return nullptr;
  }

  std::size_t block() const noexcept { return static_cast<std::size_t>(options_.experts * options_.experts); }

  void list_pairs() {
    for (index_t l = 0; l < options_.layers; ++l) pairs_.push_back({l, l});
    for (auto const delta : options_.deltas)
      for (index_t l = 0; l + delta < options_.layers; ++l) pairs_.push_back({l, l + delta});
  }

  template <class Tile>
  static auto rows_of(Tile const& tile) {
    if constexpr (real_matrix<Tile>) {
      auto const view = detail::matrix_of(tile);
      std::vector<vector_view<matrix_value_t<Tile>>> rows;
      for (index_t r = 0; r < view.rows(); ++r) rows.push_back(view.row(r));
      return rows;
    } else {
      std::vector<vector_view<vector_value_t<std::ranges::range_value_t<Tile>>>> rows;
      for (auto const& row : tile) rows.push_back(detail::vector_of(row));
      return rows;
    }
  }

  template <class T>
  void check_rows(std::vector<vector_view<T>> const& rows) const {
    if (static_cast<index_t>(rows.size()) != options_.layers * options_.experts)
      detail::raise<shape_error>("moeroute::expert_gram: a tile of ", rows.size(), " rows for ", options_.layers, " x ",
                                 options_.experts, " experts");
    for (std::size_t r = 1; r < rows.size(); ++r)
      if (rows[r].size() != rows[0].size())
        detail::raise<shape_error>("moeroute::expert_gram: row ", r, " of the tile has ", rows[r].size(),
                                   " weights, row 0 has ", rows[0].size());
  }

  template <class T>
  void add(std::vector<vector_view<T>> const& rows, unsigned times, int threads) {
    check_rows(rows);
    if (times == 0) return;
    index_t const n = rows[0].size(), chunks = (n + chunk - 1) / chunk;
    index_t const together = std::clamp<index_t>(thread_count(threads), 1, std::max<index_t>(chunks, 1));
    std::vector<double> added(dots_.size());
    std::vector<std::vector<double>> parts(static_cast<std::size_t>(together));
    for (index_t first = 0; first < chunks; first += together) {
      index_t const now = std::min(together, chunks - first);
      parallel_for(now, threads, [&](index_t i) {
        index_t const from = (first + i) * chunk;
        auto& part = parts[static_cast<std::size_t>(i)];
        part.assign(dots_.size(), 0.0);
        add_chunk(rows, from, std::min(chunk, n - from), part.data());
      });
      for (index_t i = 0; i < now; ++i)
        for (std::size_t k = 0; k < added.size(); ++k) added[k] += parts[static_cast<std::size_t>(i)][k];
    }
    for (std::size_t k = 0; k < added.size(); ++k) dots_[k] += static_cast<double>(times) * added[k];
    columns_ += std::uint64_t{times} * static_cast<std::uint64_t>(n);
  }

  template <class T>
  void add_chunk(std::vector<vector_view<T>> const& rows, index_t from, index_t n, double* out) const {
    index_t const experts = options_.experts;
    std::vector<detail::panel<compute_t<T>>> panels;
    panels.reserve(static_cast<std::size_t>(options_.layers));
    for (index_t l = 0; l < options_.layers; ++l) panels.emplace_back(experts);
    for (index_t at = from; at < from + n; at += detail::dot_block) {
      index_t const width = std::min(detail::dot_block, from + n - at);
      for (std::size_t r = 0; r < rows.size(); ++r)
        panels[r / static_cast<std::size_t>(experts)].set(static_cast<index_t>(r) % experts, rows[r], at, width);
      for (std::size_t p = 0; p < pairs_.size(); ++p)
        detail::add_dot_products(panels[static_cast<std::size_t>(pairs_[p].first)],
                                 panels[static_cast<std::size_t>(pairs_[p].second)], out + p * block(), experts);
    }
  }

  expert_gram_options options_;
  std::vector<expert_layer_pair> pairs_;
  std::vector<double> dots_;  // [P,E,E]; within a layer the upper half is filled
  std::uint64_t columns_ = 0;
};
static_assert(accumulator<expert_gram> && accumulates<expert_gram, matrix_view<float>>);

}  // namespace moeroute

#endif
