# SPDX-License-Identifier: Apache-2.0
"""Gram matrices of one-hot rows: with those at hand, and from ids."""
import numpy as np
import peer
import torch

K, LAYERS = 8, 16


def choices(z):
    return np.argsort(-z, axis=1, kind="stable")[:, :K]


def one_hot(ids, n):
    hot = np.zeros((len(ids), n), np.float32)
    np.put_along_axis(hot, ids, 1, 1)
    return hot


def of_all_layers(ids, n):
    """16 rows of ids are one token, a row for each layer."""
    rows = len(ids) // LAYERS * LAYERS
    at = ids[:rows] + n * (np.arange(rows) % LAYERS)[:, None]
    return at.reshape(-1, LAYERS * K)


def check(folder):
    for n in (64, 256):
        ids = choices(np.load(folder / f"logits_{n}.npy"))
        hot = one_hot(ids, n).astype(np.float64)
        peer.require(np.array_equal(np.load(folder / f"coactivation_{n}.npy"), hot.T @ hot), f"coactivation of {n}: Gram matrix of numpy")
        if n == 64:
            hot = one_hot(of_all_layers(ids, n), LAYERS * n).astype(np.float64)
            gram = (hot.T @ hot).reshape(LAYERS, n, LAYERS, n)
            blocks = [gram[a, :, b] for a in range(LAYERS) for b in range(a, LAYERS)]
            peer.require(np.array_equal(np.load(folder / "coactivation_pairs.npy"), blocks), "coactivation of all pairs of layers")


def tasks():
    # Counts below 2^24 are exact in binary32.
    for n in (64, 256):
        ids = peer.choices(n)
        hot = one_hot(ids, n)
        f = torch.from_numpy(hot)
        yield peer.Task("coactivation", n, "numpy Gram, one-hot ready", len(ids), lambda: hot.T @ hot, threads=True)
        yield peer.Task("coactivation", n, "numpy one-hot and Gram", len(ids), lambda: (lambda h: h.T @ h)(one_hot(ids, n)), threads=True)
        yield peer.Task("coactivation", n, "torch Gram, one-hot ready", len(ids), lambda: f.T @ f, threads=True)
        if n == 64:
            every = of_all_layers(ids, n)
            wide = one_hot(every, LAYERS * n)
            name = "coactivation, all pairs of 16 layers"
            yield peer.Task(name, n, "numpy Gram, one-hot ready", len(wide), lambda: wide.T @ wide, threads=True)
            yield peer.Task(name, n, "numpy one-hot and Gram", len(wide), lambda: (lambda h: h.T @ h)(one_hot(every, LAYERS * n)), threads=True)
