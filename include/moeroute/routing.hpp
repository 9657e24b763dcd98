// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_ROUTING_HPP
#define MOEROUTE_ROUTING_HPP

// All of routing/: one statistic of routing per header.
#include <moeroute/routing/activation.hpp>
#include <moeroute/routing/adaptive.hpp>
#include <moeroute/routing/balance.hpp>
#include <moeroute/routing/coactivation.hpp>
#include <moeroute/routing/design_effect.hpp>
#include <moeroute/routing/document_counts.hpp>
#include <moeroute/routing/gate.hpp>
#include <moeroute/routing/label_effects.hpp>
#include <moeroute/routing/load.hpp>
#include <moeroute/routing/locality.hpp>
#include <moeroute/routing/overlap.hpp>
#include <moeroute/routing/path.hpp>
#include <moeroute/routing/segment_routing.hpp>
#include <moeroute/routing/selection.hpp>
#include <moeroute/routing/specialization.hpp>
#include <moeroute/routing/transition.hpp>
#include <moeroute/routing/vocabulary.hpp>
#include <moeroute/routing/vocabulary_summary.hpp>

#endif
