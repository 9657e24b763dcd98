# SPDX-License-Identifier: Apache-2.0
"""torch and numpy."""
import numpy as np
import peer
import torch


def numpy_softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def check(folder):
    for n in peer.SIZES:
        z, softmax, mean, log_sum = (np.load(folder / f"{name}_{n}.npy") for name in ("logits", "softmax", "softmax_mean", "log_sum_exp"))
        exact = numpy_softmax(z.astype(np.float64))
        f = torch.from_numpy(z)
        peer.require(np.allclose(softmax, exact, rtol=2e-6, atol=0), f"softmax of {n}")
        peer.require(np.allclose(softmax, torch.softmax(f, 1).numpy(), rtol=4e-6, atol=0), f"softmax of {n} by torch")
        peer.require(np.allclose(mean, exact.mean(axis=0), rtol=1e-8, atol=0), f"mean softmax of {n}")
        peer.require(np.allclose(log_sum, torch.logsumexp(f, 1).numpy(), rtol=1e-6, atol=0), f"log-sum-exp of {n} by torch")


def tasks():
    for n in peer.SIZES:
        z = peer.logits(n)
        f = torch.from_numpy(z)
        if n != 128:
            yield peer.Task("softmax", n, "torch.softmax", len(z), lambda: torch.softmax(f, 1), threads=True)
            yield peer.Task("softmax", n, "numpy", len(z), lambda: numpy_softmax(z))
            yield peer.Task("softmax_mean", n, "torch softmax, then mean", len(z),
                            lambda: torch.softmax(f, 1).mean(0, dtype=torch.float64), threads=True)
        yield peer.Task("log_sum_exp", n, "torch.logsumexp", len(z), lambda: torch.logsumexp(f, 1), threads=True)
