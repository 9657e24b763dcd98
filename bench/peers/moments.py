# SPDX-License-Identifier: Apache-2.0
"""Mean and variance of numpy and torch; skewness and kurtosis of scipy."""
import numpy as np
import peer
import scipy.stats
import torch


def check(folder):
    x = np.load(folder / "logits_64.npy").astype(np.float64).ravel()
    exact = [x.mean(), x.var(ddof=1), scipy.stats.skew(x), scipy.stats.kurtosis(x)]
    peer.require(np.allclose(np.load(folder / "moments.npy"), exact, rtol=1e-10, atol=1e-13), "moments")


def tasks():
    z = peer.values()
    f, wide = torch.from_numpy(z), z.astype(np.float64)
    yield peer.Task("moments", len(z), "numpy mean and var", len(z), lambda: (z.mean(), z.var()))
    yield peer.Task("moments", len(z), "torch.var_mean", len(z), lambda: torch.var_mean(f), threads=True)
    yield peer.Task("moments", len(z), "scipy skew and kurtosis", len(z), lambda: (scipy.stats.skew(wide), scipy.stats.kurtosis(wide)))
