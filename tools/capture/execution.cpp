// SPDX-License-Identifier: Apache-2.0
#include "execution.hpp"

#include <algorithm>

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <torch/version.h>

#include "attention.hpp"
#include "libtorch.hpp"

namespace moeroute::capture {

execution resolve_execution(std::string const& device, std::string const& type, int threads, dtype stored) {
  return guarded([&] {
    execution out;
    out.threads = threads;
    if (device == "auto") {
      out.device = at::hasCUDA() ? "cuda:0" : "cpu";
    } else if (device == "cpu") {
      out.device = device;
    } else if (device.rfind("cuda", 0) == 0) {
      if (!at::hasCUDA())
        throw argument_error("--device " + device + ": this libtorch sees no CUDA device; use --device cpu");
      c10::Device const parsed = [&] {
        try {
          return c10::Device(device);
        } catch (c10::Error const&) {
          throw argument_error("--device " + device + ": expected auto, cpu, cuda or cuda:N");
        }
      }();
      int const index = parsed.has_index() ? parsed.index() : 0;
      if (index >= at::accelerator::deviceCount())
        throw argument_error("--device " + device + ": there are " + std::to_string(at::accelerator::deviceCount()) +
                             " devices");
      out.device = "cuda:" + std::to_string(index);
    } else {
      throw argument_error("--device " + device + ": expected auto, cpu, cuda or cuda:N");
    }
    if (type == "float32")
      out.type = dtype::f32;
    else if (type == "bfloat16")
      out.type = dtype::bf16;
    else if (type == "float16")
      out.type = dtype::f16;
    else if (type == "auto")
      out.type = out.device == "cpu" ? dtype::f32 : stored;
    else
      throw argument_error("--dtype " + type + ": expected auto, float32, float16 or bfloat16");
    return out;
  });
}

attention_kind resolve_attention(std::string const& word, model_spec const& spec, execution const& where) {
  auto const refuse = [&](std::string const& why) { throw argument_error("--attention " + word + ": " + why); };
  bool const sinks = !spec.kind->names.sinks.empty();
  if (word == "auto") return sinks ? attention_kind::eager : attention_kind::sdpa;
  if (word == "eager") return attention_kind::eager;
  if (word != "sdpa" && word != "flash") refuse("expected auto, eager, sdpa or flash");
  if (sinks)
    refuse(std::string(spec.kind->model_type) + " has attention sinks, which only eager computes; use auto or eager");
  if (word == "sdpa") return attention_kind::sdpa;
  if (std::any_of(spec.windows.begin(), spec.windows.end(), [](auto window) { return window != 0; }))
    refuse("the model has layers with a sliding window, which libtorch's flash kernel does not take; use auto or sdpa");
  auto const width = std::max(spec.head_width, spec.value_width);
  if (!guarded([&] { return require_flash(where.device, torch_type(where.type), width); }))
    refuse("libtorch has no flash kernel on " + where.device + " for " + std::string(dtype_name(where.type)) +
           " and heads of " + std::to_string(width) + "; use auto or sdpa");
  return attention_kind::flash;
}

std::optional<std::pair<std::uint64_t, std::uint64_t>> device_memory(execution const& where) {
  c10::Device const device(where.device);
  if (device.is_cpu()) return std::nullopt;
  auto const [free, total] = guarded([&] { return at::accelerator::getMemoryInfo(device.index()); });
  return std::pair<std::uint64_t, std::uint64_t>(free, total);
}

std::string_view attention_name(attention_kind kind) {
  return kind == attention_kind::eager ? "eager" : kind == attention_kind::sdpa ? "sdpa" : "flash";
}

std::string torch_version() { return TORCH_VERSION; }

}  // namespace moeroute::capture
