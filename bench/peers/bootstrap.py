# SPDX-License-Identifier: Apache-2.0
"""numpy: a Poisson weight for each document and replicate, then a matrix product."""
import numpy as np
import peer

REPLICATES, EXPERTS = 1000, 64


def totals(sums, rng):
    out = np.empty((REPLICATES, sums.shape[1]))
    for first in range(0, REPLICATES, 100):  # weights of 100 replicates stay in cache
        out[first:first + 100] = rng.poisson(1.0, (100, len(sums))) @ sums
    return out


def check(folder):
    sums, ours = np.load(folder / "bootstrap_sums.npy"), np.load(folder / "bootstrap_totals.npy")
    theirs = totals(sums, np.random.default_rng(1))
    # Other draws on each side: both have the mean of the sums and the sum of their squares as variance.
    sd = np.sqrt((sums**2).sum(0))
    for name, x in (("ours", ours), ("numpy", theirs)):
        peer.require((abs(x.mean(0) - sums.sum(0)) < 5 * sd / np.sqrt(REPLICATES)).all(), f"bootstrap of {name}: mean")
        peer.require((abs(x.std(0) / sd - 1) < 5 / np.sqrt(2 * REPLICATES)).all(), f"bootstrap of {name}: sd")


def tasks():
    rng = np.random.default_rng(1)
    sums = np.floor(16 * rng.standard_normal((10_000, EXPERTS))) + 128
    yield peer.Task("bootstrap", len(sums), "numpy poisson and product", REPLICATES, lambda: totals(sums, rng), threads=True)
