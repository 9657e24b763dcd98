# SPDX-License-Identifier: Apache-2.0
"""torch.topk and numpy's argpartition."""
import numpy as np
import peer
import torch

K = 8


def numpy_top_k(z):
    some = np.argpartition(z, -K, axis=1)[:, -K:]
    values = np.take_along_axis(z, some, axis=1)
    order = np.argsort(-values, axis=1)
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(some, order, axis=1)


def check(folder):
    for n in peer.SIZES:
        z, ours, ids = (np.load(folder / f"{name}_{n}.npy") for name in ("logits", "top_8_values", "top_8_ids"))
        values, torch_ids = torch.topk(torch.from_numpy(z), K)
        by_numpy, _ = numpy_top_k(z)
        peer.require(np.array_equal(ours, values.numpy()), f"top-{K} of {n}: values of torch")
        peer.require(np.array_equal(ours, by_numpy), f"top-{K} of {n}: values of numpy")
        # Ids may differ only among equal scores, where torch does not say which it takes and we take the lowest.
        stable = np.argsort(-z, axis=1, kind="stable")[:, :K]
        peer.require(np.array_equal(ids, stable), f"top-{K} of {n}: ids of a stable sort")
        differ = (ids != torch_ids.numpy()).any(axis=1)
        tied = np.array([len(set(np.sort(row)[-K - 1:])) <= K for row in z])
        peer.require(not (differ & ~tied).any(), f"top-{K} of {n}: ids of torch")


def tasks():
    for n in peer.SIZES:
        z = peer.logits(n)
        f = torch.from_numpy(z)
        yield peer.Task("top_8 float", n, "torch.topk", len(z), lambda: torch.topk(f, K), threads=True)
        yield peer.Task("top_8 float", n, "numpy argpartition and sort", len(z), lambda: numpy_top_k(z))
        if n != 128:
            b = f.to(torch.bfloat16)
            yield peer.Task("top_8 bf16", n, "torch.topk", len(z), lambda: torch.topk(b, K), threads=True)
