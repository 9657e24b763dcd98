# SPDX-License-Identifier: Apache-2.0
"""Binned estimates of KDEpy and statsmodels, from values to a density on a grid. No peer takes bf16: it is widened first."""
import numpy as np
import peer
import torch

statsmodels = peer.optional("statsmodels.nonparametric.kde")
KDEpy = peer.optional("KDEpy")

AT = -4 + np.arange(64) / 8
H = 0.1


def direct(z):
    """The Gaussian kernel estimate as the sum that it is."""
    x = z.astype(np.float64).ravel()
    return np.array([np.exp(-0.5 * ((y - x) / H) ** 2).sum() for y in AT]) / (len(x) * H * np.sqrt(2 * np.pi))


def by_fft(x):
    return KDEpy.FFTKDE(bw=H).fit(x).evaluate(1024)


def by_statsmodels(x):
    density = statsmodels.KDEUnivariate(x)
    density.fit(bw=H, gridsize=4096)
    return density.support, density.density


def check(folder):
    z = np.load(folder / "logits_64.npy")
    exact, ours, bound = direct(z), np.load(folder / "density.npy"), np.load(folder / "density_bound.npy")
    peer.require(np.all(np.abs(ours - exact) <= bound + 1e-14) and bound.max() < 1e-3, "density within its bounds")
    half = torch.from_numpy(z).to(torch.bfloat16).double().numpy()
    peer.require(np.allclose(np.load(folder / "density_bf16.npy"), direct(half), rtol=1e-12, atol=0), "density of bf16")
    wide = z.astype(np.float64).ravel()
    for name, function in (("KDEpy", by_fft if KDEpy else None), ("statsmodels", by_statsmodels if statsmodels else None)):
        if function:
            peer.require(np.allclose(np.interp(AT, *function(wide)), exact, rtol=0, atol=1e-3), f"density by {name}")


def tasks():
    z = peer.values()
    wide, half = z.astype(np.float64), torch.from_numpy(z).to(torch.bfloat16)
    if KDEpy:
        yield peer.Task("streaming_kde float", len(z), "KDEpy FFTKDE", len(z), lambda: by_fft(wide))
        yield peer.Task("streaming_kde bf16", len(z), "KDEpy FFTKDE of double", len(z), lambda: by_fft(half.double().numpy()))
    if statsmodels:
        yield peer.Task("streaming_kde float", len(z), "statsmodels KDEUnivariate, fft", len(z), lambda: by_statsmodels(wide), once=True)
