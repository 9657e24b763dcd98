// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_ROUTING_SPECIALIZATION_HPP
#define MOEROUTE_ROUTING_SPECIALIZATION_HPP

#include <moeroute/core/error.hpp>
#include <moeroute/core/estimate.hpp>
#include <moeroute/core/parallel.hpp>
#include <moeroute/core/view.hpp>
#include <moeroute/inference/bootstrap.hpp>
#include <moeroute/inference/interval.hpp>
#include <moeroute/inference/label_contrast.hpp>
#include <moeroute/inference/multiplicity.hpp>
#include <moeroute/inference/permutation.hpp>
#include <moeroute/numeric/contingency.hpp>
#include <moeroute/numeric/entropy.hpp>
#include <moeroute/routing/design_effect.hpp>
#include <moeroute/routing/detail/group_jackknife.hpp>
#include <moeroute/routing/label_effects.hpp>

#if __has_include(<xtensor/containers/xtensor.hpp>)
#include <xtensor/containers/xtensor.hpp>
#else
#include <xtensor/xtensor.hpp>
#endif

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <limits>
#include <set>
#include <span>
#include <utility>
#include <vector>

namespace moeroute {

struct specialization_options {
  std::uint64_t seed = 1;
  index_t bootstrap_replicates = 2000;
  index_t permutations = 1999;
  double level = 0.95;
  int threads = 0;  ///< 0: all; the result does not depend on it
};

/// Mutual information of label and expert in one layer. It is not studentised: where documents of a block resemble each other strongly its
/// permutation p-value is somewhat small (6 to 10 % rejections at 5 % in simulated nulls); decide by p_adjusted of the cells.
struct label_information {
  double nats = quiet_nan;            ///< plug-in, over slots
  double corrected_nats = quiet_nan;  ///< nats minus null_mean: free of the bias that dependent tokens cause
  double null_mean = quiet_nan, null_q95 = quiet_nan;  ///< over permutations of documents
  double p_value = quiet_nan;
};

/// P(expert | label) of one layer; all arrays [C,E].
struct specialization_layer {
  xt::xtensor<double, 2> counts;                   ///< slots
  xt::xtensor<double, 2> share, lower, upper;      ///< counts over the label's slots, with percentile intervals of the document bootstrap
  xt::xtensor<double, 2> lift, lift_lower, lift_upper;  ///< share over the pooled share
  xt::xtensor<double, 2> statistic;                ///< studentised difference to the other labels, signed
  xt::xtensor<double, 2> p_value;                  ///< document permutation, this cell alone
  xt::xtensor<double, 2> p_adjusted;               ///< Westfall-Young over layers x labels x experts
  xt::xtensor<double, 2> q_by;                     ///< Benjamini-Yekutieli over the same family
  std::vector<estimate> effective_experts;         ///< [C] exp(entropy) at equal numbers of slots, jackknife-corrected, BCa interval
  label_information information;
  label_effects_result effects;                    ///< shrunken log-odds, Jensen-Shannon divergence of pairs with its finite-sample floor
};

struct effective_difference {
  index_t a = 0, b = 0;         ///< labels; the value is a minus b
  estimate value;
  double p_value = quiet_nan;   ///< jackknife t, two-sided
  double p_adjusted = quiet_nan;  ///< Holm over all pairs
};

struct specialization_result {
  std::vector<specialization_layer> layers;
  std::vector<estimate> effective_experts;        ///< [C] mean over layers
  std::vector<effective_difference> differences;  ///< all pairs a < b, of those means
  double slots_compared = quiet_nan;              ///< per layer and label: the number of slots of the smallest label
};

namespace detail {

// Totals of label c in layer l are rows of sums over documents; theta is the mean over layers of exp(entropy) at n slots.
class effective_experts_of_label {
 public:
  effective_experts_of_label(std::vector<matrix_view<std::uint64_t>> const& layers, std::vector<index_t> documents, std::vector<std::int64_t> const& blocks,
                             double slots)
      : layers_{layers}, documents_{std::move(documents)}, slots_{slots} {
    for (auto const d : documents_) blocks_.push_back(blocks[static_cast<std::size_t>(d)]);
  }

  std::vector<std::int64_t> const& blocks() const noexcept { return blocks_; }
  std::vector<index_t> const& documents() const noexcept { return documents_; }

  // Sums of layer l.
  std::vector<double> totals(std::size_t l) const {
    auto const& m = layers_[l];
    std::vector<double> sums(static_cast<std::size_t>(m.cols()));
    for (auto const d : documents_)
      for (index_t e = 0; e < m.cols(); ++e) sums[static_cast<std::size_t>(e)] += static_cast<double>(m(d, e));
    return sums;
  }

  // The expansion is exact to second order in 1/slots and, other than the exact form, defined for bootstrap totals of any size.
  double theta(std::vector<double> const& sums) const {
    double total = 0, occupied = 0, h = 0;
    for (double const s : sums) {
      total += s;
      occupied += s > 0 ? 1 : 0;
    }
    if (!(total > 0) || !(slots_ > 0)) return quiet_nan;
    for (double const s : sums)
      if (s > 0) h -= s / total * std::log(s / total);
    return std::exp(h + (occupied - 1) / 2 * (1 / total - 1 / slots_));
  }

 private:
  std::vector<matrix_view<std::uint64_t>> const& layers_;
  std::vector<index_t> documents_;
  std::vector<std::int64_t> blocks_;
  double slots_;
};

}  // namespace detail

/// Which experts serve which label (language, domain), with documents as the unit of inference.
///
/// In     layers: one matrix [D,E] per layer, slots of document (or group of documents) d at expert e; labels [D] in 0..C-1; blocks [D]: documents of
///        one block are dependent (translations of one passage); every other document has a block of its own.
/// Out    per layer P(expert | label), lift over the pooled rate, log-odds, intervals, p-values, mutual information, Jensen-Shannon divergence;
///        effective experts per label and their differences. Intervals: bootstrap that resamples blocks, the same weights for all labels, so that differences are paired.
///        p-values: labels permuted within blocks (inference/permutation.hpp), studentised contrast, maximum over all layers x labels x experts.
///        Effective experts: exp(plug-in entropy) brought to the slots of the smallest label by its second-order expansion, then corrected by the
///        delete-one-block jackknife, which also removes the bias that dependent tokens cause; BCa interval; differences tested by jackknife t.
/// Bias   the t test rejects far below its level where routing is exactly balanced (entropy is then flat to first order); lift intervals are a
///        little wide, since replicates also vary the number of documents per label.
/// Empty  a label without documents, or no layer: NaN. Fewer than two labels: no p-values, no differences.
/// Cost   O(permutations D C E L) time over all threads, O(bootstrap_replicates C E) memory.
/// Throws shape_error or argument_error if shapes differ, a label is outside 0..C-1 or a block is negative.
/// Source P(expert | label): OLMoE, arXiv:2409.02060, section 5.3 (domain specialisation; their figures show k times this share). Differs: the
///        uncertainty is ours; one contiguous text per domain has none that can be computed.
inline specialization_result specialization(std::vector<matrix_view<std::uint64_t>> const& layers, std::vector<std::int32_t> const& labels,
                                            std::vector<std::int64_t> const& blocks, index_t label_count,
                                            specialization_options const& options = {}) {
  auto const documents = labels.size();
  if (blocks.size() != documents)
    detail::raise<shape_error>("moeroute::specialization: ", documents, " labels, ", blocks.size(), " blocks");
  for (auto const& m : layers)
    if (m.rows() != static_cast<index_t>(documents))
      detail::raise<shape_error>("moeroute::specialization: a layer has ", m.rows(), " documents, there are ", documents, " labels");
  for (auto const c : labels)
    if (c < 0 || c >= label_count) detail::raise("moeroute::specialization: label ", c, ", but there are ", label_count, " labels");
  for (auto const b : blocks)  // the parts of inference/ read a negative block differently
    if (b < 0) detail::raise("moeroute::specialization: block ", b, "; a document without a block needs a block id of its own");
  if (label_count <= 0 || options.bootstrap_replicates < 0 || options.permutations < 0)
    detail::raise("moeroute::specialization: labels = ", label_count, ", bootstrap_replicates = ", options.bootstrap_replicates,
                  ", permutations = ", options.permutations);

  auto const c_count = static_cast<std::size_t>(label_count), l_count = layers.size();
  auto const b_count = static_cast<std::size_t>(options.bootstrap_replicates);
  specialization_result result;
  if (l_count == 0) {
    result.effective_experts.resize(c_count);
    return result;
  }
  std::vector<std::vector<index_t>> members(c_count);
  for (std::size_t d = 0; d < documents; ++d) members[static_cast<std::size_t>(labels[d])].push_back(static_cast<index_t>(d));

  // The smallest label decides at how many slots entropies are compared; the layers of a model have the same tokens.
  double smallest = std::numeric_limits<double>::infinity();
  for (auto const& m : layers)
    for (auto const& documents_of : members) {
      double slots = 0;
      for (auto const d : documents_of)
        for (index_t e = 0; e < m.cols(); ++e) slots += static_cast<double>(m(d, e));
      if (slots > 0) smallest = std::min(smallest, slots);
    }
  if (std::isfinite(smallest)) result.slots_compared = smallest;

  std::vector<detail::effective_experts_of_label> effective;
  for (auto const& documents_of : members) effective.emplace_back(layers, documents_of, blocks, result.slots_compared);
  std::set<std::int64_t> const distinct(blocks.begin(), blocks.end());
  std::vector<std::int64_t> const block_ids(distinct.begin(), distinct.end());
  std::vector<double> theta_mean(c_count), theta(c_count);
  // [C][B] and [C][G]: means over layers of the bootstrap replicates and of the leave-one-block-out values.
  std::vector<std::vector<double>> replicate_mean(c_count, std::vector<double>(b_count)), left_out_mean(c_count, std::vector<double>(block_ids.size()));

  auto const corrected = [&](double value, std::vector<double> const& replicates, std::vector<double> const& left_out) {
    auto interval = bca_interval(value, replicates, left_out, options.level);
    estimate e = interval;
    e.value = jackknife(value, left_out).corrected;
    return e;
  };
  // Blocks without a document of the label leave its value as it is; they are no leave-one-out sample of it.
  std::vector<std::vector<std::size_t>> own_blocks(c_count);
  for (std::size_t c = 0; c < c_count; ++c) {
    std::set<std::int64_t> const own(effective[c].blocks().begin(), effective[c].blocks().end());
    for (std::size_t g = 0; g < block_ids.size(); ++g)
      if (own.contains(block_ids[g])) own_blocks[c].push_back(g);
  }
  auto const pick = [](std::vector<double> const& values, std::vector<std::size_t> const& which) {
    std::vector<double> out;
    for (auto const i : which) out.push_back(values[i]);
    return out;
  };

  for (std::size_t l = 0; l < l_count; ++l) {
    auto const& m = layers[l];
    auto const e_count = static_cast<std::size_t>(m.cols());
    specialization_layer layer;
    auto const empty = [&] { return xt::xtensor<double, 2>(std::array<std::size_t, 2>{c_count, e_count}, quiet_nan); };
    for (auto* a : {&layer.counts, &layer.share, &layer.lower, &layer.upper, &layer.lift, &layer.lift_lower, &layer.lift_upper, &layer.statistic,
                    &layer.p_value, &layer.p_adjusted, &layer.q_by})
      *a = empty();

    // Point estimates.
    std::vector<double> pooled(e_count), label_totals(c_count);
    double total = 0;
    for (std::size_t c = 0; c < c_count; ++c) {
      auto const sums = effective[c].totals(l);
      for (std::size_t e = 0; e < e_count; ++e) {
        layer.counts(c, e) = sums[e];
        label_totals[c] += sums[e];
        pooled[e] += sums[e];
        total += sums[e];
      }
      theta[c] = effective[c].theta(sums);
    }
    for (std::size_t c = 0; c < c_count; ++c)
      for (std::size_t e = 0; e < e_count; ++e) {
        layer.share(c, e) = layer.counts(c, e) / label_totals[c];
        layer.lift(c, e) = layer.share(c, e) / (pooled[e] / total);
      }

    // Bootstrap: the weights depend on seed, block and replicate alone, so that labels and layers are resampled together.
    bootstrap_options resample;
    resample.seed = options.seed;
    resample.replicates = options.bootstrap_replicates;
    std::vector<xt::xtensor<double, 2>> totals(c_count);
    std::vector<double> deff(c_count);
    for (std::size_t c = 0; c < c_count; ++c) {
      auto const& rows = effective[c].documents();
      std::vector<std::uint64_t> sums(rows.size() * e_count);
      for (std::size_t i = 0; i < rows.size(); ++i)
        for (std::size_t e = 0; e < e_count; ++e) sums[i * e_count + e] = m(rows[i], static_cast<index_t>(e));
      deff[c] = design_effect(matrix_view<std::uint64_t>(sums.data(), static_cast<index_t>(rows.size()), m.cols()), effective[c].blocks());
      totals[c] = replicate_totals(matrix_view<std::uint64_t>(sums.data(), static_cast<index_t>(rows.size()), m.cols()), effective[c].blocks(),
                                   resample, thread_count(options.threads));
    }
    std::vector<double> replicate(b_count), lift_replicate(b_count);
    std::vector<std::vector<double>> replicate_total(c_count, std::vector<double>(b_count));
    std::vector<double> grand(b_count);
    for (std::size_t c = 0; c < c_count; ++c)
      for (std::size_t b = 0; b < b_count; ++b) {
        for (std::size_t e = 0; e < e_count; ++e) replicate_total[c][b] += totals[c](b, e);
        grand[b] += replicate_total[c][b];
      }
    for (std::size_t e = 0; e < e_count; ++e) {
      std::vector<double> pooled_replicate(b_count);
      for (std::size_t c = 0; c < c_count; ++c)
        for (std::size_t b = 0; b < b_count; ++b) pooled_replicate[b] += totals[c](b, e);
      for (std::size_t c = 0; c < c_count; ++c) {
        for (std::size_t b = 0; b < b_count; ++b) {
          replicate[b] = totals[c](b, e) / replicate_total[c][b];
          lift_replicate[b] = replicate[b] / (pooled_replicate[b] / grand[b]);
        }
        auto const share = percentile_interval(layer.share(c, e), replicate, options.level);
        auto const lift = percentile_interval(layer.lift(c, e), lift_replicate, options.level);
        layer.lower(c, e) = share.lower;
        layer.upper(c, e) = share.upper;
        layer.lift_lower(c, e) = lift.lower;
        layer.lift_upper(c, e) = lift.upper;
        if (layer.counts(c, e) == 0 && label_totals[c] > 0) {
          // No resample can show an expert that the label never chose; the bound is that of as many independent slots as its documents are worth.
          auto const worth = std::isnan(deff[c]) ? 0.0 : std::floor(label_totals[c] / deff[c]);
          layer.upper(c, e) = worth < 1 ? 1.0 : unseen_upper_bound(static_cast<std::uint64_t>(worth), 0.5 + options.level / 2);
          layer.lift_upper(c, e) = layer.upper(c, e) / (pooled[e] / total);
        }
      }
    }

    // Effective number of experts.
    for (std::size_t c = 0; c < c_count; ++c) {
      std::vector<double> left_out(block_ids.size(), theta[c]), sums(e_count);
      auto const all = effective[c].totals(l);
      // Sums without a block: the whole minus the block, in integers that double holds exactly.
      std::vector<std::vector<double>> of_block(own_blocks[c].size(), std::vector<double>(e_count));
      for (std::size_t i = 0; i < effective[c].documents().size(); ++i) {
        auto const at = static_cast<std::size_t>(std::lower_bound(own_blocks[c].begin(), own_blocks[c].end(), effective[c].blocks()[i],
                                                                  [&](std::size_t g, std::int64_t id) { return block_ids[g] < id; }) -
                                                 own_blocks[c].begin());
        for (std::size_t e = 0; e < e_count; ++e) of_block[at][e] += static_cast<double>(m(effective[c].documents()[i], static_cast<index_t>(e)));
      }
      for (std::size_t i = 0; i < own_blocks[c].size(); ++i) {
        for (std::size_t e = 0; e < e_count; ++e) sums[e] = all[e] - of_block[i][e];
        left_out[own_blocks[c][i]] = effective[c].theta(sums);
      }
      for (std::size_t b = 0; b < b_count; ++b) {
        for (std::size_t e = 0; e < e_count; ++e) sums[e] = totals[c](b, e);
        replicate[b] = effective[c].theta(sums);
        replicate_mean[c][b] += replicate[b] / static_cast<double>(l_count);
      }
      for (std::size_t g = 0; g < block_ids.size(); ++g) left_out_mean[c][g] += left_out[g] / static_cast<double>(l_count);
      theta_mean[c] += theta[c] / static_cast<double>(l_count);
      layer.effective_experts.push_back(corrected(theta[c], replicate, pick(left_out, own_blocks[c])));
    }
    layer.effects = label_effects(layer.counts, deff);
    if (label_count > 1) layer.information.nats = mutual_information_nats(layer.counts);
    result.layers.push_back(std::move(layer));
  }

  for (std::size_t c = 0; c < c_count; ++c)
    result.effective_experts.push_back(corrected(theta_mean[c], replicate_mean[c], pick(left_out_mean[c], own_blocks[c])));
  std::vector<double> p_values;
  for (std::size_t a = 0; a < c_count; ++a)
    for (std::size_t b = a + 1; b < c_count; ++b) {
      std::vector<std::size_t> which;
      std::set_union(own_blocks[a].begin(), own_blocks[a].end(), own_blocks[b].begin(), own_blocks[b].end(), std::back_inserter(which));
      std::vector<double> replicates(b_count), left_out(block_ids.size());
      for (std::size_t i = 0; i < b_count; ++i) replicates[i] = replicate_mean[a][i] - replicate_mean[b][i];
      for (std::size_t g = 0; g < block_ids.size(); ++g) left_out[g] = left_out_mean[a][g] - left_out_mean[b][g];
      effective_difference d;
      d.a = static_cast<index_t>(a);
      d.b = static_cast<index_t>(b);
      auto const kept = pick(left_out, which);
      d.value = corrected(theta_mean[a] - theta_mean[b], replicates, kept);
      auto const j = jackknife(theta_mean[a] - theta_mean[b], kept);
      if (kept.size() > 1 && j.standard_error > 0)
        d.p_value = detail::student_two_sided(j.corrected / j.standard_error, static_cast<double>(kept.size() - 1));
      p_values.push_back(d.p_value);
      result.differences.push_back(d);
    }
  auto const adjusted = holm(p_values);
  for (std::size_t i = 0; i < adjusted.size(); ++i) result.differences[i].p_adjusted = adjusted[i];

  if (label_count < 2 || options.permutations == 0) return result;

  // Permutations: every layer sees the same relabelling, so that the maximum learns their dependence.
  block_permutation const permutation(labels, blocks);
  std::vector<label_contrast> contrasts;
  std::vector<std::size_t> first{0};
  for (auto const& m : layers) {
    contrasts.emplace_back(m, blocks, label_count);
    first.push_back(first.back() + c_count * static_cast<std::size_t>(m.cols()));
  }
  std::vector<double> observed(first.back());
  for (std::size_t l = 0; l < l_count; ++l) contrasts[l].studentised(labels, std::span(observed).subspan(first[l], first[l + 1] - first[l]));
  for (std::size_t l = 0; l < l_count; ++l)
    std::copy_n(observed.begin() + static_cast<std::ptrdiff_t>(first[l]), first[l + 1] - first[l], result.layers[l].statistic.begin());
  for (double& t : observed) t = std::abs(t);

  index_t const chunks = std::min<index_t>(options.permutations, 64);
  std::vector<max_statistic> families(static_cast<std::size_t>(chunks), max_statistic(observed));
  std::vector<std::vector<double>> information(l_count, std::vector<double>(static_cast<std::size_t>(options.permutations)));
  parallel_for(chunks, options.threads, [&](index_t chunk) {
    std::vector<double> t(first.back());
    for (index_t r = chunk; r < options.permutations; r += chunks) {
      auto const drawn = permutation.draw(options.seed, static_cast<std::uint32_t>(r));
      for (std::size_t l = 0; l < l_count; ++l) {
        contrasts[l].studentised(drawn, std::span(t).subspan(first[l], first[l + 1] - first[l]));
        auto const& m = layers[l];
        std::vector<std::uint64_t> table(first[l + 1] - first[l]);
        for (std::size_t d = 0; d < documents; ++d)
          for (index_t e = 0; e < m.cols(); ++e)
            table[static_cast<std::size_t>(drawn[d] * m.cols() + e)] += m(static_cast<index_t>(d), e);
        information[l][static_cast<std::size_t>(r)] = mutual_information_nats(matrix_view<std::uint64_t>(table.data(), label_count, m.cols()));
      }
      for (double& x : t) x = std::abs(x);
      families[static_cast<std::size_t>(chunk)].update(t);
    }
  });
  auto const tested = merge_all(std::span<max_statistic const>(families), observed).result();
  auto const by = benjamini_yekutieli(tested.p_value);
  for (std::size_t l = 0; l < l_count; ++l) {
    auto& layer = result.layers[l];
    for (std::size_t i = 0; i < first[l + 1] - first[l]; ++i) {
      layer.p_value.data()[i] = tested.p_value[first[l] + i];
      layer.p_adjusted.data()[i] = tested.p_adjusted[first[l] + i];
      layer.q_by.data()[i] = by[first[l] + i];
    }
    auto& null = information[l];
    auto& mi = layer.information;
    mi.p_value = permutation_p_value(mi.nats, null);
    std::sort(null.begin(), null.end());
    mi.null_mean = 0;
    for (double const x : null) mi.null_mean += x / static_cast<double>(null.size());
    mi.null_q95 = null[std::min(null.size() - 1, static_cast<std::size_t>(std::ceil(0.95 * static_cast<double>(null.size()))) - 1)];
    mi.corrected_nats = mi.nats - mi.null_mean;
  }
  return result;
}

}  // namespace moeroute

#endif
