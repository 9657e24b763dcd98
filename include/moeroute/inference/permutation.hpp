// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_INFERENCE_PERMUTATION_HPP
#define MOEROUTE_INFERENCE_PERMUTATION_HPP

#include <moeroute/core/accumulator.hpp>
#include <moeroute/core/adapt.hpp>
#include <moeroute/core/bytes.hpp>
#include <moeroute/numeric/mass.hpp>
#include <moeroute/numeric/random.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <span>
#include <utility>
#include <vector>

namespace moeroute {

namespace detail {

inline constexpr std::uint64_t purpose_label_permutation = 0x7065726d6c626c73u,
                               purpose_expert_permutation = 0x7065726d65787072u,
                               purpose_strata_permutation = 0x7065726d73747261u;

// Ties count as "at least as extreme", also those that a different order of summation has split by some ulp.
// An infinite t (no variance at all) is its own floor: inf - inf would be NaN, and NaN makes every replicate extreme.
inline double tie_floor(double observed) noexcept {
  return std::isinf(observed) ? observed : observed - 1e-12 * std::abs(observed);
}

}  // namespace detail

/// Random relabellings of documents under "the label does not matter", which keep what the design fixed.
///
/// In     labels [D]; blocks [D], e.g. the passage that a document translates: any ids, negative = no block.
/// Out    draw(seed, replicate): labels [D], a function of its arguments alone. Documents of a block that holds several
///        labels swap labels within the block. A unit without such a block (one document, or a block of one label,
///        which moves as a whole) joins a random block in each draw, evenly spread. Without any block of several
///        labels, units swap freely.
/// Empty  no documents: empty draws.
/// Cost   O(D log D) once, O(D) per draw.
/// Throws shape_error if the lengths differ.
/// Source Winkler et al. 2015, doi:10.1016/j.neuroimage.2015.05.092 (exchangeability blocks). Differs: the units
///        without a block are ours. Joining keeps label counts but not the variance of a raw difference: compare
///        studentised statistics (label_contrast.hpp), for which the draws are asymptotically right (Chung, Romano
///        2013, doi:10.1214/13-AOS1090).
class block_permutation {
 public:
  template <index_vector Labels, index_vector Blocks>
  block_permutation(Labels const& labels, Blocks const& blocks) {
    build(detail::vector_of(labels), detail::vector_of(blocks));
  }

  std::vector<index_t> draw(std::uint64_t seed, std::uint32_t replicate) const {
    random_stream random(seed, detail::purpose_label_permutation, replicate);
    auto drawn = labels_;
    if (free()) {
      relabel(units_, drawn, random);
      return drawn;
    }
    // A random order of units meets a random order of blocks: every block gets the same number of guests, plus or minus
    // one.
    auto const guests = random_permutation(static_cast<index_t>(units_.size()), random);
    auto const hosts = random_permutation(mixed_blocks(), random);
    std::vector<std::vector<unit>> pools(blocks_);
    for (std::size_t i = 0; i < guests.size(); ++i)
      pools[static_cast<std::size_t>(hosts[i % hosts.size()])].push_back(units_[static_cast<std::size_t>(guests[i])]);
    for (auto const& pool : pools) relabel(pool, drawn, random);
    return drawn;
  }

  index_t documents() const noexcept { return static_cast<index_t>(labels_.size()); }
  /// Blocks that hold several labels.
  index_t mixed_blocks() const noexcept { return static_cast<index_t>(blocks_.size()); }
  /// Units that belong to no such block.
  index_t unpaired() const noexcept { return static_cast<index_t>(units_.size()); }
  /// True if no block holds several labels.
  bool free() const noexcept { return blocks_.empty(); }

 private:
  using unit = std::vector<std::size_t>;  // documents that carry one label together

  template <class L, class B>
  void build(vector_view<L> labels, vector_view<B> blocks) {
    if (labels.size() != blocks.size())
      detail::raise<shape_error>("moeroute::block_permutation: ", labels.size(), " labels but ", blocks.size(),
                                 " blocks");
    std::map<B, unit> members;
    for (index_t d = 0; d < labels.size(); ++d) {
      labels_.push_back(static_cast<index_t>(labels[d]));
      if (std::cmp_less(blocks[d], 0))
        units_.push_back({static_cast<std::size_t>(d)});
      else
        members[blocks[d]].push_back(static_cast<std::size_t>(d));
    }
    for (auto const& [id, documents] : members) {
      bool const mixed =
          std::any_of(documents.begin(), documents.end(), [&](auto d) { return labels_[d] != labels_[documents[0]]; });
      if (mixed) {
        auto& block = blocks_.emplace_back();
        for (auto const d : documents) block.push_back({d});
      } else {
        units_.push_back(documents);
      }
    }
  }

  void relabel(std::vector<unit> const& pool, std::vector<index_t>& drawn, random_stream& random) const {
    std::vector<index_t> carried;
    carried.reserve(pool.size());
    for (auto const& u : pool) carried.push_back(labels_[u[0]]);
    shuffle(carried, random);
    for (std::size_t i = 0; i < pool.size(); ++i)
      for (auto const d : pool[i]) drawn[d] = carried[i];
  }

  std::vector<index_t> labels_;
  std::vector<std::vector<unit>> blocks_;  // of several labels; their units are single documents
  std::vector<unit> units_;                // all others
};

/// Random relabellings of documents under "within a stratum the label does not matter".
///
/// In     labels [D]; strata [D], e.g. the data set or the length class of a document: any ids.
/// Out    draw(seed, replicate): labels [D], every order of a stratum's labels equally likely. A stratum of one label
///        stays as it is: it holds
///        nothing about the label. The p-values are exact if documents of a stratum are exchangeable.
/// Empty  no documents: empty draws.
/// Cost   O(D log D) once, O(D) per draw.
/// Throws shape_error if the lengths differ.
/// Source Good 2005, Permutation, Parametric and Bootstrap Tests of Hypotheses, section 2.3. Differs: as given.
class strata_permutation {
 public:
  template <index_vector Labels, index_vector Strata>
  strata_permutation(Labels const& labels, Strata const& strata) {
    auto const l = detail::vector_of(labels);
    auto const s = detail::vector_of(strata);
    if (l.size() != s.size())
      detail::raise<shape_error>("moeroute::strata_permutation: ", l.size(), " labels but ", s.size(), " strata");
    std::map<vector_value_t<Strata>, std::vector<std::size_t>> members;
    for (index_t d = 0; d < l.size(); ++d) {
      labels_.push_back(static_cast<index_t>(l[d]));
      members[s[d]].push_back(static_cast<std::size_t>(d));
    }
    for (auto& [id, documents] : members) {
      if (std::any_of(documents.begin(), documents.end(), [&](auto d) { return labels_[d] != labels_[documents[0]]; }))
        strata_.push_back(std::move(documents));
      else
        fixed_ += static_cast<index_t>(documents.size());
    }
  }

  std::vector<index_t> draw(std::uint64_t seed, std::uint32_t replicate) const {
    random_stream random(seed, detail::purpose_strata_permutation, replicate);
    auto drawn = labels_;
    std::vector<index_t> carried;
    for (auto const& stratum : strata_) {
      carried.clear();
      for (auto const d : stratum) carried.push_back(labels_[d]);
      shuffle(carried, random);
      for (std::size_t i = 0; i < stratum.size(); ++i) drawn[stratum[i]] = carried[i];
    }
    return drawn;
  }

  index_t documents() const noexcept { return static_cast<index_t>(labels_.size()); }
  /// Documents of strata with one label, which no draw moves.
  index_t fixed() const noexcept { return fixed_; }
  /// Strata with several labels: the indices of their documents.
  std::vector<std::vector<std::size_t>> const& strata() const noexcept { return strata_; }

 private:
  std::vector<index_t> labels_;
  std::vector<std::vector<std::size_t>> strata_;
  index_t fixed_ = 0;
};

/// A permutation of the experts of one layer: "the numbering of experts means nothing across layers".
///
/// In     seed, replicate, layer name the draw; experts E.
/// Out    [E], a permutation of 0..E-1, the same in every thread and process.
/// Throws argument_error if experts is negative.
/// Source permutation null of "same index matters" between layers; ours. Differs: nothing published to differ from.
inline std::vector<index_t> expert_permutation(std::uint64_t seed, std::uint32_t replicate, std::uint32_t layer,
                                               index_t experts) {
  random_stream random(seed, detail::purpose_expert_permutation, replicate, layer);
  return random_permutation(experts, random);
}

/// p-value of an observed statistic among replicates drawn under the null; large values are extreme.
///
/// In     observed; replicates [B]. Values within 1e-12 relative count as ties, ties as extreme, NaN replicates as
///        extreme.
/// Out    (1 + #{replicate >= observed}) / (B + 1): never 0.
/// Empty  1 at B = 0; NaN if observed is NaN.
/// Cost   O(B).
/// Source Phipson, Smyth 2010, doi:10.2202/1544-6115.1585. Differs: as given.
template <real_vector Replicates>
double permutation_p_value(double observed, Replicates const& replicates) {
  auto const r = detail::vector_of(replicates);
  if (std::isnan(observed)) return quiet_nan;
  index_t extreme = 1;
  for (index_t b = 0; b < r.size(); ++b) extreme += detail::as_double(r[b]) < detail::tie_floor(observed) ? 0 : 1;
  return static_cast<double>(extreme) / static_cast<double>(r.size() + 1);
}

struct max_statistic_result {
  std::vector<double> p_value;      ///< [J] each test alone
  std::vector<double> p_adjusted;   ///< [J] family-wise, single step
  std::vector<double> p_step_down;  ///< [J] family-wise, step-down; never larger
  std::uint64_t replicates = 0;
  std::uint64_t undefined = 0;  ///< NaN values among the replicates
};

/// p-values adjusted for the family-wise error rate by the maximum statistic, which learns the dependence from the
/// replicates.
///
/// In     observed |t| [J], fixed at construction, on one common scale (studentised); update takes the |t| [J] of one
///        replicate.
/// Out    (1 + #{max over the family >= own}) / (B + 1); step-down maximises over the tests that are not more extreme.
/// Empty  every p is 1; NaN where observed is NaN (left out of the family). A NaN in a replicate counts against its own
///        test only.
/// Merge  exact.
/// Cost   O(J) time per replicate, O(J) memory.
/// Throws shape_error if the length of a replicate is not J; nothing is counted then.
/// Source Westfall, Young 1993, Resampling-Based Multiple Testing, algorithm 2.8 for step-down; Phipson, Smyth 2010 for
///        the + 1. Differs: as given.
class max_statistic {
 public:
  using options_type = std::vector<double>;
  using result_type = max_statistic_result;
  static constexpr merge_law law = merge_law::exact;

  explicit max_statistic(std::vector<double> observed) : observed_{std::move(observed)} {
    for (std::size_t j = 0; j < observed_.size(); ++j)
      if (!std::isnan(observed_[j])) order_.push_back(j);
    std::stable_sort(order_.begin(), order_.end(), [this](auto a, auto b) { return observed_[a] < observed_[b]; });
    for (auto* counts : {&own_, &family_, &step_down_}) counts->resize(observed_.size());
  }

  template <real_vector Replicate>
  void update(Replicate const& replicate) {
    check(replicate);
    add(detail::vector_of(replicate));
  }
  template <real_vector Replicate>
  void check(Replicate const& replicate) const {
    auto const size = detail::vector_of(replicate).size();
    if (size != static_cast<index_t>(observed_.size()))
      detail::raise<shape_error>("moeroute::max_statistic: ", size, " statistics but ", observed_.size(), " observed");
  }

  void merge(max_statistic const& other) {
    // Bitwise, because an undefined test is NaN in both.
    if (!same_bits(observed_, other.observed_))
      detail::raise("moeroute::max_statistic::merge: observed statistics differ");
    for (std::size_t j = 0; j < observed_.size(); ++j) {
      own_[j] += other.own_[j];
      family_[j] += other.family_[j];
      step_down_[j] += other.step_down_[j];
    }
    replicates_ += other.replicates_;
    undefined_ += other.undefined_;
  }

  max_statistic_result result() const {
    max_statistic_result r;
    r.replicates = replicates_;
    r.undefined = undefined_;
    for (auto* p : {&r.p_value, &r.p_adjusted, &r.p_step_down}) p->assign(observed_.size(), quiet_nan);
    auto const share = [this](std::uint64_t extreme) {
      return static_cast<double>(extreme + 1) / static_cast<double>(replicates_ + 1);
    };
    double bound = 0;  // step-down p-values may not fall as the tests become less extreme
    for (auto j = order_.rbegin(); j != order_.rend(); ++j) {
      r.p_value[*j] = share(own_[*j]);
      r.p_adjusted[*j] = share(family_[*j]);
      r.p_step_down[*j] = bound = std::max(bound, share(step_down_[*j]));
    }
    return r;
  }

  options_type options() const { return observed_; }
  /// Replicates seen.
  std::uint64_t count() const noexcept { return replicates_; }
  friend bool operator==(max_statistic const& a, max_statistic const& b) { return a.serialize() == b.serialize(); }

  std::vector<std::byte> serialize() const {
    byte_writer w;
    w.put(observed_);
    for (auto const* counts : {&own_, &family_, &step_down_}) w.put(*counts);
    w.put(replicates_);
    w.put(undefined_);
    return std::move(w).bytes();
  }
  static max_statistic deserialize(std::span<std::byte const> bytes) {
    byte_reader r(bytes);
    max_statistic m(r.get_vector<double>());
    for (auto* counts : {&m.own_, &m.family_, &m.step_down_}) {
      *counts = r.get_vector<std::uint64_t>();
      if (counts->size() != m.observed_.size()) r.fail("counts do not fit the observed statistics");
    }
    m.replicates_ = r.get<std::uint64_t>();
    m.undefined_ = r.get<std::uint64_t>();
    for (std::size_t j = 0; j < m.observed_.size(); ++j)
      if (auto const most = std::max({m.own_[j], m.family_[j], m.step_down_[j]});
          most > m.replicates_ || (most > 0 && std::isnan(m.observed_[j])))
        r.fail("a count exceeds the number of replicates");
    if (m.undefined_ > 0 && (m.undefined_ - 1) / std::max<std::size_t>(1, m.order_.size()) >= m.replicates_)
      r.fail("more undefined values than replicates hold");
    r.finish();
    return m;
  }

 private:
  static bool same_bits(std::vector<double> const& a, std::vector<double> const& b) {
    auto const x = std::as_bytes(std::span(a)), y = std::as_bytes(std::span(b));
    return std::equal(x.begin(), x.end(), y.begin(), y.end());
  }

  template <class T>
  void add(vector_view<T> t) noexcept {
    double largest = -std::numeric_limits<double>::infinity();
    for (auto const j : order_) {  // least extreme first, so that `largest` spans the tests not more extreme than j
      double const v = detail::as_double(t[static_cast<index_t>(j)]), floor = detail::tie_floor(observed_[j]);
      if (std::isnan(v)) ++undefined_;
      if (v > largest) largest = v;
      own_[j] += v < floor ? 0 : 1;
      step_down_[j] += largest < floor ? 0 : 1;
    }
    for (auto const j : order_) family_[j] += largest < detail::tie_floor(observed_[j]) ? 0 : 1;
    ++replicates_;
  }

  std::vector<double> observed_;
  std::vector<std::size_t> order_;  // defined tests, least extreme first
  std::vector<std::uint64_t> own_, family_, step_down_;
  std::uint64_t replicates_ = 0, undefined_ = 0;
};
static_assert(accumulator<max_statistic> && accumulates<max_statistic, std::vector<double>>);

}  // namespace moeroute

#endif
