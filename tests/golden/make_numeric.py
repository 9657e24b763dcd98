# SPDX-License-Identifier: Apache-2.0
"""Golden values for numeric/{moments,entropy,inequality,divergence,contingency,rank} in tests/golden/numeric.json."""
import json
import pathlib

import mpmath
import numpy as np
import scipy
import scipy.spatial.distance
import scipy.stats

mpmath.mp.dps = 50
mpf = mpmath.mpf
rng = np.random.default_rng(20240607)


def plug_in(counts):
    total = mpf(int(sum(counts)))
    return -mpmath.fsum(mpf(int(c)) / total * mpmath.log(mpf(int(c)) / total) for c in counts if c)


def rarefied(counts, n):
    """Every value of every hypergeometric law, by exact binomial coefficients."""
    total, out = int(sum(counts)), mpf(0)
    for marked in map(int, counts):
        ways = mpmath.binomial(total, n)
        for k in range(max(1, n + marked - total), min(marked, n) + 1):
            share = mpf(k) / n
            law = mpmath.binomial(marked, k) * mpmath.binomial(total - marked, n - k) / ways
            out -= law * share * mpmath.log(share)
    return float(out)


def moments(x):
    return {
        "x": x.tolist(),
        "mean": float(mpmath.fsum(map(mpf, x.tolist())) / len(x)),
        "variance": float(np.var(np.array(x, dtype=np.longdouble), ddof=1)),
        "skewness": scipy.stats.skew(x),
        "excess_kurtosis": scipy.stats.kurtosis(x),
        "skewness_corrected": scipy.stats.skew(x, bias=False),
        "excess_kurtosis_corrected": scipy.stats.kurtosis(x, bias=False),
    }


def gini_by_definition(x):
    x = np.asarray(x, dtype=float)
    return float(np.abs(x[:, None] - x[None, :]).mean() / (2 * x.mean()))


entropy = []
samples = [[5, 3, 0, 9], [1] * 7, [1000, 1, 1, 0], [17, 40, 3, 3, 90, 26], list(map(int, rng.integers(0, 400, 16)))]
for counts in samples:
    total, occupied = sum(counts), sum(c > 0 for c in counts)
    entropy.append({
        "counts": counts,
        "entropy": float(plug_in(counts)),
        "entropy_scipy": float(scipy.stats.entropy(counts)),
        "miller_madow": float(plug_in(counts) + mpf(occupied - 1) / (2 * total)),
        "rarefied": [[n, rarefied(counts, n)] for n in sorted({1, 2, total // 3 + 1, total - 1, total})],
        "herfindahl": float(np.sum((np.array(counts) / total) ** 2)),
        "cv0": float(scipy.stats.variation(counts)),
        "cv1": float(scipy.stats.variation(counts, ddof=1)),
        "gini": gini_by_definition(counts),
    })

divergence = []
pairs = [([5, 3, 0, 9], [1, 2, 3, 4]), ([1, 0], [0, 1]), ([10, 20, 30], [20, 40, 60]),
         (rng.integers(1, 99, 12).tolist(), rng.integers(1, 99, 12).tolist()),
         ([10**9, 10**9 + 1, 10**9 - 1], [10**9 + 1, 10**9, 10**9 - 1])]
for p, q in pairs:
    a = [mpf(v) / sum(p) for v in p]
    b = [mpf(v) / sum(q) for v in q]
    mix = [(u + v) / 2 for u, v in zip(a, b)]
    kl = lambda s, t: mpmath.fsum(u * mpmath.log(u / v) for u, v in zip(s, t) if u)
    divergence.append({
        "p": p, "q": q,
        "kl": None if any(u and not v for u, v in zip(a, b)) else float(kl(a, b)),
        "js": float((kl(a, mix) + kl(b, mix)) / 2),
        "js_scipy": float(scipy.spatial.distance.jensenshannon(p, q) ** 2),
        "tv": float(mpmath.fsum(abs(u - v) for u, v in zip(a, b)) / 2),
        "hellinger": float(mpmath.sqrt(mpmath.fsum((mpmath.sqrt(u) - mpmath.sqrt(v)) ** 2 for u, v in zip(a, b)) / 2)),
    })

contingency = []
for table in (rng.integers(0, 40, (3, 5)), np.array([[5, 3], [0, 9]]), np.array([[4, 0, 6], [0, 0, 0], [10, 0, 2]]),
              np.array([[100, 200], [50, 100]])):
    kept = table[table.sum(1) > 0][:, table.sum(0) > 0]
    n, (r, c) = int(kept.sum()), kept.shape
    chi2, _, dof, expected = scipy.stats.chi2_contingency(kept, correction=False)
    mi = plug_in(kept.sum(0)) + plug_in(kept.sum(1)) - plug_in(kept.ravel())
    # Bergsma 2013: phi^2 less its null expectation, and both numbers of classes shrunk.
    phi2 = max(0.0, chi2 / n - (r - 1) * (c - 1) / (n - 1))
    rt, ct = r - (r - 1) ** 2 / (n - 1), c - (c - 1) ** 2 / (n - 1)
    contingency.append({
        "table": table.tolist(), "chi_square": chi2, "dof": dof, "expected": expected.tolist(), "mi": float(mi),
        "mi_corrected": float(mi + mpf(r + c - int((kept > 0).sum()) - 1) / (2 * n)),
        "v": float(scipy.stats.contingency.association(kept, method="cramer", correction=False)),
        "v_corrected": float(np.sqrt(phi2 / (min(rt, ct) - 1))),
    })

rank = []
for x, y in ((rng.normal(size=30), rng.normal(size=30)),
             (rng.integers(0, 4, 25).astype(float), rng.integers(0, 9, 25).astype(float)),
             (1e8 + rng.normal(size=20), rng.exponential(size=20))):
    rank.append({"x": x.tolist(), "y": y.tolist(), "ranks_x": scipy.stats.rankdata(x).tolist(),
                 "pearson": float(scipy.stats.pearsonr(x, y)[0]), "spearman": float(scipy.stats.spearmanr(x, y)[0])})

golden = {
    "versions": {"mpmath": mpmath.__version__, "numpy": np.__version__, "scipy": scipy.__version__},
    "moments": [moments(x) for x in (rng.normal(3, 2, 50), rng.exponential(size=40), np.array([1.0, 2.0, 4.0, 8.0]))],
    "entropy": entropy, "divergence": divergence, "contingency": contingency, "rank": rank,
}
pathlib.Path(__file__).with_name("numeric.json").write_text(json.dumps(golden, indent=1) + "\n")
