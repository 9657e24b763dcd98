// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_INFERENCE_LABEL_CONTRAST_HPP
#define MOEROUTE_INFERENCE_LABEL_CONTRAST_HPP

#include <moeroute/core/adapt.hpp>
#include <moeroute/numeric/mass.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <span>
#include <utility>
#include <vector>

namespace moeroute {

/// Studentised difference between an expert's share within a label and outside it, for permutation tests over
/// documents.
///
/// In     counts [D,E]: slots of document d at expert e (or masses); blocks [D]: documents that share a topic, negative
///        = alone; labels [D] in 0..C-1, observed or permuted.
/// Out    t [C,E] row-major, signed: (share in label - share elsewhere) / its linearised standard error with the data's
///        blocks as clusters, whatever labels they carry. Only such a t has the same law observed and permuted when
///        some documents are unpaired: their raw differences vary more than the permuted ones.
/// Empty  NaN: a label with fewer than two blocks, a label of all documents, an expert that nothing chose.
/// Cost   O(D E) once, O(G C E) time per call for G blocks, O(D E) memory.
/// Throws shape_error if lengths differ, argument_error for a label outside 0..C-1 or a negative count.
/// Source ratio estimator with clusters, Cochran 1977, Sampling Techniques, chapter 6; studentised permutation, Chung,
///        Romano 2013, doi:10.1214/13-AOS1090. Differs: two ratios share clusters, their influences are added per
///        cluster first.
class label_contrast {
 public:
  template <mass_matrix Counts, index_vector Blocks>
  label_contrast(Counts const& counts, Blocks const& blocks, index_t labels) : labels_{labels} {
    build(detail::matrix_of(counts), detail::vector_of(blocks));
  }

  index_t labels() const noexcept { return labels_; }
  index_t experts() const noexcept { return experts_; }
  index_t blocks() const noexcept { return static_cast<index_t>(first_.size()) - 1; }

  /// Writes t [C,E] into `t`; const, so that threads may share the object.
  template <index_vector Labels>
  void studentised(Labels const& labels, std::span<double> t) const {
    auto const view = detail::vector_of(labels);
    std::vector<std::size_t> label(static_cast<std::size_t>(view.size()));
    for (std::size_t d = 0; d < label.size(); ++d) {
      auto const c = view[static_cast<index_t>(d)];
      if (std::cmp_less(c, 0) || std::cmp_greater_equal(c, labels_))
        detail::raise("moeroute::label_contrast::studentised: label ", c, " of document ", d, " is outside 0..",
                      labels_ - 1);
      label[d] = static_cast<std::size_t>(c);
    }
    compute(label, t);
  }

 private:
  template <class T, class B>
  void build(matrix_view<T> counts, vector_view<B> blocks) {
    if (labels_ <= 0) detail::raise("moeroute::label_contrast: labels = ", labels_, " must be positive");
    if (counts.rows() != blocks.size())
      detail::raise<shape_error>("moeroute::label_contrast: ", counts.rows(), " documents but ", blocks.size(),
                                 " blocks");
    experts_ = counts.cols();
    std::map<B, std::vector<std::size_t>> members;
    first_.push_back(0);
    for (index_t d = 0; d < blocks.size(); ++d) {
      if (std::cmp_greater_equal(blocks[d], 0)) {
        members[blocks[d]].push_back(static_cast<std::size_t>(d));
      } else {
        order_.push_back(static_cast<std::size_t>(d));
        first_.push_back(order_.size());
      }
    }
    for (auto const& [id, documents] : members) {
      order_.insert(order_.end(), documents.begin(), documents.end());
      first_.push_back(order_.size());
    }
    // Rows are kept in the order of blocks; the column after the experts holds the total of the row.
    auto const width = static_cast<std::size_t>(experts_) + 1;
    total_.assign(width, 0);
    for (auto const d : order_) {
      auto const row = detail::checked_masses(counts.row(static_cast<index_t>(d)), "moeroute::label_contrast");
      sums_.insert(sums_.end(), row.values.begin(), row.values.end());
      sums_.push_back(row.total);
      for (std::size_t e = 0; e < width; ++e) total_[e] += sums_[sums_.size() - width + e];
    }
  }

  void compute(std::vector<std::size_t> const& label, std::span<double> t) const {
    auto const experts = static_cast<std::size_t>(experts_), width = experts + 1,
               classes = static_cast<std::size_t>(labels_);
    if (label.size() != order_.size() || t.size() != classes * experts)
      detail::raise<shape_error>("moeroute::label_contrast::studentised: ", label.size(), " labels and room for ",
                                 t.size(), " results, but ", order_.size(), " documents and ", classes, " x ", experts,
                                 " cells");
    std::vector<double> within(classes * width), variance(classes * experts), block(classes * width),
        block_total(width);
    std::vector<std::size_t> blocks_of(classes), last_block(classes, static_cast<std::size_t>(-1));
    auto const add = [&](std::vector<double>& to, std::size_t c, std::size_t row) {
      for (std::size_t e = 0; e < width; ++e) to[c * width + e] += sums_[row * width + e];
    };
    for (std::size_t g = 0; g + 1 < first_.size(); ++g)
      for (std::size_t i = first_[g]; i < first_[g + 1]; ++i) {
        auto const c = label[order_[i]];
        add(within, c, i);
        if (last_block[c] != g) ++blocks_of[c];
        last_block[c] = g;
      }
    for (std::size_t g = 0; g + 1 < first_.size(); ++g) {
      std::fill(block.begin(), block.end(), 0.0);
      std::fill(block_total.begin(), block_total.end(), 0.0);
      for (std::size_t i = first_[g]; i < first_[g + 1]; ++i) {
        add(block, label[order_[i]], i);
        add(block_total, 0, i);
      }
      for (std::size_t c = 0; c < classes; ++c) {
        double const* in = &within[c * width];
        double const *x = &block[c * width], n_in = in[experts], n_out = total_[experts] - n_in;
        for (std::size_t e = 0; e < experts; ++e) {
          double const share_in = in[e] / n_in, share_out = (total_[e] - in[e]) / n_out;
          double const influence = (x[e] - share_in * x[experts]) / n_in -
                                   ((block_total[e] - x[e]) - share_out * (block_total[experts] - x[experts])) / n_out;
          variance[c * experts + e] += influence * influence;
        }
      }
    }
    for (std::size_t c = 0; c < classes; ++c)
      for (std::size_t e = 0; e < experts; ++e) {
        double const n_in = within[c * width + experts], n_out = total_[experts] - n_in;
        double const difference = within[c * width + e] / n_in - (total_[e] - within[c * width + e]) / n_out;
        bool const defined = blocks_of[c] >= 2 && n_in > 0 && n_out > 0 && total_[e] > 0;
        t[c * experts + e] = defined ? difference / std::sqrt(variance[c * experts + e]) : quiet_nan;
      }
  }

  index_t labels_, experts_ = 0;
  std::vector<std::size_t> order_, first_;  // documents by block; block g is order_[first_[g] .. first_[g+1]-1]
  std::vector<double> sums_, total_;        // [D,E+1] in that order, [E+1]
};

}  // namespace moeroute

#endif
