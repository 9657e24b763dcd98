# SPDX-License-Identifier: Apache-2.0
"""Golden values for routing/locality: writes tests/golden/locality.json. Everything is counted anew by loops over tokens; the chance values
of shuffled documents are means over all orders of their tokens."""
import itertools
import json
import math
import pathlib

import numpy as np
import scipy
import scipy.stats

rng = np.random.default_rng(20250613)
MASK = (1 << 64) - 1


def mix64(x):
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def pairs_of(documents):
    return [(a, b) for d in documents for a, b in zip(d, d[1:])]


def kept(row):
    return {int(x) for x in row if x >= 0}


def observed(pairs):
    firsts = [(a[0], b[0]) for a, b in pairs if a[0] >= 0 and b[0] >= 0]
    sets = [(kept(a), kept(b)) for a, b in pairs if kept(a) and kept(b)]
    return {"first": np.mean([a == b for a, b in firsts]), "overlap": sum(len(a & b) for a, b in sets) / sum(len(a) for a, _ in sets),
            "any": np.mean([bool(a & b) for a, b in sets]), "jaccard": np.mean([len(a & b) / len(a | b) for a, b in sets])}


def loads(documents, experts):
    rows = [r for d in documents for r in d]
    p = np.bincount([r[0] for r in rows if r[0] >= 0], minlength=experts).astype(float)
    q = np.zeros(experts)
    for r in rows:
        for e in kept(r):
            q[e] += 1
    n = sum(bool(kept(r)) for r in rows)
    return (p / p.sum()) @ (p / p.sum()), (q / n) @ (q / n) / (q / n).sum()


def shuffled(documents):
    """Expectations per document by all orders of its tokens; no slot is dropped here."""
    repeats = overlap = 0
    for d in documents:
        orders = [pairs_of([o]) for o in itertools.permutations(d)]
        repeats += np.mean([sum(a[0] == b[0] for a, b in o) for o in orders])
        overlap += np.mean([sum(len(kept(a) & kept(b)) for a, b in o) for o in orders])
    pairs = pairs_of(documents)
    return repeats / len(pairs), overlap / sum(len(kept(a)) for a, _ in pairs)


def interval(f, groups, correct):
    every = f([d for g in groups for d in g])
    out = [f([d for j, g in enumerate(groups) if j != i for d in g]) for i in range(len(groups))]
    n, mean = len(out), np.mean(out)
    half = scipy.stats.t.ppf(0.975, n - 1) * math.sqrt((n - 1) / n * np.sum((np.array(out) - mean) ** 2))
    value = every - (n - 1) * (mean - every) if correct else every
    return [float(value), float(value - half), float(value + half)]


cases = []
for experts, k, lengths, dropped in ((5, 2, [6, 5, 6, 1, 4, 6, 3, 2, 5, 6], 0.0), (8, 3, [40, 31, 0, 25, 38, 12, 29], 0.1)):
    documents, ids = [], []
    for i, length in enumerate(lengths):
        rows = []
        for t in range(length):
            row = rows[-1].copy() if t and rng.random() < 0.3 else rng.permutation(experts)[:k]
            rows.append(np.where(rng.random(k) < dropped, -1, row))
        documents.append(rows)
        ids.append(101 + 7 * i)
    groups = {}
    for i, d in zip(ids, documents):
        if len(d):
            groups.setdefault(mix64(i) % 4, []).append(d)
    groups = [groups[g] for g in sorted(groups)]
    case = {"experts": experts, "slots": k, "groups": 4, "lengths": lengths, "documents": ids,
            "ids": [int(x) for d in documents for r in d for x in r], "occupied": len(groups),
            "loads": [float(x) for x in loads(documents, experts)]}
    for name in ("first", "overlap", "any", "jaccard"):
        case[name] = interval(lambda d: observed(pairs_of(d))[name], groups, False)
    case["over_loads"] = [interval(lambda d: observed(pairs_of(d))["first"] - loads(d, experts)[0], groups, True),
                          interval(lambda d: observed(pairs_of(d))["overlap"] - loads(d, experts)[1], groups, True)]
    if not dropped:
        case["shuffled"] = [float(x) for x in shuffled(documents)]
        case["over_shuffled"] = [interval(lambda d: observed(pairs_of(d))["first"] - shuffled(d)[0], groups, False),
                                 interval(lambda d: observed(pairs_of(d))["overlap"] - shuffled(d)[1], groups, False)]
    runs = [len(list(g)) for d in documents for e, g in itertools.groupby(d, key=lambda r: r[0]) if e >= 0]
    active = []
    for d in documents:
        for e in range(experts):
            active += [len(list(g)) for on, g in itertools.groupby(d, key=lambda r: e in kept(r)) if on]
    case["runs"] = np.bincount(runs).tolist()
    case["active_runs"] = np.bincount(active).tolist()
    cases.append(case)

uniform = [{"experts": e, "slots": k, "any": 1 - math.comb(e - k, k) / math.comb(e, k),
            "jaccard": float(sum(scipy.stats.hypergeom.pmf(b, e, k, k) * b / (2 * k - b) for b in range(k + 1)))}
           for e, k in ((8, 2), (64, 8), (5, 4), (3, 3), (7, 1))]

versions = {m.__name__: m.__version__ for m in (np, scipy)}
path = pathlib.Path(__file__).with_name("locality.json")
path.write_text(json.dumps({"made_by": "tests/golden/make_locality.py", "versions": versions, "locality": cases, "uniform": uniform}) + "\n")
print(path.name, versions)
