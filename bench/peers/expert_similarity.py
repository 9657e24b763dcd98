# SPDX-License-Identifier: Apache-2.0
"""Cosines of all pairs of 64 experts of 2^20 weights by matrix products, and one pair after another."""
import numpy as np
import peer
import torch

N, WEIGHTS = 64, 1 << 20


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


def check(folder):
    z = np.load(folder / "logits_64.npy")
    w = torch.from_numpy(z.T.copy())
    exact, ours = by_numpy(z.T.astype(np.float64)), np.load(folder / "gram_float.npy")
    peer.require(np.allclose(ours, exact, rtol=0, atol=1e-7), "cosines")
    peer.require(np.allclose(ours, by_gram(w).numpy(), rtol=0, atol=1e-5), "cosines by torch")
    peer.require(np.allclose(ours, by_row(w).numpy(), rtol=0, atol=1e-5), "cosines by torch, row by row")
    b, ours = w.bfloat16(), np.load(folder / "gram_bf16.npy")
    peer.require(np.allclose(ours, by_numpy(b.double().numpy()), rtol=0, atol=1e-7), "cosines of bf16")
    peer.require(np.allclose(ours, by_gram(b).numpy(), rtol=0, atol=1e-2), "cosines of bf16 by torch")


def tasks():
    x = peer.values(N * WEIGHTS).reshape(N, WEIGHTS)
    w = torch.from_numpy(x)
    b = w.bfloat16()
    yield peer.Task("gram float", N, "torch W W^T", WEIGHTS, lambda: by_gram(w), threads=True)
    yield peer.Task("gram float", N, "numpy W W^T", WEIGHTS, lambda: by_numpy(x), threads=True)
    yield peer.Task("gram float", N, "torch.cosine_similarity, row by row", WEIGHTS, lambda: by_row(w), once=True)
    yield peer.Task("gram bf16", N, "torch W W^T, rounded to bf16", WEIGHTS, lambda: by_gram(b), threads=True)
    yield peer.Task("gram bf16", N, "torch W W^T after a cast to float", WEIGHTS, lambda: by_gram(b.float()), threads=True)
