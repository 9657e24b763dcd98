// SPDX-License-Identifier: Apache-2.0
// Stands in for http_curl.cpp where there is no libcurl.
#include "http.hpp"

namespace moeroute::capture {

http_response http_exchange(http_request const&, http_body const&) {
  throw download_error(
      "this program was built without libcurl and cannot download; use `hf download`, or build it with "
      "libcurl (Debian: libcurl4-openssl-dev)");
}

bool same_origin(std::string const&, std::string const&) { return false; }

void check_address(std::string const&, std::string const&) {}

}  // namespace moeroute::capture
