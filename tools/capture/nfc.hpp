// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_NFC_HPP
#define MOEROUTE_CAPTURE_NFC_HPP

#include <string>
#include <string_view>

namespace moeroute::capture {

/// Unicode normalisation form C of valid UTF-8, in time linear in the text but for the sorting of runs of combining
/// marks.
std::string nfc(std::string_view text);

}  // namespace moeroute::capture

#endif
