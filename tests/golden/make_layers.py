# SPDX-License-Identifier: Apache-2.0
"""Golden values for layers/lag_correlation: writes tests/golden/layers.json."""
import itertools
import json
import pathlib

import numpy as np
import scipy
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

versions = {m.__name__: m.__version__ for m in (np, scipy)}
path = pathlib.Path(__file__).with_name("layers.json")
path.write_text(json.dumps({"made_by": "tests/golden/make_layers.py", "versions": versions, "lag_correlation": cases, "exact": exact}) + "\n")
print(path.name, versions)
