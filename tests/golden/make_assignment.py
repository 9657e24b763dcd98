# SPDX-License-Identifier: Apache-2.0
"""Golden values for numeric/assignment and numeric/cluster: writes tests/golden/assignment.json."""
import json
import pathlib

import numpy as np
import scipy
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import pdist, squareform

rng = np.random.default_rng(19550301)


def assignment(values, maximize):
    rows, columns = linear_sum_assignment(values, maximize=maximize)
    column = np.full(values.shape[0], -1)
    column[rows] = columns
    return {"values": values.tolist(), "maximum": maximize, "column": column.tolist(), "total": float(values[rows, columns].sum())}


# Continuous values: the best assignment is unique.
assignments = [assignment(np.round(rng.normal(size=shape), 6), bool(i % 2))
               for i, shape in enumerate([(1, 1), (2, 2), (3, 5), (5, 3), (8, 8), (8, 8), (20, 31), (31, 20), (40, 40)])]
# Few distinct values: only the total is unique.
tied = [{k: v for k, v in assignment(rng.integers(0, 4, shape).astype(float), maximum).items() if k != "column"}
        for shape in [(6, 6), (12, 9), (30, 30)] for maximum in (False, True)]


def clusters(points):
    d = pdist(points)
    z = linkage(d, method="average")
    return {"distance": squareform(d).tolist(), "first": z[:, 0].astype(int).tolist(), "second": z[:, 1].astype(int).tolist(),
            "height": z[:, 2].tolist(), "size": z[:, 3].astype(int).tolist(), "order": leaves_list(z).tolist()}


cluster = [clusters(rng.normal(size=(n, 3))) for n in (2, 3, 5, 12, 33)]

versions = {m.__name__: m.__version__ for m in (np, scipy)}
path = pathlib.Path(__file__).with_name("assignment.json")
path.write_text(json.dumps({"made_by": "tests/golden/make_assignment.py", "versions": versions, "assignment": assignments,
                            "tied": tied, "cluster": cluster}) + "\n")
print(path.name, versions)
