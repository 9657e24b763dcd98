# SPDX-License-Identifier: Apache-2.0
"""Counts of ids by numpy and torch, which both want 64-bit integers."""
import numpy as np
import peer
import torch

K = 8


def choices(z):
    return np.argsort(-z, axis=1, kind="stable")[:, :K]


def check(folder):
    for n in (64, 256):
        ids = choices(np.load(folder / f"logits_{n}.npy"))
        peer.require(np.array_equal(np.load(folder / f"load_{n}.npy"), np.bincount(ids.ravel(), minlength=n)), f"load of {n}")


def tasks():
    for n in (64, 256):
        ids = peer.choices(n).ravel()
        f, short = torch.from_numpy(ids), ids.astype(np.uint8)
        for kind in ("uint8", "int16"):
            yield peer.Task(f"load {kind}", n, "numpy.bincount of int64", len(ids), lambda: np.bincount(ids, minlength=n))
            yield peer.Task(f"load {kind}", n, "torch.bincount of int64", len(ids), lambda: torch.bincount(f, minlength=n), threads=True)
        yield peer.Task("load uint8", n, "numpy.bincount of uint8", len(ids), lambda: np.bincount(short, minlength=n))
