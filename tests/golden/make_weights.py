# SPDX-License-Identifier: Apache-2.0
"""Golden values for weights/ (expert_similarity, subspace, alignment, norms): writes tests/golden/weights.json."""
import itertools
import json
import pathlib

import mpmath
import numpy as np
import scipy
import scipy.linalg
import scipy.optimize
import scipy.stats
import sklearn
import sklearn.decomposition
import sklearn.metrics.pairwise

rng = np.random.default_rng(20261121)


def anisotropic(*shape):
    return rng.normal(size=shape) * np.linspace(2, 0.1, shape[-1]) + 0.3 * rng.normal(size=shape[-1])


def bf16(x):
    """Values that bfloat16 holds."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32).astype(float)


# Cosines of flattened experts, plain and with the layer's mean expert subtracted; the published summary at every lag.
similarity = []
for layers, experts, n in ((3, 4, 37), (4, 2, 5), (2, 7, 64)):
    w = bf16(anisotropic(layers, experts, n))
    w[-1] += w[0] * 0.7
    w = bf16(w)
    cosine = [[sklearn.metrics.pairwise.cosine_similarity(a, b).tolist() for b in w] for a in w]
    c = w - w.mean(axis=1, keepdims=True)
    centred = [[sklearn.metrics.pairwise.cosine_similarity(a, b).tolist() for b in c] for a in c]
    lags = []
    for delta in range(1, layers):
        values = np.array([[cosine[l][l + delta][e][e] for e in range(experts)] for l in range(layers - delta)]).ravel()
        lags.append({"mean": values.mean(), "sd_published": values.std(ddof=0), "median": float(np.median(values))})
    similarity.append({"layers": layers, "experts": experts, "weights": w.reshape(layers * experts, n).tolist(), "cosine": cosine,
                       "centred": centred, "lags": lags})

# All relabellings of one layer against another, hence null mean, sd and two-sided p-value.
diagonal = []
for _ in range(4):
    m = rng.normal(size=(5, 5)) + rng.normal(size=(5, 1)) + 0.8 * np.eye(5)
    null = np.array([np.mean([m[i, p[i]] for i in range(5)]) for p in itertools.permutations(range(5))])
    deviation = np.abs(null - null.mean())
    diagonal.append({"matrix": m.tolist(), "null_mean": null.mean(), "null_sd": null.std(ddof=0),
                     "p_value": float(np.mean(deviation >= deviation[0] - 1e-12))})

# Experts compared by W^T W without its trace.
model_space = []
for experts, f, d in ((3, 5, 7), (2, 4, 150)):
    w = bf16(anisotropic(experts, f, d))
    grams = [a.T @ a - np.trace(a.T @ a) / d * np.eye(d) for a in w]
    flat = np.array([g.ravel() for g in grams])
    model_space.append({"weights": w.tolist(), "cosine": sklearn.metrics.pairwise.cosine_similarity(flat).tolist()})

# Matched hidden units.
matching = []
for f, d in ((6, 9), (12, 5)):
    gate, up, down = ([bf16(anisotropic(f, d)) for _ in range(2)] for _ in range(3))
    cosine = [sklearn.metrics.pairwise.cosine_similarity(*pair) for pair in (gate, up, down)]
    s = (cosine[0] + cosine[1] * cosine[2]) / 2
    rows, columns = scipy.optimize.linear_sum_assignment(s, maximize=True)
    matching.append({"gate": [x.tolist() for x in gate], "up": [x.tolist() for x in up], "down": [x.T.tolist() for x in down],
                     "neuron": columns.tolist(), "similarity": s[rows, columns].mean(), "same_order": float(np.mean(np.diag(s)))})

# Spectra: numpy's SVD, sklearn's PCA.
spectra = []
for rows, columns, rank in ((4, 9, 4), (9, 4, 4), (6, 6, 2), (1, 5, 1), (3, 1, 1)):
    m = bf16(anisotropic(rows, columns)) if rank == min(rows, columns) else rng.integers(-3, 4, (rows, rank)) @ rng.integers(-3, 4, (rank, columns)) * 1.0
    s = np.linalg.svd(m, compute_uv=False)
    vh = np.linalg.svd(m)[2][:min(rows, columns)]
    vh *= np.sign(vh[np.arange(len(vh)), np.abs(vh).argmax(axis=1)])[:, None]
    share = s**2 / np.sum(s**2)
    case = {"matrix": m.tolist(), "singular_values": s.tolist(), "explained": share.tolist(), "rank": int(np.linalg.matrix_rank(m)),
            "directions": vh.tolist(), "effective_rank": np.exp(scipy.stats.entropy(share)),
            "roy_vetterli": np.exp(scipy.stats.entropy(s)), "participation": np.sum(s**2)**2 / np.sum(s**4),
            "above_one_percent": int(np.sum(share > 0.01))}
    if rows > 1:
        pca = sklearn.decomposition.PCA().fit(m)
        case["pca_variance"] = pca.explained_variance_.tolist()
    spectra.append(case)

# Principal angles: scipy (descending there), and constructed ones down to 1e-12 in 60 digits.
angles = []
for p, q, d in ((3, 3, 8), (2, 5, 9), (4, 1, 6), (5, 4, 7)):
    a, b = anisotropic(p, d), anisotropic(q, d)
    theta = scipy.linalg.subspace_angles(a.T, b.T)[::-1]
    qa, qb = scipy.linalg.orth(a.T), scipy.linalg.orth(b.T)
    angles.append({"a": a.tolist(), "b": b.tolist(), "angles": theta.tolist(), "overlap": np.linalg.norm(qa.T @ qb)**2 / min(p, q),
                   "mean_cosine": float(np.mean(np.cos(theta)))})
mpmath.mp.dps = 60
small = []
for exponent in (0, -3, -6, -9, -12):
    # A space of two, and a second one tilted by t in one direction and 2 t in the other; the rows mix both.
    t = 10.0**exponent
    a = [[1, 0, 0, 0], [1, 1, 0, 0]]
    b = [[1, 0, t, 0], [3, 1, 3 * t, 2 * t]]
    small.append({"a": a, "b": b, "angles": [float(mpmath.atan(mpmath.mpf(t))), float(mpmath.atan(mpmath.mpf(2 * t)))]})

# Router rows against input maps.
alignment = []
for experts, f, d in ((4, 5, 6), (3, 70, 4)):
    router, maps = bf16(anisotropic(experts, d)), bf16(anisotropic(experts, f, d))
    case = {"router": router.tolist(), "maps": maps.tolist(),
            "published": [float(np.linalg.norm(maps[e] @ router[e])) for e in range(experts)]}
    for name, r in (("ratio", router), ("centred", router - router.mean(axis=0))):
        unit = r / np.linalg.norm(r, axis=1, keepdims=True)
        case[name] = [[float(np.sum((maps[g] @ unit[e])**2) * d / np.sum(maps[g]**2)) for g in range(experts)] for e in range(experts)]
    alignment.append(case)

norms = []
for rows, columns in ((3, 8), (8, 3), (1, 4), (17, 17)):
    m = bf16(anisotropic(rows, columns))
    fro, two = np.linalg.norm(m), np.linalg.norm(m, 2)
    norms.append({"matrix": m.tolist(), "rows": np.linalg.norm(m, axis=1).tolist(), "frobenius": fro, "spectral": two,
                  "centred_rows": np.linalg.norm(m - m.mean(axis=0), axis=1).tolist(), "stable_rank": (fro / two)**2})

versions = {m.__name__: m.__version__ for m in (np, scipy, sklearn, mpmath)}
path = pathlib.Path(__file__).with_name("weights.json")
path.write_text(json.dumps({"made_by": "tests/golden/make_weights.py", "versions": versions, "similarity": similarity, "diagonal": diagonal,
                            "model_space": model_space, "matching": matching, "spectra": spectra, "angles": angles, "small_angles": small,
                            "alignment": alignment, "norms": norms}) + "\n")
print(path.name, versions)
