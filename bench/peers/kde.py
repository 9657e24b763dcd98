# SPDX-License-Identifier: Apache-2.0
"""scipy and scikit-learn on the tasks of kde_bench.cpp. Their cost per point does not depend on the number of points, so they
are timed on fewer: ns per point, plus the fit shared among 10,000 points.

    kde.py check FOLDER       our answers in FOLDER against theirs
    kde.py time --threads N   as JSON; neither has threads
"""
import argparse
import json
import pathlib

import numpy as np
import peer
import scipy.special
import scipy.stats
import sklearn.neighbors

POINTS = 10_000


def sample(n):
    rng = np.random.default_rng(3)
    return np.concatenate([rng.normal(-1, 0.6, n * 14 // 20), rng.normal(0.6, 1, n * 5 // 20), rng.normal(3, 0.5, n // 20)])


def check(folder):
    x, y = np.load(folder / "kde_x.npy"), np.load(folder / "kde_y.npy")
    at = np.arange(0, POINTS, 97)
    for kernel in ("gaussian", "epanechnikov", "exponential"):
        h = np.load(folder / f"kde_{kernel}_h.npy")[0]
        pdf = np.load(folder / f"kde_{kernel}_pdf.npy")
        theirs = np.exp(sklearn.neighbors.KernelDensity(kernel=kernel, bandwidth=h, rtol=0, atol=0).fit(x[:, None]).score_samples(y[at, None]))
        relative = {"atol": 1e-13 * pdf.max()} if kernel == "epanechnikov" else {"atol": 0}
        peer.require(np.allclose(pdf[at], theirs, rtol=2e-12, **relative), f"{kernel} density by scikit-learn")
    gaussian = scipy.stats.gaussian_kde(x, bw_method="scott")
    peer.require(np.allclose(np.load(folder / "kde_gaussian_pdf.npy")[at], gaussian(y[at]), rtol=1e-11, atol=0), "gaussian density by scipy")
    exact = [np.exp(scipy.special.logsumexp(scipy.special.log_ndtr((x - v) / np.sqrt(gaussian.covariance[0, 0]))) - np.log(len(x))) for v in y[at]]
    peer.require(np.allclose(np.load(folder / "kde_gaussian_survival.npy")[at], exact, rtol=1e-11, atol=0), "survival by log_ndtr")


def times():
    for n in (10_000, 100_000):
        x = sample(n)
        few = np.linspace(-5, 6, 200)

        def scipy_fit():
            return scipy.stats.gaussian_kde(x, bw_method="scott")

        fitted = scipy_fit()
        h = np.sqrt(fitted.covariance[0, 0])
        yield "kde_gaussian", n, "scipy gaussian_kde.pdf", scipy_fit, lambda: fitted.pdf(few), len(few)
        yield "kde_survival", n, "scipy integrate_box_1d", scipy_fit, lambda: [fitted.integrate_box_1d(v, np.inf) for v in few], len(few)
        for kernel, factor, rtol in (("gaussian", 1, 0), ("gaussian", 1, 1e-4), ("epanechnikov", 2.2138, 0), ("exponential", 0.7398, 0)):
            def fit():
                return sklearn.neighbors.KernelDensity(kernel=kernel, bandwidth=h * factor, rtol=rtol).fit(x[:, None])

            tree = fit()
            yield f"kde_{kernel}", n, f"sklearn KernelDensity rtol={rtol:g}", fit, lambda: tree.score_samples(few[:, None]), len(few)


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check").add_argument("folder", type=pathlib.Path)
    commands.add_parser("time").add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    if arguments.command == "check":
        return check(arguments.folder)
    results = []
    for task, n, name, fit, query, points in times() if arguments.threads == 1 else ():
        fit_time, query_time = (min(peer.timed(f) for _ in range(2)) for f in (fit, query))
        results.append({"task": task, "n": n, "threads": 1, "peer": name, "ns": (query_time / points + fit_time / POINTS) * 1e9})
    print(json.dumps(results))


main()
