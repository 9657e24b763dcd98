// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_INFERENCE_HPP
#define MOEROUTE_INFERENCE_HPP

// All of inference/: intervals, resampling, tests.
#include <moeroute/inference/bootstrap.hpp>
#include <moeroute/inference/interval.hpp>
#include <moeroute/inference/label_contrast.hpp>
#include <moeroute/inference/multiplicity.hpp>
#include <moeroute/inference/permutation.hpp>

#endif
