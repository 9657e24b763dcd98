// SPDX-License-Identifier: Apache-2.0
#ifndef MOEROUTE_CAPTURE_HTTP_HPP
#define MOEROUTE_CAPTURE_HTTP_HPP

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <stdexcept>
#include <string>

namespace moeroute::capture {

/// A download that cannot be done; the text is one line and says what to do.
class download_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The connection failed or broke off; worth another try.
class connection_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Ctrl-C during a download.
class download_interrupted : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct http_request {
  std::string url;
  std::string token = {};  ///< sent as it stands to the host of the url
  std::uint64_t from = 0;  ///< byte to begin at
  bool head = false;       ///< headers only
  long patience = 10;      ///< seconds without an answer or with next to no bytes
};

struct http_response {
  long status = 0;
  std::map<std::string, std::string> headers = {};  ///< names in lower case
  std::string location = {};                        ///< absolute, of a redirection

  std::string header(std::string const& name) const {
    auto const place = headers.find(name);
    return place == headers.end() ? std::string() : place->second;
  }
};

/// Takes a piece of the body; `false` ends the exchange, which is no error then.
using http_body = std::function<bool(http_response const&, std::span<std::byte const>)>;

/// One request and its answer over http or https; redirections are not followed. Certificates are checked.
///
/// Throws connection_error, download_error for what trying again will not mend, download_interrupted, and whatever `body`
/// throws.
http_response http_exchange(http_request const& request, http_body const& body);

/// Whether two absolute addresses have the same scheme, host and port; false if one is none.
bool same_origin(std::string const& a, std::string const& b);

/// Throws download_error unless it is an http or https address without user name and password.
void check_address(std::string const& name, std::string const& url);

}  // namespace moeroute::capture

#endif
