// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_LIBTORCH_HPP
#define MOEROUTE_CAPTURE_LIBTORCH_HPP

#include <moeroute/core/error.hpp>

#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include "execution.hpp"

namespace moeroute::capture {

/// The type that libtorch computes in. Throws argument_error for what it does not compute in.
inline at::ScalarType torch_type(dtype type) {
  switch (type) {
    case dtype::f32:
      return at::kFloat;
    case dtype::bf16:
      return at::kBFloat16;
    case dtype::f16:
      return at::kHalf;
    default:
      throw argument_error("moeroute::capture: no computation in " + std::string(dtype_name(type)));
  }
}

/// Calls into libtorch, with its exceptions turned into ours: the first line of the text, without its stack of C++ frames.
template <class Function>
auto guarded(Function&& f) {
  try {
    return f();
  } catch (c10::OutOfMemoryError const& e) {
    throw resource_error(std::string("out of device memory: ") + e.what_without_backtrace());
  } catch (c10::Error const& e) {
    std::string text = e.what_without_backtrace();
    text = text.substr(0, text.find('\n'));
    if (text.find("can't allocate memory") != std::string::npos) throw resource_error("out of memory: " + text);
    throw std::runtime_error("libtorch: " + text);
  }
}

/// The values of a tensor in host memory, as the given type.
template <class T>
std::vector<T> to_vector(at::Tensor const& t, at::ScalarType type) {
  auto const host = t.to(at::kCPU, type).contiguous();
  std::vector<T> out(static_cast<std::size_t>(host.numel()));
  if (!out.empty()) std::memcpy(out.data(), host.const_data_ptr(), out.size() * sizeof(T));
  return out;
}

}  // namespace moeroute::capture

#endif
