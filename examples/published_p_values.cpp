// SPDX-License-Identifier: Apache-2.0
// The published p-values of logits and what the data support: a grid, a running sum and an interpolation against the
// CDF itself.
#include <moeroute/density/bandwidth.hpp>
#include <moeroute/density/kde.hpp>
#include <moeroute/density/published_cdf.hpp>
#include <moeroute/io/npz.hpp>
#include <moeroute/numeric/random.hpp>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <span>
#include <vector>

int main() {
  moeroute::random_stream random(6, 0);
  std::vector<double> train;
  for (int i = 0; i < 3000; ++i) train.push_back(3 * (random.uniform() + random.uniform() + random.uniform()) - 6);

  auto const model = moeroute::published_cdf_of(train);  // scipy's bandwidth
  std::vector<double> const z{-2, 0, 2, 3.1, 3.4, 4.5};
  auto const published = moeroute::published_p_values(model, z);
  std::vector<moeroute::bf16> narrow;
  for (double const v : z) narrow.push_back(moeroute::to_bf16(static_cast<float>(v)));
  auto const clamped = moeroute::published_clamped_p_values(model, narrow);
  moeroute::kde values;
  values.update(train);
  auto const log_p = values.estimate(moeroute::kernel_kind::gaussian, moeroute::scott_bandwidth(train)).log_survival(z);
  std::printf("    z  published  in bf16   p itself\n");
  for (std::size_t i = 0; i < z.size(); ++i)
    std::printf("%5.1f  %9.5f  %7.5f  %9.2e\n", z[i], published[i], static_cast<double>(to_float(clamped[i])),
                std::exp(log_p[i]));

  // What the pipelines pickle, for numpy.load.
  auto const path = std::filesystem::temp_directory_path() / "moeroute_published_p_values.npz";
  moeroute::npz_writer file(path);
  file.add<double>("x", model.x, {static_cast<moeroute::index_t>(model.x.size())});
  file.add<double>("cdf", model.cdf, {static_cast<moeroute::index_t>(model.cdf.size())});
  file.commit();
  std::printf("%ju bytes written\n", static_cast<std::uintmax_t>(std::filesystem::file_size(path)));
  std::filesystem::remove(path);
}
