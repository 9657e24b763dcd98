// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_CONFIG_PLAN_HPP
#define MOEROUTE_CAPTURE_CONFIG_PLAN_HPP

#include <string>

#include "family.hpp"

namespace moeroute::capture {

/// What a config.json alone says of its model, as text: the tensors of each kind of stage with their shapes, and the bytes
/// of the stages and of the whole in float32 and in bfloat16.
std::string describe_config(model_spec const& spec);

}  // namespace moeroute::capture

#endif
