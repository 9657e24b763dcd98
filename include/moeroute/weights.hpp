// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_WEIGHTS_HPP
#define MOEROUTE_WEIGHTS_HPP

// All of weights/: statistics of parameters. Views of tensors or callbacks that give tiles; no files.
#include <moeroute/weights/alignment.hpp>
#include <moeroute/weights/diagonal_test.hpp>
#include <moeroute/weights/expert_gram.hpp>
#include <moeroute/weights/expert_similarity.hpp>
#include <moeroute/weights/model_space_gram.hpp>
#include <moeroute/weights/neuron_match.hpp>
#include <moeroute/weights/norms.hpp>
#include <moeroute/weights/router_similarity.hpp>
#include <moeroute/weights/subspace.hpp>

#endif
