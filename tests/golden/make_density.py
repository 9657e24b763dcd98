# SPDX-License-Identifier: Apache-2.0
"""Golden values for density/kernel, bandwidth and kde: writes tests/golden/density.json.

Kernels and kernel sums come from mpmath at 60 digits (kernels at 150, for an ulp from the edge of triweight leaves 1e-64), at the exact binary64 inputs; what a peer offers is checked against
it here too, so a slip in this script is seen. Logarithms are kept where a value leaves the range of binary64.
"""
import json
import pathlib

import mpmath
import numpy as np
import scipy
import scipy.fft
import scipy.optimize
import scipy.stats
import sklearn
import sklearn.neighbors
import statsmodels
import statsmodels.nonparametric.bandwidths
import statsmodels.nonparametric.kernel_density
from mpmath import mp, mpf

mp.dps = 60
rng = np.random.default_rng(20260113)


def compact(inside, upper):
    return (lambda u: inside(u) if abs(u) < 1 else mpf(0),
            lambda u: mpf(0) if u >= 1 else mpf(1) if u <= -1 else upper(u) if u >= 0 else 1 - upper(-u))


KERNELS = {
    "gaussian": (lambda u: mp.exp(-u * u / 2) / mp.sqrt(2 * mp.pi), lambda u: mp.erfc(u / mp.sqrt(2)) / 2),
    "epanechnikov": compact(lambda u: mpf(3) / 4 * (1 - u * u), lambda u: mpf(1) / 2 - mpf(3) / 4 * (u - u**3 / 3)),
    "tophat": compact(lambda u: mpf(1) / 2, lambda u: (1 - u) / 2),
    "triangular": compact(lambda u: 1 - abs(u), lambda u: (1 - u) ** 2 / 2),
    "biweight": compact(lambda u: mpf(15) / 16 * (1 - u * u) ** 2,
                        lambda u: mpf(1) / 2 - mpf(15) / 16 * (u - 2 * u**3 / 3 + u**5 / 5)),
    "triweight": compact(lambda u: mpf(35) / 32 * (1 - u * u) ** 3,
                         lambda u: mpf(1) / 2 - mpf(35) / 32 * (u - u**3 + 3 * u**5 / 5 - u**7 / 7)),
    "cosine": compact(lambda u: mp.pi / 4 * mp.cos(mp.pi * u / 2), lambda u: (1 - mp.sin(mp.pi * u / 2)) / 2),
    "exponential": (lambda u: mp.exp(-abs(u)) / 2, lambda u: mp.exp(-u) / 2 if u >= 0 else 1 - mp.exp(u) / 2),
    "logistic": (lambda u: 1 / (2 + mp.exp(u) + mp.exp(-u)), lambda u: 1 / (1 + mp.exp(u))),
}
# scikit-learn's names and unit of the bandwidth are the same, but it has five of them only.
SKLEARN = {"gaussian": "gaussian", "epanechnikov": "epanechnikov", "tophat": "tophat", "triangular": "linear",
           "cosine": "cosine", "exponential": "exponential"}


def number(x):
    """A double, or None for what is 0 or lies below the normal range."""
    return float(x) if abs(x) > mpf("2.3e-308") else None


def logarithm(x):
    return float(mp.log(x)) if x > 0 else None


def kernels():
    out = []
    points = sorted({float(u) for u in [*rng.normal(0, 1, 20), *rng.uniform(-1, 1, 20), *rng.uniform(-38, 38, 12),
                                        0, 1, -1, np.nextafter(1, 0), np.nextafter(-1, 0), 1e-9, 0.999999, 100, -700, 5000]})
    for name, (pdf, survival) in KERNELS.items():
        edge = mpf(1) if pdf(mpf(2)) == 0 else mp.inf
        cuts = [-edge, -1, 0, 1, edge] if edge == mp.inf else [-1, 0, 1]
        # Within the span of binary64 the slope and curvature of smooth kernels are largest where a fine grid says so.
        grid = [mpf(k) / 400 for k in range(-1600, 1601)] if edge == mp.inf else [mpf(k) / 800 for k in range(-799, 800)]
        step = mpf(10) ** -20
        slope = max(abs(pdf(u + step) - pdf(u - step)) / (2 * step) for u in grid)
        curvature = max(abs(pdf(u + step) - 2 * pdf(u) + pdf(u - step)) / step**2 for u in grid)
        second = mp.quad(lambda u: u * u * pdf(u), cuts)
        roughness = mp.quad(lambda u: pdf(u) ** 2, cuts)
        assert abs(mp.quad(pdf, cuts) - 1) < mpf(10) ** -30
        out.append({
            "name": name, "second_moment": float(second), "roughness": float(roughness),
            "canonical_factor": float((roughness / second**2) ** (mpf(1) / 5)), "slope": float(slope), "curvature": float(curvature),
            "points": [{"u": u, "pdf": number(pdf(mpf(u))), "log_pdf": logarithm(pdf(mpf(u))),
                        "survival": number(survival(mpf(u))), "log_survival": logarithm(survival(mpf(u)))} for u in points]})
    return out


def sums():
    """Kernel density estimates by the direct sum, in the body, in gaps and in far tails."""
    samples = [
        ("mixture", np.concatenate([rng.normal(-1, 0.6, 140), rng.normal(0.6, 1, 50), rng.normal(3, 0.5, 10)]), None, 0.3),
        ("two clusters far apart", np.concatenate([rng.uniform(-50, -49, 60), rng.uniform(10, 11, 60)]), None, 0.5),
        ("weights over twelve decades", rng.normal(0, 2, 80), 10.0 ** rng.uniform(-12, 0, 80), 0.4),
        ("one value", np.array([0.1]), None, 0.7),
        ("bf16 ties", np.round(rng.normal(0, 1, 200) * 16) / 16, None, 0.25),
        ("far from 0", 1e6 + rng.normal(0, 1, 60), None, 0.5),
        ("narrow bandwidth", rng.normal(0, 1000, 50), None, 1e-3),
    ]
    out = []
    for label, x, w, h in samples:
        weights = np.ones(len(x)) if w is None else w
        total = mp.fsum(map(mpf, weights))
        low, high = float(x.min()), float(x.max())
        body = np.unique(np.concatenate([np.linspace(low, high, 9), rng.choice(x, min(6, len(x)))]))
        case = {"label": label, "x": x.tolist(), "w": None if w is None else w.tolist(), "h": h, "kernels": []}
        for name, (pdf, survival) in KERNELS.items():
            points = [*body, *(high + h * z for z in (0.5, 0.999, 2, 6, 8.3, 8.7, 15, 30, 37.3, 60, 500)),
                      *(low - h * z for z in (0.7, 5, 9, 37.1, 300))]
            rows = []
            for y in map(float, points):
                u = [(mpf(y) - mpf(v)) / mpf(h) for v in x]
                f = mp.fsum(mpf(a) * pdf(v) for a, v in zip(weights, u)) / total / mpf(h)
                s = mp.fsum(mpf(a) * survival(v) for a, v in zip(weights, u)) / total
                c = mp.fsum(mpf(a) * survival(-v) for a, v in zip(weights, u)) / total
                rows.append([y, number(f), logarithm(f), logarithm(c), logarithm(s)])
            if name in SKLEARN and label == "mixture":
                peer = np.exp(sklearn.neighbors.KernelDensity(kernel=SKLEARN[name], bandwidth=h).fit(x[:, None])
                              .score_samples(body[:, None]))
                assert np.allclose(peer, [r[1] for r in rows[:len(body)]], rtol=1e-10), name
            if name == "gaussian" and label != "one value":
                peer = scipy.stats.gaussian_kde(x, bw_method=1, weights=w)
                peer.set_bandwidth(h / np.sqrt(peer.covariance[0, 0]))
                assert np.allclose(peer(body), [r[1] or 0 for r in rows[:len(body)]], rtol=1e-9, atol=0), label
            case["kernels"].append({"name": name, "rows": rows})
        out.append(case)
    return out


def histograms():
    out = []
    for low, high, bins in ((-2.0, 2.0, 10), (0.1, 0.7, 3), (-1.3, 1.1, 997)):
        edges = np.linspace(low, high, bins + 1)
        x = np.concatenate([rng.normal(0, 1, 200), edges, np.nextafter(edges, 9), np.nextafter(edges, -9)])
        counts, given = np.histogram(x, bins=bins, range=(low, high))
        out.append({"low": low, "high": high, "bins": bins, "x": x.tolist(), "counts": counts.tolist(), "edges": given.tolist()})
    return out


def transforms():
    out = []
    for n in (2, 8, 64, 512):
        x = rng.normal(0, 1, n)
        out.append({"x": x.tolist(), "dct2": scipy.fft.dct(x, 2).tolist(), "dct3": scipy.fft.dct(x, 3).tolist()})
    return out


def sheather_jones(x):
    """The equation of Sheather and Jones 1991 over all pairs."""
    n = len(x)
    scale = min(np.std(x, ddof=1), np.subtract(*np.percentile(x, [75, 25])) / 1.349)
    u2 = np.subtract.outer(x, x) ** 2

    def psi(g, order):
        v = u2 / g**2
        polynomial = v**2 - 6 * v + 3 if order == 4 else v**3 - 15 * v**2 + 45 * v - 15
        return (polynomial * np.exp(-v / 2)).sum() / np.sqrt(2 * np.pi) / (n * (n - 1) * g ** (order + 1))

    alpha = (6 * np.sqrt(2)) ** (1 / 7) * (psi(1.24 * scale * n ** (-1 / 7), 4) / -psi(1.23 * scale * n ** (-1 / 9), 6)) ** (1 / 7)

    def excess(h):
        return (1 / (2 * np.sqrt(np.pi) * n * psi(alpha * h ** (5 / 7), 4))) ** 0.2 - h

    top = 1.144 * scale * n**-0.2
    return scipy.optimize.brentq(excess, 0.1 * top, 1.5 * top, xtol=1e-14, rtol=1e-13)


def improved_sheather_jones(x):
    """Botev, Grotowski and Kroese 2010, algorithm 1."""
    low, high = x.min() - np.ptp(x) / 10, x.max() + np.ptp(x) / 10
    counts, _ = np.histogram(x, bins=2**14, range=(low, high))
    a = scipy.fft.dct(counts / len(x), 2)[1:] / 2
    k2 = np.arange(1, 2**14, dtype=float) ** 2
    distinct = len(np.unique(x))

    def norm(order, t):
        return 2 * np.pi ** (2 * order) * np.sum(k2**order * a**2 * np.exp(-k2 * np.pi**2 * t))

    def excess(t):
        f = norm(7, t)
        for order in range(6, 1, -1):
            odd = np.prod(np.arange(1, 2 * order, 2, dtype=float)) / np.sqrt(2 * np.pi)
            f = norm(order, (2 * (1 + 0.5 ** (order + 0.5)) / 3 * odd / distinct / f) ** (2 / (3 + 2 * order)))
        return t - (2 * distinct * np.sqrt(np.pi) * f) ** -0.4

    top = 1e-11 + 0.01 * (min(max(distinct, 50), 1050) - 50) / 1000
    while excess(0) * excess(top) >= 0:
        top *= 2
        assert top < 0.2
    return np.sqrt(scipy.optimize.brentq(excess, 0, top, xtol=1e-20, rtol=1e-14)) * (high - low)


def likelihood(x, kernel):
    """Maximum of the leave-one-out likelihood, by the matrix of all pairs."""
    pdf = {"gaussian": lambda u: np.exp(-u * u / 2) / np.sqrt(2 * np.pi), "exponential": lambda u: np.exp(-np.abs(u)) / 2,
           "epanechnikov": lambda u: 0.75 * np.clip(1 - u * u, 0, None)}[kernel]
    distance = np.subtract.outer(x, x)
    np.fill_diagonal(distance, np.inf)

    def loss(log_h):
        h = np.exp(log_h)
        with np.errstate(divide="ignore", invalid="ignore"):
            return -np.log(np.nan_to_num(pdf(distance / h)).sum(1) / ((len(x) - 1) * h)).sum()

    grid = np.log(np.std(x)) + np.linspace(np.log(0.03), np.log(3), 80)
    best = grid[np.argmin([loss(g) for g in grid])]
    return float(np.exp(scipy.optimize.minimize_scalar(loss, bounds=(best - 0.06, best + 0.06), method="bounded",
                                                       options={"xatol": 1e-10}).x))


def bandwidths():
    out = []
    for label, x in (("normal", rng.normal(3, 2, 150)), ("two bumps", np.concatenate([rng.normal(-4, 0.5, 300), rng.normal(2, 1, 150)])),
                     ("skewed", rng.gamma(2, 1, 2500)), ("heavy tails", rng.standard_t(3, 1500)),
                     ("ties", np.round(rng.normal(0, 1, 900) * 8) / 8)):
        case = {"label": label, "x": x.tolist(), "scott": float(scipy.stats.gaussian_kde(x).factor * np.std(x, ddof=1)),
                "silverman": float(0.9 * min(np.std(x, ddof=1), scipy.stats.iqr(x) / 1.34) * len(x) ** -0.2),
                "normal_reference": float(statsmodels.nonparametric.bandwidths.bw_normal_reference(x)),
                "published": float(1.06 * np.std(x) * len(x) ** (-1 / 5)),
                "sheather_jones": float(sheather_jones(x)) if label != "ties" else None,
                "improved_sheather_jones": float(improved_sheather_jones(x))}
        if len(x) <= 500:
            case["likelihood"] = {k: likelihood(x, k) for k in ("gaussian", "exponential", "epanechnikov")}
            peer = statsmodels.nonparametric.kernel_density.KDEMultivariate(x, "c", bw="cv_ml").bw[0]
            assert abs(peer / case["likelihood"]["gaussian"] - 1) < 2e-3, (label, peer)
        out.append(case)
    return out


if __name__ == "__main__":
    versions = {m.__name__: m.__version__ for m in (np, scipy, sklearn, statsmodels, mpmath)}
    path = pathlib.Path(__file__).with_name("density.json")
    path.write_text(json.dumps({"made_by": "tests/golden/make_density.py", "versions": versions,
                                "kernels": mp.workdps(150)(kernels)(), "sums": sums(), "histograms": histograms(), "dct": transforms(),
                                "bandwidths": bandwidths()}) + "\n")
    print(path.name, versions)
