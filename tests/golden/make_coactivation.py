# SPDX-License-Identifier: Apache-2.0
"""Golden values for numeric/conditional_bernoulli and routing/coactivation: writes tests/golden/coactivation.json.

The conditional Bernoulli law is summed over all sets by brute force; its odds are found by maximum likelihood with scipy, in a way that has
nothing in common with the library's. Coactivation is a Gram matrix of one-hot rows, phi numpy's corrcoef of them."""
import itertools
import json
import pathlib

import numpy as np
import scipy
import scipy.optimize

rng = np.random.default_rng(20250611)


def joint(counts, sets_of_size):
    n = len(counts)
    counts = np.asarray(counts, float)
    sizes = [s for s, c in enumerate(sets_of_size) if s > 0 and c > 0]
    members = {s: np.array([[e in c for e in range(n)] for c in itertools.combinations(range(n), s)], float) for s in sizes}
    total = sum(sets_of_size[1:])
    free = (counts > 0) & (counts < total)

    def law(x):
        theta = np.where(counts == 0, -60.0, np.where(counts == total, 60.0, 0.0))  # e^-60 is nothing beside the others
        theta[free] = x
        out = {}
        for s in sizes:
            w = members[s] @ theta
            top = w.max()
            p = np.exp(w - top)
            out[s] = p / p.sum(), top + np.log(p.sum())
        return theta, out

    def loss(x):
        theta, out = law(x)
        value = -(counts[free] @ theta[free] + counts[counts == total].sum() * 60 - counts[counts == 0].sum() * 60
                  - sum(sets_of_size[s] * out[s][1] for s in sizes)) / total
        gradient = -(counts - sum(sets_of_size[s] * (out[s][0] @ members[s]) for s in sizes))[free] / total
        return value, gradient

    x = np.zeros(free.sum())
    if free.any():
        x = scipy.optimize.minimize(loss, x, jac=True, method="L-BFGS-B", options={"maxiter": 10000, "ftol": 0, "gtol": 1e-12}).x
        x = scipy.optimize.root(lambda x: loss(x + 0)[1], x, method="lm", options={"xtol": 1e-15, "ftol": 1e-15}).x
    _, out = law(x)
    return sum(sets_of_size[s] * (members[s].T * out[s][0]) @ members[s] for s in sizes)


def sets(tokens, experts, sizes, odds):
    rows = []
    for _ in range(tokens):
        keys = np.log(odds) + rng.gumbel(size=experts)
        rows.append(np.argsort(-keys)[: rng.choice(sizes)].tolist())
    return rows


expected = []
for experts, sizes, skew in ((4, [2], 0.5), (6, [3], 2.0), (8, [2], 1.0), (7, [1, 2, 4], 1.0), (5, [4], 1.0), (6, [2], 9.0), (2, [1], 1.0)):
    odds = np.exp(skew * rng.standard_normal(experts))
    rows = sets(400, experts, sizes, odds)
    counts = np.bincount(np.concatenate(rows), minlength=experts)
    sets_of_size = np.bincount([len(r) for r in rows], minlength=max(sizes) + 1)
    expected.append({"counts": counts.tolist(), "sets_of_size": sets_of_size.tolist(), "joint": joint(counts, sets_of_size.tolist()).tolist()})
# A class in every set and one in none.
expected.append({"counts": [90, 40, 60, 80, 0], "sets_of_size": [0, 0, 0, 90], "joint": joint([90, 40, 60, 80, 0], [0, 0, 0, 90]).tolist()})

cases = []
for experts, k, skew in ((6, 2, 0.7), (12, 4, 1.0)):
    rows = np.array(sets(150, experts, [k], np.exp(skew * rng.standard_normal(experts))))
    hot = np.zeros((len(rows), experts))
    np.put_along_axis(hot, rows, 1, 1)
    gram = hot.T @ hot
    loads = np.diag(gram)
    adjacent = np.zeros((experts, experts))
    for row in rows:
        for a, b in zip(row, row[1:]):
            adjacent[a, b] += 1
            adjacent[b, a] += 1
    cases.append({"ids": rows.tolist(), "experts": experts, "counts": gram.astype(int).tolist(), "conditional": (gram / loads[:, None]).tolist(),
                  "lift": (gram * len(rows) / np.outer(loads, loads)).tolist(), "phi": np.corrcoef(hot.T).tolist(),
                  "adjacent": (adjacent / loads[:, None]).tolist()})

versions = {m.__name__: m.__version__ for m in (np, scipy)}
path = pathlib.Path(__file__).with_name("coactivation.json")
path.write_text(json.dumps({"made_by": "tests/golden/make_coactivation.py", "versions": versions, "expected_joint": expected, "coactivation": cases}) + "\n")
print(path.name, versions)
