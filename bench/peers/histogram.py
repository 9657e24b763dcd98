# SPDX-License-Identifier: Apache-2.0
"""numpy.histogram and torch.histc."""
import numpy as np
import peer
import torch


def check(folder):
    z = np.load(folder / "logits_64.npy")
    counts = np.load(folder / "histogram.npy")
    peer.require(np.array_equal(counts, np.histogram(z, bins=1024, range=(-8, 8))[0]), "histogram of numpy")
    peer.require(np.abs(counts - torch.histc(torch.from_numpy(z), 1024, -8, 8).numpy()).sum() < 1e-3 * z.size, "histogram of torch")


def tasks():
    z = peer.values()
    f = torch.from_numpy(z)
    yield peer.Task("histogram", len(z), "numpy.histogram", len(z), lambda: np.histogram(z, bins=1024, range=(-8, 8)))
    yield peer.Task("histogram", len(z), "torch.histc", len(z), lambda: torch.histc(f, 1024, -8, 8), threads=True)
