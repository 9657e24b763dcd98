// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_LAYERS_LAYER_SIMILARITY_HPP
#define MOEROUTE_LAYERS_LAYER_SIMILARITY_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/core/batch.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/parallel.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/inference/permutation.hpp>
#include <moeroute/numeric/assignment.hpp>
#include <moeroute/numeric/mass.hpp>
#include <moeroute/numeric/moments.hpp>
#include <moeroute/numeric/random.hpp>

#if __has_include(<xtensor/containers/xtensor.hpp>)
#include <xtensor/containers/xtensor.hpp>
#else
#include <xtensor/xtensor.hpp>
#endif

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <ranges>
#include <utility>
#include <vector>

namespace moeroute {

struct cka_result {
  double biased = quiet_nan;    ///< 0..1, above 0 by chance: about sqrt(P Q) / T for unrelated white features
  double debiased = quiet_nan;  ///< 0 on average for unrelated features of independent rows; may be negative
};

struct layer_similarity_options {
  index_t experts = 0;
  index_t window = 0;  ///< tokens taken from the start of each document; shorter ones are left out. 0: the shortest
  index_t replicates = 199;  ///< of the null; 0: none
  std::uint64_t seed = 1;
  int threads = 0;  ///< 0: all; the result does not depend on it
};

/// One measure for every pair of layers, with what it would be if the layers read different documents.
struct layer_similarity_measure {
  xt::xtensor<double, 2> value;      ///< [L,L], symmetric
  xt::xtensor<double, 2> null_mean;  ///< [L,L]; NaN on the diagonal, like the other two
  xt::xtensor<double, 2> null_sd;    ///< [L,L]
  xt::xtensor<double, 2> p_value;    ///< [L,L]: of this pair alone; large values are extreme
};

struct layer_similarity_result {
  layer_similarity_measure cka;          ///< debiased linear CKA of the masks: no expert numbers in it
  layer_similarity_measure matched;      ///< share of slots in common under the best pairing of experts
  layer_similarity_measure same_number;  ///< share of slots in common under equal numbers
  index_t documents = 0, window = 0;     ///< what was compared: so many documents of so many tokens
};

namespace detail {

inline constexpr std::uint64_t purpose_layer_documents = 0x6c61796572646f63u;

/// Unbiased estimate of HSIC times n(n-3), n > 3, from sums over rows t of features x, y: `cross` = sum over p, q of
/// (sum x_p y_q)^2; `squares` = sum |x|^2 |y|^2; `total_x` = |sum x|^2 - sum |x|^2, likewise y; `mixed` =
/// sum (x . sum x - |x|^2)(y . sum y - |y|^2).
inline double unbiased_hsic(double n, double cross, double squares, double total_x, double total_y,
                            double mixed) noexcept {
  return cross - squares + total_x * total_y / ((n - 1) * (n - 2)) - 2 / (n - 2) * mixed;
}

/// Features with centred columns, which changes no HSIC and keeps the sums small.
struct centred_features {
  index_t rows, columns;
  std::vector<double> x, square;  // [T,P]; [T]: |x_t|^2

  template <class T>
  explicit centred_features(matrix_view<T> m)
      : rows{m.rows()}, columns{m.cols()}, square(static_cast<std::size_t>(m.rows())) {
    x.resize(static_cast<std::size_t>(rows * columns));
    for (index_t p = 0; p < columns; ++p) {
      // The first value is taken off first: a constant column becomes exactly 0.
      double mean = 0, first = rows > 0 ? as_double(m(0, p)) : 0;
      for (index_t t = 0; t < rows; ++t) mean += (at(t, p) = as_double(m(t, p)) - first) / static_cast<double>(rows);
      for (index_t t = 0; t < rows; ++t) at(t, p) -= mean;
    }
    for (index_t t = 0; t < rows; ++t)
      for (index_t p = 0; p < columns; ++p) square[static_cast<std::size_t>(t)] += at(t, p) * at(t, p);
  }
  double& at(index_t t, index_t p) { return x[static_cast<std::size_t>(t * columns + p)]; }
};

struct hsic_pair {
  double biased = 0, unbiased = 0;
};

inline hsic_pair hsic(centred_features const& a, centred_features const& b) {
  std::vector<double> product(static_cast<std::size_t>(a.columns * b.columns));
  double cross = 0, squares = 0, total_a = 0, total_b = 0;
  for (index_t t = 0; t < a.rows; ++t) {
    double const* const y = b.x.data() + t * b.columns;
    for (index_t p = 0; p < a.columns; ++p) {
      double const x = a.x[static_cast<std::size_t>(t * a.columns + p)];
      double* const row = product.data() + p * b.columns;
      for (index_t q = 0; q < b.columns; ++q) row[q] += x * y[q];
    }
    double const u = a.square[static_cast<std::size_t>(t)], v = b.square[static_cast<std::size_t>(t)];
    squares += u * v;
    total_a -= u;
    total_b -= v;
  }
  for (double const v : product) cross += v * v;
  // Centred columns sum to 0, so of the mixed sum only |x|^2 |y|^2 is left.
  return {cross, unbiased_hsic(static_cast<double>(a.rows), cross, squares, total_a, total_b, squares)};
}

}  // namespace detail

/// Linear centred kernel alignment of two sets of features of the same rows: one number for how alike they arrange the
/// tokens, whatever the order, rotation or common scale of the columns. For probabilities, scores or masks.
///
/// In     x [T,P], y [T,Q].
/// Out    see cka_result.
/// Empty  biased NaN if either is constant; debiased NaN if T < 4 or an estimated own HSIC is not positive. A value
///        that is not finite makes both NaN.
/// Cost   O(T (P + Q)^2) time, O(T (P + Q) + P Q) memory.
/// Bias   debiased assumes independent rows. Tokens of a document are not: two layers that know the document only are
///        alike, rightly, but unrelated layers with runs of tokens are too, by chance: compare with the null of
///        layer_similarity.
/// Throws shape_error if the numbers of rows differ.
/// Source Kornblith et al. 2019, arXiv:1905.00414, section 3; unbiased HSIC Song et al. 2012, JMLR 13, 1393, used
///        for CKA by Nguyen et al. 2021, arXiv:2010.15327, section 3. Differs: as given, computed from P x Q sums.
template <numeric_matrix X, numeric_matrix Y>
cka_result linear_cka(X const& x, Y const& y) {
  auto const a = detail::matrix_of(x);
  auto const b = detail::matrix_of(y);
  if (a.rows() != b.rows()) detail::raise<shape_error>("moeroute::linear_cka: ", a.rows(), " rows against ", b.rows());
  detail::centred_features const u(a), v(b);
  auto const uv = detail::hsic(u, v), uu = detail::hsic(u, u), vv = detail::hsic(v, v);
  cka_result r;
  if (uu.biased > 0 && vv.biased > 0) r.biased = uv.biased / std::sqrt(uu.biased * vv.biased);
  if (a.rows() > 3 && uu.unbiased > 0 && vv.unbiased > 0)
    r.debiased = uv.unbiased / std::sqrt(uu.unbiased * vv.unbiased);
  return r;
}

namespace detail {

/// The first `window` choices of each document of one layer, and their sums.
struct layer_choices {
  index_t window, slots;
  std::vector<std::int32_t> ids;  // [D,window,K]
  std::vector<double> load;       // [E]
  double tokens = 0, kept = 0;    // kept slots
  double total = 0;               // |sum x|^2 - sum |x|^2 of the masks x

  template <class Id>
  layer_choices(matrix_view<Id> m, document_spans const& documents, index_t of_each, index_t experts, index_t layer)
      : window{of_each}, slots{m.cols()}, load(static_cast<std::size_t>(experts)) {
    std::vector<index_t> last(static_cast<std::size_t>(experts), -1);
    for (index_t d = 0; d < documents.documents(); ++d) {
      if (documents.size(d) < window) continue;
      for (index_t t = documents.first(d); t < documents.first(d) + window; ++t) {
        for (index_t k = 0; k < slots; ++k) {
          auto const id = m(t, k);
          if (std::cmp_less(id, no_expert) || std::cmp_greater_equal(id, experts))
            raise("moeroute::layer_similarity: id ", +id, " of token ", t, " in layer ", layer, " is outside -1..",
                  experts - 1);
          ids.push_back(static_cast<std::int32_t>(id));
          if (std::cmp_equal(id, no_expert)) continue;
          if (std::exchange(last[static_cast<std::size_t>(id)], t) == t)
            raise("moeroute::layer_similarity: token ", t, " in layer ", layer, " has expert ", +id, " twice");
          ++load[static_cast<std::size_t>(id)];
        }
        ++tokens;
      }
    }
    for (double const n : load) {
      kept += n;
      total += n * n;
    }
    total -= kept;
  }
};

/// counts [E,E] = tokens that choose a in one layer, and b in the other at the same place of document order[d].
inline void count_pairs(layer_choices const& x, layer_choices const& y, std::vector<index_t> const& order,
                        std::vector<double>& counts) {
  auto const experts = static_cast<index_t>(x.load.size());
  std::fill(counts.begin(), counts.end(), 0.0);
  auto const* a = x.ids.data();
  for (auto const d : order) {
    auto const* other = y.ids.data() + d * y.window * y.slots;
    for (index_t t = 0; t < x.window; ++t, a += x.slots, other += y.slots)
      for (index_t k = 0; k < x.slots; ++k) {
        if (a[k] < 0) continue;
        double* const row = counts.data() + a[k] * experts;
        for (index_t m = 0; m < y.slots; ++m)
          if (other[m] >= 0) ++row[other[m]];
      }
  }
}

/// Unbiased HSIC of two masks. |x|^2 is the number of kept slots, so all its sums follow from the pair counts.
inline double mask_hsic(layer_choices const& x, layer_choices const& y, std::vector<double> const& counts) {
  double cross = 0, squares = 0, mixed = 0;
  std::size_t i = 0;
  for (double const n : x.load)
    for (double const m : y.load) {
      double const c = counts[i++];
      cross += c * c;
      squares += c;
      mixed += c * (n - 1) * (m - 1);
    }
  return unbiased_hsic(x.tokens, cross, squares, x.total, y.total, mixed);
}

inline std::array<double, 3> compare_layers(layer_choices const& x, layer_choices const& y, double own,
                                            std::vector<double> const& counts) {
  auto const experts = static_cast<index_t>(x.load.size());
  double same = 0;
  for (index_t e = 0; e < experts; ++e) same += counts[static_cast<std::size_t>(e * experts + e)];
  double const slots = (x.kept + y.kept) / 2;
  double const matched = assign(matrix_view<double>(counts.data(), experts, experts), assignment_goal::maximum).total;
  double const cka = x.tokens > 3 && own > 0 ? mask_hsic(x, y, counts) / std::sqrt(own) : quiet_nan;
  return {cka, matched / slots, same / slots};
}

}  // namespace detail

/// How alike do layers route the same tokens? By three measures: one without expert numbers, one that pairs experts at
/// their best, one that takes their numbers at their word.
///
/// In     layers: L matrices of ids [T,K], the same tokens; -1 = dropped. K may differ between layers. documents of T
///        tokens, of which the first `window` tokens are compared.
/// Out    see layer_similarity_result; value [L,L], and for i != j its null: document d of one layer meets a random
///        document of the other, token by token. That keeps loads, places in the document and all dependence within a
///        document, so it is exact if documents are exchangeable; only the alignment is broken.
/// Empty  NaN: cka with fewer than 4 tokens or a layer that always chooses the same, the shares without a kept slot.
/// Cost   O(L^2 replicates (T K^2 + E^3)) time over all threads, O(L T K + E^2) memory: give a sample of some thousand
///        tokens.
/// Bias   matched is chosen to be large, and tokens of one document lift all three: only the distance from null_mean
///        means anything. Documents of one passage are not exchangeable with others; give one of each.
/// Throws shape_error if the numbers of tokens differ; argument_error if experts is not positive, window or replicates
///        is negative, an id is outside -1..E-1, or a token has an expert twice.
/// Source linear_cka for the masks; pairing Kuhn 1955, doi:10.1002/nav.3800020109; p-values as permutation_p_value.
///        Differs: ours; nothing published compares routing so. (Rotating the tokens of a layer is no valid null:
///        layers share the boundaries of documents.)
template <std::ranges::forward_range Layers>
  requires index_matrix<std::ranges::range_value_t<Layers const>> layer_similarity_result
  layer_similarity(Layers const& layers, document_spans const& documents, layer_similarity_options const& options) {
    if (options.experts <= 0 || options.experts > index_t{std::numeric_limits<std::int32_t>::max()} ||
        options.window < 0 || options.replicates < 0 ||
        options.replicates > index_t{std::numeric_limits<std::uint32_t>::max()})
      detail::raise("moeroute::layer_similarity: experts = ", options.experts, ", window = ", options.window,
                    ", replicates = ", options.replicates);
    layer_similarity_result result;
    result.window = options.window;
    for (index_t d = 0; d < documents.documents() && options.window == 0; ++d)
      result.window = d == 0 ? documents.size(d) : std::min(result.window, documents.size(d));
    for (index_t d = 0; d < documents.documents(); ++d) result.documents += documents.size(d) >= result.window ? 1 : 0;
    std::vector<detail::layer_choices> choices;
    for (auto const& m : layers) {
      auto const ids = detail::matrix_of(m);
      if (ids.rows() != documents.tokens())
        detail::raise<shape_error>("moeroute::layer_similarity: layer ", choices.size(), " has ", ids.rows(),
                                   " tokens, the documents have ", documents.tokens());
      choices.emplace_back(ids, documents, result.window, options.experts, static_cast<index_t>(choices.size()));
    }
    auto const count = choices.size(), cells = static_cast<std::size_t>(options.experts * options.experts);
    std::array<layer_similarity_measure*, 3> const measures{&result.cka, &result.matched, &result.same_number};
    for (auto* m : measures)
      for (auto* x : {&m->value, &m->null_mean, &m->null_sd, &m->p_value})
        *x = xt::xtensor<double, 2>(std::array<std::size_t, 2>{count, count}, quiet_nan);
    std::vector<index_t> as_it_is(static_cast<std::size_t>(result.documents));
    std::iota(as_it_is.begin(), as_it_is.end(), index_t{0});
    std::vector<double> own(count);
    parallel_for(static_cast<index_t>(count), options.threads, [&](index_t l) {
      auto const i = static_cast<std::size_t>(l);
      std::vector<double> counts(cells);
      detail::count_pairs(choices[i], choices[i], as_it_is, counts);
      own[i] = std::max(0.0, detail::mask_hsic(choices[i], choices[i], counts));
      auto const v = detail::compare_layers(choices[i], choices[i], own[i] * own[i], counts);
      for (std::size_t m = 0; m < 3; ++m) measures[m]->value(i, i) = v[m];
    });
    std::vector<std::pair<std::size_t, std::size_t>> pairs;
    for (std::size_t i = 0; i < count; ++i)
      for (std::size_t j = i + 1; j < count; ++j) pairs.emplace_back(i, j);
    parallel_for(static_cast<index_t>(pairs.size()), options.threads, [&](index_t at) {
      auto const [i, j] = pairs[static_cast<std::size_t>(at)];
      std::vector<double> counts(cells);
      detail::count_pairs(choices[i], choices[j], as_it_is, counts);
      auto const value = detail::compare_layers(choices[i], choices[j], own[i] * own[j], counts);
      std::array<std::vector<double>, 3> null;
      for (index_t b = 0; b < options.replicates && choices[i].tokens > 0; ++b) {
        // Every layer has an order of its own; what matters to a pair is one against the other, which is uniform too.
        random_stream random(options.seed, detail::purpose_layer_documents, static_cast<std::uint64_t>(at),
                             static_cast<std::uint32_t>(b));
        detail::count_pairs(choices[i], choices[j], random_permutation(result.documents, random), counts);
        auto const v = detail::compare_layers(choices[i], choices[j], own[i] * own[j], counts);
        for (std::size_t m = 0; m < 3; ++m) null[m].push_back(v[m]);
      }
      for (std::size_t m = 0; m < 3; ++m) {
        measures[m]->value(i, j) = measures[m]->value(j, i) = value[m];
        if (null[m].empty()) continue;
        auto const moments = moments_of(null[m]);
        measures[m]->null_mean(i, j) = measures[m]->null_mean(j, i) = moments.mean;
        measures[m]->null_sd(i, j) = measures[m]->null_sd(j, i) = std::sqrt(moments.variance);
        measures[m]->p_value(i, j) = measures[m]->p_value(j, i) = permutation_p_value(value[m], null[m]);
      }
    });
    return result;
  }

}  // namespace moeroute

#endif
