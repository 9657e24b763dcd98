# SPDX-License-Identifier: Apache-2.0
"""The same pass written in torch: loads per document, mean probability and weight, entropy, margin, mass, z-loss, agreement."""
import numpy as np
import peer
import torch

K, DOCUMENT = 8, 512


def route(z):
    weights, ids = torch.topk(torch.softmax(z, 1), K)
    return weights, ids


def analyze(z, weights, ids, wide=torch.float32):
    n, documents = z.shape[1], len(z) // DOCUMENT
    rows = torch.arange(documents).repeat_interleave(DOCUMENT * K)
    counts = torch.bincount(rows * n + ids.flatten(), minlength=documents * n).reshape(documents, n)
    log_sum = torch.logsumexp(z.to(wide), 1)
    log_p = z.to(wide) - log_sum[:, None]
    p = log_p.exp()
    best, places = torch.topk(p, K + 1)
    differ = (places[:, :K].sort(1).values != ids.sort(1).values).any(1)
    mean = lambda x: x.mean(dtype=torch.float64).item()
    scalars = [mean(-(p * log_p).sum(1)), mean(best[:, 0]), mean(best[:, :K].sum(1)), mean(best[:, K - 1] - best[:, K]),
               mean(log_sum**2), differ.sum().item()]
    weight = torch.zeros(n, dtype=torch.float64).index_add_(0, ids.flatten(), weights.flatten().double()) / len(z)
    return scalars, p.mean(0, dtype=torch.float64), weight, counts.sum(0), counts


def check(folder):
    for n in (64, 256):
        z = torch.from_numpy(np.load(folder / f"logits_{n}.npy")[: 4096])
        for wide, tolerance in ((torch.float64, 1e-6), (torch.float32, 1e-4)):
            answers = analyze(z, *route(z), wide)
            for name, theirs in zip(("scalars", "probability", "weight", "load", "documents"), answers):
                ours = np.load(folder / f"analysis_{name}_{n}.npy").astype(np.float64)
                peer.require(np.allclose(ours, np.asarray(theirs, np.float64), rtol=tolerance, atol=0), f"analysis of {n}: {name}")


def tasks():
    for n in (64, 256):
        z = torch.from_numpy(peer.logits(n))
        weights, ids = route(z)
        yield peer.Task("analysis_pass", n, "torch, statistic by statistic", len(z), lambda: analyze(z, weights, ids), threads=True)
