// SPDX-License-Identifier: Apache-2.0
// Kernel density estimates with everything that a first call needs: n values taken in, boxes, then points in order,
// 10,000 of them, or the 16,384 of the table that statsmodels makes. Items are points.
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

constexpr index_t points = 10'000, table_points = 16'384;

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
std::vector<double> grid(index_t m) {
  std::vector<double> y;
  for (index_t i = 0; i < m; ++i) y.push_back(-5 + 11.0 * static_cast<double>(i) / static_cast<double>(m - 1));
  return y;
}
double bandwidth(std::vector<double> const& x, kernel_kind kernel) {
  return convert_bandwidth(scott_bandwidth(x), kernel_kind::gaussian, kernel);
}
std::string name_of(kernel_kind kernel) {
  return visit_kernel(kernel, [](auto k) { return std::string(k.name); });
}

template <class Query>
void estimate(benchmark::State& state, kernel_kind kernel, index_t m, Query const& query) {
  auto const x = sample(state.range(0)), y = grid(m);
  double const h = bandwidth(x, kernel);
  for (auto _ : state)
    benchmark::DoNotOptimize(query(kde_of(x).estimate(kernel, h), y, static_cast<int>(state.range(1))).data());
  state.SetItemsProcessed(state.iterations() * m);
}

auto const pdf = [](kernel_density const& d, std::vector<double> const& y, int threads) { return d.pdf(y, threads); };
auto const cdf = [](kernel_density const& d, std::vector<double> const& y, int threads) { return d.cdf(y, threads); };
auto const survival = [](kernel_density const& d, std::vector<double> const& y, int threads) {
  return d.survival(y, threads);
};

void answers(std::filesystem::path const& folder) {
  auto const x = sample(20'000), y = grid(points);
  auto const write = [&](std::string const& name, std::vector<double> const& v) {
    write_npy(folder / ("kde_" + name + ".npy"), std::span<double const>(v), {static_cast<index_t>(v.size())});
  };
  write("x", x);
  write("y", y);
  using enum kernel_kind;
  for (auto const kernel :
       {gaussian, exponential, epanechnikov, tophat, triangular, biweight, triweight, cosine}) {
    double const h = bandwidth(x, kernel);
    auto const density = kde_of(x).estimate(kernel, h);
    write(name_of(kernel) + "_h", {h});
    write(name_of(kernel) + "_pdf", density.pdf(y));
    if (kernel != gaussian) continue;
    write("gaussian_cdf", density.cdf(y));
    write("gaussian_survival", density.survival(y));
  }
}

}  // namespace

int main(int argc, char** argv) {
  using enum kernel_kind;
  for (int const threads : bench_threads()) {
    auto const add = [&](std::string const& name, kernel_kind kernel, index_t m, auto const& query,
                         std::vector<index_t> const& sizes) {
      benchmark::RegisterBenchmark(
          name.c_str(), [kernel, m, query](benchmark::State& state) { estimate(state, kernel, m, query); })
          ->UseRealTime()
          ->ArgsProduct({std::vector<std::int64_t>(sizes.begin(), sizes.end()), {threads}});
    };
    add("kde_gaussian", gaussian, points, pdf, {10'000, 100'000});
    add("kde_exponential", exponential, points, pdf, {100'000});
    for (auto const kernel : {epanechnikov, tophat, triangular, biweight, triweight, cosine})
      add("kde_" + name_of(kernel), kernel, points, pdf, {100'000});
    add("kde_survival", gaussian, points, survival, {10'000, 100'000});
    add("kde_cdf_table", gaussian, table_points, cdf, {10'000});
  }
  return bench_main(argc, argv, answers);
}
