# SPDX-License-Identifier: Apache-2.0
"""What the peers share: the inputs, the comparison of answers, the clock."""
import argparse
import json
import os
import pathlib
import time

# A library tuned by the environment of whoever runs this is not the peer that users meet.
for variable in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(variable, None)

import numpy as np
import torch

SIZES = (64, 128, 256)
ROWS = 1 << 18  # bench_rows of support.hpp


def logits(rows, n):
    return np.random.default_rng(n).standard_normal((rows, n), dtype=np.float32)


def run(check, tasks):
    """check(n, logits, load) raises if our answers differ; tasks(n, logits) yields (task, peer, threads it can use, function)."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("inputs", "check"):
        commands.add_parser(name).add_argument("folder", type=pathlib.Path)
    commands.add_parser("time").add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    if arguments.command == "inputs":
        for n in SIZES:
            np.save(arguments.folder / f"logits_{n}.npy", logits(4099, n))
    elif arguments.command == "check":
        for n in SIZES:
            check(n, np.load(arguments.folder / f"logits_{n}.npy"), lambda name: np.load(arguments.folder / f"{name}_{n}.npy"))
    else:
        torch.set_num_threads(arguments.threads)
        results = []
        for n in SIZES:
            z = logits(ROWS, n)
            for task, peer, most_threads, function in tasks(n, z):
                if arguments.threads > most_threads:
                    continue
                function()
                best = min(timed(function) for _ in range(3))
                results.append({"task": task, "n": n, "threads": arguments.threads, "peer": peer, "ns": best / ROWS * 1e9})
        print(json.dumps(results))


def timed(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def require(condition, what):
    if not condition:
        raise SystemExit(f"bench: answers differ: {what}")
