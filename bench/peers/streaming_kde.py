# SPDX-License-Identifier: Apache-2.0
"""numpy, torch and (where it is installed) KDEpy on the tasks of streaming_kde_bench.cpp."""
import os

import numpy as np
import peer
import torch

try:
    import KDEpy
except ImportError:
    KDEpy = None

AT = -4 + np.arange(64) / 8
H = 0.1


def direct(z):
    """The Gaussian kernel estimate as the sum that it is."""
    x = z.astype(np.float64).ravel()
    return np.array([np.exp(-0.5 * ((y - x) / H) ** 2).sum() for y in AT]) / (len(x) * H * np.sqrt(2 * np.pi))


def check(n, z, load):
    counts = np.histogram(z, bins=1024, range=(-8, 8))[0]
    peer.require(np.array_equal(load("histogram"), counts.astype(np.uint64)), f"histogram of {n}")
    exact = direct(z)
    error = np.abs(load("density") - exact)
    peer.require(np.all(error <= load("density_bound") + 1e-14) and load("density_bound").max() < 1e-3, f"density of {n} within its bounds")
    half = torch.from_numpy(z).to(torch.bfloat16).to(torch.float64).numpy()
    peer.require(np.allclose(load("density_bf16"), direct(half), rtol=1e-12, atol=0), f"density of {n} in bf16")


def tasks(n, z):
    f = torch.from_numpy(z)
    half = f.to(torch.bfloat16)
    every = os.cpu_count() or 1
    flat = z.ravel()
    yield "streaming_kde float", "numpy.histogram", 1, lambda: np.histogram(flat, bins=1024, range=(-8, 8))
    yield "streaming_kde float", "torch.histc", every, lambda: torch.histc(f, 1024, -8, 8)
    # No peer takes bf16: it is widened first.
    yield "streaming_kde bf16", "torch.histc of float", every, lambda: torch.histc(half.float(), 1024, -8, 8)
    if KDEpy is not None:
        wide = flat.astype(np.float64)
        yield "streaming_kde float", "KDEpy FFTKDE", 1, lambda: KDEpy.FFTKDE(bw=H).fit(wide).evaluate(1024)
        yield "streaming_kde bf16", "KDEpy FFTKDE of double", 1, lambda: KDEpy.FFTKDE(bw=H).fit(half.double().numpy().ravel()).evaluate(1024)


peer.run(check, tasks)
