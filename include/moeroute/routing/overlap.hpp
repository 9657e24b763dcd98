// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_ROUTING_OVERLAP_HPP
#define MOEROUTE_ROUTING_OVERLAP_HPP

#include <moeroute/core/accumulator.hpp>
#include <moeroute/core/adapt.hpp>
#include <moeroute/core/batch.hpp>
#include <moeroute/core/bytes.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/estimate.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/inference/bootstrap.hpp>
#include <moeroute/numeric/exact_sum.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#if __has_include(<xtensor/containers/xtensor.hpp>)
#include <xtensor/containers/xtensor.hpp>
#else
#include <xtensor/xtensor.hpp>
#endif

namespace moeroute {

struct overlap_options {
  index_t experts = 0;
  index_t rows = 0;  ///< documents, or groups of documents
  friend bool operator==(overlap_options const&, overlap_options const&) = default;
};

/// How alike two routings of the same tokens are; a token's experts are A in the first and B in the second. NaN where
/// undefined.
struct overlap_measures {
  double saturation = quiet_nan;    ///< sum |A and B| / sum |B|: the share of B that the first routing chose too
  double chance = quiet_nan;        ///< what two routings with these loads share if nothing but the loads decides
  double kappa = quiet_nan;         ///< (saturation - chance) / (1 - chance): 0 by chance, 1 if equal
  double jaccard = quiet_nan;       ///< mean over tokens of |A and B| / |A or B|
  double identical = quiet_nan;     ///< share of tokens with A = B
  double weighted = quiet_nan;      ///< mean over tokens of sum_e min(w_e, w'_e), weights of a token scaled to sum 1
  double rank1 = quiet_nan;         ///< share of tokens whose first slots agree
  double rank1_chance = quiet_nan;  ///< that share if nothing but the loads of the first slot decides
  double rank1_kappa = quiet_nan;   ///< Cohen's kappa of the first slots
};

inline constexpr double overlap_measures::*overlap_fields[] = {
    &overlap_measures::saturation, &overlap_measures::chance,       &overlap_measures::kappa,
    &overlap_measures::jaccard,    &overlap_measures::identical,    &overlap_measures::weighted,
    &overlap_measures::rank1,      &overlap_measures::rank1_chance, &overlap_measures::rank1_kappa};
inline constexpr char const* overlap_field_names[] = {"saturation", "chance", "kappa",        "jaccard",    "identical",
                                                      "weighted",   "rank1",  "rank1_chance", "rank1_kappa"};

struct overlap_result : overlap_measures {
  std::uint64_t tokens = 0;
  std::uint64_t weights_refused = 0;  ///< tokens with weights negative, not finite or 0 in sum: not in weighted
  xt::xtensor<double, 2> sums;        ///< [R,M] what the measures are functions of, by row; for overlap_intervals
};

namespace detail {

// Columns of the sums; the loads of all slots and of the first slots of both routings follow, E columns each.
struct overlap_sums {
  enum column : std::size_t {
    tokens,
    slots_a,
    slots_b,
    both,
    same,
    first_tokens,
    first_both,
    any_tokens,
    weight_tokens,
    integers
  };
  enum real : std::size_t { jaccard = integers, weight, loads };  // in the result only

  static std::size_t width(std::size_t experts) noexcept { return loads + 4 * experts; }

  static overlap_measures measures(double const* s, std::size_t experts) {
    double const *a = s + loads, *b = a + experts, *first_a = b + experts, *first_b = first_a + experts;
    double shared = 0, first_shared = 0;
    for (std::size_t e = 0; e < experts; ++e) {
      shared += a[e] * b[e];
      first_shared += first_a[e] * first_b[e];
    }
    auto const kappa = [](double value, double chance) {
      return chance < 1 ? (value - chance) / (1 - chance) : quiet_nan;
    };
    overlap_measures m;
    m.saturation = s[both] / s[slots_b];
    m.chance = shared / s[tokens] / s[slots_b];
    m.kappa = kappa(m.saturation, m.chance);
    m.jaccard = s[jaccard] / s[any_tokens];
    m.identical = s[same] / s[any_tokens];
    m.weighted = s[weight] / s[weight_tokens];
    m.rank1 = s[first_both] / s[first_tokens];
    m.rank1_chance = first_shared / s[first_tokens] / s[first_tokens];
    m.rank1_kappa = kappa(m.rank1, m.rank1_chance);
    return m;
  }
};

}  // namespace detail

/// Agreement of two routings of the same tokens in one layer: a checkpoint and the final one (router saturation), two
/// models, or a text and its translation aligned token by token.
///
/// In     two routing_batch of the same tokens and experts, their document_spans, rows [D]: the row that each document
///        counts into, as in document_counts. Slot 0 is the first choice. Weights if both have them. Dropped slots
///        belong to no set; a repeated id counts once.
/// Out    overlap_result, over all rows; overlap_intervals bounds it by documents.   Empty  NaN.
/// Merge  exact.   Cost  O(T K) time, 32 R E bytes.
/// Bias   kappa takes out the loads of the whole text, not what both routings owe to the topic of a document: for that,
///        compare with the same measures of a shifted second routing (rows of other tokens of the document).
/// Throws argument_error or shape_error if experts, tokens or rows do not fit; nothing is counted then.
/// Source saturation: OLMoE, arXiv:2409.02060, section 5.1, as given where both have K slots; kappa: Cohen 1960,
///        doi:10.1177/001316446002000104, with the chance of sets, sum_e p_e q_e / K. Differs: sums over tokens, not
///        means of batches.
class overlap {
 public:
  using options_type = overlap_options;
  using result_type = overlap_result;
  static constexpr merge_law law = merge_law::exact;

  explicit overlap(overlap_options options) : options_{options} {
    if (options.experts <= 0 || options.rows < 0)
      detail::raise("moeroute::overlap: experts = ", options.experts, ", rows = ", options.rows,
                    "; need experts > 0, rows >= 0");
    index_t cells = 0;
    if (__builtin_mul_overflow(options.experts, 4, &cells) ||
        __builtin_add_overflow(cells, index_t{columns::integers}, &cells) ||
        __builtin_mul_overflow(cells, options.rows, &cells))
      detail::raise("moeroute::overlap: ", options.rows, " rows of ", options.experts,
                    " experts exceed the address space");
    counts_.resize(static_cast<std::size_t>(cells));
    jaccard_ = exact_sums(options.rows);
    weight_ = exact_sums(options.rows);
  }

  template <class L, class W, class Id, class L2, class W2, class Id2>
  void check(routing_batch<L, W, Id> const& a, routing_batch<L2, W2, Id2> const& b, document_spans const& spans,
             vector_view<std::int32_t> rows) const {
    if (a.experts() != options_.experts || b.experts() != options_.experts)
      detail::raise("moeroute::overlap::update: batches have ", a.experts(), " and ", b.experts(),
                    " experts, options have ", options_.experts);
    if (a.tokens() != spans.tokens() || b.tokens() != spans.tokens() || rows.size() != spans.documents())
      detail::raise<shape_error>("moeroute::overlap::update: batches have ", a.tokens(), " and ", b.tokens(),
                                 " tokens, spans ", spans.tokens(), "; rows ", rows.size(), ", documents ",
                                 spans.documents());
    for (index_t d = 0; d < rows.size(); ++d)
      if (rows[d] < 0 || rows[d] >= options_.rows)
        detail::raise("moeroute::overlap::update: row ", rows[d], " of document ", d, ", but rows = ", options_.rows);
  }
  template <class L, class W, class Id, class L2, class W2, class Id2>
  void update(routing_batch<L, W, Id> const& a, routing_batch<L2, W2, Id2> const& b, document_spans const& spans,
              vector_view<std::int32_t> rows) {
    check(a, b, spans, rows);
    auto const experts = static_cast<std::size_t>(options_.experts);
    bool const weighted = a.has_weights() && b.has_weights();
    token_choice of_a(experts), of_b(experts);
    for (index_t d = 0; d < spans.documents(); ++d) {
      auto* const c = counts_.data() + static_cast<std::size_t>(rows[d]) * width();
      auto *const load_a = c + columns::integers, *const load_b = load_a + experts;
      auto *const first_a = load_b + experts, *const first_b = first_a + experts;
      for (index_t t = spans.first(d); t < spans.first(d) + spans.size(d); ++t) {
        of_a.read(a, t, weighted);
        of_b.read(b, t, weighted);
        std::uint64_t const n_a = of_a.experts.size(), n_b = of_b.experts.size();
        std::uint64_t both = 0;
        double shared = 0;
        for (auto const e : of_a.experts) ++load_a[e];
        for (auto const e : of_b.experts) {
          ++load_b[e];
          if (of_a.last[e] != t) continue;
          ++both;
          shared += std::min(of_a.weight[e] / of_a.total, of_b.weight[e] / of_b.total);
        }
        ++c[columns::tokens];
        c[columns::slots_a] += n_a;
        c[columns::slots_b] += n_b;
        c[columns::both] += both;
        if (n_a + n_b > 0) {
          ++c[columns::any_tokens];
          c[columns::same] += both == n_a && both == n_b ? 1 : 0;
          jaccard_.add_at(rows[d], static_cast<double>(both) / static_cast<double>(n_a + n_b - both));
        }
        if (of_a.first >= 0 && of_b.first >= 0) {
          ++c[columns::first_tokens];
          ++first_a[of_a.first];
          ++first_b[of_b.first];
          c[columns::first_both] += of_a.first == of_b.first ? 1 : 0;
        }
        if (!weighted) continue;
        if (of_a.sound() && of_b.sound()) {
          ++c[columns::weight_tokens];
          weight_.add_at(rows[d], std::min(1.0, shared));
        } else {
          ++refused_;
        }
      }
    }
  }

  void merge(overlap const& other, std::uint64_t times = 1) {
    if (other.options_ != options_) detail::raise("moeroute::overlap::merge: options differ");
    jaccard_.merge(other.jaccard_, times);
    weight_.merge(other.weight_, times);
    for (std::size_t i = 0; i < counts_.size(); ++i) counts_[i] += times * other.counts_[i];
    refused_ += times * other.refused_;
  }

  overlap_options options() const noexcept { return options_; }
  std::uint64_t count() const noexcept {
    std::uint64_t n = 0;
    for (std::size_t at = 0; at < counts_.size(); at += width()) n += counts_[at + columns::tokens];
    return n;
  }
  overlap_result result() const {
    auto const experts = static_cast<std::size_t>(options_.experts), rows = static_cast<std::size_t>(options_.rows);
    overlap_result r;
    r.sums = xt::xtensor<double, 2>(std::array<std::size_t, 2>{rows, columns::width(experts)}, 0.0);
    std::vector<double> total(columns::width(experts));
    for (std::size_t row = 0; row < rows; ++row) {
      double* const s = r.sums.data() + row * columns::width(experts);
      auto const* const c = counts_.data() + row * width();
      for (std::size_t i = 0; i < columns::integers; ++i) s[i] = static_cast<double>(c[i]);
      s[columns::jaccard] = jaccard_.sum(static_cast<index_t>(row));
      s[columns::weight] = weight_.sum(static_cast<index_t>(row));
      for (std::size_t i = 0; i < 4 * experts; ++i)
        s[columns::loads + i] = static_cast<double>(c[columns::integers + i]);
      for (std::size_t i = 0; i < total.size(); ++i) total[i] += s[i];
    }
    static_cast<overlap_measures&>(r) = columns::measures(total.data(), experts);
    r.tokens = count();
    r.weights_refused = refused_;
    return r;
  }

  std::vector<std::byte> serialize() const {
    byte_writer out;
    out.put(std::uint32_t{0x4f564c50});  // "OVLP"
    out.put(static_cast<std::int64_t>(options_.experts));
    out.put(static_cast<std::int64_t>(options_.rows));
    out.put(refused_);
    out.put(counts_);
    jaccard_.serialize(out);
    weight_.serialize(out);
    return std::move(out).bytes();
  }
  static overlap deserialize(std::span<std::byte const> bytes) {
    byte_reader in(bytes);
    if (in.get<std::uint32_t>() != 0x4f564c50) in.fail("is not an overlap");
    auto const experts = in.get<std::int64_t>(), rows = in.get<std::int64_t>();
    auto const refused = in.get<std::uint64_t>();
    auto counts = in.get_vector<std::uint64_t>();
    auto jaccard = exact_sums::deserialize(in), weight = exact_sums::deserialize(in);
    in.finish();
    std::int64_t cells = 0;
    if (experts <= 0 || rows < 0 || __builtin_mul_overflow(experts, 4, &cells) ||
        __builtin_add_overflow(cells, std::int64_t{columns::integers}, &cells) ||
        __builtin_mul_overflow(cells, rows, &cells) || std::cmp_not_equal(counts.size(), cells) ||
        jaccard.size() != rows || weight.size() != rows)
      in.fail("overlap has counts that do not fit its rows");
    overlap a({static_cast<index_t>(experts), static_cast<index_t>(rows)});
    a.counts_ = std::move(counts);
    a.jaccard_ = std::move(jaccard);
    a.weight_ = std::move(weight);
    a.refused_ = refused;
    a.check_state(in);
    return a;
  }

  friend bool operator==(overlap const&, overlap const&) = default;

 private:
  using columns = detail::overlap_sums;

  // Nine counts and the loads: [E] of a and of b over all slots, [E] of a and of b over first slots.
  std::size_t width() const noexcept { return columns::integers + 4 * static_cast<std::size_t>(options_.experts); }

  // The experts of one token, each once.
  struct token_choice {
    explicit token_choice(std::size_t e_count) : last(e_count, -1), weight(e_count) {}

    template <class Batch>
    void read(Batch const& batch, index_t t, bool weighted) {
      auto const ids = batch.ids().row(t);
      experts.clear();
      total = 0;
      usable = true;
      first = ids.size() > 0 ? static_cast<index_t>(ids[0]) : no_expert;
      for (index_t k = 0; k < ids.size(); ++k) {
        if (std::cmp_less(ids[k], 0)) continue;
        auto const e = static_cast<std::size_t>(ids[k]);
        if (std::exchange(last[e], t) == t) continue;
        experts.push_back(e);
        if (!weighted) continue;
        weight[e] = static_cast<double>(to_compute(batch.weights().row(t)[k]));
        usable = usable && weight[e] >= 0 && std::isfinite(weight[e]);
        total += weight[e];
      }
    }
    bool sound() const noexcept { return usable && total > 0 && std::isfinite(total); }

    std::vector<index_t> last;         // token that chose the expert last
    std::vector<double> weight;        // at that token
    std::vector<std::size_t> experts;  // of the token
    index_t first = no_expert;         // its first slot
    double total = 0;
    bool usable = true;
  };

  void check_state(byte_reader const& in) const {
    auto const experts = static_cast<std::size_t>(options_.experts);
    std::uint64_t any = 0, with_weight = 0;
    for (std::size_t row = 0; row < static_cast<std::size_t>(options_.rows); ++row) {
      auto const* const c = counts_.data() + row * width();
      auto const n = c[columns::tokens], first = c[columns::first_tokens];
      std::array<std::uint64_t, 4> sum{};
      bool fits = true;
      for (std::size_t i = 0; i < 4; ++i)
        for (std::size_t e = 0; e < experts; ++e) {
          auto const load = c[columns::integers + i * experts + e];
          fits = fits && load <= (i < 2 ? n : first);
          sum[i] += load;
        }
      fits = fits && sum == std::array{c[columns::slots_a], c[columns::slots_b], first, first} &&
             c[columns::both] <= std::min(c[columns::slots_a], c[columns::slots_b]) && first <= n &&
             c[columns::first_both] <= first && c[columns::any_tokens] <= n &&
             c[columns::same] <= c[columns::any_tokens] && c[columns::weight_tokens] <= n &&
             jaccard_.sum(static_cast<index_t>(row)) <= static_cast<double>(c[columns::any_tokens]) &&
             weight_.sum(static_cast<index_t>(row)) <= static_cast<double>(c[columns::weight_tokens]);
      if (!fits) in.fail("overlap has impossible counts");
      any += c[columns::any_tokens];
      with_weight += c[columns::weight_tokens];
    }
    for (auto const* s : {&jaccard_, &weight_})
      if (s->bound() != 1 || s->nan() != 0 || s->out_of_range() != 0)
        in.fail("overlap has a sum that is not one of shares");
    if (jaccard_.rows() != any || weight_.rows() != with_weight)
      in.fail("overlap has a sum over another number of tokens");
  }

  overlap_options options_;
  std::vector<std::uint64_t> counts_;
  exact_sums jaccard_{0}, weight_{0};
  std::uint64_t refused_ = 0;
};

static_assert(accumulates<overlap, routing_batch<>, routing_batch<>, document_spans, vector_view<std::int32_t>>);

/// Intervals of the measures, in the order of overlap_fields: bootstrap over documents.
///
/// In     result; clusters [R]: rows of one id are drawn together.   Out  percentile intervals; every replicate has its
///        own loads and chance.
/// Empty  NaN bounds.   Bias  too narrow below about 40 documents, as percentile intervals are.
/// Cost   O(B R E) time, O(B E) memory; the same bits for any number of threads.
/// Throws as replicate_totals and percentile_interval.   Source bootstrap.hpp.
template <index_vector Clusters>
std::vector<estimate> overlap_intervals(overlap_result const& r, Clusters const& clusters,
                                        bootstrap_options const& options = {}, double level = 0.95, int threads = 0) {
  auto const totals = replicate_totals(r.sums, clusters, options, threads);
  auto const columns = r.sums.shape()[1], experts = (columns - detail::overlap_sums::loads) / 4;
  std::vector<overlap_measures> replicates;
  for (std::size_t b = 0; b < totals.shape()[0]; ++b)
    replicates.push_back(detail::overlap_sums::measures(totals.data() + b * columns, experts));
  std::vector<estimate> out;
  std::vector<double> values(replicates.size());
  for (auto const field : overlap_fields) {
    std::transform(replicates.begin(), replicates.end(), values.begin(), [field](auto const& m) { return m.*field; });
    out.push_back(percentile_interval(r.*field, values, level));
  }
  return out;
}

}  // namespace moeroute

#endif
