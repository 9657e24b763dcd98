// SPDX-License-Identifier: Apache-2.0
#include "rotation.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>
#include <string>

namespace moeroute::capture {
namespace {

double positive(json_view const& value) {
  double const x = value.number();
  if (!(x > 0) || !std::isfinite(x)) value.refuse("must be positive");
  return x;
}

double number_or(json_view const& rope, std::string const& key, double otherwise) {
  return rope.has(key) ? positive(rope.at(key)) : otherwise;
}

// Length that the model was trained on before its context was extended.
double original_length(json_view const& config, json_view const& rope) {
  std::string const key = "original_max_position_embeddings";
  auto const value = rope.has(key) ? rope.at(key) : config.at(config.has(key) ? key : "max_position_embeddings");
  double const length = positive(value);
  if (length > 1e12) value.refuse("is longer than any context");
  return length;
}

void apply_yarn(json_view const& config, json_view const& rope, double theta, rotation& r) {
  double const factor = positive(rope.at("factor")), length = original_length(config, rope);
  auto const mscale = [factor](double m) { return factor <= 1 ? 1.0 : 0.1 * m * std::log(factor) + 1; };
  auto const width = static_cast<double>(r.width);
  auto const dimension = [&](double turns) {
    return width * std::log(length / (turns * 2 * std::numbers::pi)) / (2 * std::log(theta));
  };
  double low = dimension(number_or(rope, "beta_fast", 32)), high = dimension(number_or(rope, "beta_slow", 1));
  if (!rope.has("truncate") || rope.at("truncate").boolean()) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, width - 1);
  if (low == high) high += 0.001;
  for (std::size_t i = 0; i < r.frequencies.size(); ++i) {
    double const ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    r.frequencies[i] *= ramp / factor + 1 - ramp;
  }
  bool const both = rope.has("mscale") && rope.has("mscale_all_dim") && rope.at("mscale").number() != 0 &&
                    rope.at("mscale_all_dim").number() != 0;
  if (rope.has("attention_factor"))
    r.scale = positive(rope.at("attention_factor"));
  else if (both)
    r.scale = mscale(rope.at("mscale").number()) / mscale(rope.at("mscale_all_dim").number());
  else
    r.scale = mscale(1);
  if (rope.has("mscale_all_dim") && rope.at("mscale_all_dim").number() != 0) {
    double const m = mscale(rope.at("mscale_all_dim").number());
    r.attention_scale = m * m;
  }
}

void apply_llama3(json_view const& config, json_view const& rope, rotation& r) {
  double const factor = positive(rope.at("factor")), length = original_length(config, rope);
  double const low = positive(rope.at("low_freq_factor")), high = positive(rope.at("high_freq_factor"));
  for (double& f : r.frequencies) {
    double const turns = length * f / (2 * std::numbers::pi);  // over the original length
    double const smooth = (turns - low) / (high - low);
    if (turns < low)
      f /= factor;
    else if (turns <= high)
      f *= (1 - smooth) / factor + smooth;
  }
}

void apply_longrope(json_view const& config, json_view const& rope, rotation& r) {
  double const length = original_length(config, rope);
  double const factor =
      rope.has("factor") ? positive(rope.at("factor")) : positive(config.at("max_position_embeddings")) / length;
  double scale = factor <= 1 ? 1.0 : std::sqrt(1 + std::log(factor) / std::log(length));
  if (rope.has("attention_factor")) scale = positive(rope.at("attention_factor"));
  r.scale = number_or(rope, "short_mscale", scale);
  r.long_scale = number_or(rope, "long_mscale", scale);
  r.long_from = static_cast<std::int64_t>(length);
  r.long_frequencies = r.frequencies;
  auto const divide = [&](std::string const& key, std::vector<double>& frequencies) {
    auto const list = rope.at(key).elements();
    if (list.size() != frequencies.size())
      rope.at(key).refuse("has " + std::to_string(list.size()) + " factors, expected " +
                          std::to_string(frequencies.size()));
    for (std::size_t i = 0; i < list.size(); ++i) frequencies[i] /= positive(list[i]);
  };
  divide("short_factor", r.frequencies);
  divide("long_factor", r.long_frequencies);
}

}  // namespace

rotation read_rotation(json_view const& config, std::int64_t width) {
  std::optional<json_view> rope;
  for (char const* key : {"rope_parameters", "rope_scaling"})
    if (!rope && config.has(key)) rope = config.at(key);
  auto const place = [&](std::string const& key) -> json_view const& { return rope && rope->has(key) ? *rope : config; };

  rotation r;
  r.width = width;
  if (auto const& at = place("partial_rotary_factor"); at.has("partial_rotary_factor"))
    r.width = static_cast<std::int64_t>(static_cast<double>(width) * std::min(2.0, positive(at.at("partial_rotary_factor"))));
  else if (config.has("rotary_dim"))
    r.width = config.at("rotary_dim").integer(2, width);
  if (r.width < 2 || r.width > width || r.width % 2 != 0)
    config.refuse("rotates " + std::to_string(r.width) + " of " + std::to_string(width) +
                  " elements of a head; expected an even number of them");
  auto const& at = place("rope_theta");
  double theta = at.has("rope_theta") ? positive(at.at("rope_theta")) : 10000.0;

  std::string type = "default";
  if (rope)
    for (char const* key : {"type", "rope_type"})
      if (rope->has(key)) type = rope->at(key).string();
  if (type == "dynamic" && rope->has("alpha"))
    theta *= std::pow(positive(rope->at("alpha")), static_cast<double>(r.width) / static_cast<double>(r.width - 2));
  for (std::int64_t i = 0; i < r.width; i += 2)
    r.frequencies.push_back(std::pow(theta, -static_cast<double>(i) / static_cast<double>(r.width)));

  if (type == "yarn")
    apply_yarn(config, *rope, theta, r);
  else if (type == "llama3")
    apply_llama3(config, *rope, r);
  else if (type == "longrope" || type == "su")
    apply_longrope(config, *rope, r);
  else if (type == "linear")
    for (double& f : r.frequencies) f /= positive(rope->at("factor"));
  // "dynamic" changes nothing up to max_position_embeddings, and no longer document is run.
  else if (type != "default" && type != "dynamic")
    rope->at(rope->has("rope_type") ? "rope_type" : "type")
        .refuse("\"" + type + "\" is not built yet; known: default, linear, dynamic, llama3, yarn, longrope");
  for (auto const* values : {&r.frequencies, &r.long_frequencies})
    if (!std::all_of(values->begin(), values->end(), [](double f) { return std::isfinite(f); }))
      (rope ? *rope : config).refuse("gives a rotation by infinite angles");
  if (!std::isfinite(r.scale) || !std::isfinite(r.long_scale) || !std::isfinite(r.attention_scale))
    rope->refuse("gives an infinite scale of the rotation");
  return r;
}

}  // namespace moeroute::capture
