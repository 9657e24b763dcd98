// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_NUMERIC_HPP
#define MOEROUTE_NUMERIC_HPP

// All of numeric/: numbers without experts in them.
#include <moeroute/numeric/assignment.hpp>
#include <moeroute/numeric/cluster.hpp>
#include <moeroute/numeric/conditional_bernoulli.hpp>
#include <moeroute/numeric/contingency.hpp>
#include <moeroute/numeric/dct.hpp>
#include <moeroute/numeric/divergence.hpp>
#include <moeroute/numeric/entropy.hpp>
#include <moeroute/numeric/exact_sum.hpp>
#include <moeroute/numeric/exp.hpp>
#include <moeroute/numeric/histogram.hpp>
#include <moeroute/numeric/inequality.hpp>
#include <moeroute/numeric/mass.hpp>
#include <moeroute/numeric/moments.hpp>
#include <moeroute/numeric/quantile.hpp>
#include <moeroute/numeric/random.hpp>
#include <moeroute/numeric/rank.hpp>
#include <moeroute/numeric/simd.hpp>
#include <moeroute/numeric/softmax.hpp>
#include <moeroute/numeric/top_k.hpp>

#endif
