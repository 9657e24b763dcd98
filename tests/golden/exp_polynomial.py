# SPDX-License-Identifier: Apache-2.0
"""Prints the binary64 polynomial of numeric/exp.hpp: the degree-9 q for which 1 + r + r^2 q(r) is exp(r) with the smallest
greatest relative error on |r| <= ln(2) / 2 (Remez exchange), and that error after rounding the coefficients to double.

    python tests/golden/exp_polynomial.py
"""
import mpmath as mp

mp.mp.dps = 60
degree, half = 9, mp.log(2) / 2 * mp.mpf("1.0005")  # a little wider: the reduction rounds
points = degree + 2


def target(r):
    return mp.mpf(1) / 2 + r / 6 if abs(r) < mp.mpf("1e-15") else (mp.exp(r) - 1 - r) / r**2


def weight(r):
    return r**2 / mp.exp(r)


grid = [-half + 2 * half * i / 3000 for i in range(3001)]
nodes = [half * mp.cos(mp.pi * (points - 1 - i) / (points - 1)) for i in range(points)]
nodes = [x if abs(x) > mp.mpf("1e-3") else mp.mpf("0.02") for x in nodes]  # the weight vanishes at 0
for _ in range(10):
    system, right = mp.matrix(points, points), mp.matrix(points, 1)
    for i, x in enumerate(nodes):
        for j in range(degree + 1):
            system[i, j] = x**j
        system[i, points - 1] = (-1) ** i / weight(x)
        right[i] = target(x)
    solution = mp.lu_solve(system, right)
    q = [solution[j] for j in range(degree + 1)]
    errors = [(mp.polyval(q[::-1], x) - target(x)) * weight(x) for x in grid]
    extrema = []  # the largest error of every run of one sign
    for x, e in zip(grid, errors):
        if e == 0:
            continue
        if not extrema or extrema[-1][1] * e < 0:
            extrema.append((x, e))
        elif abs(e) > abs(extrema[-1][1]):
            extrema[-1] = (x, e)
    while len(extrema) > points:
        extrema.pop(0 if abs(extrema[0][1]) < abs(extrema[-1][1]) else -1)
    if len(extrema) < points:
        raise SystemExit("the exchange lost an extremum")
    nodes = [x for x, _ in extrema]

for c in reversed(q):
    print(float(c).hex())
rounded = [mp.mpf(float(c)) for c in q]
print("relative error", mp.nstr(max(abs((mp.polyval(rounded[::-1], x) - target(x)) * weight(x)) for x in grid), 3))
