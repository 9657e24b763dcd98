# SPDX-License-Identifier: Apache-2.0
"""OLMoE-1B-7B's shape with random weights on a CUDA device, resident and streamed, against transformers; called by gpu.sh."""
import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import torch

import measure
import models

SHAPE = models.OLMOE_1B_7B
LENGTH, BATCH = 2048, 8  # 16,384 tokens a pass: 2,048 for every expert
BYTES = 16 << 30


def operations_per_token():
    """Of the products with weights that one token meets, and of its attention to half the document on average."""
    h, i, l = SHAPE["hidden_size"], SHAPE["intermediate_size"], SHAPE["num_hidden_layers"]
    layer = 4 * h * h + models.COMMON["num_experts"] * h + models.COMMON["num_experts_per_tok"] * 3 * h * i + h * LENGTH
    return 2 * (l * layer + h * SHAPE["vocab_size"])


def peak():
    """Operations a second of a large product in bfloat16, the best of ten."""
    n = 8192
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    least = float("inf")
    for _ in range(13):
        torch.cuda.synchronize()
        start = time.perf_counter()
        a @ b
        torch.cuda.synchronize()
        least = min(least, time.perf_counter() - start)
    return 2 * n**3 / least


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    arguments.device, arguments.threads = "cuda", [8]
    if shutil.disk_usage(tempfile.gettempdir()).free < BYTES:
        raise SystemExit(f"bench: {tempfile.gettempdir()} has less than {BYTES >> 30} GiB free; set TMPDIR")
    help_text = subprocess.run([arguments.binary, "--help"], capture_output=True, text=True, check=True).stdout
    ways = ["all", "stream"] if "--residency" in help_text else [None]
    ceiling, rows, load = peak(), [], []
    print(f"a large product reaches {ceiling / 1e12:.0f} TFLOP/s in bfloat16", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        size = models.random_checkpoint(work / "model", torch.bfloat16, **SHAPE)
        print(f"{size / 1e9:.1f} GB of random weights", flush=True)
        ids = models.random_ids(SHAPE["vocab_size"], LENGTH * BATCH * 9)
        for way in ways:
            case = measure.Case(work, f"olmoe-1B-7B {way or 'all'}", work / "model", ids, "bfloat16", LENGTH, BATCH, 1, 9)
            new, seen = measure.run([case], arguments, ["--residency", way] if way else [])
            rows += new
            load += seen
            ours, alone = new[0]["ours_ns"], operations_per_token() / ceiling * 1e9
            rows.append(new[0] | {"peer": "a large matrix product", "peer_ns": round(alone), "ratio": round(alone / ours, 3),
                                  "must": None, "goal": 0.5 if way != "stream" else None})
    measure.write(arguments.output, rows, measure.machine(arguments, load) | {"large_product_tflops": round(ceiling / 1e12)})
    if ways == [None]:
        print("gpu.py: this moeroute-capture has no --residency: nothing was streamed", file=sys.stderr)


if __name__ == "__main__":
    main()
