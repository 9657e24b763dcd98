// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_INFERENCE_HPP
#define MOEROUTE_INFERENCE_HPP

// All of inference/: intervals, resampling, p-values, tests.
#include <moeroute/inference/bootstrap.hpp>
#include <moeroute/inference/combine.hpp>
#include <moeroute/inference/correlation.hpp>
#include <moeroute/inference/fitted_law.hpp>
#include <moeroute/inference/goodness_of_fit.hpp>
#include <moeroute/inference/higher_criticism.hpp>
#include <moeroute/inference/interval.hpp>
#include <moeroute/inference/label_contrast.hpp>
#include <moeroute/inference/multiplicity.hpp>
#include <moeroute/inference/order_statistic.hpp>
#include <moeroute/inference/p_value.hpp>
#include <moeroute/inference/permutation.hpp>
#include <moeroute/inference/two_sample.hpp>

#endif
