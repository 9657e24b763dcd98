# SPDX-License-Identifier: Apache-2.0
"""Coefficients of the polynomial in density/detail/mills.hpp, highest power first, as binary64.

(1 + z) R(z), R the Mills ratio of the normal law, is smooth in t = (z - 5) / (z + 5) on the whole half line z >= 0
(Shepherd, Laframboise 1981, doi:10.1090/S0025-5718-1981-0595058-X, expand erfcx so). Its Chebyshev series, cut where the
terms fall below 2e-17 and written in powers of t, has small coefficients: rounding is not amplified.
Prints the coefficients and the largest relative error found.
"""

from mpmath import cos, erfc, exp, mp, mpf, pi, sqrt

mp.dps = 50
CENTRE, NODES = mpf(5), 60


def mills(z):
    if z < 100:
        return sqrt(pi / 2) * exp(z * z / 2) * erfc(z / sqrt(mpf(2)))
    r = z
    for k in range(60, 0, -1):
        r = z + k / r
    return 1 / r


def scaled(t):
    z = CENTRE * (1 + t) / (1 - t)
    return (1 + z) * mills(z)


nodes = [cos(pi * (2 * k + 1) / (2 * NODES)) for k in range(NODES)]
values = [scaled(t) for t in nodes]
series = [2 * sum(v * cos(pi * j * (2 * k + 1) / (2 * NODES)) for k, v in enumerate(values)) / NODES for j in range(NODES)]
series[0] /= 2
terms = next(j for j in range(NODES) if all(abs(c) < 2e-17 for c in series[j:]))

powers = [mpf(0)] * terms
before, chebyshev = [mpf(1)], [mpf(0), mpf(1)]
for j in range(terms):
    current = before
    for i, c in enumerate(current):
        powers[i] += series[j] * c
    before, chebyshev = chebyshev, [mpf(0)] + [2 * c for c in chebyshev]
    for i, c in enumerate(current):
        chebyshev[i] -= c

rounded = [float(c) for c in powers]
print(", ".join(c.hex() for c in reversed(rounded)))
worst = 0
for k in range(2000):
    t = mpf(-1) + mpf(2) * k / 2000
    value = mpf(0)
    for c in reversed(rounded):
        value = value * t + mpf(c)
    worst = max(worst, abs(value / scaled(t) - 1))
print(terms, "terms, relative error", mp.nstr(worst, 3))
