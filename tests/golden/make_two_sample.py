# SPDX-License-Identifier: Apache-2.0
"""Golden values for inference/two_sample: writes tests/golden/two_sample.json."""
import itertools
import json
import pathlib

import numpy as np
import scipy
import statsmodels
import statsmodels.api as sm
from scipy.spatial.distance import cdist, jensenshannon

rng = np.random.default_rng(20240707)


def energy(counts, labels, strata):
    total = 0.0
    share = counts / counts.sum(1, keepdims=True)
    for s in set(strata):
        a, b = share[(strata == s) & (labels == 0)], share[(strata == s) & (labels == 1)]
        if len(a) and len(b):
            total += len(a) * len(b) / (len(a) + len(b)) * (2 * cdist(a, b).mean() - cdist(a, a).mean() - cdist(b, b).mean())
    return total


def divergence(counts, labels):
    return float(jensenshannon(counts[labels == 0].sum(0), counts[labels == 1].sum(0)) ** 2)


def contrast(counts, labels):
    n = counts.sum(1)
    out = []
    for e in range(counts.shape[1]):
        fit = sm.WLS(counts[:, e] / n, np.column_stack([np.ones(len(n)), labels]), weights=n).fit(
            cov_type="cluster", cov_kwds={"groups": np.arange(len(n)), "use_correction": False})
        out.append(fit.params[1] / fit.bse[1])
    return np.array(out)


cases = []
for strata in (np.zeros(8, int), np.array([3, 3, 3, 3, 9, 9, 9, 9])):
    counts = np.array([rng.multinomial(60, p) for p in rng.dirichlet(np.full(4, 5.0), 8)])
    counts[0] *= 3  # documents of unequal length
    labels = np.array([0, 1, 1, 0, 1, 0, 0, 1])
    groups = [np.flatnonzero(strata == s) for s in sorted(set(strata))]
    drawn = []  # every relabelling that keeps the labels of each stratum
    for choice in itertools.product(*[itertools.combinations(g, int(labels[g].sum())) for g in groups]):
        new = np.zeros(8, int)
        for c in choice:
            new[list(c)] = 1
        drawn.append(new)
    t = np.array([contrast(counts, l) for l in drawn])
    observed = contrast(counts, labels)
    centred, own = np.abs(t - t.mean(0)), np.abs(observed - t.mean(0))
    js, en = np.array([divergence(counts, l) for l in drawn]), np.array([energy(counts, l, strata) for l in drawn])
    cases.append({
        "counts": counts.tolist(), "labels": labels.tolist(), "strata": strata.tolist(), "relabellings": len(drawn),
        "t": (observed - t.mean(0)).tolist(), "p_value": [float(np.mean(centred[:, e] >= own[e] - 1e-9)) for e in range(4)],
        "largest_t_p": float(np.mean(centred.max(1) >= own.max() - 1e-9)),
        "jensen_shannon": divergence(counts, labels), "jensen_shannon_null": float(js.mean()),
        "jensen_shannon_p": float(np.mean(js >= divergence(counts, labels) - 1e-12)),
        "energy": energy(counts, labels, strata), "energy_p": float(np.mean(en >= energy(counts, labels, strata) - 1e-12))})

golden = {"versions": {"numpy": np.__version__, "scipy": scipy.__version__, "statsmodels": statsmodels.__version__}, "cases": cases}
pathlib.Path(__file__).with_name("two_sample.json").write_text(json.dumps(golden) + "\n")
