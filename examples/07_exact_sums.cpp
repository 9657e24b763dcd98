// SPDX-License-Identifier: Apache-2.0
// The mean of a million probabilities, added forwards, backwards and in two halves: doubles disagree, exact sums do
// not.
#include <moeroute/numeric/exact_sum.hpp>
#include <moeroute/numeric/random.hpp>

#include <cstdio>
#include <vector>

int main() {
  moeroute::random_stream random(5, 0);
  std::vector<double> p(1000000);
  for (double& x : p) x = random.uniform();

  double forwards = 0, backwards = 0;
  moeroute::exact_sum one, two, halves, second_half;
  for (std::size_t i = 0; i < p.size(); ++i) {
    forwards += p[i];
    one.add(p[i]);
    backwards += p[p.size() - 1 - i];
    two.add(p[p.size() - 1 - i]);
    (i < p.size() / 2 ? halves : second_half).add(p[i]);
  }
  halves.merge(second_half);
  std::printf("doubles:    %s\n", forwards == backwards ? "equal" : "different");
  std::printf("exact sums: %s\n", one == two && one == halves ? "equal" : "different");
  std::printf("mean %.9f of %llu values\n", one.sum() / static_cast<double>(one.count()),
              static_cast<unsigned long long>(one.count()));
}
