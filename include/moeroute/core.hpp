// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CORE_HPP
#define MOEROUTE_CORE_HPP

// All of core/: vocabulary: views, adapters, batches, accumulators, errors.
#include <moeroute/core/accumulator.hpp>
#include <moeroute/core/adapt.hpp>
#include <moeroute/core/batch.hpp>
#include <moeroute/core/bytes.hpp>
#include <moeroute/core/error.hpp>
#include <moeroute/core/estimate.hpp>
#include <moeroute/core/parallel.hpp>
#include <moeroute/core/router_spec.hpp>
#include <moeroute/core/scalar.hpp>
#include <moeroute/core/version.hpp>
#include <moeroute/core/view.hpp>

#endif
