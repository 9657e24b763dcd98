// SPDX-License-Identifier: Apache-2.0
// Cosines of all pairs of n experts: dot products of rows of 2^18 weights. Time is per column of weights.
#include <moeroute/io/npy.hpp>
#include <moeroute/weights/expert_similarity.hpp>

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "support.hpp"

namespace {

using namespace moeroute;

template <class T>
std::vector<T> converted(std::vector<float> const& x) {
  std::vector<T> out;
  out.reserve(x.size());
  for (float const v : x)
    if constexpr (std::is_same_v<T, bf16>)
      out.push_back(to_bf16(v));
    else
      out.push_back(v);
  return out;
}

template <class T>
void gram(benchmark::State& state) {
  index_t const n = state.range(0);
  auto const w = converted<T>(bench_logits(n, bench_rows));
  matrix_view<T> const experts(w.data(), n, bench_rows);
  for (auto _ : state) {
    expert_gram g({.layers = 1, .experts = n});
    g.update(experts, static_cast<int>(state.range(1)));
    auto const cosines = expert_cosines(g.result());
    benchmark::DoNotOptimize(cosines(0, 0, 1));
  }
  finish(state, bench_rows, static_cast<index_t>(sizeof(T)) * bench_rows * n);
}

template <class T>
void answer(std::filesystem::path const& folder, std::string const& name) {
  for (index_t const n : {64, 128, 256}) {
    auto const z = read_npy<float>(folder / ("logits_" + std::to_string(n) + ".npy"));
    auto const w = converted<T>(z.values);
    expert_gram g({.layers = 1, .experts = n});
    g.update(matrix_view<T>(w.data(), n, z.shape.at(0), 1, n));  // experts in columns there
    auto const cosines = expert_cosines(g.result());
    write_npy(folder / (name + "_" + std::to_string(n) + ".npy"),
              std::span<double const>(cosines.data(), cosines.size()), {n, n});
  }
}

}  // namespace

int main(int argc, char** argv) {
  for (int const threads : bench_threads()) {
    benchmark::RegisterBenchmark("gram float", gram<float>)->UseRealTime()->ArgsProduct({{64, 128, 256}, {threads}});
    benchmark::RegisterBenchmark("gram bf16", gram<bf16>)->UseRealTime()->ArgsProduct({{64, 128, 256}, {threads}});
  }
  return bench_main(argc, argv, [](std::filesystem::path const& folder) {
    answer<float>(folder, "gram_float");
    answer<bf16>(folder, "gram_bf16");
  });
}
