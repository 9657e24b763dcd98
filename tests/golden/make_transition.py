# SPDX-License-Identifier: Apache-2.0
"""Golden values for routing/transition: writes tests/golden/transition.json."""
import collections
import itertools
import json
import pathlib

import numpy as np
import scipy
import scipy.stats
import sklearn
import sklearn.metrics

rng = np.random.default_rng(20250612)


def layer(tokens, experts, k, odds):
    return np.argsort(-(odds + rng.gumbel(size=(tokens, experts))), axis=1)[:, :k]


def one_hot(ids, experts):
    hot = np.zeros((len(ids), experts), int)
    np.put_along_axis(hot, ids, 1, 1)
    return hot


def statistics(table, from_, to, tokens):
    expected = np.outer(from_, to) / tokens
    return float(((table - expected) ** 2 / expected).sum())


cases = []
for tokens, e, f, k, follow in ((300, 5, 7, 2, 0.5), (500, 8, 8, 3, 0.0), (200, 4, 4, 1, 0.8)):
    a = layer(tokens, e, k, rng.standard_normal(e))
    b = layer(tokens, f, k, rng.standard_normal(f))
    same = rng.random(tokens) < follow
    b[same] = a[same] % f
    table = one_hot(a, e).T @ one_hot(b, f)
    first = np.zeros((e, f), int)
    np.add.at(first, (a[:, 0], b[:, 0]), 1)
    ranks = np.zeros((e, f), int)
    for (x, y), n in collections.Counter(zip(a.flatten().tolist(), b.flatten().tolist())).items():  # as the published script does
        ranks[x, y] = n
    occupied = first[first.sum(1) > 0][:, first.sum(0) > 0]
    chi2, _, df, _ = scipy.stats.chi2_contingency(occupied, correction=False)
    r, c = occupied.shape
    phi2 = max(0, chi2 / tokens - (r - 1) * (c - 1) / (tokens - 1))
    rr, cc = r - (r - 1) ** 2 / (tokens - 1), c - (c - 1) ** 2 / (tokens - 1)
    pair_a = np.repeat(a, k, axis=1).flatten()
    pair_b = np.tile(b, (1, k)).flatten()
    cases.append({"experts": [e, f], "a": a.tolist(), "b": b.tolist(), "counts": table.tolist(), "first": first.tolist(), "ranks": ranks.tolist(),
                  "conditional": (table / one_hot(a, e).sum(0)[:, None]).tolist(),
                  "mutual_information": float(sklearn.metrics.mutual_info_score(pair_a, pair_b)),
                  "first_mutual_information": float(sklearn.metrics.mutual_info_score(a[:, 0], b[:, 0])), "first_chi_square": float(chi2),
                  "first_degrees_of_freedom": int(df),
                  "first_v": float(scipy.stats.contingency.association(occupied, method="cramer")),
                  "first_v_corrected": float(np.sqrt(phi2 / (min(rr, cc) - 1)))})

# All 720 ways of pairing six tokens of two layers: the mean of chi-square is exact.
permuted = []
for e, f, k in ((4, 5, 2), (3, 4, 1), (6, 5, 3)):
    a, b = layer(6, e, k, np.zeros(e)), layer(6, f, k, np.zeros(f))
    x, y = one_hot(a, e), one_hot(b, f)
    x, y = x[:, x.sum(0) > 0], y[:, y.sum(0) > 0]
    mean = np.mean([statistics(x.T @ y[list(p)], x.sum(0), y.sum(0), 6) for p in itertools.permutations(range(6))])
    permuted.append({"experts": [e, f], "a": a.tolist(), "b": b.tolist(), "mean_chi_square": float(mean)})

versions = {m.__name__: m.__version__ for m in (np, scipy, sklearn)}
path = pathlib.Path(__file__).with_name("transition.json")
path.write_text(json.dumps({"made_by": "tests/golden/make_transition.py", "versions": versions, "transition": cases, "permuted": permuted}) + "\n")
print(path.name, versions)
