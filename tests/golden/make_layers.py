# SPDX-License-Identifier: Apache-2.0
"""Golden values for layers/lag_correlation: writes tests/golden/layers.json."""
import itertools
import json
import pathlib

import numpy as np
import scipy
import scipy.optimize
import scipy.stats

rng = np.random.default_rng(20240612)


def lags(profiles, delta_max):
    n = len(profiles)
    matrix = [[None] * delta_max for _ in range(n)]
    for i in range(n):
        for d in range(1, delta_max + 1):
            if i + d < n:
                matrix[i][d - 1] = float(scipy.stats.pearsonr(profiles[i], profiles[i + d])[0])
    return matrix


cases = []
for n, e, delta_max in ((6, 8, 5), (9, 64, 4), (3, 5, 2)):
    profiles = rng.dirichlet(np.ones(e), n)
    matrix = lags(profiles, delta_max)
    columns = [[r[d] for r in matrix if r[d] is not None] for d in range(delta_max)]
    cases.append({"profiles": profiles.tolist(), "matrix": matrix, "mean": [float(np.mean(c)) for c in columns],
                  "sd": [float(np.std(c, ddof=1)) if len(c) > 1 else None for c in columns], "pairs": [len(c) for c in columns]})

# Two layers of five experts: all 120 relative permutations, hence the exact p-value of |z|.
exact = []
for _ in range(4):
    a, b = rng.random(5), rng.random(5)
    observed = abs(np.corrcoef(a, b)[0, 1])
    null = [abs(np.corrcoef(a, b[list(p)])[0, 1]) for p in itertools.permutations(range(5))]
    exact.append({"profiles": [a.tolist(), b.tolist()], "p_value": float(np.mean(np.array(null) >= observed - 1e-12))})

# Counts with zeros, one layer of equal counts. Zeros become half the smallest positive count of their layer.
methods = []
for n, e in ((6, 7), (5, 40)):
    counts = rng.negative_binomial(0.8, 0.05, (n, e))
    counts[2] = 3
    logs = np.log(np.where(counts > 0, counts, [[c[c > 0].min() / 2] for c in counts]))
    case = {"counts": counts.tolist(), "zeros": int((counts == 0).sum())}
    for name, x, f in (("pearson", counts, scipy.stats.pearsonr), ("spearman", counts, scipy.stats.spearmanr),
                       ("log_share", logs, scipy.stats.pearsonr)):
        case[name] = [[float(f(x[i], x[i + d])[0]) if i + d < n and 2 not in (i, i + d) else None for d in (1, 2, 3)]
                      for i in range(n)]
    methods.append(case)

# Six layers, all 720 orders: sd of the mean at each lag, and exact p-values of the studentised mean alone and of the maximum.
orders = []
for _ in range(3):
    c = rng.random((6, 6))
    c = (c + c.T) / 2
    every = np.array([[np.diagonal(c[np.ix_(p, p)], d).mean() for d in (1, 2, 3, 4)] for p in itertools.permutations(range(6))])
    z = (every - every.mean(0)) / every.std(0)
    orders.append({"similarity": c.tolist(), "mean": every[0].tolist(), "z": z[0].tolist(),
                   "p_value": (z >= z[0] - 1e-9).mean(0).tolist(),
                   "p_adjusted": [float((z.max(1) >= v - 1e-9).mean()) for v in z[0]]})

# Peaks: difference of the mean correlation to both neighbouring lags, as a one-sample t over experts, which is turned into
# sum / length * sqrt((E-1)/E); the harmonics of lag 2; exact sign-flip p-values over all 2^E flips.
peaks = []
for n, e in ((9, 8), (12, 10)):
    profiles = rng.random((n, e))
    profiles[3:] += profiles[:-3]
    u = np.array([(p - p.mean()) / np.linalg.norm(p - p.mean()) for p in profiles])
    share = {d: (u[:-d] * u[d:]).mean(0) for d in range(1, n)}

    def statistic(x):
        t = scipy.stats.ttest_1samp(x, 0).statistic
        return t / np.sqrt(t * t + e - 1) * np.sqrt(e - 1)  # sum / (sqrt(e) * length) * sqrt(e) * sqrt((e-1)/e)

    signs = np.array(list(itertools.product((-1, 1), repeat=e)))
    tested = [d for d in range(2, min(6, n - 2) + 1)]
    left = {d: share[d] - share[d - 1] for d in range(2, n - 1)}
    right = {d: share[d] - share[d + 1] for d in range(2, n - 1)}
    observed = {d: min(statistic(left[d]), statistic(right[d])) for d in tested}
    flipped = {d: signs @ left[d] / np.linalg.norm(left[d]) for d in tested}
    most = np.max(list(flipped.values()), axis=0)
    comb_left = sum(left[m] * (n - m) for m in range(4, n - 1, 2))
    comb_right = sum(right[m] * (n - m) for m in range(4, n - 1, 2))
    comb = min(statistic(comb_left), statistic(comb_right))
    peaks.append({"profiles": profiles.tolist(), "delta": tested, "peak": [observed[d] for d in tested],
                  "rise": [min(left[d].sum(), right[d].sum()) for d in tested],
                  "p_peak": [float((flipped[d] >= observed[d] - 1e-9).mean()) for d in tested],
                  "p_peak_adjusted": [float((most >= observed[d] - 1e-9).mean()) for d in tested],
                  "harmonic_rise_of_2": min(comb_left.sum(), comb_right.sum()) / sum(n - m for m in range(4, n - 1, 2)),
                  "p_harmonics_of_2": float((signs @ comb_left / np.linalg.norm(comb_left) >= comb - 1e-9).mean())})

# CKA from T x T kernels: biased with centring matrices, unbiased as Song et al. 2012 write it.
def biased_hsic(k, m):
    h = np.eye(len(k)) - 1 / len(k)
    return np.trace(k @ h @ m @ h)


def unbiased_hsic(k, m):
    n, k, m = len(k), k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    one = np.ones(n)
    return (np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


def cka(x, y):
    k, m = x @ x.T, y @ y.T
    return [float(f(k, m) / np.sqrt(f(k, k) * f(m, m))) for f in (biased_hsic, unbiased_hsic)]


similar = []
for t, p, q in ((5, 2, 3), (40, 6, 4), (60, 8, 8)):
    x = rng.normal(size=(t, p)) + 3
    y = rng.normal(size=(t, q))
    y[:, :2] += x[:, :2]
    similar.append({"x": x.tolist(), "y": y.tolist(), "cka": cka(x, y)})


def mask(ids, e):
    m = np.zeros((len(ids), e))
    for t, row in enumerate(ids):
        m[t, row[row >= 0]] = 1
    return m


# Two layers of routing with dropped slots, and what scipy pairs best.
routed = []
for t, k, e in ((30, 2, 5), (80, 3, 7)):
    first = np.array([rng.permutation(e)[:k] for _ in range(t)])
    second = np.where(rng.random((t, 1)) < 0.5, (first + 2) % e, np.array([rng.permutation(e)[:k] for _ in range(t)]))
    second[rng.random((t, k)) < 0.1] = -1
    x, y = mask(first, e), mask(second, e)
    n = x.T @ y
    rows, columns = scipy.optimize.linear_sum_assignment(n, maximize=True)
    slots = (x.sum() + y.sum()) / 2
    routed.append({"experts": e, "layers": [first.tolist(), second.tolist()], "cka": cka(x, y)[1],
                   "matched": float(n[rows, columns].sum() / slots), "same_number": float(np.trace(n) / slots)})

versions = {m.__name__: m.__version__ for m in (np, scipy)}
path = pathlib.Path(__file__).with_name("layers.json")
path.write_text(json.dumps({"made_by": "tests/golden/make_layers.py", "versions": versions, "lag_correlation": cases, "exact": exact, "methods": methods, "orders": orders,
                            "peaks": peaks, "cka": similar, "routed": routed}) + "\n")
print(path.name, versions)
