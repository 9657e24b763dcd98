// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_LAYERS_HPP
#define MOEROUTE_LAYERS_HPP

// All of layers/: statistics across layers.
#include <moeroute/layers/lag_correlation.hpp>
#include <moeroute/layers/layer_order.hpp>
#include <moeroute/layers/layer_similarity.hpp>
#include <moeroute/layers/periodicity.hpp>

#endif
