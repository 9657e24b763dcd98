# SPDX-License-Identifier: Apache-2.0
"""Writes kernels.json: softmax, log-sum-exp, sigmoid and exp in 60 digits, for the inputs exactly as they are stored.

    python tests/golden/make_kernels.py
"""
import json
import pathlib

import mpmath
import numpy as np

mpmath.mp.dps = 60
random = np.random.default_rng(20240901)


def row(n, scalar, spread):
    z = random.normal(0, spread, n).astype(scalar)
    exact = [mpmath.mpf(float(v)) for v in z]
    terms = [mpmath.exp(v) for v in exact]
    total = mpmath.fsum(terms)
    return {
        "type": scalar.__name__,
        "z": [float(v) for v in z],
        "softmax": [float(t / total) for t in terms],
        "log_sum_exp": float(mpmath.log(total)),
        "sigmoid": [float(1 / (1 + mpmath.exp(-v))) for v in exact],
    }


def exponentials(scalar, lowest, highest):
    x = np.concatenate([random.uniform(lowest, 0, 150), random.uniform(-2, 2, 100), random.uniform(0, highest, 50),
                        [0.0, -0.0, 1.0, -1.0, lowest, highest, np.log(2) / 2, -np.log(2) / 2, 1e-30, -1e-30]]).astype(scalar)
    return {"type": scalar.__name__, "x": [float(v) for v in x], "exp": [float(mpmath.exp(mpmath.mpf(float(v)))) for v in x]}


golden = {
    "made_by": f"make_kernels.py, mpmath {mpmath.__version__}, numpy {np.__version__}",
    "rows": [row(n, scalar, spread) for scalar in (np.float32, np.float64) for n, spread in
             ((1, 2), (2, 50), (7, 2), (16, 8), (31, 1), (32, 3), (33, 0.1), (60, 2), (64, 4), (160, 2))],
    "exp": [exponentials(np.float32, -87, 88), exponentials(np.float64, -708, 709)],
}
pathlib.Path(__file__).with_name("kernels.json").write_text(json.dumps(golden, indent=None, separators=(",", ":")) + "\n")
