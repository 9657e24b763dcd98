# SPDX-License-Identifier: Apache-2.0
"""Golden values for inference/order_statistic: writes tests/golden/order_statistic.json."""
import json
import pathlib

import numpy as np
import scipy
import scipy.stats

rng = np.random.default_rng(20240706)

law = [{"k": k, "experts": e, "p": p, "cdf": float(scipy.stats.beta.cdf(p, k, e + 1 - k))}
       for e in (1, 8, 64, 256) for k in (1, e // 2 + 1, e) for p in (0.0, 1e-12, 0.01, 0.3, 0.99, 1.0)]

# Shares of tokens below the Beta quantiles, and the means of the order statistics.
curves = []
for e, k in ((8, 1), (8, 3), (64, 8)):
    p = rng.uniform(size=(50, e)) ** 1.3
    third = np.sort(p, axis=1)[:, k - 1]
    q = scipy.stats.beta.ppf(np.arange(1, 16) / 16, k, e + 1 - k)
    curves.append({"p": p.tolist(), "k": k, "observed": [float(np.mean(third <= v)) for v in q], "mean": float(third.mean())})

golden = {"versions": {"numpy": np.__version__, "scipy": scipy.__version__}, "law": law, "curves": curves}
pathlib.Path(__file__).with_name("order_statistic.json").write_text(json.dumps(golden) + "\n")
