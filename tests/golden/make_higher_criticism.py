# SPDX-License-Identifier: Apache-2.0
"""Golden values for inference/higher_criticism: writes tests/golden/higher_criticism.json."""
import json
import pathlib

import numpy as np
import scipy
from scipy.optimize import brentq
from scipy.stats import binom

rng = np.random.default_rng(20240703)


def terms(p):
    p = np.sort(p)
    n = len(p)
    i = np.arange(1, n + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return p, i, n, np.sqrt(n) * (i / n - p) / np.sqrt(p * (1 - p))


def donoho_jin(p, alpha0, plus):
    p, i, n, hc = terms(p)
    keep = i <= np.floor(alpha0 * n + 1e-9)
    if plus:
        keep &= p > 1 / n
    if not keep.any():
        return None
    hc = np.where(keep, hc, -np.inf)
    return [float(hc.max()), int(hc.argmax()) + 1]


def repository(p, beta, min_k, max_k):
    n = len(p)
    p = np.sort(np.clip(p, 1e-10, 1 - 1e-10))
    i = np.arange(1, n + 1)
    hc = np.sqrt(n) * (i / n - p) / np.sqrt(p * (1 - p) + 1e-10)
    mask = p < i / n if beta == "auto" else i <= (n if beta == 1 else max(1, int(n * beta)))
    mask &= i >= min_k
    if not mask.any():
        return [None, 0, min_k]
    rank = int(np.where(mask, hc, -np.inf).argmax()) + 1
    return [float(hc[rank - 1]), rank, int(np.clip(rank, min_k, max_k))]


cases = []
for p in (rng.uniform(size=64), np.r_[rng.uniform(size=6) * 1e-3, rng.uniform(size=58)], rng.uniform(size=128) ** 2, rng.uniform(size=5),
          np.r_[1e-12, rng.uniform(size=63)], np.full(8, 0.9)):
    cases.append({"p": p.tolist(),
                  "donoho_jin": [{"alpha0": a, "plus": plus, "result": donoho_jin(p, a, plus)} for a in (0.5, 0.29, 1.0) for plus in (False, True)],
                  "repository": [{"beta": b, "min_k": low, "max_k": 16, "result": repository(p, b, low, 16)}
                                 for b in (0.5, 1, 0.1, "auto") for low in (1, 4)]})


def exceeds(n, alpha0, h):
    """P(HC* >= h) for n independent uniform p-values, exactly: the count below b_i, the p at which rank i reaches h, must stay below i."""
    last = int(np.floor(alpha0 * n + 1e-9))
    b = [brentq(lambda p: np.sqrt(n) * (i / n - p) - h * np.sqrt(p * (1 - p)), 0, i / n, xtol=1e-15) for i in range(1, last + 1)]
    assert all(x < y for x, y in zip(b, b[1:]))
    law = np.zeros(n + 1)
    law[0] = 1
    previous = 0.0
    for i, edge in enumerate(b, 1):
        new = np.zeros(n + 1)
        for k in np.flatnonzero(law):
            new[k:] += law[k] * binom.pmf(np.arange(n - k + 1), n - k, (edge - previous) / (1 - previous))
        new[i:] = 0
        law, previous = new, edge
    return float(1 - law.sum())


null = [{"n": n, "alpha0": a, "statistic": h, "p": exceeds(n, a, h)} for n in (8, 64, 128) for a in (0.5, 0.2) for h in (1.5, 2.5, 4.0)]

golden = {"versions": {"numpy": np.__version__, "scipy": scipy.__version__}, "cases": cases, "null": null}
pathlib.Path(__file__).with_name("higher_criticism.json").write_text(json.dumps(golden) + "\n")
