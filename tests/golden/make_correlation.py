# SPDX-License-Identifier: Apache-2.0
"""Golden values for inference/correlation: writes tests/golden/correlation.json."""
import json
import pathlib

import mpmath as mp
import numpy as np
import scipy
import scipy.stats

mp.mp.dps = 50
rng = np.random.default_rng(20240704)

cases = []
for n, slope in ((3, 0.5), (4, 1.0), (12, 0.3), (64, -0.8), (128, 0.02), (500, 1.0)):
    x = rng.normal(size=n)
    y = slope * x + rng.normal(size=n)
    if n == 64:
        x, y = np.round(x, 1), np.round(y, 1)  # ties
    pearson, spearman = scipy.stats.pearsonr(x, y), scipy.stats.spearmanr(x, y)
    row = {"x": x.tolist(), "y": y.tolist(), "pearson": float(pearson[0]), "pearson_p": float(pearson[1]),
           "spearman": float(spearman[0]), "spearman_p": float(spearman[1])}
    if n > 3:
        ci = pearson.confidence_interval(0.9)
        z = scipy.stats.norm.ppf(0.95) * np.sqrt((1 + spearman[0] ** 2 / 2) / (n - 3))
        row["pearson_interval"] = [float(ci.low), float(ci.high)]
        row["spearman_interval"] = [float(np.tanh(np.arctanh(spearman[0]) + s * z)) if abs(spearman[0]) < 1 else float(spearman[0]) for s in (-1, 1)]
    dx, dy = x - x.mean(), y - y.mean()
    row["studentised"] = float(pearson[0] / np.sqrt(np.mean(dx**2 * dy**2) / (np.mean(dx**2) * np.mean(dy**2))))
    cases.append(row)

# p-values at 50 digits, down to exp(-4e8).
tails = []
for n, r in ((10, 0.999999), (64, 0.99), (400, -0.95), (1000, 0.9999), (10**5, 0.12), (10**6, 0.05), (10**9, 0.002), (10**9, 0.7), (50, 1e-9),
             (5, 0.5), (3, 0.999999999), (10**9, 1e-5), (128, 0.7071), (128, 0.70711)):
    r = mp.mpf(r)
    a = mp.mpf(n - 2) / 2
    x = (1 - r) * (1 + r)
    if r * r * n > 30:  # the hypergeometric form of the incomplete beta function, at any size
        log_p = a * mp.log(x) + mp.log(abs(r)) - mp.log(a) - mp.log(mp.beta(a, 0.5)) + mp.log(mp.hyp2f1(a + 0.5, 1, a + 1, x))
    else:
        log_p = mp.log(1 - mp.betainc(0.5, a, 0, r * r, regularized=True))
    tails.append({"n": n, "r": float(r), "log_p": float(log_p)})

# All permutations of a small sample, by scipy.
x = rng.normal(size=7)
y = 0.6 * x + rng.normal(size=7)


def statistic(v, axis=-1):
    dx, dy = v - v.mean(axis=axis, keepdims=True), y - y.mean()
    return (dx * dy).sum(axis=axis) / np.sqrt((dx**2 * dy**2).sum(axis=axis))


exact = scipy.stats.permutation_test((x,), lambda v, axis=-1: np.abs(statistic(v, axis)), permutation_type="pairings", vectorized=True,
                                     alternative="greater", n_resamples=np.inf)

golden = {"versions": {"mpmath": mp.__version__, "numpy": np.__version__, "scipy": scipy.__version__}, "cases": cases, "tails": tails,
          "permutations": [{"x": x.tolist(), "y": y.tolist(), "p": float(exact.pvalue)}]}
pathlib.Path(__file__).with_name("correlation.json").write_text(json.dumps(golden) + "\n")
