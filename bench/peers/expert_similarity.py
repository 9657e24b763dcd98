# SPDX-License-Identifier: Apache-2.0
"""torch and numpy on the tasks of expert_similarity_bench.cpp: cosines of all pairs of n experts of 2^18 weights."""
import os

import numpy as np
import peer
import torch


def by_gram(w):
    g = (w @ w.T).float()
    length = g.diagonal().sqrt()
    return g / (length[:, None] * length)


def by_numpy(w):
    g = w @ w.T
    length = np.sqrt(g.diagonal())
    return g / np.outer(length, length)


def by_row(w):
    return torch.stack([torch.cosine_similarity(row[None], w) for row in w])


def check(n, z, load):
    w = torch.from_numpy(z.T.copy())
    exact = by_numpy(z.T.astype(np.float64))
    ours = load("gram_float")
    peer.require(np.allclose(ours, exact, rtol=0, atol=1e-7), f"cosines of {n} experts")
    peer.require(np.allclose(ours, by_gram(w).numpy(), rtol=0, atol=1e-5), f"cosines of {n} experts by torch")
    peer.require(np.allclose(ours, by_row(w).numpy(), rtol=0, atol=1e-5), f"cosines of {n} experts by torch, row by row")
    b = w.bfloat16()
    ours = load("gram_bf16")
    peer.require(np.allclose(ours, by_numpy(b.double().numpy()), rtol=0, atol=1e-7), f"cosines of {n} bf16 experts")
    peer.require(np.allclose(ours, by_gram(b).numpy(), rtol=0, atol=1e-2), f"cosines of {n} bf16 experts by torch")


def tasks(n, z):
    x = np.ascontiguousarray(z.T)
    w = torch.from_numpy(x)
    b = w.bfloat16()
    every = os.cpu_count() or 1
    yield "gram float", "torch W W^T", every, lambda: by_gram(w)
    yield "gram float", "numpy W W^T", every, lambda: by_numpy(x)
    if n == 64:
        yield "gram float", "torch.cosine_similarity, row by row", every, lambda: by_row(w)
    yield "gram bf16", "torch W W^T, rounded to bf16", every, lambda: by_gram(b)
    yield "gram bf16", "torch W W^T after a cast to float", every, lambda: by_gram(b.float())


peer.run(check, tasks)
