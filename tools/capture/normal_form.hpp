// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_NORMAL_FORM_HPP
#define MOEROUTE_CAPTURE_NORMAL_FORM_HPP

#include <string>
#include <string_view>

namespace moeroute::capture {

/// Normalisation forms of Unicode: canonical or compatibility decomposition, composed again or not.
enum class normal_form { nfc, nfd, nfkc, nfkd };

/// Valid UTF-8 in that form, in time linear in the text but for the sorting of runs of combining marks.
std::string normalized(std::string_view text, normal_form form);

}  // namespace moeroute::capture

#endif
