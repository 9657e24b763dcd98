# SPDX-License-Identifier: Apache-2.0
"""Golden values for numeric/quantile by numpy: run from the repository root, writes tests/golden/quantile.json."""
import json
import pathlib

import numpy

P = [0, 0.001, 0.1, 0.25, 0.3333, 0.5, 0.75, 0.9, 0.999, 1]


def case(x):
    return {"x": x.tolist(), "p": P, "quantiles": numpy.quantile(x, P).tolist()}


rng = numpy.random.default_rng(11)
cases = [case(rng.normal(size=n)) for n in (1, 2, 3, 10, 101)] + [case(numpy.round(4 * rng.normal(size=60)))]
path = pathlib.Path(__file__).with_name("quantile.json")
path.write_text(json.dumps({"versions": {"numpy": numpy.__version__}, "quantiles": cases}, indent=1) + "\n")
