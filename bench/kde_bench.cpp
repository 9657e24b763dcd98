// SPDX-License-Identifier: Apache-2.0
// Kernel density estimates with everything that a first call needs: boxes of n values, then 10,000 points in order.
// Items are points.
#include <moeroute/density/bandwidth.hpp>
#include <moeroute/density/kde.hpp>
#include <moeroute/io/npy.hpp>

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "support.hpp"

namespace {

using namespace moeroute;

constexpr index_t points = 10'000;

// Three bumps, as a layer's logits have them.
std::vector<double> sample(index_t n) {
  std::vector<double> x;
  index_t i = 0;
  for (float const z : bench_logits(n, 1)) {
    auto const part = i++ % 20;
    x.push_back(part < 14 ? -1 + 0.6 * z : part < 19 ? 0.6 + static_cast<double>(z) : 3 + 0.5 * z);
  }
  return x;
}
std::vector<double> grid() {
  std::vector<double> y;
  for (index_t i = 0; i < points; ++i)
    y.push_back(-5 + 11.0 * static_cast<double>(i) / static_cast<double>(points - 1));
  return y;
}
double bandwidth(std::vector<double> const& x, kernel_kind kernel) {
  return convert_bandwidth(scott_bandwidth(x), kernel_kind::gaussian, kernel);
}

template <class Query>
void estimate(benchmark::State& state, kernel_kind kernel, Query const& query) {
  auto const x = sample(state.range(0)), y = grid();
  double const h = bandwidth(x, kernel);
  kde const values = kde_of(x);
  for (auto _ : state)
    benchmark::DoNotOptimize(query(values.estimate(kernel, h), y, static_cast<int>(state.range(1))).data());
  state.SetItemsProcessed(state.iterations() * points);
}

auto const pdf = [](kernel_density const& d, std::vector<double> const& y, int threads) { return d.pdf(y, threads); };
auto const survival = [](kernel_density const& d, std::vector<double> const& y, int threads) {
  return d.survival(y, threads);
};

void answers(std::filesystem::path const& folder) {
  index_t const n = 20'000;
  auto const x = sample(n), y = grid();
  auto const write = [&](std::string const& name, std::vector<double> const& v) {
    write_npy(folder / ("kde_" + name + ".npy"), std::span<double const>(v), {static_cast<index_t>(v.size())});
  };
  write("x", x);
  write("y", y);
  for (auto const kernel : {kernel_kind::gaussian, kernel_kind::epanechnikov, kernel_kind::exponential}) {
    auto const name = visit_kernel(kernel, [](auto k) { return std::string(k.name); });
    double const h = bandwidth(x, kernel);
    auto const density = kde_of(x).estimate(kernel, h);
    write(name + "_h", {h});
    write(name + "_pdf", density.pdf(y));
    write(name + "_survival", density.survival(y));
  }
}

}  // namespace

int main(int argc, char** argv) {
  using enum kernel_kind;
  for (int const threads : bench_threads()) {
    auto const add = [&](char const* name, kernel_kind kernel, auto const& query) {
      benchmark::RegisterBenchmark(name, [kernel, query](benchmark::State& state) { estimate(state, kernel, query); })
          ->UseRealTime()
          ->ArgsProduct({{10'000, 100'000}, {threads}});
    };
    add("kde_gaussian", gaussian, pdf);
    add("kde_epanechnikov", epanechnikov, pdf);
    add("kde_exponential", exponential, pdf);
    add("kde_survival", gaussian, survival);
  }
  return bench_main(argc, argv, answers);
}
