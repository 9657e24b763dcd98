// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_MOEROUTE_HPP
#define MOEROUTE_MOEROUTE_HPP

// Everything but io/, which needs one more dependency. Convenient, and slow to compile: a program that cares includes what it uses.
#include <moeroute/core.hpp>
#include <moeroute/density.hpp>
#include <moeroute/inference.hpp>
#include <moeroute/layers.hpp>
#include <moeroute/numeric.hpp>
#include <moeroute/routing.hpp>
#include <moeroute/weights.hpp>

#endif
