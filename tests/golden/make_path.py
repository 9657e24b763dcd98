# SPDX-License-Identifier: Apache-2.0
"""Golden values for routing/path: writes tests/golden/path.json. Coverage and the Chao-Shen entropy in 50 digits of mpmath; paths by Counter."""
import collections
import json
import pathlib

import mpmath
import numpy as np
import scipy
import scipy.stats

rng = np.random.default_rng(20250614)
mpmath.mp.dps = 50


def coverage(n, f1, f2, units):
    n, f1, f2, units = map(mpmath.mpf, (n, f1, f2, units))
    if f1 == 0:
        return 1.0
    if f2 > 0:
        return float(1 - f1 / n * ((units - 1) * f1 / ((units - 1) * f1 + 2 * f2)))
    return float(1 - f1 / n * ((units - 1) * (f1 - 1) / ((units - 1) * (f1 - 1) + 2)))


def chao_shen(counts):
    counts = [mpmath.mpf(int(c)) for c in counts if c > 0]
    n, f1 = sum(counts), sum(c == 1 for c in counts)
    f1 = n - 1 if f1 == n else f1
    shares = [(1 - f1 / n) * c / n for c in counts]
    return float(-sum(p * mpmath.log(p) / (1 - (1 - p) ** n) for p in shares if p > 0))


samples = []
for counts in ([5, 3, 1, 1, 2, 0], [1, 1, 1, 1], [10], [2, 2, 2], [1, 1, 1, 7, 4], rng.multinomial(200, rng.dirichlet(np.full(80, 0.3))).tolist()):
    n, f = sum(counts), collections.Counter(counts)
    samples.append({"counts": counts, "chao_shen": chao_shen(counts), "coverage": coverage(n, f[1], f[2], n)})

cases = []
for experts, k, layers in ((3, 2, 2), (5, 1, 3)):
    lengths = [9, 0, 14, 5, 11]
    ids = [[rng.permutation(experts)[:k].tolist() for _ in range(sum(lengths))] for _ in range(layers)]
    case = {"experts": experts, "slots": k, "layers": layers, "lengths": lengths, "ids": ids}
    for name, path in (("set", lambda t: tuple(tuple(sorted(l[t])) for l in ids)), ("first", lambda t: tuple((l[t][0],) for l in ids))):
        whole, within, start = collections.Counter(), collections.Counter(), 0
        for length in lengths:
            of_document = collections.Counter(path(t) for t in range(start, start + length))
            whole.update(of_document)
            within.update(of_document.keys())
            start += length
        f, q = collections.Counter(whole.values()), collections.Counter(within.values())
        best = max(whole.values())
        case[name] = {"distinct": len(whole), "singletons": f[1], "doubletons": f[2], "entropy": float(scipy.stats.entropy(list(whole.values()))),
                      "miller_madow": float(scipy.stats.entropy(list(whole.values()))) + (len(whole) - 1) / (2 * start),
                      "chao_shen": chao_shen(list(whole.values())), "coverage": coverage(start, f[1], f[2], start),
                      "coverage_documents": coverage(sum(within.values()), q[1], q[2], len(lengths)), "best": best,
                      "best_paths": [list(sum(p, ())) for p, n in whole.items() if n == best]}
    cases.append(case)

versions = {m.__name__: m.__version__ for m in (np, scipy, mpmath)}
path = pathlib.Path(__file__).with_name("path.json")
path.write_text(json.dumps({"made_by": "tests/golden/make_path.py", "versions": versions, "samples": samples, "paths": cases}) + "\n")
print(path.name, versions)
