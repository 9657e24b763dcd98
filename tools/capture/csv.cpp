// SPDX-License-Identifier: Apache-2.0
#include "csv.hpp"

#include <moeroute/core/error.hpp>

namespace moeroute::capture {

bool csv_reader::next() {
  if (!next_line_(text_)) return false;
  ++lines_;
  return true;
}

bool csv_reader::record(std::vector<std::string>& fields) {
  fields.clear();
  do {
    if (!next()) return false;
  } while (text_.empty() || text_ == "\r");
  first_line_ = lines_;
  auto const refuse = [&](std::size_t line, std::string const& what) {
    throw format_error(name_, std::to_string(line), "field " + std::to_string(fields.size() + 1) + " " + what);
  };
  for (std::size_t at = 0;;) {
    std::string field;
    if (at < text_.size() && text_[at] == '"') {
      auto const opened = lines_;
      for (++at;;) {
        auto const quote = text_.find('"', at);
        field.append(text_, at, quote - at);
        if (field.size() > limit_) refuse(opened, "has more than " + std::to_string(limit_) + " bytes");
        if (quote == std::string::npos) {
          if (!next()) refuse(opened, "opens a quote that is never closed");
          field += '\n';
          at = 0;
        } else if (quote + 1 < text_.size() && text_[quote + 1] == '"') {
          field += '"';
          at = quote + 2;
        } else {
          at = quote + 1;
          break;
        }
      }
      bool const last = at == text_.size() || (at + 1 == text_.size() && text_[at] == '\r');
      if (!last && text_[at] != separator_) refuse(lines_, "goes on behind its closing quote; a quote inside is doubled");
      if (last) at = text_.size();
    } else {
      auto end = text_.find(separator_, at);
      if (end == std::string::npos) end = text_.size();
      field = text_.substr(at, end - at);
      if (end == text_.size() && field.ends_with('\r')) field.pop_back();
      if (field.find('"') != std::string::npos) refuse(lines_, "has a quote inside; quote the whole field and double it");
      at = end;
    }
    fields.push_back(std::move(field));
    if (at == text_.size()) return true;
    ++at;
  }
}

}  // namespace moeroute::capture
