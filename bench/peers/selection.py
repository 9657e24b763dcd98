# SPDX-License-Identifier: Apache-2.0
"""The router as it stands in models: torch softmax, topk, division by the sum."""
import numpy as np
import peer
import torch

K = 8


def route(z):
    weights, ids = torch.topk(torch.softmax(z, 1), K)
    return weights / weights.sum(1, keepdim=True), ids


def check(folder):
    for n in peer.SIZES:
        z, weights, ids = (np.load(folder / f"{name}_{n}.npy") for name in ("logits", "selection_weights", "selection_ids"))
        exact, order = route(torch.from_numpy(z).double())
        peer.require(np.allclose(weights, exact.numpy(), rtol=2e-6, atol=0), f"selection of {n}: weights")
        differ = (ids != order.numpy()).any(1)
        tied = np.array([len(set(np.sort(row)[-K - 1:])) <= K for row in z])
        peer.require(not (differ & ~tied).any(), f"selection of {n}: ids")


def tasks():
    for n in peer.SIZES:
        z = torch.from_numpy(peer.logits(n))
        yield peer.Task("softmax, top 8, renormalize", n, "torch softmax, topk, division", len(z), lambda: route(z), threads=True)
