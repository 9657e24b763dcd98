// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_TESTS_FUZZ_TARGETS_HPP
#define MOEROUTE_TESTS_FUZZ_TARGETS_HPP

#include <string_view>

// The readers of a model folder that somebody else made. Each takes the bytes of a file and says whether the file was
// accepted; false means that it was refused with the error made for that. Any other exception leaves the function, and a
// promise that an accepted file breaks ends the process: both are findings.
namespace moeroute::fuzz {

bool safetensors(std::string_view bytes);

bool config(std::string_view bytes);

/// tokenizer.json; behind a NUL a text to encode, behind another one tokenizer_config.json.
bool tokenizer(std::string_view bytes);

}  // namespace moeroute::fuzz

#endif
