// SPDX-License-Identifier: Apache-2.0
#include <cli/analyze.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

namespace moeroute::cli {

namespace {

template <class... Values>
std::string text(char const* format, Values... values) {
  char buffer[1024];
  std::snprintf(buffer, sizeof buffer, format, values...);
  return buffer;
}

// Labels that are language codes are written out; others are quoted as they are.
std::string display_name(std::string const& label) {
  static std::map<std::string, std::string> const names{
      {"en", "English"},  {"ko", "Korean"}, {"ja", "Japanese"}, {"de", "German"},  {"zh", "Chinese"},   {"fr", "French"},
      {"es", "Spanish"},  {"it", "Italian"}, {"pt", "Portuguese"}, {"ru", "Russian"}, {"th", "Thai"},      {"ar", "Arabic"},
      {"hi", "Hindi"},    {"tr", "Turkish"}, {"vi", "Vietnamese"}, {"pl", "Polish"},  {"nl", "Dutch"},     {"code", "Source code"}};
  auto const it = names.find(label);
  return it == names.end() ? "'" + label + "'" : it->second;
}

std::string p_text(double p) { return p < 1e-4 ? "p < 0.0001" : text("p = %.2g", p); }

std::string percent(double level) { return text("%.0f %%", 100 * level); }

// Korean against English if both are there, else the pair that differs most clearly.
effective_difference const* main_difference(analysis const& a) {
  auto const& labels = a.statistics.table.label_list;
  effective_difference const* best = nullptr;
  for (auto const& d : a.labels.differences) {
    auto const &first = labels[static_cast<std::size_t>(d.a)].name, &second = labels[static_cast<std::size_t>(d.b)].name;
    if (first == "en" && second == "ko") return &d;
    if (std::isnan(d.p_value)) continue;
    if (best == nullptr || d.p_value < best->p_value ||
        (d.p_value == best->p_value && std::abs(d.value.value) > std::abs(best->value.value)))
      best = &d;
  }
  return best;
}

std::string difference_answer(analysis const& a, effective_difference const& d) {
  auto const& labels = a.statistics.table.label_list;
  auto first = display_name(labels[static_cast<std::size_t>(d.a)].name), second = display_name(labels[static_cast<std::size_t>(d.b)].name);
  auto e = d.value;
  auto value_a = a.labels.effective_experts[static_cast<std::size_t>(d.a)].value, value_b = a.labels.effective_experts[static_cast<std::size_t>(d.b)].value;
  // Said of the later label against the earlier one ("Korean ... than English").
  std::swap(first, second);
  std::swap(value_a, value_b);
  e.value = -e.value;
  std::swap(e.lower, e.upper);
  e.lower = -e.lower;
  e.upper = -e.upper;
  bool const clear = d.p_adjusted < 0.05;
  auto const interval = text("%s interval of the difference %+.2f to %+.2f, %s%s", percent(e.level).c_str(), e.lower, e.upper,
                             p_text(d.p_adjusted).c_str(), a.labels.differences.size() > 1 ? " after Holm's correction" : "");
  if (!clear)
    return text("%s and %s do not clearly differ in how many experts they use: effectively %.2f and %.2f per layer (%s).", first.c_str(),
                second.c_str(), value_a, value_b, interval.c_str());
  return text("%s uses %.2f %s experts per layer than %s: effectively %.2f against %.2f (%s).", first.c_str(), std::abs(e.value),
              e.value < 0 ? "fewer" : "more", second.c_str(), value_a, value_b, interval.c_str());
}

}  // namespace

std::vector<std::string> answer(analysis const& a) {
  std::vector<std::string> out;
  if (auto const* d = main_difference(a)) out.push_back(difference_answer(a, *d));

  std::size_t informative = 0, strongest = 0;
  for (std::size_t l = 0; l < a.labels.layers.size(); ++l) {
    auto const& mi = a.labels.layers[l].information;
    informative += mi.nats > mi.null_q95 ? 1 : 0;
    if (mi.corrected_nats > a.labels.layers[strongest].information.corrected_nats) strongest = l;
  }
  if (!a.labels.layers.empty() && !std::isnan(a.labels.layers[0].information.null_q95)) {
    auto const& mi = a.labels.layers[strongest].information;
    out.push_back(text("Routing depends on the label in %zu of %zu layers (mutual information above the 95 %% quantile of document permutations); "
                       "most in layer %td with %.3f nats, %.3f after subtracting what chance gives.",
                       informative, a.labels.layers.size(), a.manifest.layers[strongest].layer, mi.nats, mi.corrected_nats));
    std::size_t cells = 0, found = 0;
    for (auto const& layer : a.labels.layers)
      for (double const p : layer.p_adjusted) {
        cells += std::isnan(p) ? 0 : 1;
        found += p < 0.05 ? 1 : 0;
      }
    out.push_back(text("%zu of %zu (layer, label, expert) cells differ from the other labels at a family-wise error rate of 5 %%.", found, cells));
  }

  std::size_t uneven = 0;
  for (std::size_t l = 0; l < a.layers.size(); ++l)
    if (a.layers[l].balance.max_violation > a.layers[uneven].balance.max_violation) uneven = l;
  auto const& worst = a.layers[uneven];
  std::size_t unseen = 0;
  for (auto const& layer : a.layers) unseen += layer.unseen.experts.size();
  out.push_back(text("Load is least even in layer %td: its busiest expert has %.0f %% more than the mean; uniform routing of as many tokens stays below "
                     "%.1f %% in 95 %% of cases. %s",
                     a.manifest.layers[uneven].layer, 100 * worst.balance.max_violation, 100 * worst.uniform.bound_95.max_violation,
                     unseen == 0 ? "Every expert was chosen in every layer."
                                 : text("%zu experts were never chosen.", unseen).c_str()));

  if (a.lags_load && !a.lags_load->lags.empty()) {
    auto const& lags = a.lags_load->lags;
    auto const best = std::min_element(lags.begin(), lags.end(), [](auto const& x, auto const& y) { return x.p_adjusted < y.p_adjusted; });
    if (best->p_adjusted < 0.05)
      out.push_back(text("Layers %td apart load the same expert numbers alike: mean correlation %.2f over %td pairs, family-wise %s.", best->delta,
                         best->mean, best->pairs, p_text(best->p_adjusted).c_str()));
    else
      out.push_back(text("Nothing shows that equal expert numbers belong together across layers: no lag is significant (smallest family-wise p = %.2g).", best->p_adjusted));
  }
  return out;
}

}  // namespace moeroute::cli
