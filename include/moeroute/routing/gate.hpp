// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_ROUTING_GATE_HPP
#define MOEROUTE_ROUTING_GATE_HPP

#include <moeroute/core/accumulator.hpp>
#include <moeroute/core/batch.hpp>
#include <moeroute/core/bytes.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/numeric/exact_sum.hpp>
#include <moeroute/numeric/simd.hpp>
#include <moeroute/numeric/softmax.hpp>
#include <moeroute/numeric/top_k.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

namespace moeroute {
namespace detail {

struct gate_row {
  double maximum;    // of the logits; NaN if one is not finite
  double sum;        // of e^(z - maximum)
  double deviation;  // sum of e^(z - maximum) (maximum - z)
  double first, kept, last, next;  // probabilities: the best, the sum of the best K, the K-th, the (K+1)-th or 0
};

/// `best` [rows, candidates]: the places of the K largest logits of each row, and of the one after them if there is one.
struct gate_kernel {
  template <simd_level Level, class L>
  MOEROUTE_ALWAYS_INLINE static void run(L const* z, index_t rows, index_t n, index_t row_stride,
                                         std::int32_t const* best, index_t candidates, index_t k, compute_t<L>* e,
                                         gate_row* out) {
    using T = compute_t<L>;
    constexpr int W = lane_count<Level, T>;
    T maximum[row_block];
    bool finite[row_block];
    padded_rows<W, L> padded(n);
    for (index_t r = 0; r < rows; ++r) {
      if (r % row_block == 0)
        for (index_t i = 0; i < std::min(row_block, rows - r); ++i)
          maximum[i] = row_maximum<Level>(z + (r + i) * row_stride, n, finite[i]);
      T const top = maximum[r % row_block];
      out[r].maximum = finite[r % row_block] ? static_cast<double>(top) : quiet_nan;
      if (!finite[r % row_block]) continue;
      first_moment<T> deviation;
      T const sum = exp_row(padded, z + r * row_stride, n, top, after_block(z, r, row_stride), e, deviation);
      out[r].sum = static_cast<double>(sum);
      out[r].deviation = static_cast<double>(deviation.value);
      T const inverse = T{1} / sum;
      auto const probability = [&](index_t j) { return static_cast<double>(e[best[r * candidates + j]] * inverse); };
      out[r].first = probability(0);
      out[r].last = probability(k - 1);
      out[r].next = k < candidates ? probability(k) : 0;
      out[r].kept = 0;
      for (index_t j = 0; j < k; ++j) out[r].kept += probability(j);
    }
  }
};

}  // namespace detail

struct gate_options {
  index_t experts = 0;
  index_t top_k = 0;
  friend bool operator==(gate_options const&, gate_options const&) = default;
};

/// Means over tokens with finite logits; NaN when there are none.
struct gate_result {
  double entropy_nats = quiet_nan;      ///< of the softmax over all experts; 0 .. ln E
  double top1_probability = quiet_nan;
  double top_k_mass = quiet_nan;        ///< probability of the K most probable experts
  double margin = quiet_nan;            ///< probability of the K-th minus that of the (K+1)-th: how far the choice is from changing
  double z_loss = quiet_nan;            ///< mean squared log-sum-exp of the logits
  std::uint64_t tokens = 0, nonfinite_rows = 0;
  std::uint64_t z_loss_refused = 0;     ///< rows with |log-sum-exp| above 256: not in z_loss
};

/// How decided the router is, token by token.
///
/// In     routing_batch with logits [T,E].   Out  gate_result.   Empty  NaN.
/// Merge  exact: fixed-point sums of per-token values.   Cost  O(T (E + E log K)) time, O(1) memory.
/// Bias   a mean of entropies, not the entropy of the mean load; sigmoid routers are described by the softmax of their logits.
/// Throws argument_error if the batch has no logits or other experts, or top_k is not in 1..E; nothing is counted then.
/// Source z-loss: Zoph et al. 2022, arXiv:2202.08906, equation 5, as given. Entropy: without the 1e-8 or 1e-10 that published scripts add
///        inside the logarithm.
class gate {
 public:
  using options_type = gate_options;
  using result_type = gate_result;
  static constexpr merge_law law = merge_law::exact;

  explicit gate(gate_options options) : options_{options} {
    if (options.experts <= 0 || options.top_k <= 0 || options.top_k > options.experts)
      detail::raise("moeroute::gate: experts = ", options.experts, ", top_k = ", options.top_k, "; need 0 < top_k <= experts");
  }

  template <class L, class W, class Id>
  void check(routing_batch<L, W, Id> const& batch) const {
    if (!batch.has_logits()) detail::raise("moeroute::gate::update: batch has no logits");
    if (batch.experts() != options_.experts)
      detail::raise("moeroute::gate::update: batch has ", batch.experts(), " experts, options have ", options_.experts);
  }
  template <class L, class W, class Id>
  void update(routing_batch<L, W, Id> const& batch) {
    check(batch);
    constexpr index_t block_rows = 64;
    index_t const n = options_.experts, k = options_.top_k, candidates = std::min(k + 1, n);
    std::vector<std::int32_t> best(static_cast<std::size_t>(block_rows * candidates));
    detail::scratch<compute_t<L>, detail::stack_row> e(detail::padded_size(n));
    detail::gate_row rows[block_rows];
    detail::for_blocks(batch.logits(), block_rows, [&](matrix_view<L> z, index_t) {
      top_k_rows(z, candidates, best.data());
      detail::dispatch<detail::gate_kernel>(z.data(), z.rows(), n, z.row_stride(),
                                            static_cast<std::int32_t const*>(best.data()), candidates, k, e.data(),
                                            static_cast<detail::gate_row*>(rows));
      for (index_t r = 0; r < z.rows(); ++r) add(rows[r]);
    });
  }

  void merge(gate const& other, std::uint64_t times = 1) {
    if (other.options_ != options_) detail::raise("moeroute::gate::merge: options differ");
    for (std::size_t i = 0; i < sums_.size(); ++i) sums_[i].merge(other.sums_[i], times);
    tokens_ += times * other.tokens_;
    nonfinite_ += times * other.nonfinite_;
  }

  gate_options options() const noexcept { return options_; }
  std::uint64_t count() const noexcept { return tokens_ + nonfinite_; }
  gate_result result() const {
    gate_result r;
    r.tokens = tokens_;
    r.nonfinite_rows = nonfinite_;
    r.z_loss_refused = sums_[z_loss].nan() + sums_[z_loss].out_of_range();
    auto const mean = [&](std::size_t i) {
      return sums_[i].count() == 0 ? quiet_nan : sums_[i].sum() / static_cast<double>(sums_[i].count());
    };
    r.entropy_nats = mean(entropy);
    r.top1_probability = mean(top1);
    r.top_k_mass = mean(mass);
    r.margin = mean(margin);
    r.z_loss = mean(z_loss);
    return r;
  }

  std::vector<std::byte> serialize() const {
    byte_writer out;
    out.put(std::uint32_t{0x47415445});  // "GATE"
    out.put(static_cast<std::int64_t>(options_.experts));
    out.put(static_cast<std::int64_t>(options_.top_k));
    out.put(tokens_);
    out.put(nonfinite_);
    for (auto const& s : sums_) s.serialize(out);
    return std::move(out).bytes();
  }
  static gate deserialize(std::span<std::byte const> bytes) {
    byte_reader in(bytes);
    if (in.get<std::uint32_t>() != 0x47415445) in.fail("is not a gate");
    auto const experts = static_cast<index_t>(in.get<std::int64_t>()), top_k = static_cast<index_t>(in.get<std::int64_t>());
    if (experts <= 0 || top_k <= 0 || top_k > experts) in.fail("gate has impossible options");
    gate a({experts, top_k});
    a.tokens_ = in.get<std::uint64_t>();
    a.nonfinite_ = in.get<std::uint64_t>();
    for (auto& s : a.sums_) {
      auto read = exact_sum::deserialize(in);
      if (read.bound() != s.bound()) in.fail("gate has a sum of another bound");
      if (read.count() + read.nan() + read.out_of_range() != a.tokens_) in.fail("gate has a sum over another number of tokens");
      s = read;
    }
    in.finish();
    return a;
  }

  friend bool operator==(gate const&, gate const&) = default;

 private:
  enum quantity : std::size_t { entropy, top1, mass, margin, z_loss };

  void add(detail::gate_row const& row) {
    if (std::isnan(row.maximum)) {
      ++nonfinite_;
      return;
    }
    ++tokens_;
    double const log_sum = std::log(row.sum), lse = row.maximum + log_sum;
    sums_[entropy].add(std::max(0.0, log_sum + row.deviation / row.sum));
    sums_[top1].add(std::min(1.0, row.first));
    sums_[mass].add(std::min(1.0, row.kept));
    sums_[margin].add(row.last - row.next);
    sums_[z_loss].add(lse * lse);
  }

  gate_options options_;
  // Bounds: entropy <= ln E < 64 for any E that fits an index; probabilities <= 1; squared log-sum-exp up to 256^2.
  std::vector<exact_sum> sums_{exact_sum(64), exact_sum(1), exact_sum(1), exact_sum(1), exact_sum(0x1p16)};
  std::uint64_t tokens_ = 0, nonfinite_ = 0;
};

static_assert(accumulates<gate, routing_batch<>>);

}  // namespace moeroute

#endif
