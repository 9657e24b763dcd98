// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_DENSITY_STREAMING_KDE_HPP
#define MOEROUTE_DENSITY_STREAMING_KDE_HPP

#include <moeroute/core/accumulator.hpp>
#include <moeroute/core/adapt.hpp>
#include <moeroute/core/bytes.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/density/cell_density.hpp>
#include <moeroute/density/detail/counting_cells.hpp>
#include <moeroute/numeric/simd.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace moeroute {

struct streaming_kde_options {
  int grid_log2 = 10;      ///< float and double: cells are 2^-grid_log2 wide and cover |x| < 2^(15 - grid_log2)
  index_t extremes = 128;  ///< float and double: largest and smallest values that are kept as they are, each
  friend bool operator==(streaming_kde_options const&, streaming_kde_options const&) = default;
};

struct streaming_kde_result {
  std::uint64_t count = 0;  ///< finite values
  std::uint64_t nan = 0, positive_infinite = 0, negative_infinite = 0;
  std::uint64_t underflow = 0, overflow = 0;  ///< finite values below and above the grid; counted, with wide bounds
  double minimum = quiet_nan, maximum = quiet_nan;
  double mean = quiet_nan;  ///< NaN if values outside the grid are not all kept as extremes
  double sd = quiet_nan;    ///< n - 1; its square is short by at most a quarter of the squared width of a cell
  std::uint64_t cells = 0;  ///< occupied
};

/// Distribution of a stream of scalars in bounded memory, exactly mergeable; density estimates with any kernel and
/// bandwidth afterwards, each number with certain bounds.
///
/// bf16, f16: one counter per bit pattern, which loses nothing: estimates are those of the data up to rounding.
/// float, double: cells 2^-q wide, q = grid_log2, with count and first moment. key = floor(x 2^(q+16)) has no
/// rounding; its upper half is the cell, its lower half what is added to the moment, short by less than 2^-(q+16), by
/// nothing for a float of |x| >= 2^(7-q). The `extremes` largest and smallest values are kept as they are, so
/// minimum, maximum and far tails are exact.
/// In     vectors or matrices of T (all values pooled). NaN and infinities are counted apart; values outside the grid
///        are counted and bounded by its edge and the kept extremes.
/// Out    see streaming_kde_result; estimate(kernel, h); cells(); largest(), smallest().
/// Empty  counts 0, the rest NaN.
/// Merge  exact; options must be equal. No coarsening: sums of keys do not halve exactly.
/// Cost   O(1) per value. Memory follows the values: 2 KiB, pages of 256 cells made when first hit, 1 KiB each (bf16,
///        f16) or 2 KiB (float, double), 4 KiB more each once 2^32 or 2^24 values are in, at most 32 bytes per kept
///        extreme. Bound: 259 KiB and 515 KiB, then 1.3 and 1.6 MiB. 58 layers x 256 experts: logits that span 8 take
///        13 KiB each at q = 7 with 16 extremes, 180 MiB for all, in bf16 some 20 KiB each; times threads.
/// Throws argument_error unless -16 <= grid_log2 <= 100 and 1 <= extremes <= 2^20, if options differ in a merge, or a
///        count exceeds 2^47.
/// Source binned estimates with cell means: Hall, Wand 1996, On the accuracy of binned kernel density estimators.
///        Differs: bounds per value, not a mean squared error.
template <real_scalar T>
class streaming_kde {
  static constexpr bool lossless = sizeof(T) == 2;
  using cell = std::conditional_t<lossless, std::uint32_t, std::uint64_t>;
  // A packed cell holds the count in its upper 24 bits and the moment in its lower 40: (2^24 - 1) (2^16 - 1) < 2^40.
  static constexpr std::uint64_t one = std::uint64_t{1} << 40, most_pending = lossless ? 0xffffffffu : 0xffffffu;
  static constexpr std::uint64_t most_values = std::uint64_t{1} << 47;

 public:
  using options_type = streaming_kde_options;
  using result_type = streaming_kde_result;
  using value_type = T;
  static constexpr merge_law law = merge_law::exact;

  explicit streaming_kde(streaming_kde_options options = {}) : options_{options} {
    if (!possible(options))
      detail::raise("moeroute::streaming_kde: grid_log2 = ", options.grid_log2, ", extremes = ", options.extremes,
                    ", must be -16..100 and 1..2^20");
  }

  template <class X>
    requires((real_vector<X> || real_matrix<X>)&&std::same_as<detail::scalar_of<X>, T>)
  void update(X const& x) {
    if constexpr (real_vector<X> && requires {
                    requires real_matrix<X>;
                    x.dimension();
                  }) {  // xt::xarray is either
      x.dimension() == 1 ? add(detail::vector_of(x)) : add(detail::matrix_of(x));
    } else if constexpr (real_vector<X>) {
      add(detail::vector_of(x));
    } else {
      add(detail::matrix_of(x));
    }
  }
  template <class X>
    requires(real_matrix<X> || real_vector<X>)
  void check(X const&) const noexcept {}

  void merge(streaming_kde const& other, std::uint64_t times = 1) {
    if (other.options_ != options_)
      detail::raise("moeroute::streaming_kde::merge: grid_log2 = ", other.options_.grid_log2,
                    ", extremes = ", other.options_.extremes, " into ", options_.grid_log2, ", ", options_.extremes);
    std::uint64_t values = 0;
    if (__builtin_mul_overflow(other.total_, times, &values) || values > most_values - total_)
      detail::raise("moeroute::streaming_kde::merge: ", total_, " + ", times, " x ", other.total_,
                    " values, more than 2^47");
    if (values == 0) return;
    if (&other == this) return merge(streaming_kde(other), times);
    bool const narrow = other.flushed_.empty() && values <= most_pending;
    if (narrow && pending_ + values > most_pending) flush();
    for (std::uint32_t i = 0; i < 65536; ++i) {
      auto const [count, sum] = other.read(i);
      if (count == 0) continue;
      if (narrow) {
        cells_.at(i) += static_cast<cell>(lossless ? count * times : (count * one + sum) * times);
      } else {
        auto& w = flushed_.at(i);
        w.count += count * times;
        w.sum += sum * times;
      }
    }
    if (narrow) pending_ += values;
    total_ += values;
    underflow_ += times * other.underflow_;
    overflow_ += times * other.overflow_;
    for (int i = 0; i < 3; ++i) nonfinite_[i] += times * other.nonfinite_[i];
    for (auto copies = std::min<std::uint64_t>(times, static_cast<std::uint64_t>(options_.extremes)); copies > 0;
         --copies) {
      largest_.add(other.largest_);
      smallest_.add(other.smallest_);
    }
  }

  /// The sample as density_cell in ascending order of lo: kept extremes alone, the other values by cells.
  std::vector<density_cell> cells() const {
    auto out = detached_cells();
    MOEROUTE_ASSERT(out.first);
    return std::move(out.second);
  }
  /// Density estimate of all finite values. Throws as cell_density does.
  cell_density estimate(kernel_kind kernel, double bandwidth) const { return {cells(), kernel, bandwidth}; }

  /// The up to options().extremes largest values, descending, and smallest, ascending, each as often as it occurred.
  std::vector<double> largest() const {
    if constexpr (lossless) {
      auto all = cells();
      std::reverse(all.begin(), all.end());
      return first_values(all);
    }
    return largest_.values();
  }
  std::vector<double> smallest() const {
    if constexpr (lossless) return first_values(cells());
    return smallest_.values();
  }

  options_type options() const noexcept { return options_; }
  /// Values seen, finite or not.
  std::uint64_t count() const noexcept { return total_; }
  /// Bytes of the state.
  std::size_t bytes() const noexcept {
    return sizeof *this + cells_.bytes() + flushed_.bytes() + largest_.bytes() + smallest_.bytes();
  }

  streaming_kde_result result() const {
    streaming_kde_result r;
    auto const sorted = cells();
    r.nan = nonfinite_[0], r.positive_infinite = nonfinite_[1], r.negative_infinite = nonfinite_[2];
    r.underflow = underflow_, r.overflow = overflow_, r.cells = sorted.size();
    if constexpr (lossless) {
      for (std::uint32_t i = 0; i < 65536; ++i) {
        if (finite(i)) continue;
        auto& apart = std::isnan(value(i)) ? r.nan : i < 0x8000 ? r.positive_infinite : r.negative_infinite;
        apart += read(i).count;
      }
    }
    r.count = total_ - r.nan - r.positive_infinite - r.negative_infinite;
    if (r.count == 0) return r;
    r.minimum = sorted.front().lo;
    r.maximum = sorted.front().hi;
    detail::careful_sum sum, squares;
    double const n = static_cast<double>(r.count), width = std::ldexp(1.0, -options_.grid_log2);
    for (auto const& c : sorted) {
      r.maximum = std::max(r.maximum, c.hi);
      bool const known = c.mean_hi - c.mean_lo <= width;
      sum.add(known ? static_cast<double>(c.count) * (0.5 * (c.mean_lo + c.mean_hi)) : quiet_nan);
    }
    r.mean = sum.value() / n;
    for (auto const& c : sorted) {
      double const d = 0.5 * (c.mean_lo + c.mean_hi) - r.mean;
      squares.add(static_cast<double>(c.count) * d * d);
    }
    if (r.count > 1) r.sd = std::sqrt(squares.value() / (n - 1));
    return r;
  }

  std::vector<std::byte> serialize() const {
    std::vector<std::uint16_t> at;
    std::vector<std::uint64_t> counts, sums;
    for (std::uint32_t i = 0; i < 65536; ++i) {
      auto const c = read(i);
      if (c.count == 0) continue;
      at.push_back(static_cast<std::uint16_t>(i));
      counts.push_back(c.count);
      sums.push_back(c.sum);
    }
    byte_writer out;
    out.put(tag);
    out.put(static_cast<std::int32_t>(options_.grid_log2));
    out.put(static_cast<std::int64_t>(options_.extremes));
    for (auto const n : nonfinite_) out.put(n);
    out.put(underflow_);
    out.put(overflow_);
    out.put(at);
    out.put(counts);
    if constexpr (!lossless) {
      out.put(sums);
      out.put(largest_.values());
      out.put(smallest_.values());
    }
    return std::move(out).bytes();
  }

  static streaming_kde deserialize(std::span<std::byte const> bytes) {
    byte_reader in(bytes);
    if (in.get<std::uint32_t>() != tag) in.fail("is not a streaming_kde of this scalar");
    streaming_kde_options options;
    options.grid_log2 = in.get<std::int32_t>();
    options.extremes = in.get<std::int64_t>();
    if (!possible(options)) in.fail("streaming_kde has impossible options");
    streaming_kde a(options);
    auto const tally = [&](std::uint64_t n) {
      if (n > most_values - a.total_) in.fail("streaming_kde counts too much");
      a.total_ += n;
      return n;
    };
    for (auto& n : a.nonfinite_) n = tally(in.get<std::uint64_t>());
    a.underflow_ = tally(in.get<std::uint64_t>());
    a.overflow_ = tally(in.get<std::uint64_t>());
    if (lossless && a.total_ > 0) in.fail("streaming_kde counts apart what has cells");
    auto const at = in.get_vector<std::uint16_t>();
    auto const counts = in.get_vector<std::uint64_t>();
    std::vector<std::uint64_t> sums(counts.size());
    std::vector<double> large, small;
    if constexpr (!lossless) {
      sums = in.get_vector<std::uint64_t>();
      large = in.get_vector<double>();
      small = in.get_vector<double>();
    }
    if (at.size() != counts.size() || at.size() != sums.size()) in.fail("streaming_kde has cells of unequal length");
    for (std::size_t i = 0; i < at.size(); ++i) {
      if (counts[i] == 0 || (i > 0 && at[i] <= at[i - 1])) in.fail("streaming_kde has cells out of order");
      tally(counts[i]);
      if (sums[i] > counts[i] * 0xffff) in.fail("streaming_kde has an impossible moment");
      a.flushed_.at(at[i]) = {counts[i], sums[i]};
    }
    in.finish();
    if constexpr (!lossless) {
      for (auto const* v : {&large, &small})
        for (double const x : *v)
          if (!std::isfinite(x) || (x == 0 && std::signbit(x)) || static_cast<double>(static_cast<T>(x)) != x)
            in.fail("streaming_kde has an impossible extreme");
      auto const finite = a.total_ - a.nonfinite_[0] - a.nonfinite_[1] - a.nonfinite_[2];
      auto const expected = std::min<std::uint64_t>(finite, static_cast<std::uint64_t>(options.extremes));
      if (large.size() != expected || small.size() != expected ||
          !std::is_sorted(large.begin(), large.end(), std::greater<>()) || !std::is_sorted(small.begin(), small.end()))
        in.fail("streaming_kde has extremes out of order");
      for (double const x : large) a.largest_.add(x);
      for (double const x : small) a.smallest_.add(x);
      if (!a.detached_cells().first) in.fail("streaming_kde has extremes that are not in its cells");
    }
    return a;
  }

  friend bool operator==(streaming_kde const& a, streaming_kde const& b) { return a.serialize() == b.serialize(); }

 private:
  static constexpr std::uint32_t tag = 0x4b444500u + (std::is_same_v<T, bf16>    ? 0
                                                      : std::is_same_v<T, f16>   ? 1
                                                      : std::is_same_v<T, float> ? 2
                                                                                 : 3);  // "KDE", scalar

  // From -16 on no value underflows when it is scaled, up to 100 none of the grid overflows.
  static bool possible(streaming_kde_options const& o) noexcept {
    return o.grid_log2 >= -16 && o.grid_log2 <= 100 && o.extremes >= 1 && o.extremes <= (index_t{1} << 20);
  }

  void add(matrix_view<T> x) {
    if (x.col_stride() == 1 && x.row_stride() == x.cols())
      return add(x.data(), static_cast<std::uint64_t>(x.rows() * x.cols()));
    for (index_t r = 0; r < x.rows(); ++r) add(x.row(r));
  }
  void add(vector_view<T> x) {
    if (x.contiguous()) return add(x.data(), static_cast<std::uint64_t>(x.size()));
    T buffer[256];
    for (index_t i = 0; i < x.size();) {
      std::uint64_t n = 0;
      for (; n < 256 && i < x.size(); ++i) buffer[n++] = x[i];
      add(buffer, n);
    }
  }

  void add(T const* p, std::uint64_t n) {
    while (n > 0) {
      auto const part = std::min(n, most_pending - pending_);
      if (part == 0) {
        flush();
        continue;
      }
      if constexpr (lossless)
        add_bits(p, part);
      else
        add_keys(p, part);
      pending_ += part;
      total_ += part;
      p += part;
      n -= part;
    }
  }

  void add_bits(T const* p, std::uint64_t n) {
    if (n >= (std::uint64_t{1} << 18)) {  // a flat table is worth its 256 KiB
      std::vector<std::uint32_t> flat(65536);
      for (std::uint64_t i = 0; i < n; ++i) ++flat[p[i].bits];
      for (std::uint32_t i = 0; i < 65536; ++i)
        if (flat[i] > 0) cells_.at(i) += flat[i];
      return;
    }
    auto* const pages = cells_.open();
    for (std::uint64_t i = 0; i < n; ++i) {
      std::uint32_t const bits = p[i].bits;
      auto* page = pages[bits >> 8].get();
      if (page == nullptr) [[unlikely]]
        page = cells_.make(pages[bits >> 8]);
      ++page[bits & 255];
    }
  }

  void add_keys(T const* p, std::uint64_t n) {
    auto* const pages = cells_.open();
    auto const count = [&](std::uint32_t key) {
      auto* page = pages[key >> 24].get();
      if (page == nullptr) [[unlikely]]
        page = cells_.make(pages[key >> 24]);
      page[(key >> 16) & 255] += one | (key & 0xffffu);
    };
    T const scale = static_cast<T>(std::ldexp(1.0, options_.grid_log2 + 16));
    T const edge = static_cast<T>(std::ldexp(1.0, 15 - options_.grid_log2)), top = std::nextafter(edge, T{0});
    auto const slowly = [&](double x) {
      if (std::isnan(x)) {
        ++nonfinite_[0];
      } else if (std::isinf(x)) {
        ++nonfinite_[x > 0 ? 1 : 2];
      } else {
        largest_.add(x);
        smallest_.add(x);
        if (x >= static_cast<double>(edge))
          ++overflow_;
        else if (x < -static_cast<double>(edge))
          ++underflow_;
        else
          count(key_of(x));
      }
    };
    alignas(64) std::uint32_t keys[detail::grid_keys::block];
    std::uint64_t i = 0;
    for (; i + detail::grid_keys::block <= n; i += detail::grid_keys::block) {
      // Inside: on the grid, and neither of the largest nor of the smallest values so far.
      T const lo = std::max(-edge, static_cast<T>(smallest_.bound())),
              hi = std::min(top, static_cast<T>(largest_.bound()));
      if (detail::dispatch<detail::grid_keys>(p + i, lo, hi, scale, static_cast<std::uint32_t*>(keys))) [[likely]] {
        for (auto const key : keys) count(key);
      } else {
        for (int j = 0; j < detail::grid_keys::block; ++j)
          if (p[i + static_cast<std::uint64_t>(j)] >= lo && p[i + static_cast<std::uint64_t>(j)] <= hi)
            count(keys[j]);
          else
            slowly(static_cast<double>(p[i + static_cast<std::uint64_t>(j)]));
      }
    }
    for (; i < n; ++i) slowly(static_cast<double>(p[i]));
  }

  std::uint32_t key_of(double x) const noexcept {
    return static_cast<std::uint32_t>(static_cast<std::int64_t>(std::floor(std::ldexp(x, options_.grid_log2 + 16))) +
                                      (std::int64_t{1} << 31));
  }

  std::vector<double> first_values(std::vector<density_cell> const& sorted) const {
    std::vector<double> out;
    for (auto const& c : sorted)
      for (std::uint64_t i = 0; i < c.count && out.size() < static_cast<std::size_t>(options_.extremes); ++i)
        out.push_back(c.lo);
    return out;
  }

  void flush() {
    for (std::uint32_t i = 0; i < 65536; ++i) {
      if (!cells_.has_page(i)) continue;
      auto& c = cells_.at(i);
      if (c == 0) continue;
      auto const packed = unpacked(c);
      auto& w = flushed_.at(i);
      w.count += packed.count;
      w.sum += packed.sum;
      c = 0;
    }
    pending_ = 0;
  }
  static detail::wide_cell unpacked(cell c) noexcept {
    if constexpr (lossless)
      return {c, 0};
    else
      return {c / one, c % one};
  }
  detail::wide_cell read(std::uint32_t i) const noexcept {
    auto c = unpacked(cells_.read(i));
    auto const w = flushed_.read(i);
    return {c.count + w.count, c.sum + w.sum};
  }

  static double value(std::uint32_t bits) noexcept {
    return static_cast<double>(to_compute(T{static_cast<std::uint16_t>(bits)}));
  }
  static bool finite(std::uint32_t bits) noexcept { return std::isfinite(value(bits)); }

  // The cells without the kept extremes, and those as cells of their own; false if a cell does not hold its extremes.
  std::pair<bool, std::vector<density_cell>> detached_cells() const {
    std::vector<density_cell> out;
    if constexpr (lossless) {
      auto const put = [&](std::uint32_t bits) {
        if (auto const n = read(bits).count; n > 0 && finite(bits))
          out.push_back({value(bits), value(bits), value(bits), value(bits), n});
      };
      for (std::uint32_t i = 0xffff; i >= 0x8000; --i) put(i);
      for (std::uint32_t i = 0; i < 0x8000; ++i) put(i);
      return {true, std::move(out)};
    } else {
      auto large = largest_.values(), small = smallest_.values();
      auto const values = total_ - nonfinite_[0] - nonfinite_[1] - nonfinite_[2];
      // Few values are among the largest and the smallest at once.
      small.resize(std::min<std::size_t>(small.size(), static_cast<std::size_t>(values) - large.size()));
      std::vector<detail::wide_cell> grid(65536);
      for (std::uint32_t i = 0; i < 65536; ++i) grid[i] = read(i);
      double const width = std::ldexp(1.0, -options_.grid_log2), edge = std::ldexp(1.0, 15 - options_.grid_log2);
      auto below = underflow_, above = overflow_;
      bool fits = true;
      auto const take = [&](double x) {
        out.push_back({x, x, x, x, 1});
        if (x >= edge || x < -edge) {
          fits = fits && (x < 0 ? below : above) > 0;
          --(x < 0 ? below : above);
          return;
        }
        auto const key = key_of(x);
        auto& c = grid[key >> 16];
        fits = fits && c.count > 0 && c.sum >= (key & 0xffffu);
        --c.count;
        c.sum -= key & 0xffffu;
      };
      for (double const x : large) take(x);
      for (double const x : small) take(x);
      // Beyond the grid lies only what the kept extremes are beyond of.
      if (below > 0)
        out.push_back({small.empty() ? 0 : small.back(), -edge, small.empty() ? 0 : small.back(), -edge, below});
      if (above > 0)
        out.push_back({edge, large.empty() ? 0 : large.back(), edge, large.empty() ? 0 : large.back(), above});
      for (std::uint32_t i = 0; i < 65536; ++i) {
        if (grid[i].count == 0) continue;
        fits = fits && grid[i].count <= most_values && grid[i].sum <= grid[i].count * 0xffff;
        auto const bin = static_cast<std::int32_t>(i) - 32768;
        double const lo = static_cast<double>(bin) * width, hi = lo + width;
        double const mean =
            lo + static_cast<double>(grid[i].sum) / static_cast<double>(grid[i].count) * (width * 0x1p-16);
        bool const whole =
            std::is_same_v<T, float> && (bin >= 128 || bin < -128);  // every float there is a multiple of 2^-(q+16)
        double const mean_hi = whole ? mean : mean + width * 0x1p-16;
        out.push_back(
            {lo, hi, std::max(lo, std::nextafter(mean, lo)), std::min(hi, std::nextafter(mean_hi, hi)), grid[i].count});
      }
      for (auto const& c : out) fits = fits && c.lo <= c.mean_lo && c.mean_lo <= c.mean_hi && c.mean_hi <= c.hi;
      std::sort(out.begin(), out.end(),
                [](auto const& a, auto const& b) { return a.lo != b.lo ? a.lo < b.lo : a.hi < b.hi; });
      return {fits, std::move(out)};
    }
  }

  streaming_kde_options options_;
  detail::paged_cells<cell> cells_;
  detail::paged_cells<detail::wide_cell> flushed_;
  std::uint64_t pending_ = 0, total_ = 0, underflow_ = 0, overflow_ = 0;
  std::uint64_t nonfinite_[3] = {0, 0, 0};  // NaN, +infinity, -infinity; of bf16 and f16 they have cells
  // Of float and double. Until there are enough no value lies within the bounds.
  detail::kept_values<std::greater<>> largest_{static_cast<std::size_t>(options_.extremes),
                                               std::numeric_limits<compute_t<T>>::lowest()};
  detail::kept_values<std::less<>> smallest_{static_cast<std::size_t>(options_.extremes),
                                             std::numeric_limits<compute_t<T>>::max()};
};
static_assert(accumulator<streaming_kde<float>> && accumulator<streaming_kde<bf16>>);

/// One accumulator per column: expert e's logits go to distributions[e].
///
/// In     distributions [E]; logits [T,E].   Throws shape_error if there is not one per column; nothing is counted
///        then.
template <real_scalar T, class Logits>
  requires(real_matrix<Logits>&& std::same_as<matrix_value_t<Logits>, T>)
void update_per_expert(std::span<streaming_kde<T>> distributions, Logits const& logits) {
  auto const m = detail::matrix_of(logits);
  if (static_cast<index_t>(distributions.size()) != m.cols())
    detail::raise<shape_error>("moeroute::update_per_expert: ", distributions.size(), " distributions, logits have ",
                               m.cols(), " columns");
  for (index_t r = 0; r < m.rows(); r += 256) {  // rows that stay in cache while every column is gathered from them
    auto const rows = std::min<index_t>(256, m.rows() - r);
    for (index_t e = 0; e < m.cols(); ++e)
      distributions[static_cast<std::size_t>(e)].update(
          vector_view<T>(m.data() + r * m.row_stride() + e * m.col_stride(), rows, m.row_stride()));
  }
}

}  // namespace moeroute

#endif
