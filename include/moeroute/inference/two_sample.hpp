// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_INFERENCE_TWO_SAMPLE_HPP
#define MOEROUTE_INFERENCE_TWO_SAMPLE_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/parallel.hpp>
#include <moeroute/inference/label_contrast.hpp>
#include <moeroute/inference/permutation.hpp>
#include <moeroute/numeric/divergence.hpp>
#include <moeroute/numeric/mass.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

namespace moeroute {

struct two_sample_options {
  index_t permutations = 1999;
  std::uint64_t seed = 1;
  index_t energy_documents = 2048;  ///< with more documents no energy distance is computed: its cost is their square
  int threads = 1;                  ///< 0: all; the result does not depend on it
};

struct two_sample_result {
  index_t documents_0 = 0, documents_1 = 0;  ///< that entered
  index_t left_out = 0;                      ///< documents without slots
  index_t fixed = 0;  ///< of those that entered, in strata with one label: they weigh in but are never relabelled
  std::vector<double>
      t;  ///< [E] share in label 1 less share in label 0, studentised; with strata less its mean over the relabellings
  std::vector<double> p_value;             ///< [E] each expert alone, two-sided
  std::vector<double> p_adjusted;          ///< [E] family-wise over experts
  double largest_t_p = quiet_nan;          ///< of the largest |t|: the default test of "equal shares"
  double jensen_shannon_nats = quiet_nan;  ///< between the pooled shares
  double jensen_shannon_null = quiet_nan;  ///< its mean over the relabellings: what chance gives
  double jensen_shannon_p = quiet_nan;
  double energy =
      quiet_nan;  ///< energy distance of the documents' shares, scaled by n0 n1/(n0 + n1), summed over strata
  double energy_p = quiet_nan;
};

namespace detail {

// Energy distances between the labels, stratum by stratum, for any labelling: a pass over the distances of label 1
// only.
class energy_statistic {
 public:
  energy_statistic(std::vector<std::vector<double>> const& shares, std::vector<std::vector<std::size_t>> const& strata)
      : strata_{strata} {
    for (auto const& stratum : strata) {
      auto const n = stratum.size();
      auto& d = distances_.emplace_back(n * n);
      for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j < i; ++j) {
          double squares = 0;
          for (std::size_t e = 0; e < shares[stratum[i]].size(); ++e) {
            double const difference = shares[stratum[i]][e] - shares[stratum[j]][e];
            squares += difference * difference;
          }
          d[i * n + j] = d[j * n + i] = std::sqrt(squares);
        }
    }
  }
  double operator()(std::vector<index_t> const& label) const {
    double sum = 0;
    for (std::size_t s = 0; s < strata_.size(); ++s) {
      auto const n = strata_[s].size();
      std::vector<std::size_t> ones;
      for (std::size_t i = 0; i < n; ++i)
        if (label[strata_[s][i]] == 1) ones.push_back(i);
      double all = 0, among_ones = 0, from_ones = 0;
      for (double const d : distances_[s]) all += d;
      for (auto const i : ones) {
        for (std::size_t j = 0; j < n; ++j) from_ones += distances_[s][i * n + j];
        for (auto const j : ones) among_ones += distances_[s][i * n + j];
      }
      double const n1 = static_cast<double>(ones.size()), n0 = static_cast<double>(n) - n1,
                   between = from_ones - among_ones;
      sum += n0 * n1 / (n0 + n1) *
             (2 * between / (n0 * n1) - among_ones / (n1 * n1) - (all - 2 * between - among_ones) / (n0 * n0));
    }
    return sum;
  }

 private:
  std::vector<std::vector<std::size_t>> strata_;
  std::vector<std::vector<double>> distances_;
};

}  // namespace detail

/// Do documents of two labels route differently?
///
/// In     counts [D,E]: slots of document d at expert e; labels [D]: 0 or 1; strata [D]: any ids, relabelled within
///        only (one id for all: freely).
/// Out    three tests from the same relabellings, p = (1 + r)/(B + 1): largest |t| (a few experts, equal or unequal
///        spreads), Jensen-Shannon
///        (total loads), energy (any difference between the laws of documents' shares). Choose one before looking.
/// Empty  NaN if a label has fewer than two documents with slots, or no stratum holds both.
/// Cost   O(B D E) and O(B n1^2), n1 documents of label 1; O(B E + D^2) memory.
/// Bias   all exact if documents of a stratum are exchangeable. If groups differ in the documents' length or in their
///        spread, only t keeps its
///        level (for many documents): Jensen-Shannon and energy then tell that difference too.
/// Throws shape_error if lengths differ, argument_error for other labels, negative counts or permutations.
/// Source Chung, Romano 2013, doi:10.1214/13-AOS1090 for t; Szekely, Rizzo 2004, InterStat 5, for the energy distance;
///        max-t: Westfall, Young 1993.
///        Differs: documents, not tokens, are relabelled; the mean over the relabellings is subtracted from t where
///        there are several strata,
///        since unequal shares of the labels in them shift it.
template <mass_matrix Counts, index_vector Labels, index_vector Strata>
two_sample_result two_sample_test(Counts const& counts, Labels const& labels, Strata const& strata,
                                  two_sample_options const& options = {}) {
  auto const table = detail::matrix_of(counts);
  auto const label = detail::vector_of(labels);
  auto const stratum = detail::vector_of(strata);
  if (table.rows() != label.size() || table.rows() != stratum.size())
    detail::raise<shape_error>("moeroute::two_sample_test: ", table.rows(), " documents, ", label.size(), " labels, ",
                               stratum.size(), " strata");
  if (options.permutations < 0 || options.permutations > index_t{std::numeric_limits<std::uint32_t>::max()})
    detail::raise("moeroute::two_sample_test: permutations = ", options.permutations, " must lie in 0..2^32 - 1");
  two_sample_result r;
  auto const experts = static_cast<std::size_t>(table.cols());
  std::vector<double> kept;
  std::vector<std::vector<double>> shares;
  std::vector<index_t> observed;
  std::vector<vector_value_t<Strata>> kept_strata;
  for (index_t d = 0; d < table.rows(); ++d) {
    auto const row = detail::checked_masses(table.row(d), "moeroute::two_sample_test");
    if (!std::cmp_equal(label[d], 0) && !std::cmp_equal(label[d], 1))
      detail::raise("moeroute::two_sample_test: label ", +label[d], " of document ", d, " must be 0 or 1");
    if (row.total == 0) {
      ++r.left_out;
      continue;
    }
    auto& share = shares.emplace_back();
    for (double const v : row.values) {
      kept.push_back(v);
      share.push_back(v / row.total);
    }
    observed.push_back(static_cast<index_t>(label[d]));
    kept_strata.push_back(stratum[d]);
  }
  r.documents_1 = std::count(observed.begin(), observed.end(), index_t{1});
  r.documents_0 = static_cast<index_t>(observed.size()) - r.documents_1;
  for (auto* v : {&r.t, &r.p_value, &r.p_adjusted}) v->assign(experts, quiet_nan);
  strata_permutation const permutation(observed, kept_strata);
  r.fixed = permutation.fixed();
  if (std::min(r.documents_0, r.documents_1) < 2 || permutation.strata().empty()) return r;

  auto const documents = static_cast<index_t>(observed.size());
  label_contrast const contrast(matrix_view<double>(kept.data(), documents, table.cols()),
                                std::vector<int>(observed.size(), -1), 2);
  bool const with_energy = documents <= options.energy_documents;
  using strata_list = std::vector<std::vector<std::size_t>>;
  detail::energy_statistic const energy(shares, with_energy ? permutation.strata() : strata_list{});
  auto const replicates = static_cast<std::size_t>(options.permutations);
  std::vector<double> t((replicates + 1) * experts), divergence(replicates + 1), distance(replicates + 1);
  parallel_for(options.permutations + 1, options.threads, [&](index_t b) {  // the last one is the observed labelling
    auto const i = static_cast<std::size_t>(b);
    auto const drawn = i == replicates ? observed : permutation.draw(options.seed, static_cast<std::uint32_t>(b));
    std::vector<double> both(2 * experts), total_0(experts), total_1(experts);
    contrast.studentised(drawn, both);
    std::copy(both.begin() + static_cast<index_t>(experts), both.end(), t.begin() + b * static_cast<index_t>(experts));
    for (std::size_t d = 0; d < drawn.size(); ++d)
      for (std::size_t e = 0; e < experts; ++e) (drawn[d] == 1 ? total_1 : total_0)[e] += kept[d * experts + e];
    divergence[i] = jensen_shannon_nats(total_0, total_1);
    distance[i] = energy(drawn);
  });
  bool const shifted = permutation.strata().size() > 1 || permutation.fixed() > 0;
  for (std::size_t e = 0; shifted && e < experts; ++e) {
    double mean = 0;  // over the observed labelling as well, which so stays exchangeable with the drawn ones
    for (std::size_t i = 0; i <= replicates; ++i) mean += t[i * experts + e] / static_cast<double>(replicates + 1);
    for (std::size_t i = 0; i <= replicates; ++i) t[i * experts + e] -= std::isfinite(mean) ? mean : 0;
  }
  r.t.assign(t.end() - static_cast<index_t>(experts), t.end());
  for (double& v : t) v = std::abs(v);
  max_statistic family(std::vector<double>(t.end() - static_cast<index_t>(experts), t.end()));
  for (std::size_t i = 0; i < replicates; ++i) family.update(std::span<double const>(t).subspan(i * experts, experts));
  auto const tested = family.result();
  r.p_value = tested.p_value;
  r.p_adjusted = tested.p_adjusted;
  for (double const p : r.p_adjusted)
    if (!std::isnan(p)) r.largest_t_p = std::isnan(r.largest_t_p) ? p : std::min(r.largest_t_p, p);

  r.jensen_shannon_nats = divergence.back();
  divergence.pop_back();
  r.jensen_shannon_null = 0;
  for (double const v : divergence) r.jensen_shannon_null += v / static_cast<double>(replicates);
  if (replicates == 0) r.jensen_shannon_null = quiet_nan;
  r.jensen_shannon_p = permutation_p_value(r.jensen_shannon_nats, divergence);
  if (!with_energy) return r;
  r.energy = distance.back();
  distance.pop_back();
  r.energy_p = permutation_p_value(r.energy, distance);
  return r;
}

/// The same without strata: labels of all documents are exchanged freely.
template <mass_matrix Counts, index_vector Labels>
two_sample_result two_sample_test(Counts const& counts, Labels const& labels, two_sample_options const& options = {}) {
  return two_sample_test(counts, labels, std::vector<int>(static_cast<std::size_t>(detail::vector_of(labels).size())),
                         options);
}

}  // namespace moeroute

#endif
