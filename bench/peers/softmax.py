# SPDX-License-Identifier: Apache-2.0
"""torch and numpy on the tasks of softmax_bench.cpp."""
import os

import numpy as np
import peer
import torch


def numpy_softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def check(n, z, load):
    exact = numpy_softmax(z.astype(np.float64))
    by_torch = torch.softmax(torch.from_numpy(z), 1)
    peer.require(np.allclose(load("softmax"), exact, rtol=2e-6, atol=0), f"softmax of {n}")
    peer.require(np.allclose(load("softmax"), by_torch.numpy(), rtol=4e-6, atol=0), f"softmax of {n} by torch")
    peer.require(np.allclose(load("softmax_mean"), exact.mean(axis=0), rtol=1e-8, atol=0), f"mean softmax of {n}")
    log_sum = torch.logsumexp(torch.from_numpy(z), 1).numpy()
    peer.require(np.allclose(load("log_sum_exp"), log_sum, rtol=1e-6, atol=0), f"log-sum-exp of {n} by torch")


def tasks(n, z):
    f = torch.from_numpy(z)
    every = os.cpu_count() or 1
    yield "softmax", "torch.softmax", every, lambda: torch.softmax(f, 1)
    yield "softmax", "numpy", 1, lambda: numpy_softmax(z)
    yield "softmax_mean", "torch softmax, then mean", every, lambda: torch.softmax(f, 1).mean(0, dtype=torch.float64)
    yield "log_sum_exp", "torch.logsumexp", every, lambda: torch.logsumexp(f, 1)


peer.run(check, tasks)
