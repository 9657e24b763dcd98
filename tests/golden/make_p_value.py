# SPDX-License-Identifier: Apache-2.0
"""Golden values for inference/p_value: writes tests/golden/p_value.json."""
import json
import pathlib

import numpy as np
import scipy
import scipy.stats

rng = np.random.default_rng(20240701)

# The p-value of scipy's Monte Carlo test with a given null sample is (1 + #{>=}) / (n + 1).
sample = np.round(rng.normal(size=300), 1)
z = np.round(rng.normal(size=25), 1)
p = []
for value in z:
    test = scipy.stats.monte_carlo_test([value], lambda size: np.broadcast_to(sample[:, None], (300, 1)).copy(),
                                        lambda x, axis=-1: np.mean(x, axis=axis), vectorized=True, n_resamples=300,
                                        alternative="greater")
    p.append(float(test.pvalue))

golden = {"versions": {"numpy": np.__version__, "scipy": scipy.__version__},
          "reference": {"sample": sample.tolist(), "z": z.tolist(), "p": p}}
pathlib.Path(__file__).with_name("p_value.json").write_text(json.dumps(golden, indent=1) + "\n")
