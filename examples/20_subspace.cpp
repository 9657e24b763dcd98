// SPDX-License-Identifier: Apache-2.0
// Two routers of 16 experts in 128 dimensions. They share four directions, which a few of the angles between them show;
// a third router shares nothing, and its mean cosine is far from 0 all the same.
#include <moeroute/numeric/random.hpp>
#include <moeroute/weights/subspace.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <numbers>
#include <vector>

namespace {

moeroute::index_t const experts = 16, width = 128, shared = 4;

// Rows of noise; of `common` [shared, width] each row takes random amounts.
std::vector<float> router(std::uint64_t seed, std::vector<float> const& common) {
  moeroute::random_stream random(seed, 0);
  std::vector<float> w;
  for (moeroute::index_t e = 0; e < experts; ++e) {
    std::vector<double> row;
    for (moeroute::index_t i = 0; i < width; ++i) row.push_back(2 * random.uniform() - 1);
    for (std::size_t c = 0; c < common.size() / width; ++c) {
      double const amount = 4 * random.uniform() - 2;
      for (std::size_t i = 0; i < row.size(); ++i) row[i] += amount * static_cast<double>(common[c * row.size() + i]);
    }
    w.insert(w.end(), row.begin(), row.end());
  }
  return w;
}

}  // namespace

int main() {
  auto common = router(1, {});
  common.resize(shared * width);
  auto const a = router(2, common), b = router(3, common), stranger = router(4, {});
  auto const view = [](std::vector<float> const& w) { return moeroute::matrix_view<float>(w.data(), experts, width); };

  auto const s = moeroute::singular_spectrum(view(a));
  std::printf("singular values explain %.2f %.2f %.2f %.2f %.2f ... of the whole\n", s.explained[0], s.explained[1],
              s.explained[2], s.explained[3], s.explained[4]);
  std::printf("rank %td, effective rank %.1f, participation ratio %.1f\n", s.rank, s.effective_rank,
              s.participation_ratio);
  for (auto const* other : {&b, &stranger}) {
    auto const r = moeroute::principal_angles(moeroute::subspace(view(a)), moeroute::subspace(view(*other)));
    std::printf("angles in degrees:");
    for (std::size_t i = 0; i < 6; ++i) std::printf(" %.0f", r.angles[i] * 180 / std::numbers::pi);
    std::printf(" ... %.0f\noverlap %.3f, by chance %.3f +- %.3f; mean cosine %.2f\n",
                r.angles.back() * 180 / std::numbers::pi, r.overlap, r.chance, r.chance_sd, r.mean_cosine);
  }
}
