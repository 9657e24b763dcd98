# SPDX-License-Identifier: Apache-2.0
"""Golden values for inference/: writes tests/golden/inference.json."""
import json
import pathlib

import mpmath
import numpy as np
import scipy
import scipy.stats
import statsmodels
import statsmodels.api as sm
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

rng = np.random.default_rng(20240608)
mpmath.mp.dps = 40



intervals = []
for k, n in ((0, 1), (1, 1), (0, 20), (3, 10), (5, 10), (19, 20), (20, 20), (7, 1000), (123456, 10000000)):
    for level in (0.9, 0.95, 0.999):
        row = {"k": k, "n": n, "level": level}
        for ours, theirs in (("wilson", "wilson"), ("clopper_pearson", "beta"), ("jeffreys", "jeffreys")):
            row[ours] = [float(v) for v in proportion_confint(k, n, alpha=1 - level, method=theirs)]
        if k == 0:  # the value that the beta law has there is not a bound that can be passed
            row["jeffreys"][0] = 0.0
        if k == n:
            row["jeffreys"][1] = 1.0
        row["unseen"] = float(1 - (1 - mpmath.mpf(level)) ** (1 / mpmath.mpf(n)))
        intervals.append(row)

multiplicity = []
for p in (rng.uniform(size=9), np.array([0.01, 0.02, 0.03, 0.04, 0.05]), np.array([0.5, 0.001, 0.001, 1.0, 0.0]),
          np.array([0.3])):
    row = {"p": p.tolist()}
    for ours, theirs in (("bonferroni", "bonferroni"), ("holm", "holm"), ("bh", "fdr_bh"), ("by", "fdr_by")):
        row[ours] = multipletests(p, method=theirs)[1].tolist()
    multiplicity.append(row)

# Given replicates handed to scipy, which then draws none of its own.
bca = []
for n, level, statistic in ((25, 0.95, np.mean), (40, 0.9, np.var), (12, 0.99, np.median)):
    data = rng.exponential(size=n)
    replicates = np.array([statistic(rng.choice(data, n)) for _ in range(499)])
    prior = scipy.stats._resampling.BootstrapResult(confidence_interval=None, bootstrap_distribution=replicates,
                                                    standard_error=0.0)
    row = {"value": float(statistic(data)), "level": level, "replicates": replicates.tolist(),
           "leave_one_out": [float(statistic(np.delete(data, i))) for i in range(n)]}
    for method in ("percentile", "BCa"):
        interval = scipy.stats.bootstrap((data,), statistic, n_resamples=0, confidence_level=level, method=method,
                                         bootstrap_result=prior, vectorized=True, axis=-1).confidence_interval
        row[method.lower()] = [float(interval.low), float(interval.high)]
    loo = np.array(row["leave_one_out"])
    row["jackknife_bias"] = float((n - 1) * (loo.mean() - row["value"]))
    row["jackknife_error"] = float(np.sqrt((n - 1) * np.var(loo)))
    bca.append(row)

# A ratio of totals is the intercept of a weighted regression; its cluster-robust error is statsmodels' own.
ratio = []
for documents, clusters in ((30, 30), (60, 20)):
    n = rng.integers(5, 200, documents)
    cluster = rng.integers(0, clusters, documents) if clusters < documents else np.arange(documents)
    x = rng.binomial(n, np.clip(0.3 + 0.15 * rng.normal(size=clusters)[cluster], 0.01, 0.99))
    fit = sm.WLS(x / n, np.ones(documents), weights=n).fit(cov_type="cluster", cov_kwds={"groups": cluster})
    r, error = float(fit.params[0]), float(fit.bse[0])
    ratio.append({"x": x.tolist(), "n": n.tolist(), "clusters": cluster.tolist(), "value": r, "standard_error": error,
                  "design_effect": error**2 * int(n.sum()) / (r * (1 - r))})

# The contrast of a label with the rest is the slope of such a regression on "has the label".
contrast = []
blocks = np.array([i // 3 if i < 24 else -1 for i in range(34)])
labels = np.array([i % 3 for i in range(24)] + [3] * 10)
counts = rng.integers(0, 30, (34, 4))
groups = np.array([b if b >= 0 else 100 + i for i, b in enumerate(blocks)])
t = np.zeros((4, 4))
total = counts.sum(1)
for c in range(4):
    for e in range(4):
        design = np.column_stack([np.ones(34), labels == c])
        fit = sm.WLS(counts[:, e] / total, design, weights=total).fit(
            cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False})
        t[c, e] = fit.params[1] / fit.bse[1]
contrast.append({"counts": counts.tolist(), "blocks": blocks.tolist(), "labels": labels.tolist(), "t": t.tolist()})

# Westfall-Young from the definitions, replicate by replicate.
observed = np.abs(rng.normal(size=6)) + [0, 0, 1, 0, 2, 0]
replicates = np.abs(rng.multivariate_normal(np.zeros(6), 0.5 + 0.5 * np.eye(6), size=199))
order = np.argsort(-observed)
step = np.zeros(6)
bound = 0.0
for i, j in enumerate(order):
    bound = max(bound, (1 + np.sum(replicates[:, order[i:]].max(1) >= observed[j])) / 200)
    step[j] = bound
max_statistic = {
    "observed": observed.tolist(), "replicates": replicates.tolist(),
    "p_value": ((1 + (replicates >= observed).sum(0)) / 200).tolist(),
    "p_adjusted": [float((1 + np.sum(replicates.max(1) >= o)) / 200) for o in observed],
    "p_step_down": step.tolist(),
}

golden = {
    "versions": {"mpmath": mpmath.__version__, "numpy": np.__version__, "scipy": scipy.__version__,
                 "statsmodels": statsmodels.__version__},
    "intervals": intervals, "multiplicity": multiplicity, "bootstrap": bca, "ratio": ratio, "contrast": contrast,
    "max_statistic": max_statistic,
}
pathlib.Path(__file__).with_name("inference.json").write_text(json.dumps(golden, indent=1) + "\n")
