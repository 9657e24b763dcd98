# SPDX-License-Identifier: Apache-2.0
"""scipy, scikit-learn, statsmodels and KDEpy, fit and 10,000 points together, timed once each: most take seconds. The table
of distribution functions is that of statsmodels, 16,384 points for 10,000 values."""
import numpy as np
import peer
import scipy.special
import scipy.stats

neighbors = peer.optional("sklearn.neighbors")
statsmodels = peer.optional("statsmodels.nonparametric.kde")
KDEpy = peer.optional("KDEpy")

POINTS = 10_000
# Ours: name in scikit-learn, name in KDEpy, whose bandwidth is the sd of the kernel, and that sd.
KERNELS = {
    "gaussian": ("gaussian", "gaussian", 1),
    "exponential": ("exponential", "exponential", 2**0.5),
    "epanechnikov": ("epanechnikov", "epa", 5**-0.5),
    "tophat": ("tophat", "box", 3**-0.5),
    "triangular": ("linear", "tri", 6**-0.5),
    "biweight": (None, "biweight", 7**-0.5),
    "triweight": (None, "triweight", 9**-0.5),
    "cosine": ("cosine", "cosine", (1 - 8 / np.pi**2) ** 0.5),
}


def by_sklearn(kernel, x, h, y, rtol=0):
    tree = neighbors.KernelDensity(kernel=KERNELS[kernel][0], bandwidth=h, rtol=rtol, atol=0).fit(x[:, None])
    return np.exp(tree.score_samples(y[:, None]))


def by_tree(kernel, x, h, y):
    return KDEpy.TreeKDE(kernel=KERNELS[kernel][1], bw=h * KERNELS[kernel][2]).fit(x).evaluate(y, eps=1e-12)


def table(x):
    density = statsmodels.KDEUnivariate(x)
    density.fit(bw="scott")
    return density


def check(folder):
    x, y = np.load(folder / "kde_x.npy"), np.load(folder / "kde_y.npy")
    at = np.arange(0, POINTS, 97)
    for kernel, (of_sklearn, _, _) in KERNELS.items():
        h, pdf = np.load(folder / f"kde_{kernel}_h.npy")[0], np.load(folder / f"kde_{kernel}_pdf.npy")
        compact = kernel not in ("gaussian", "exponential")
        tolerance = 1e-13 * pdf.max() if compact else 0
        if neighbors and of_sklearn:
            theirs = by_sklearn(kernel, x, h, y[at])
            peer.require(np.allclose(pdf[at], theirs, rtol=2e-12, atol=tolerance), f"{kernel} density by scikit-learn")
        if KDEpy and compact:  # it cuts the others off, and never returns 0
            peer.require(np.allclose(pdf[at], by_tree(kernel, x, h, y[at]), rtol=2e-12, atol=tolerance * 10 or 1e-13 * pdf.max()), f"{kernel} density by KDEpy")
    gaussian = scipy.stats.gaussian_kde(x, bw_method="scott")
    h = np.sqrt(gaussian.covariance[0, 0])
    of = lambda name: np.load(folder / f"kde_gaussian_{name}.npy")[at]
    peer.require(np.allclose(of("pdf"), gaussian(y[at]), rtol=1e-11, atol=0), "gaussian density by scipy")
    for name, sign in (("survival", 1), ("cdf", -1)):
        exact = [np.exp(scipy.special.logsumexp(scipy.special.log_ndtr(sign * (x - v) / h)) - np.log(len(x))) for v in y[at]]
        peer.require(np.allclose(of(name), exact, rtol=1e-11, atol=0), f"{name} by log_ndtr")
    if statsmodels:
        small = table(x[:300])
        exact = scipy.special.ndtr((small.support[:, None] - x[:300]) / small.bw).mean(1)
        peer.require(np.allclose(small.cdf, exact, rtol=0, atol=1e-3), "distribution function of statsmodels")


def sample(n):
    rng = np.random.default_rng(3)
    return np.concatenate([rng.normal(-1, 0.6, n * 14 // 20), rng.normal(0.6, 1, n * 5 // 20), rng.normal(3, 0.5, n // 20)])


def tasks():
    y = np.linspace(-5, 6, POINTS)
    few = y[:: POINTS // 200]  # integrate_box_1d takes one point at a time, each as long as any other
    for n in (10_000, 100_000):
        x = sample(n)
        h = np.std(x, ddof=1) * n**-0.2

        def add(kernel, peer_name, call):
            return peer.Task(f"kde_{kernel}", n, peer_name, POINTS, call, once=True)

        yield add("gaussian", "scipy gaussian_kde", lambda: scipy.stats.gaussian_kde(x, bw_method="scott").pdf(y))
        fitted = scipy.stats.gaussian_kde(x, bw_method="scott")
        yield peer.Task("kde_survival", n, "scipy integrate_box_1d", len(few), lambda: [fitted.integrate_box_1d(v, np.inf) for v in few])
        if n == 10_000:
            if statsmodels:
                yield peer.Task("kde_cdf_table", n, "statsmodels KDEUnivariate.cdf", 16_384, lambda: table(x).cdf, once=True)
            continue
        for kernel, (of_sklearn, _, sd) in KERNELS.items():
            width = h / sd  # of equal sd
            if neighbors and of_sklearn:
                yield add(kernel, "sklearn KernelDensity", lambda: by_sklearn(kernel, x, width, y))
            if neighbors and kernel in ("gaussian", "exponential"):
                yield add(kernel, "sklearn KernelDensity, rtol=1e-4", lambda: by_sklearn(kernel, x, width, y, 1e-4))
            if KDEpy and kernel in ("epanechnikov", "biweight", "triweight"):
                yield add(kernel, "KDEpy TreeKDE", lambda: by_tree(kernel, x, width, y))
