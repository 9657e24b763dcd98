# SPDX-License-Identifier: Apache-2.0
"""Golden values for routing/label_effects: writes tests/golden/label_effects.json.

The log-odds are those of the implementation that cites Monroe, Colaresi and Quinn most often (jmhessel/FightingWords), written again with
counts divided by the design effect; the divergence is scipy's.
"""
import json
import pathlib

import numpy as np
import scipy
import scipy.spatial.distance

rng = np.random.default_rng(20240622)

cases = []
for c, e, slots, prior in ((2, 5, 200, 5.0), (4, 16, 3000, 16.0), (3, 8, 60, 100.0)):
    shares = rng.dirichlet(np.ones(e), c)
    counts = np.array([rng.multinomial(slots * (i + 1), p) for i, p in enumerate(shares)])
    deff = 1 + 4 * rng.random(c)
    scaled = counts / deff[:, None]
    alpha = prior * counts.sum(0) / counts.sum()
    odds, error = np.empty((c, e)), np.empty((c, e))
    for i in range(c):
        y, other = scaled[i], np.delete(scaled, i, 0).sum(0)
        odds[i] = np.log((y + alpha) / (y.sum() + prior - y - alpha)) - np.log((other + alpha) / (other.sum() + prior - other - alpha))
        error[i] = np.sqrt(1 / (y + alpha) + 1 / (other + alpha))
    js = [[scipy.spatial.distance.jensenshannon(a, b) ** 2 for b in counts] for a in counts]
    cases.append({"counts": counts.tolist(), "design_effects": deff.tolist(), "prior": prior, "log_odds": odds.tolist(), "error": error.tolist(),
                  "jensen_shannon": js})

versions = {m.__name__: m.__version__ for m in (np, scipy)}
path = pathlib.Path(__file__).with_name("label_effects.json")
path.write_text(json.dumps({"made_by": "tests/golden/make_label_effects.py", "versions": versions, "label_effects": cases}) + "\n")
print(path.name, versions)
