// SPDX-License-Identifier: Apache-2.0
// Cosines of all pairs of n experts: dot products of rows of 2^20 weights. Items are columns of
// weights.
#include <moeroute/io/npy.hpp>
#include <moeroute/weights/expert_similarity.hpp>

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "support.hpp"

namespace {

using namespace moeroute;
constexpr index_t weights = index_t{1} << 20, n = 64;

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
  static auto const w = converted<T>(bench_logits(n, weights));
  matrix_view<T> const experts(w.data(), n, weights);
  for (auto _ : state) {
    expert_gram g({.layers = 1, .experts = n});
    g.update(experts, static_cast<int>(state.range(1)));
    auto const cosines = expert_cosines(g.result());
    benchmark::DoNotOptimize(cosines(0, 0, 1));
  }
  finish(state, weights, static_cast<index_t>(sizeof(T)) * weights * n);
}

template <class T>
void answer(std::filesystem::path const& folder, std::string const& name) {
  auto const z = read_npy<float>(folder / "logits_64.npy");
  auto const w = converted<T>(z.values);
  expert_gram g({.layers = 1, .experts = n});
  g.update(matrix_view<T>(w.data(), n, z.shape.at(0), 1, n));  // experts in columns there
  auto const cosines = expert_cosines(g.result());
  write_npy(folder / (name + ".npy"), std::span<double const>(cosines.data(), cosines.size()), {n, n});
}

}  // namespace

int main(int argc, char** argv) {
  for (int const threads : bench_threads()) {
    benchmark::RegisterBenchmark("gram float", gram<float>)->UseRealTime()->Args({n, threads});
    benchmark::RegisterBenchmark("gram bf16", gram<bf16>)->UseRealTime()->Args({n, threads});
  }
  return bench_main(argc, argv, [](std::filesystem::path const& folder) {
    answer<float>(folder, "gram_float");
    answer<bf16>(folder, "gram_bf16");
  });
}
