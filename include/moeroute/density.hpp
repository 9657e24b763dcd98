// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_DENSITY_HPP
#define MOEROUTE_DENSITY_HPP

// All of density/: how numbers are distributed, beyond their sample.
#include <moeroute/density/cell_density.hpp>
#include <moeroute/density/bandwidth.hpp>
#include <moeroute/density/kde.hpp>
#include <moeroute/density/kernel.hpp>
#include <moeroute/density/published_cdf.hpp>
#include <moeroute/density/streaming_kde.hpp>
#include <moeroute/density/tail.hpp>
#include <moeroute/density/trim.hpp>

#endif
