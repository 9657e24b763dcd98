# SPDX-License-Identifier: Apache-2.0
"""What the peers share. A peer module NAME.py has check(folder), which raises if the answers of bench_NAME there are not those of
the peers, and tasks(), which yields Task."""
import functools
import importlib
import time
import typing

import numpy as np

SIZES = (64, 128, 256)
ROWS = 1 << 18  # bench_rows of support.hpp
VALUES = 1 << 24  # bench_values of support.hpp


class Task(typing.NamedTuple):
    task: str  # as in bench_NAME
    n: int
    peer: str
    items: int  # what the time is divided by, as in bench_NAME
    call: typing.Callable
    threads: bool = False  # takes as many threads as it may have; others are timed with one
    once: bool = False  # takes so long that it is timed once


def optional(name):
    """The module, or None: what needs it is then left out, and bench/run.sh says so."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


@functools.cache
def logits(n, rows=ROWS):
    return np.random.default_rng(n).standard_normal((rows, n), dtype=np.float32)


@functools.cache
def values(n=VALUES):
    return np.random.default_rng(n).standard_normal(n, dtype=np.float32)


@functools.cache
def choices(n, k=8):
    """The k best of every row of logits(n), in no order."""
    return np.argpartition(logits(n), -k, axis=1)[:, -k:].copy()


def inputs(folder):
    for n in SIZES:
        np.save(folder / f"logits_{n}.npy", logits(n, 4099))


def timed(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def require(condition, what):
    if not condition:
        raise SystemExit(f"bench: answers differ: {what}")
