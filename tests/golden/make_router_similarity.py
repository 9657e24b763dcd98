# SPDX-License-Identifier: Apache-2.0
"""Golden values for weights/router_similarity: writes tests/golden/router_similarity.json."""
import itertools
import json
import pathlib

import numpy as np
import scipy
import scipy.optimize
import scipy.stats

rng = np.random.default_rng(20261121)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def compare(a, b):
    """Flattened cosine and its law over all relabellings of b; rows paired on one half of the columns, read on the other."""
    e, h = a.shape
    size = np.linalg.norm(a) * np.linalg.norm(b)
    every = np.array([(a * b[list(p)]).sum() for p in itertools.permutations(range(e))]) / size
    halves = [(unit(a[:, :h // 2]) @ unit(b[:, :h // 2]).T), (unit(a[:, h // 2:]) @ unit(b[:, h // 2:]).T)]
    value, mean, sd = 0, 0, 0
    for by, read in (halves, halves[::-1]):
        rows, columns = scipy.optimize.linear_sum_assignment(by, maximize=True)
        value += read[rows, columns].mean() / 2
        law = np.array([read[range(e), p].mean() for p in itertools.permutations(range(e))])
        mean += law.mean() / 2
        sd += law.std() / 2
    whole = unit(a) @ unit(b).T
    rows, columns = scipy.optimize.linear_sum_assignment(whole, maximize=True)
    return {"cosine": float((a * b).sum() / size), "cosine_null_mean": float(every.mean()), "cosine_null_sd": float(every.std()),
            "matched": float(value), "matched_null_mean": float(mean), "matched_null_sd": float(sd),
            "matched_fit": float(whole[rows, columns].mean())}


cases = []
for layers, e, h in ((3, 5, 16), (2, 6, 9)):
    shared = rng.normal(size=(e, h))
    w = rng.normal(size=(layers, e, h)) + 0.8 * shared + rng.normal(size=h)
    case = {"routers": w.tolist()}
    for name, x in (("centred", w - w.mean(1, keepdims=True)), ("published", w)):
        spectrum = np.array([np.maximum(np.sort(np.linalg.eigvalsh(m @ m.T))[::-1], 0) for m in x])
        spectrum /= spectrum.sum(1, keepdims=True)
        norm = np.linalg.norm(x, axis=2)
        case[name] = {"pairs": [dict(compare(x[i], x[j]), first=i, second=j,
                                     spectrum_overlap=float(np.minimum(spectrum[i], spectrum[j]).sum()),
                                     norm_correlation=float(scipy.stats.pearsonr(norm[i], norm[j])[0]))
                                for i, j in itertools.combinations(range(layers), 2)],
                      "spectrum": spectrum.tolist(), "norm": norm.tolist()}
    cases.append(case)

versions = {m.__name__: m.__version__ for m in (np, scipy)}
path = pathlib.Path(__file__).with_name("router_similarity.json")
path.write_text(json.dumps({"made_by": "tests/golden/make_router_similarity.py", "versions": versions, "routers": cases}) + "\n")
print(path.name, versions)
