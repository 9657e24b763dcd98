# SPDX-License-Identifier: Apache-2.0
"""Golden values for numeric/random: run from the repository root, writes tests/golden/random.json."""
import json
import pathlib

import mpmath

M32 = 0xFFFFFFFF
M64 = 0xFFFFFFFFFFFFFFFF


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & M32, (a >> 32) ^ c[3] ^ k[1], a & M32]
        k = [(k[0] + 0x9E3779B9) & M32, (k[1] + 0xBB67AE85) & M32]
    return c


def mix64(x):
    x = (x + 0x9E3779B97F4A7C15) & M64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & M64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & M64
    return x ^ (x >> 31)


def stream(seed, purpose, ident, sub, words):
    key = mix64((mix64(seed) + purpose) & M64)
    out = []
    for block in range((words + 1) // 2):
        w = philox([block, sub, ident & M32, ident >> 32], [key & M32, key >> 32])
        out += [w[0] | w[1] << 32, w[2] | w[3] << 32]
    return out[:words]


# Known answers distributed by the authors of Philox with their Random123 library (kat_vectors, philox4x32 10).
known = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([M32] * 4, [M32] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0],
     [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]),
]
for counter, key, answer in known:
    assert philox(counter, key) == answer

mpmath.mp.dps = 60
cdf, thresholds = mpmath.mpf(0), []
for k in range(21):
    cdf += mpmath.exp(-1) / mpmath.factorial(k)
    thresholds.append(int(mpmath.floor(cdf * 2**64)))

names = [(1, 2, 3, 4), (0, 0, 0, 0), (M64, 17, 2**40 + 5, M32)]
golden = {
    "versions": {"mpmath": mpmath.__version__},
    "philox4x32": [{"counter": c, "key": k, "output": o} for c, k, o in known],
    "mix64": [[x, mix64(x)] for x in (0, 1, 2, M64)],
    "poisson_thresholds": thresholds,
    "streams": [{"name": n, "words": stream(*n, 5)} for n in names],
}
path = pathlib.Path(__file__).with_name("random.json")
path.write_text(json.dumps(golden, indent=1) + "\n")
