// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <curl/curl.h>
#include <exception>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "http.hpp"
#include "session.hpp"

namespace moeroute::capture {
namespace {

struct exchange {
  CURL* handle;
  http_body const* body;
  http_response response = {};
  std::exception_ptr thrown = {};  // what `body` threw: no exception may cross libcurl's frames
  bool ended = false;              // by `body`
};

std::string_view trimmed(std::string_view text) {
  auto const is_space = [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; };
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

extern "C" std::size_t take_header(char const* data, std::size_t, std::size_t size, void* into) {
  auto& x = *static_cast<exchange*>(into);
  std::string_view const line(data, size);
  if (line.starts_with("HTTP/")) {  // also after "100 Continue" and a proxy's answer
    x.response.headers.clear();
  } else if (auto const colon = line.find(':'); colon != std::string_view::npos) {
    std::string name(line.substr(0, colon));
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    x.response.headers[name] = trimmed(line.substr(colon + 1));
  }
  return size;
}

extern "C" std::size_t take_body(char const* data, std::size_t, std::size_t size, void* into) {
  auto& x = *static_cast<exchange*>(into);
  curl_easy_getinfo(x.handle, CURLINFO_RESPONSE_CODE, &x.response.status);
  try {
    x.ended = !(*x.body)(x.response, std::as_bytes(std::span<char const>(data, size)));
  } catch (...) {
    x.thrown = std::current_exception();
  }
  return x.ended || x.thrown ? 0 : size;
}

extern "C" int stop_when_interrupted(void*, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  return interrupted ? 1 : 0;
}

std::optional<std::string> part(CURLU* address, CURLUPart what, unsigned flags = 0) {
  char* text = nullptr;
  if (curl_url_get(address, what, &text, flags) != CURLUE_OK) return std::nullopt;
  std::string out(text);
  curl_free(text);
  return out;
}

using address_handle = std::unique_ptr<CURLU, decltype(&curl_url_cleanup)>;

/// Where trusted certificates stand if not where libcurl was built to look. It reads none of these itself, as its command
/// line and the clients of Python do.
char const* trusted_certificates() {
  for (char const* name : {"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"})
    if (char const* file = std::getenv(name); file != nullptr && *file != '\0') return file;
  return nullptr;
}

address_handle parsed(std::string const& url) {
  address_handle address(curl_url(), &curl_url_cleanup);
  if (curl_url_set(address.get(), CURLUPART_URL, url.c_str(), 0) != CURLUE_OK) address.reset();
  return address;
}

}  // namespace

http_response http_exchange(http_request const& request, http_body const& body) {
  static CURLcode const ready = curl_global_init(CURL_GLOBAL_DEFAULT);
  std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> const handle(curl_easy_init(), &curl_easy_cleanup);
  if (ready != CURLE_OK || !handle) throw download_error("libcurl cannot be started");
  exchange x{handle.get(), &body};
  auto const set = [&](CURLoption option, auto value) {
    if (curl_easy_setopt(x.handle, option, value) != CURLE_OK)
      throw download_error("this libcurl is too old for downloads");
  };
  set(CURLOPT_URL, request.url.c_str());
  set(CURLOPT_USERAGENT, "moeroute-capture");
  set(CURLOPT_FOLLOWLOCATION, 0L);
#if LIBCURL_VERSION_NUM >= 0x075500
  set(CURLOPT_PROTOCOLS_STR, "http,https");
#else
  set(CURLOPT_PROTOCOLS, static_cast<long>(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
  if (auto const* file = trusted_certificates()) set(CURLOPT_CAINFO, file);
  std::array<char, CURL_ERROR_SIZE> details{};
  set(CURLOPT_ERRORBUFFER, details.data());
  set(CURLOPT_CONNECTTIMEOUT, request.patience);
  set(CURLOPT_LOW_SPEED_LIMIT, 1000L);
  set(CURLOPT_LOW_SPEED_TIME, request.patience);
  set(CURLOPT_BUFFERSIZE, 256L * 1024);
  set(CURLOPT_NOPROGRESS, 0L);
  set(CURLOPT_XFERINFOFUNCTION, &stop_when_interrupted);
  set(CURLOPT_HEADERFUNCTION, &take_header);
  set(CURLOPT_HEADERDATA, &x);
  set(CURLOPT_WRITEFUNCTION, &take_body);
  set(CURLOPT_WRITEDATA, &x);
  if (request.head) set(CURLOPT_NOBODY, 1L);
  // CURLOPT_RESUME_FROM would not let us see an answer with the whole file.
  auto const range = std::to_string(request.from) + '-';
  if (request.from > 0) set(CURLOPT_RANGE, range.c_str());
  std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)> headers(nullptr, &curl_slist_free_all);
  if (!request.token.empty()) {
    headers.reset(curl_slist_append(nullptr, ("Authorization: Bearer " + request.token).c_str()));
    set(CURLOPT_HTTPHEADER, headers.get());
  }

  auto const result = curl_easy_perform(x.handle);
  if (x.thrown) std::rethrow_exception(x.thrown);
  curl_easy_getinfo(x.handle, CURLINFO_RESPONSE_CODE, &x.response.status);
  char const* location = nullptr;
  curl_easy_getinfo(x.handle, CURLINFO_REDIRECT_URL, &location);
  if (location != nullptr) x.response.location = location;
  if (result == CURLE_OK || x.ended) return std::move(x.response);
  if (interrupted) throw download_interrupted("interrupted");
  std::string const reason = curl_easy_strerror(result);
  switch (result) {
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
      throw download_error(std::string(details.data()) + "; SSL_CERT_FILE names a file of the certificates to trust");
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_URL_MALFORMAT:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_OUT_OF_MEMORY:
      throw download_error(reason);
    default:
      throw connection_error(reason);
  }
}

bool same_origin(std::string const& a, std::string const& b) {
  auto const first = parsed(a), second = parsed(b);
  if (!first || !second) return false;
  for (auto const what : {CURLUPART_SCHEME, CURLUPART_HOST, CURLUPART_PORT}) {
    auto const x = part(first.get(), what, CURLU_DEFAULT_PORT), y = part(second.get(), what, CURLU_DEFAULT_PORT);
    if (!x || !y || curl_strequal(x->c_str(), y->c_str()) == 0) return false;
  }
  return true;
}

void check_address(std::string const& name, std::string const& url) {
  auto const address = parsed(url);
  auto const scheme = address ? part(address.get(), CURLUPART_SCHEME) : std::nullopt;
  if (!scheme || (*scheme != "http" && *scheme != "https"))
    throw download_error(name + ": is not an http or https address");
  if (part(address.get(), CURLUPART_USER) || part(address.get(), CURLUPART_PASSWORD))
    throw download_error(name + ": holds a user name or password; use HF_TOKEN");
}

}  // namespace moeroute::capture
