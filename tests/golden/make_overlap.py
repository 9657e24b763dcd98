# SPDX-License-Identifier: Apache-2.0
"""Golden values for routing/overlap and routing/adaptive: writes tests/golden/overlap.json."""
import json
import pathlib

import numpy as np
import scipy
import scipy.stats
import sklearn
import statsmodels
import torch
from sklearn.metrics import cohen_kappa_score, jaccard_score
from statsmodels.stats.multitest import multipletests

rng = np.random.default_rng(20240621)

overlaps = []
for e, k, t, drift in ((8, 2, 60, 0.3), (16, 4, 80, 0.7), (5, 1, 50, 0.5)):
    load = rng.dirichlet(np.ones(e))
    draw = lambda: rng.choice(e, k, replace=False, p=load)
    a = np.array([draw() for _ in range(t)])
    b = np.array([draw() if rng.random() < drift else rng.permutation(row) for row in a])
    wa, wb = rng.random((t, k)).astype(np.float32), rng.random((t, k)).astype(np.float32)
    ha, hb = np.zeros((t, e), int), np.zeros((t, e), int)
    np.put_along_axis(ha, a, 1, 1)
    np.put_along_axis(hb, b, 1, 1)
    da, db = np.zeros((t, e)), np.zeros((t, e))
    np.put_along_axis(da, a, wa.astype(float), 1)
    np.put_along_axis(db, b, wb.astype(float), 1)
    da /= da.sum(1, keepdims=True)
    db /= db.sum(1, keepdims=True)
    saturation = float(np.mean([len(set(x) & set(y)) / k for x, y in zip(a.tolist(), b.tolist())]))  # as OLMoE's script
    chance = float(ha.mean(0) @ hb.mean(0) / k)
    overlaps.append({
        "experts": e, "top_k": k, "a": a.tolist(), "b": b.tolist(), "weights_a": wa.astype(float).tolist(), "weights_b": wb.astype(float).tolist(),
        "saturation": saturation, "chance": chance, "kappa": (saturation - chance) / (1 - chance),
        "jaccard": float(jaccard_score(ha, hb, average="samples")),
        "identical": float((ha == hb).all(1).mean()),
        "weighted": float(1 - 0.5 * np.abs(da - db).sum(1).mean()),  # one minus the total variation distance
        "rank1": float((a[:, 0] == b[:, 0]).mean()),
        "rank1_chance": float(np.bincount(a[:, 0], minlength=e) / t @ (np.bincount(b[:, 0], minlength=e) / t)),
        "rank1_kappa": float(cohen_kappa_score(a[:, 0], b[:, 0]))})

# Numbers of experts that the rules of routing/adaptive select. Published BH in torch, as the repository's expressions; the others by
# statsmodels and numpy.
adaptive = []
for n, sharpness in ((16, 1.0), (64, 3.0), (64, 8.0)):
    rows = 15
    signal = rng.random((rows, n)) < 0.15
    z = rng.normal(size=(rows, n)) + sharpness * 0.5 * signal
    p = scipy.stats.norm.sf(z)
    order = np.sort(p, 1)
    case = {"experts": n, "logits": z.tolist(), "p": p.tolist(), "bh": {}, "by": {}, "published_bh": [], "top_p": {}, "gap": []}
    for alpha in (0.05, 0.3, 0.6):
        case["bh"][str(alpha)] = [int(multipletests(row, alpha, "fdr_bh")[0].sum()) for row in p]
        case["by"][str(alpha)] = [int(multipletests(row, alpha, "fdr_by")[0].sum()) for row in p]
        for low, high in ((1, 16), (4, 8)):
            s = torch.from_numpy(order)
            critical = torch.arange(1, n + 1, dtype=torch.float64) / n * alpha
            count = torch.where(s <= critical, torch.arange(1, n + 1).double(), torch.zeros(n, dtype=torch.float64)).max(-1).values
            count = torch.where(count == 0, torch.tensor(float(low), dtype=torch.float64), count).clamp(min=low, max=high).long()
            case["published_bh"].append({"alpha": alpha, "min_k": low, "max_k": high, "count": count.tolist()})
    softmax = scipy.special.softmax(z, 1)
    for mass in (0.3, 0.5, 0.9, 0.99):
        cumulated = np.cumsum(-np.sort(-softmax, 1), 1)
        case["top_p"][str(mass)] = [int(np.searchsorted(row, mass) + 1) for row in cumulated]
    drop = -np.diff(-np.sort(-z, 1), axis=1)
    for low, high in ((1, n - 1), (2, 8)):
        case["gap"].append({"min_k": low, "max_k": high, "count": (np.argmax(drop[:, low - 1:high], 1) + low).tolist()})
    adaptive.append(case)

versions = {m.__name__: m.__version__ for m in (np, scipy, sklearn, statsmodels, torch)}
path = pathlib.Path(__file__).with_name("overlap.json")
path.write_text(json.dumps({"made_by": "tests/golden/make_overlap.py", "versions": versions, "overlap": overlaps, "adaptive": adaptive}) + "\n")
print(path.name, versions)
