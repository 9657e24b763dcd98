# SPDX-License-Identifier: Apache-2.0
"""Golden values for inference/combine and Storey's q-values: writes tests/golden/combine.json."""
import json
import pathlib

import mpmath as mp
import numpy as np
import scipy
import scipy.stats

mp.mp.dps = 60
rng = np.random.default_rng(20240702)


def fisher(log_p):
    return mp.log(mp.gammainc(len(log_p), -mp.fsum(log_p), mp.inf, regularized=True))


def cauchy(log_p, cap):
    p = [min(mp.exp(l), mp.mpf(cap)) for l in log_p]
    mean = mp.fsum(mp.cot(mp.pi * v) for v in p) / len(p)
    return mp.log(mp.acot(mean) / mp.pi if mean > 0 else 1 + mp.acot(mean) / mp.pi)


def any_dependence(log_p):
    m = len(log_p)
    mean = m / mp.fsum(mp.exp(-l) for l in log_p)
    if m <= 2:
        return min(mp.mpf(0), mp.log(m * mean))
    y = mp.findroot(lambda v: v * v - m * ((v + 1) * mp.log(v + 1) - v), (mp.mpf(1), mp.mpf(3 * m) ** 2), solver="bisect", maxsteps=400)
    assert y > 0 and abs(y * y - m * ((y + 1) * mp.log(y + 1) - y)) < mp.mpf(10) ** -25
    return min(mp.mpf(0), mp.log((y + m) ** 2 / ((y + 1) * m) * mean))


cases = []
for p in (rng.uniform(size=1), rng.uniform(size=2), rng.uniform(size=8), rng.uniform(size=64), rng.uniform(size=64) ** 6,
          rng.uniform(size=1000), np.array([1e-5, 0.9, 0.5]), np.array([1e-18, 0.3, 0.9999999]), np.array([1.0, 1.0, 0.4]),
          np.full(5, 0.999999)):
    cases.append([mp.log(mp.mpf(float(v))) for v in p])
for log_p in ([-300.0, -700.0, -0.1], [-2000.0, -1999.0, -1.0, -1e-9], [-1e5, -3.0], [-650.0, -644.0, -600.0],
              [-0.5] * 2000 + [-30.0], [-900.0] * 40):
    cases.append([mp.mpf(v) for v in log_p])

rows = []
for exact in cases:
    log_p = [float(l) for l in exact]
    exact = [mp.mpf(l) for l in log_p]  # what the double says
    m = len(exact)
    row = {"log_p": log_p, "fisher": float(fisher(exact)), "cauchy": float(cauchy(exact, 1)), "cauchy_capped": float(cauchy(exact, 0.99)),
           "harmonic_any": float(any_dependence(exact)),
           "simes": float(min([mp.mpf(0)] + [l + mp.log(mp.mpf(m) / (i + 1)) for i, l in enumerate(sorted(exact))]))}
    if m > 1 and min(log_p) > -300:  # scipy's Landau law; far out its own digits run out
        inverse = float(mp.fsum(mp.exp(-l) for l in exact) / m)
        row["harmonic"] = float(scipy.stats.landau.logsf(inverse, loc=np.log(m) + 1 + float(mp.psi(0, 1)) - np.log(2 / np.pi), scale=np.pi / 2))
    if min(log_p) > -600:  # scipy's own combination, where its p-values do not underflow
        row["scipy_fisher"] = float(np.log(scipy.stats.combine_pvalues(np.exp(log_p), method="fisher").pvalue))
    rows.append(row)

# The Landau law at 40 digits, by its defining integral.
landau = []
for x in (-4.5, -3, -2.1, -2, -1, 0, 1, 7, 300, 1e6):
    x = mp.mpf(x)
    with mp.workdps(40 + int(mp.exp(-1 - x)) if x < 0 else 40):
        scale = 1 + max(x, mp.mpf(0))
        points = [0] + [mp.mpf(k) / 8 / scale for k in range(1, 8)] + [mp.mpf(k) / scale for k in range(1, 150)]
        value = mp.quad(lambda t: mp.exp(-t * mp.log(t) - x * t) * mp.sin(mp.pi * t) / t, points, maxdegree=9) / mp.pi
    landau.append({"x": float(x), "survival": float(value)})

# Storey's estimate and q-values, from the definition.
storey = []
for p in (rng.uniform(size=40), np.r_[rng.uniform(size=30) * 1e-3, rng.uniform(size=70)], np.array([0.2, 0.2, 0.9]), np.array([0.01])):
    for cut in (0.5, 0.8):
        pi0 = min(1.0, (1 + np.sum(p > cut)) / (len(p) * (1 - cut)))
        rate = [min(1.0, pi0 * len(p) * t / np.sum(p <= t)) if t <= cut else 1.0 for t in p]
        q = [min(r for r, t in zip(rate, p) if t >= own) for own in p]
        storey.append({"p": p.tolist(), "lambda": cut, "pi0": float(pi0), "q": [float(v) for v in q]})

golden = {"versions": {"mpmath": mp.__version__, "numpy": np.__version__, "scipy": scipy.__version__},
          "combine": rows, "landau": landau, "storey": storey}
pathlib.Path(__file__).with_name("combine.json").write_text(json.dumps(golden) + "\n")
