# SPDX-License-Identifier: Apache-2.0
"""Golden values for inference/goodness_of_fit: writes tests/golden/goodness_of_fit.json."""
import json
import pathlib

import mpmath as mp
import numpy as np
import scipy
import scipy.stats
import statsmodels
from scipy.stats import kstwo
from statsmodels.stats.diagnostic import anderson_statistic, lilliefors

mp.mp.dps = 40
rng = np.random.default_rng(20240705)



def kolmogorov_exact(n, d):
    """P(D >= d): the count of values below t must stay inside (n (t - d), n (t + d)); a Markov chain over the t where a bound moves."""
    knots = sorted([(k / n - d, k, True) for k in range(1, n + 1) if k / n > d] + [(k / n + d, k, False) for k in range(n) if k / n + d < 1])
    law, previous = np.zeros(n + 1), 0.0
    law[0] = 1
    for t, k, upper in knots:
        p = (t - previous) / (1 - previous)
        new = np.zeros(n + 1)
        for j in np.flatnonzero(law):
            new[j:] += law[j] * scipy.stats.binom.pmf(np.arange(n - j + 1), n - j, p)
        if upper:
            new[k:] = 0
        else:
            new[: k + 1] = 0
        law, previous = new, t
    return float(1 - law.sum())


kolmogorov = []
for n in (1, 2, 3, 10, 37, 140, 500, 501, 2000, 10**5, 10**6, 10**8):
    for z in (0.3, 0.5, 0.7, 0.9, 1.1, 1.25, 1.35, 1.6, 1.99, 2.01, 3.0, 6.0):
        d = z / np.sqrt(n)
        if d < 1:
            # scipy's approximation from n = 141 on is less exact than what is tested
            if n == 500 and z < 2 and z not in (0.9, 1.35):
                continue
            exact = kolmogorov_exact(n, d) if n == 500 and z < 2 else float(kstwo.sf(d, n))
            kolmogorov.append({"n": n, "d": float(d), "p": exact})

one_sample = []
for n in (1, 4, 60, 700):
    u = rng.uniform(size=n) ** 1.2
    test = scipy.stats.ks_1samp(u, lambda v: v)
    one_sample.append({"u": u.tolist(), "d": float(test.statistic), "p": float(test.pvalue)})


def two_sample_exact(x, y):
    """P(D* >= D) over all ways to deal the values, ties kept: paths counted in whole numbers."""
    m, n = len(x), len(y)
    values = np.sort(np.r_[x, y])
    ends = {i + 1 for i in range(m + n) if i + 1 == m + n or values[i] != values[i + 1]}
    largest = max(abs(int(np.sum(x <= v)) * n - int(np.sum(y <= v)) * m) for v in values)
    good = [[0] * (n + 1) for _ in range(m + 1)]
    for i in range(m + 1):
        for j in range(n + 1):
            if i == j == 0:
                good[i][j] = 1
            elif i + j in ends and abs(i * n - j * m) >= largest:
                good[i][j] = 0
            else:
                good[i][j] = (good[i - 1][j] if i else 0) + (good[i][j - 1] if j else 0)
    total = mp.binomial(m + n, m)
    return largest / (m * n), float((total - good[m][n]) / total)


two_sample = []
for m, n, shift, digits in ((5, 7, 0, 9), (30, 20, 1, 9), (30, 20, 3, 9), (40, 40, 0.5, 0), (25, 60, 2, 1), (1, 3, 0, 9)):
    x, y = np.round(rng.normal(size=m), digits), np.round(rng.normal(size=n) + shift, digits)
    d, p = two_sample_exact(x, y)
    row = {"x": x.tolist(), "y": y.tolist(), "d": d, "p": p}
    if digits == 9:  # scipy ignores ties
        row["scipy_p"] = float(scipy.stats.ks_2samp(x, y, method="exact").pvalue)
    two_sample.append(row)


def anderson_limit(a):
    """1 minus the series of Anderson and Darling 1952, equation 4.39, at 40 digits and more."""
    with mp.workdps(40 + int(2 * a)):
        a, total = mp.mpf(a), mp.mpf(0)
        for j in range(200):
            t = (4 * j + 1) ** 2 * mp.pi**2 / (8 * a)
            f = mp.quad(lambda w: mp.exp(a / (8 * (w * w + 1)) - t * w * w), [0, 0.25, 0.5, 1, 2, 4, 8, 16, 32])
            term = mp.binomial(mp.mpf(-1) / 2, j) * (4 * j + 1) * mp.exp(-t) * f
            total += term
            if abs(term) < mp.mpf(10) ** (-mp.mp.dps):
                break
        return float(1 - mp.sqrt(2 * mp.pi) / a * total)


limit = [{"a": a, "p": anderson_limit(a)} for a in (0.05, 0.2, 0.5, 1, 2.492, 3.857, 6, 15)]

# Quantiles of A^2 by simulation: 2e6 samples of each size.
finite = []
for n in (5, 8, 20, 100):
    chunks = []
    for _ in range(20):
        u = np.sort(rng.uniform(size=(100000, n)), axis=1)
        i = np.arange(1, n + 1)
        chunks.append(-n - ((2 * i - 1) * (np.log(u) + np.log1p(-u[:, ::-1]))).mean(1))
    sample = np.sort(np.concatenate(chunks))
    for p in (0.9, 0.5, 0.25, 0.1, 0.05, 0.01, 0.001):
        finite.append({"n": n, "a": float(sample[-int(p * len(sample))]), "p": p, "simulations": len(sample)})

normal = []
for n in (20, 200):
    for x in (rng.normal(3, 2, n), rng.gamma(3, size=n)):
        d, p = lilliefors(x, dist="norm", pvalmethod="table")
        normal.append({"x": x.tolist(), "d": float(d), "p_table": float(p), "a": float(anderson_statistic(x)),
                       "a_p": float(statsmodels.stats.diagnostic.normal_ad(x)[1]), "mean": float(x.mean()), "sd": float(x.std(ddof=1))})

u = rng.uniform(size=50)
fixed = {"x": scipy.stats.norm.ppf(u).tolist(), "log_cdf": scipy.stats.norm.logcdf(scipy.stats.norm.ppf(u)).tolist(),
         "log_survival": scipy.stats.norm.logsf(scipy.stats.norm.ppf(u)).tolist(),
         "a": float(anderson_statistic(scipy.stats.norm.ppf(u), dist=scipy.stats.norm, fit=False))}

golden = {"versions": {"mpmath": mp.__version__, "numpy": np.__version__, "scipy": scipy.__version__, "statsmodels": statsmodels.__version__},
          "kolmogorov": kolmogorov, "one_sample": one_sample, "two_sample": two_sample, "anderson_limit": limit, "anderson_finite": finite,
          "normal": normal, "anderson_fixed": [fixed]}
pathlib.Path(__file__).with_name("goodness_of_fit.json").write_text(json.dumps(golden) + "\n")
