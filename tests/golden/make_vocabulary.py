# SPDX-License-Identifier: Apache-2.0
"""Golden values for routing/vocabulary and vocabulary_summary: writes tests/golden/vocabulary.json.

The published statistic is computed the published way: a list of the experts of all occurrences of an id, its Counter, the largest count over
len // k. Halves are given, not hashed: the reader looks for document ids that fall into them.
"""
import json
import pathlib
from collections import Counter, defaultdict

import numpy as np

rng = np.random.default_rng(20240620)


def published(tokens, ids, k):
    experts = defaultdict(list)
    for x, row in zip(tokens, ids):
        experts[x].extend(row)
    probs, by_expert, weights = [], defaultdict(list), []
    for x, seen in experts.items():
        c = Counter(seen)
        e = min(c, key=lambda e: (-c[e], e))  # ties to the lowest number, as ours
        p = c[e] / (len(seen) // k)
        probs.append(p)
        weights.append(len(seen) // k)
        by_expert[e].append(p)
    return probs, weights, by_expert


def favourite(rows):
    c = Counter(e for row in rows for e in row)
    return min(c, key=lambda e: (-c[e], e))


def split(tokens, ids, half, min_count):
    rows = defaultdict(lambda: ([], []))
    for x, row, h in zip(tokens, ids, half):
        rows[x][h].append(row)
    means, hits, n, types = [], 0, 0, 0
    for x, parts in rows.items():
        if min(len(parts[0]), len(parts[1])) < min_count:
            continue
        types += 1
        both = []
        for h in (0, 1):
            e = favourite(parts[h])
            hit = sum(e in row for row in parts[1 - h])
            both.append(hit / len(parts[1 - h]))
            hits += hit
            n += len(parts[1 - h])
        means.append(np.mean(both))
    return float(np.mean(means)), hits / n, types


cases = []
for e, k, documents, length, vocabulary in ((6, 1, 12, 60, 90), (8, 2, 20, 50, 300), (16, 4, 9, 120, 40)):
    home = rng.integers(0, e, vocabulary)
    tokens, ids, offsets, half = [], [], [0], []
    for d in range(documents):
        for _ in range(int(rng.integers(1, length))):
            x = min(int(rng.zipf(1.4)) - 1, vocabulary - 1)
            row = rng.permutation(e)[:k].tolist()
            if rng.random() < 0.5 and int(home[x]) not in row:
                row[0] = int(home[x])
            tokens.append(x)
            ids.append(row)
            half.append(d % 2)
        offsets.append(len(tokens))
    case = {"experts": e, "top_k": k, "tokens": tokens, "ids": ids, "offsets": offsets, "published": [], "split": []}
    for min_count in (1, 3):
        kept = Counter(tokens)
        pick = [i for i, x in enumerate(tokens) if kept[x] >= min_count]
        probs, weights, by_expert = published([tokens[i] for i in pick], [ids[i] for i in pick], k)
        case["published"].append({"min_count": min_count, "mean": float(np.mean(probs)), "types": len(probs),
                                  "weighted_mean": float(np.average(probs, weights=weights)),
                                  "expert_mean": [float(np.mean(by_expert[j])) if j in by_expert else None for j in range(e)],
                                  "expert_types": [len(by_expert[j]) for j in range(e)]})
        mean, weighted, types = split(tokens, ids, half, min_count)
        case["split"].append({"min_count": min_count, "mean": mean, "weighted_mean": weighted, "types": types})
    cases.append(case)

versions = {np.__name__: np.__version__}
path = pathlib.Path(__file__).with_name("vocabulary.json")
path.write_text(json.dumps({"made_by": "tests/golden/make_vocabulary.py", "versions": versions, "vocabulary": cases}) + "\n")
print(path.name, versions)
