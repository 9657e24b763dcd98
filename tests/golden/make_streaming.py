# SPDX-License-Identifier: Apache-2.0
"""Golden values for density/{streaming_kde,cell_density}: writes tests/golden/streaming.json."""
import json
import pathlib

import mpmath
import numpy as np
import sklearn
import sklearn.neighbors
import torch

rng = np.random.default_rng(20261121)
mpmath.mp.dps = 40

logits = np.concatenate([rng.normal(-1, 0.7, 160), rng.normal(2, 0.4, 40)])
half = torch.tensor(logits).to(torch.bfloat16).to(torch.float64).numpy()
single = logits.astype(np.float32).astype(np.float64)
at = np.linspace(-3.6, 3.9, 26)

densities = []
for name in ("gaussian", "tophat", "epanechnikov", "exponential", "linear", "cosine"):
    for h in (0.11, 0.7):
        kde = {k: sklearn.neighbors.KernelDensity(kernel=name, bandwidth=h, rtol=0, atol=0).fit(x[:, None]) for k, x in (("bf16", half), ("float", single))}
        densities.append({"kernel": name, "bandwidth": h, **{k: np.exp(d.score_samples(at[:, None])).tolist() for k, d in kde.items()}})

# Upper tails of the Gaussian estimate, far beyond the data, in 40 digits.
tails = []
for h in (0.11, 0.7):
    for y in (-5.0, 0.0, 2.5, 4.0, 6.0, 12.0, 40.0):
        log_p = [float(mpmath.log(mpmath.fsum(mpmath.erfc((mpmath.mpf(y) - mpmath.mpf(float(v))) / mpmath.mpf(h) / mpmath.sqrt(2)) / 2 for v in x) / len(x)))
                 for x in (half, single)]
        tails.append({"bandwidth": h, "y": y, "bf16": log_p[0], "float": log_p[1]})

versions = {m.__name__: m.__version__ for m in (np, sklearn, mpmath, torch)}
golden = {"made_by": "tests/golden/make_streaming.py", "versions": versions, "bf16": half.tolist(), "float": single.tolist(), "at": at.tolist(),
          "densities": densities, "tails": tails}
path = pathlib.Path(__file__).with_name("streaming.json")
path.write_text(json.dumps(golden, allow_nan=False) + "\n")
print(path.name, versions)
