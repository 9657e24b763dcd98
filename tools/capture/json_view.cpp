// SPDX-License-Identifier: Apache-2.0
#include "json_view.hpp"

#include <moeroute/core/error.hpp>
#include <moeroute/io/file.hpp>

#include <cstddef>
#include <utility>

namespace moeroute::capture {
namespace {

std::string shortened(nlohmann::json const& value) {
  std::string text = value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  return text.size() > 60 ? text.substr(0, 57) + "..." : text;
}

}  // namespace

void json_view::refuse(std::string const& what) const {
  throw format_error(file_, place_.empty() ? "top level" : place_, what);
}

bool json_view::has(std::string const& key) const {
  if (!value_->is_object()) refuse("expected an object, found " + shortened(*value_));
  auto const place = value_->find(key);
  return place != value_->end() && !place->is_null();
}

json_view json_view::at(std::string const& key) const {
  if (!value_->is_object()) refuse("expected an object, found " + shortened(*value_));
  auto const place = value_->find(key);
  if (place == value_->end()) refuse("has no \"" + key + '"');
  return {*place, file_, place_.empty() ? key : place_ + '.' + key};
}

std::vector<json_view> json_view::elements() const {
  if (!value_->is_array()) refuse("expected an array, found " + shortened(*value_));
  std::vector<json_view> out;
  out.reserve(value_->size());
  for (std::size_t i = 0; i < value_->size(); ++i)
    out.emplace_back((*value_)[i], file_, place_ + '[' + std::to_string(i) + ']');
  return out;
}

std::string const& json_view::string() const {
  if (!value_->is_string()) refuse("expected a string, found " + shortened(*value_));
  return value_->get_ref<std::string const&>();
}

bool json_view::boolean() const {
  if (!value_->is_boolean()) refuse("expected true or false, found " + shortened(*value_));
  return value_->get<bool>();
}

double json_view::number() const {
  if (!value_->is_number()) refuse("expected a number, found " + shortened(*value_));
  return value_->get<double>();
}

std::int64_t json_view::integer(std::int64_t low, std::int64_t high) const {
  if (!value_->is_number_integer()) refuse("expected an integer, found " + shortened(*value_));
  if (value_->is_number_unsigned() && !std::in_range<std::int64_t>(value_->get<std::uint64_t>()))
    refuse(shortened(*value_) + " is too large");
  auto const n = value_->get<std::int64_t>();
  if (n < low || n > high)
    refuse("expected an integer from " + std::to_string(low) + " to " + std::to_string(high) + ", found " +
           std::to_string(n));
  return n;
}

nlohmann::json parse_json(std::span<std::byte const> text, std::string const& file, std::uint64_t offset) {
  constexpr int deepest = 64;
  auto const* begin = reinterpret_cast<char const*>(text.data());
  auto const shallow = [&](int depth, nlohmann::json::parse_event_t, nlohmann::json const&) {
    if (depth > deepest) throw format_error(file, offset, "is JSON nested more than " + std::to_string(deepest) + " deep");
    return true;
  };
  try {
    return nlohmann::json::parse(begin, begin + text.size(), shallow);
  } catch (nlohmann::json::parse_error const& e) {
    throw format_error(file, offset + (e.byte == 0 ? 0 : e.byte - 1), "is not valid JSON");
  } catch (nlohmann::json::out_of_range const&) {
    throw format_error(file, offset, "is JSON with a number beyond all bounds");
  }
}

nlohmann::json read_json(std::filesystem::path const& path) {
  mapped_file const file(path);
  return parse_json(file.bytes(), path.string());
}

}  // namespace moeroute::capture
