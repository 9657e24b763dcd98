# SPDX-License-Identifier: Apache-2.0
"""Golden values for routing/segment_routing: writes tests/golden/segment_routing.json. Segments one by one, thresholds one by one."""
import json
import pathlib

import numpy as np
import scipy
import scipy.stats

rng = np.random.default_rng(20250615)


def best(histogram, window):
    total = sum(c * n for c, n in enumerate(histogram))
    if total == 0:
        return None, 0
    f1 = [2 * sum(c * histogram[c] for c in range(t, window + 1)) / (window * sum(histogram[t:]) + total) for t in range(window + 1)]
    return float(max(f1)), int(np.argmax(f1))


cases = []
for experts, k, window, lengths, sticky in ((6, 2, 4, [30, 3, 4, 17, 0, 25], 0.6), (9, 3, 8, [60, 50, 7, 40], 0.8), (4, 1, 1, [20, 10], 0.0), (5, 2, 3, [40], 0.3)):
    ids, histogram = [], np.zeros((experts, window + 1), int)
    for length in lengths:
        active = np.zeros((length, experts), int)
        for t in range(length):
            row = ids[-1] if t and rng.random() < sticky else (rng.permutation(experts - 1)[:k]).tolist()  # the last expert never
            ids.append(row)
            active[t, row] = 1
        for s in range(length - window + 1):
            for e, c in enumerate(active[s:s + window].sum(0)):
                histogram[e, c] += 1
    windows = int(histogram[0].sum())
    loads = histogram @ np.arange(window + 1) / (window * windows)
    chance = sum(scipy.stats.binom.pmf(np.arange(window + 1), window, p) for p in loads)
    own = [best(h.tolist(), window) for h in histogram]
    srp, threshold = best(histogram.sum(0).tolist(), window)
    cases.append({"experts": experts, "slots": k, "window": window, "lengths": lengths, "ids": [x for r in ids for x in r], "windows": windows,
                  "srp": srp, "threshold": threshold, "of_expert": [o[0] for o in own], "threshold_of": [o[1] for o in own],
                  "chance": best(chance.tolist(), window)[0]})

versions = {m.__name__: m.__version__ for m in (np, scipy)}
path = pathlib.Path(__file__).with_name("segment_routing.json")
path.write_text(json.dumps({"made_by": "tests/golden/make_segment_routing.py", "versions": versions, "segment_routing": cases}) + "\n")
print(path.name, versions)
