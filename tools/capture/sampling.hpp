// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_SAMPLING_HPP
#define MOEROUTE_CAPTURE_SAMPLING_HPP

#include <cstdint>
#include <span>
#include <string_view>

namespace moeroute::capture {

/// The number in [0, 1) that draws the token at `position` of the document with this id: a function of its arguments
/// alone, so that neither batches nor threads, the order of documents or a resumed run change what is drawn.
/// Source random_stream, named by the first 64 bits of the id's SHA-256 and by the position.
double draw_number(std::uint64_t seed, std::string_view document_id, std::uint32_t position);

/// A token from a distribution.
///
/// In     probabilities of all tokens; top_p in (0, 1]; u in [0, 1).
/// Out    With top_p < 1 the most probable tokens remain, as few as reach top_p together, of equal ones the smaller
///        ids. Of those that remain the first, in order of ids, up to which their sum exceeds u times the whole. -1 if
///        the probabilities have no finite positive sum.
/// Cost   O(V), and O(log V) for each token that remains.
/// Source nucleus sampling, Holtzman et al. 2020, arXiv:1904.09751; inversion. Differs: as given.
std::int32_t draw_token(std::span<float const> probabilities, double top_p, double u);

}  // namespace moeroute::capture

#endif
