// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>

#include "targets.hpp"

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size);
extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  (void)moeroute::fuzz::MOEROUTE_FUZZ_TARGET({reinterpret_cast<char const*>(data), size});
  return 0;
}
