// SPDX-License-Identifier: Apache-2.0
#include "quantized.hpp"

#include <moeroute/core/scalar.hpp>

#include <cmath>
#include <cstring>
#include <limits>

namespace moeroute::capture {
namespace {

constexpr std::array<std::string_view, 2> table_kinds{".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4"};

// e4m3 without infinities: bias 7, 0x7f and 0xff are NaN.
std::array<float, 256> fp8_table() {
  std::array<float, 256> values{};
  for (int code = 0; code < 256; ++code) {
    int const exponent = code >> 3 & 15, mantissa = code & 7;
    float value = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
    if ((code & 127) == 127) value = std::numeric_limits<float>::quiet_NaN();
    values[static_cast<std::size_t>(code)] = code < 128 ? value : -value;
  }
  return values;
}

// Floating values of any width.
std::vector<float> floats(tensor_view const& t, std::string const& file) {
  std::vector<float> out(static_cast<std::size_t>(t.elements()));
  auto const read = [&]<class T>(T) {
    for (std::size_t i = 0; i < out.size(); ++i) {
      T x;
      std::memcpy(&x, t.data.data() + i * sizeof x, sizeof x);
      out[i] = to_float(x);
    }
  };
  if (t.type == dtype::f32)
    read(float{});
  else if (t.type == dtype::bf16)
    read(bf16{});
  else if (t.type == dtype::f16)
    read(f16{});
  else
    throw format_error(file, "tensor " + t.name, "is " + std::string(dtype_name(t.type)) + ", expected F32, BF16 or F16");
  return out;
}

std::size_t product(std::vector<std::int64_t> const& shape) {
  std::size_t n = 1;
  for (auto const d : shape) n *= static_cast<std::size_t>(d);
  return n;
}

void require(bool condition, checkpoint const& file, std::string const& name, std::string const& what) {
  if (!condition) throw format_error(file.path_of(name), "tensor " + name, what);
}

std::vector<float> from_fp8(checkpoint const& file, std::string const& name, std::vector<std::int64_t> const& shape,
                            std::array<std::int64_t, 2> block) {
  auto const& codes = file.at_any(name);
  auto const scale_name = name + "_scale_inv";
  auto const& scale = file.at_any(scale_name);
  require(shape.size() == 2 && std::equal(codes.shape.begin(), codes.shape.end(), shape.begin(), shape.end()), file, name,
          "has another shape than config.json asks for");
  auto const rows = shape[0], columns = shape[1];
  auto const up = [](std::int64_t n, std::int64_t by) { return (n + by - 1) / by; };
  require(scale.shape.size() == 2 && scale.shape[0] == up(rows, block[0]) && scale.shape[1] == up(columns, block[1]), file,
          scale_name, "does not have a factor for each block of " + std::to_string(block[0]) + " x " +
                          std::to_string(block[1]));
  static auto const table = fp8_table();
  auto const factors = floats(scale, file.path_of(scale_name));
  std::vector<float> out(product(shape));
  for (std::int64_t r = 0; r < rows; ++r) {
    auto const* const of_row = factors.data() + r / block[0] * scale.shape[1];
    auto const* const from = codes.data.data() + r * columns;
    auto* const to = out.data() + r * columns;
    for (std::int64_t c = 0; c < columns; ++c) to[c] = table[std::to_integer<std::size_t>(from[c])] * of_row[c / block[1]];
  }
  return out;
}

std::string state_name(checkpoint const& file, std::string const& name) {
  for (auto const kind : table_kinds)
    if (file.has(name + std::string(kind))) return name + std::string(kind);
  return {};
}

std::vector<float> from_4bit(checkpoint const& file, std::string const& name, std::vector<std::int64_t> const& shape) {
  auto const n = product(shape);
  auto const state_at = state_name(file, name);
  auto const& packed = file.at_any(state_at);
  auto const json = parse_json(packed.data, file.path_of(state_at), packed.file_offset);
  json_view const state(json, file.path_of(state_at), "tensor " + state_at);
  auto const block = static_cast<std::size_t>(state.at("blocksize").integer(1, 1 << 20));
  auto const stated = state.at("shape").elements();
  bool same = stated.size() == shape.size();
  for (std::size_t i = 0; same && i < stated.size(); ++i) same = stated[i].integer() == shape[i];
  require(same, file, name, "has another shape than config.json asks for");
  auto const type = state.at("dtype").string();
  require(type == "bfloat16" || type == "float16" || type == "float32", file, state_at, "names the unknown type " + type);

  auto const& codes = file.at_any(name);
  require(codes.data.size() == (n + 1) / 2, file, name, "does not have half a byte for each element");
  auto const table = floats(file.at_any(name + ".quant_map"), file.path_of(name));
  require(table.size() == 16, file, name + ".quant_map", "does not have 16 values");
  auto const blocks = (n + block - 1) / block;
  auto const factor_name = name + ".absmax";
  auto const& stored = file.at_any(factor_name);
  require(static_cast<std::size_t>(stored.elements()) == blocks, file, factor_name, "does not have a factor for each block");
  std::vector<float> factors;
  if (file.has(name + ".nested_absmax")) {
    auto const nested = static_cast<std::size_t>(state.at("nested_blocksize").integer(1, 1 << 20));
    auto const offset = static_cast<float>(state.at("nested_offset").number());
    auto const outer = floats(file.at_any(name + ".nested_absmax"), file.path_of(name));
    auto const map = floats(file.at_any(name + ".nested_quant_map"), file.path_of(name));
    require(stored.type == dtype::u8 && map.size() == 256 && outer.size() == (blocks + nested - 1) / nested, file,
            factor_name, "does not fit its own factors");
    for (std::size_t b = 0; b < blocks; ++b)
      factors.push_back(map[std::to_integer<std::size_t>(stored.data[b])] * outer[b / nested] + offset);
  } else {
    factors = floats(stored, file.path_of(factor_name));
  }
  std::vector<float> out(n);
  for (std::size_t i = 0; i < n; ++i) {
    auto const byte = std::to_integer<std::size_t>(codes.data[i / 2]);
    float const value = table[i % 2 == 0 ? byte >> 4 : byte & 15] * factors[i / block];
    out[i] = type == "bfloat16" ? to_float(to_bf16(value)) : type == "float16" ? to_float(to_f16(value)) : value;
  }
  return out;
}

}  // namespace

quantization_spec read_quantization(json_view const& config) {
  quantization_spec spec;
  if (!config.has("quantization_config")) return spec;
  auto const q = config.at("quantization_config");
  auto const method = q.at("quant_method");
  if (method.string() == "fp8") {
    spec.kind = quantization::fp8_blocks;
    auto const block = q.at("weight_block_size").elements();
    if (block.size() != 2) q.at("weight_block_size").refuse("expected two numbers");
    for (std::size_t i = 0; i < 2; ++i) spec.block[i] = block[i].integer(1, 1 << 20);
  } else if (method.string() == "mxfp4") {
    spec.kind = quantization::mxfp4;
  } else if (method.string() == "bitsandbytes" && q.has("load_in_4bit") && q.at("load_in_4bit").boolean()) {
    spec.kind = quantization::bitsandbytes_4bit;
  } else {
    method.refuse("\"" + method.string() + "\" is not built yet; known: fp8, mxfp4, bitsandbytes in 4 bits");
  }
  return spec;
}

bool is_quantized(checkpoint const& file, std::string const& name) {
  return file.has(name + "_scale_inv") || !state_name(file, name).empty();
}

std::vector<float> dequantized(checkpoint const& file, std::string const& name, std::vector<std::int64_t> const& shape,
                               quantization_spec const& how) {
  return file.has(name + "_scale_inv") ? from_fp8(file, name, shape, how.block) : from_4bit(file, name, shape);
}

bool is_mxfp4(checkpoint const& file, std::string const& stem) { return file.has(stem + "_blocks"); }

std::vector<float> dequantized_mxfp4(checkpoint const& file, std::string const& stem, std::int64_t expert,
                                     std::int64_t experts, std::int64_t rows, std::int64_t columns) {
  constexpr std::array<float, 16> value{0, .5F, 1, 1.5F, 2, 3, 4, 6, -0.F, -.5F, -1, -1.5F, -2, -3, -4, -6};
  constexpr std::int64_t group = 32;
  auto const blocks_name = stem + "_blocks", scales_name = stem + "_scales";
  auto const& blocks = file.at_any(blocks_name);
  auto const& scales = file.at_any(scales_name);
  auto const is = [](tensor_view const& t, std::vector<index_t> const& shape) { return t.type == dtype::u8 && t.shape == shape; };
  require(columns % group == 0, file, blocks_name, "needs columns in multiples of 32");
  require(is(blocks, {experts, rows, columns / group, group / 2}), file, blocks_name,
          "is not U8 of the shape that config.json asks for");
  require(is(scales, {experts, rows, columns / group}), file, scales_name,
          "is not U8 of the shape that config.json asks for");
  std::vector<float> out(static_cast<std::size_t>(rows * columns));
  auto const groups = static_cast<std::size_t>(rows * (columns / group));
  auto const first = static_cast<std::size_t>(expert) * groups;
  for (std::size_t g = 0; g < groups; ++g) {
    // The scale 255 is NaN in the standard; ldexp would make it an ordinary power.
    auto const exponent = std::to_integer<int>(scales.data[first + g]);
    float const scale = exponent == 255 ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(1.0F, exponent - 127);
    auto const* const from = blocks.data.data() + (first + g) * (group / 2);
    auto* const to = out.data() + g * group;
    for (std::size_t b = 0; b < group / 2; ++b) {
      auto const byte = std::to_integer<std::size_t>(from[b]);
      to[2 * b] = value[byte & 15] * scale;
      to[2 * b + 1] = value[byte >> 4] * scale;
    }
  }
  return out;
}

std::vector<std::string> quantized_companions(std::string const& name) {
  std::vector<std::string> all{name + "_scale_inv"};
  for (char const* part : {".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"}) all.push_back(name + part);
  for (auto const kind : table_kinds) all.push_back(name + std::string(kind));
  return all;
}

}  // namespace moeroute::capture
