# SPDX-License-Identifier: Apache-2.0
"""One-hot Gram matrices on the tasks of coactivation_bench.cpp: with the one-hot matrix at hand, and from ids."""
import os

import numpy as np
import peer
import torch

K = 8


def choices(z):
    return np.argsort(-z, axis=1, kind="stable")[:, :K]


def one_hot(ids, n):
    hot = np.zeros((len(ids), n), np.float32)
    np.put_along_axis(hot, ids, 1, 1)
    return hot


def check(n, z, load):
    hot = one_hot(choices(z), n).astype(np.float64)
    peer.require(np.array_equal(load("coactivation"), (hot.T @ hot).astype(np.int64)), f"coactivation of {n}: Gram matrix of numpy")


def tasks(n, z):
    ids = choices(z)
    hot = one_hot(ids, n)
    f = torch.from_numpy(hot)
    every = os.cpu_count() or 1
    # Counts below 2^24 are exact in binary32.
    yield "coactivation", "numpy Gram, one-hot ready", every, lambda: hot.T @ hot
    yield "coactivation", "numpy one-hot and Gram", every, lambda: (lambda h: h.T @ h)(one_hot(ids, n))
    yield "coactivation", "torch Gram, one-hot ready", every, lambda: f.T @ f


peer.run(check, tasks)
