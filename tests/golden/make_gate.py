# SPDX-License-Identifier: Apache-2.0
"""Golden values for routing/{gate,activation,specialization} and weights/expert_gram: writes tests/golden/gate.json.

scipy and scikit-learn where they have the statistic, numpy where it is a mean, exact fractions for dot products; the
jackknife is written out, one block left out at a time.
"""
import fractions
import json
import pathlib

import numpy as np
import scipy
import scipy.special
import scipy.stats
import sklearn
import sklearn.metrics

rng = np.random.default_rng(20240711)

gates = []
for e, k, spread in ((8, 2, 1.0), (64, 8, 3.0), (5, 5, 0.2), (3, 1, 30.0)):
    z = rng.normal(0, spread, (40, e)) + rng.normal(0, 2, (40, 1))
    p = scipy.special.softmax(z, 1)
    ordered = -np.sort(-p, 1)
    after = ordered[:, k] if k < e else np.zeros(len(z))
    s = scipy.special.expit(z)
    gates.append({"experts": e, "top_k": k, "logits": z.tolist(),
                  "entropy_nats": float(scipy.stats.entropy(p, axis=1).mean()),
                  "top1_probability": float(ordered[:, 0].mean()),
                  "top_k_mass": float(ordered[:, :k].sum(1).mean()),
                  "margin": float((ordered[:, k - 1] - after).mean()),
                  "z_loss": float((scipy.special.logsumexp(z, axis=1) ** 2).mean()),
                  "softmax": p.mean(0).tolist(),
                  "sigmoid": (s / s.sum(1, keepdims=True)).mean(0).tolist()})


def effective(counts, slots):
    """exp(entropy) of the totals, brought from their own number of slots to `slots` by the expansion that the page gives."""
    total, seen = counts.sum(), (counts > 0).sum()
    return np.exp(scipy.stats.entropy(counts) + (seen - 1) / 2 * (1 / total - 1 / slots))


specializations = []
for labels, e, documents, paired in ((2, 6, 24, False), (3, 4, 30, True)):
    label = np.arange(documents) % labels
    block = np.arange(documents) // labels if paired else np.arange(documents)
    counts = np.array([rng.multinomial(rng.integers(30, 90), rng.dirichlet(1.0 + np.roll(np.arange(e), c))) for c in label])
    table = np.array([counts[label == c].sum(0) for c in range(labels)])
    share = table / table.sum(1, keepdims=True)
    smallest = table.sum(1).min()
    theta = [effective(t, smallest) for t in table]
    left_out = [[effective(counts[(label == c) & (block != g)].sum(0), smallest) for g in np.unique(block)] for c in range(labels)]

    def own(c):
        return [i for i, g in enumerate(np.unique(block)) if g in block[label == c]]

    def jackknife(value, without):
        g, mean = len(without), np.mean(without)
        return value - (g - 1) * (mean - value), np.sqrt((g - 1) / g * np.sum((without - mean) ** 2)), g

    corrected = [jackknife(theta[c], np.array(left_out[c])[own(c)])[0] for c in range(labels)]
    differences = []
    for a in range(labels):
        for b in range(a + 1, labels):
            both = sorted(set(own(a)) | set(own(b)))
            value, error, g = jackknife(theta[a] - theta[b], np.array(left_out[a])[both] - np.array(left_out[b])[both])
            differences.append({"value": value, "p": float(2 * scipy.stats.t.sf(abs(value) / error, g - 1))})
    specializations.append({
        "counts": counts.tolist(), "labels": label.tolist(), "blocks": block.tolist(), "label_count": labels,
        "share": share.tolist(), "lift": (share / (table.sum(0) / table.sum())).tolist(),
        "mutual_information_nats": float(sklearn.metrics.mutual_info_score(None, None, contingency=table)),
        "effective_experts": corrected, "differences": differences})

tile = rng.normal(0, 1, (6, 700)).astype(np.float32)
exact = [[fractions.Fraction(float(x)) for x in row] for row in tile]
dots = [[float(sum(x * y for x, y in zip(a, b))) for b in exact] for a in exact]
gram = {"tile": [[float(x) for x in row] for row in tile], "dots": dots}

versions = {m.__name__: m.__version__ for m in (np, scipy, sklearn)}
path = pathlib.Path(__file__).with_name("gate.json")
path.write_text(json.dumps({"made_by": "tests/golden/make_gate.py", "versions": versions, "gate": gates,
                            "specialization": specializations, "expert_gram": gram}) + "\n")
print(path.name, versions)
