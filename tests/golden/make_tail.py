# SPDX-License-Identifier: Apache-2.0
"""Golden values for density/{tail,trim,published_cdf}: writes tests/golden/tail.json."""
import json
import pathlib
import struct

import mpmath
import numpy as np
import scipy
import scipy.stats
import sklearn
import sklearn.neighbors
import torch

rng = np.random.default_rng(20261121)
mpmath.mp.dps = 40


def polished(equations, start):
    """The root of the likelihood equations in 40 digits, from a start that scipy found."""
    return [float(v) for v in mpmath.findroot(equations, start)]


def pareto_case(shape, scale, n):
    y = scipy.stats.genpareto.rvs(shape, scale=scale, size=n, random_state=rng)
    fitted, _, width = scipy.stats.genpareto.fit(y, floc=0)
    values = [mpmath.mpf(float(v)) for v in y]

    def equations(c, s):
        z = [v / s for v in values]
        d_scale = mpmath.fsum((1 + c) * v / (1 + c * v) for v in z) - n
        d_shape = mpmath.fsum(mpmath.log(1 + c * v) / c**2 - (1 / c + 1) * v / (1 + c * v) for v in z)
        return d_scale, d_shape

    c, s = polished(equations, (fitted, width))
    at = [float(v) for v in y.max() * np.array([0.3, 1.0, 1.1, 3.0])]
    return {"excesses": y.tolist(), "shape": c, "scale": s, "scipy_shape": float(fitted), "scipy_scale": float(width),
            "at": at, "log_survival": [float(v) if np.isfinite(v) else None for v in scipy.stats.genpareto.logsf(at, c, scale=s)]}


def window_case(location, scale, lower, upper, inside, outside):
    a, b = (lower - location) / scale, (upper - location) / scale
    x = scipy.stats.truncnorm.rvs(a, b, loc=location, scale=scale, size=inside, random_state=rng)
    m1, m2 = [mpmath.fsum(mpmath.mpf(float(v)) ** p for v in x) / inside for p in (1, 2)]

    def equations(m, s):
        # Mean and second moment of the truncated law equal those of the sample.
        f, t = (lower - m) / s, (upper - m) / s
        z = mpmath.ncdf(t) - mpmath.ncdf(f)
        shift = (mpmath.npdf(f) - mpmath.npdf(t)) / z
        mean = m + s * shift
        variance = s**2 * (1 + (f * mpmath.npdf(f) - t * mpmath.npdf(t)) / z - shift**2)
        return mean - m1, variance + mean**2 - m2

    m, s = polished(equations, (location, scale))
    share = inside / (inside + outside) / (scipy.stats.norm.cdf(upper, m, s) - scipy.stats.norm.cdf(lower, m, s))
    return {"x": x.tolist(), "outside": outside, "lower": lower, "upper": upper, "location": m, "scale": s, "null_share": float(share),
            "at": 5.0, "log_p": float(scipy.stats.norm.logsf(5.0, m, s))}


def fnv(doubles):
    h = 0xCBF29CE484222325
    for byte in struct.pack(f"<{len(doubles)}d", *doubles):
        h = (h ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return str(h)


def linspace(lowest, highest, points=10000):
    lowest, highest = np.float64(lowest), np.float64(highest)
    return np.linspace(lowest - 0.2 * abs(lowest), highest + 0.2 * abs(highest), points)


def pipeline(x, density):
    """As run_deepseek_pipeline.py of AliABULIEL/MOE-with-feature-selection computes it."""
    grid = linspace(x.min(), x.max())
    cdf = np.cumsum(density(grid))
    cdf /= cdf[-1]
    return grid, cdf


def half_numbers(values, kind):
    return torch.tensor(values, dtype=torch.float64).to(kind)


def clamped(p, z, kind):
    """compute_pvalues_kde from p on, for logits of that dtype."""
    eps = torch.finfo(kind).eps
    return torch.clamp(torch.from_numpy(p).to(kind), min=eps, max=1.0 - eps).to(torch.float64).tolist()


sample = np.concatenate([rng.normal(-1, 0.7, 500), rng.normal(2, 0.4, 80)])
kernels = []
grid, cdf = pipeline(sample, scipy.stats.gaussian_kde(sample).evaluate)
every = slice(0, None, 53)
kernels.append({"kernel": "scipy", "cdf": cdf[every].tolist()})
h = 1.06 * np.std(sample) * len(sample) ** (-1 / 5)
for name in ("gaussian", "tophat", "epanechnikov", "linear"):
    kde = sklearn.neighbors.KernelDensity(kernel=name, bandwidth=h).fit(sample[:, None])
    kernels.append({"kernel": name, "cdf": pipeline(sample, lambda g: np.exp(kde.score_samples(g[:, None])))[1][every].tolist()})

model_x = linspace(-2.7, 3.3, 301)
model_cdf = np.cumsum(rng.random(301) ** 3)
model_cdf /= model_cdf[-1]
p_values = []
for kind in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
    z = half_numbers(np.concatenate([rng.normal(0, 2.5, 400), model_x[::37], model_x[[0, -1]], [3.9, 3.95, -3.2, -3.23, 0.0]]), kind)
    wide = z.to(torch.float64).numpy()
    p = 1 - np.interp(wide, model_x, model_cdf)
    p_values.append({"dtype": str(kind), "z": wide.tolist(), "p": p.tolist(), "clamped": clamped(p, z, kind)})

grids = [{"minimum": a, "maximum": b, "hash": fnv(linspace(a, b))}
         for a, b in ((-7.90625, 3.390625), (-0.1, 0.3), (0.0, 5.5), (-3.3, 0.0), (1e-3, 17.77), (-12.7, -0.3), (2.5, 2.5), (0.0, 5e-324))]

versions = {m.__name__: m.__version__ for m in (np, scipy, sklearn, mpmath, torch)}
golden = {
    "made_by": "tests/golden/make_tail.py", "versions": versions,
    "pareto": [pareto_case(*c) for c in ((0.3, 1.0, 60), (-0.2, 2.0, 100), (0.02, 1e-3, 80), (-0.45, 50.0, 150), (1.4, 1.0, 70))],
    "window": [window_case(*c) for c in ((0.0, 1.0, -1.5, 1.5, 300, 40), (-1.0, 0.6, -2.0, 0.2, 500, 77), (3.0, 2.0, 1.0, 9.0, 200, 10), (0.0, 0.05, -1, 1, 100, 3))],
    "sample": sample.tolist(), "bandwidth": h, "kernels": kernels,
    "model": {"x": model_x.tolist(), "cdf": model_cdf.tolist()}, "p_values": p_values, "grids": grids,
}
path = pathlib.Path(__file__).with_name("tail.json")
path.write_text(json.dumps(golden, allow_nan=False) + "\n")
print(path.name, versions)
