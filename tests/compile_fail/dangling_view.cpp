// SPDX-License-Identifier: Apache-2.0
// A named view of a temporary would outlive what it looks at.
// Words: enable_borrowed_view
#include <moeroute/core/adapt.hpp>

#include <vector>

std::vector<int> make();

int use() {
#if MOEROUTE_BAD
  auto const view = moeroute::as_vector(make());
#else
  auto const ids = make();
  auto const view = moeroute::as_vector(ids);
#endif
  return view[0];
}
