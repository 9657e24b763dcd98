# SPDX-License-Identifier: Apache-2.0
"""numpy.quantile."""
import numpy as np
import peer

LEVELS = [0.01, 0.25, 0.5, 0.75, 0.99]


def check(folder):
    z = np.load(folder / "logits_256.npy")
    peer.require(np.allclose(np.load(folder / "quantiles.npy"), np.quantile(z, LEVELS), rtol=1e-6, atol=0), "quantiles of numpy")


def tasks():
    z = peer.values()
    yield peer.Task("quantiles", len(z), "numpy.quantile", len(z), lambda: np.quantile(z, LEVELS))
