# SPDX-License-Identifier: Apache-2.0
"""numpy: correlations of all layers, and both permutation tests, one permutation after another."""
import numpy as np
import peer

LAYERS, LAGS = 48, 24


def lag_means(matrix):
    return np.array([np.diagonal(matrix, d).mean() for d in range(1, LAGS + 1)])


def layer_order(similarity, permutations, rng):
    out = np.empty((permutations, LAGS))
    for b in range(permutations):
        order = rng.permutation(LAYERS)
        out[b] = lag_means(similarity[np.ix_(order, order)])
    return out


def units(profiles):
    u = profiles - profiles.mean(1, keepdims=True)
    return u / np.linalg.norm(u, axis=1, keepdims=True)


def expert_labels(u, permutations, rng):
    out = np.empty((permutations, LAGS))
    for b in range(permutations):
        shuffled = rng.permuted(u, axis=1)
        out[b] = lag_means(shuffled @ shuffled.T)
    return out


def p_values(observed, null, sd, centre=0.0, two_sided=False):
    """Of each lag alone and of the maximum, as ours: (1 + r) / (n + 1)."""
    t, z = (observed - centre) / sd, (null - centre) / sd
    if two_sided:
        t, z = abs(t), abs(z)
    r = np.stack([(z >= t).sum(0), (z.max(1)[:, None] >= t).sum(0)])
    return (1 + r) / (len(null) + 1)


def agree(ours, observed, p, n, what):
    peer.require(np.allclose(ours[:, 0], observed, rtol=0, atol=1e-12), f"means of {what}")
    # Other draws on each side: five standard errors of the difference.
    slack = 5 * np.sqrt(2 * p * (1 - p) / n) + 2 / n
    peer.require((abs(ours[:, 1:].T - p) <= slack).all(), f"p-values of {what}")


def check(folder):
    rng, n = np.random.default_rng(7), 4999
    for e in (64, 128):
        load = lambda name: np.load(folder / f"{name}_{e}.npy")
        z = load("logits")[:LAYERS].astype(np.float64)
        u = units(z)
        observed = lag_means(np.corrcoef(z))
        sd = 1 / np.sqrt((e - 1) * (LAYERS - np.arange(1, LAGS + 1)))
        agree(load("expert_labels"), observed, p_values(observed, expert_labels(u, n, rng), sd, two_sided=True), n,
              f"the label permutation of {e} experts")
        similarity = load("similarity")
        band = abs(np.subtract.outer(np.arange(LAYERS), np.arange(LAYERS))) <= LAGS
        peer.require(np.allclose(similarity[band], np.corrcoef(z)[band], rtol=0, atol=1e-12), f"correlations of {e} experts")
        null = layer_order(similarity, 4 * n, rng)
        observed = lag_means(similarity)
        centre = similarity[np.triu_indices(LAYERS, 1)].mean()
        agree(load("layer_order"), observed, p_values(observed, null, null.std(0), centre), n, f"the layer permutation of {e}")


def tasks():
    rng = np.random.default_rng(1)
    normal = rng.normal(size=(LAYERS, LAYERS))
    yield peer.Task("layer_order", LAYERS, "numpy loop", 2000, lambda: layer_order(normal + normal.T, 2000, rng))
    for e in (64, 128):
        u = units(rng.normal(size=(LAYERS, e)))
        yield peer.Task("expert_labels", e, "numpy loop", 300, lambda: expert_labels(u, 300, rng))
    profiles = rng.normal(size=(LAYERS, 128))
    yield peer.Task("corrcoef", 128, "numpy.corrcoef", 100, lambda: [np.corrcoef(profiles) for _ in range(100)])
