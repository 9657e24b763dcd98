#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The comparison of test_decoder.py with the capture on a CUDA device; its table is bench/results/capture_gpu.json.

Not part of tools/test.sh, which must pass without a GPU. Run it by hand where there is one:
    MOEROUTE_BIN=build/release/bin .venv/bin/python tests/capture/gpu_check.py
Exit code 0: every float32 row is within the tolerance of test_decoder.py and every bfloat16 row is as near to
float32 as transformers' own bfloat16 run. 1: a row is not.
2: there is no CUDA device, or this torch was built without CUDA.
"""
import json
import pathlib
import sys
import tempfile
import time

import numpy as np
import torch

from conftest import DEMO, REPOSITORY, Trace, random_checkpoint, succeed, write_documents
from reference import compare, load_reference
from test_decoder import CONFIGS, texts

RESULTS = REPOSITORY / "bench/results/capture_gpu.json"


def first_layer_error(trace, exact, rounded):
    """Median relative error of the first router's logits: ours, and transformers' in the same type and place."""
    ours, theirs = [], []
    for a in trace.arrays:
        ids = torch.from_numpy(a["token_ids"].astype(np.int64))[None]
        with torch.no_grad():
            e = exact(ids, output_router_logits=True).router_logits[0].numpy()
            r = rounded(ids.to(rounded.device), output_router_logits=True).router_logits[0].float().cpu().numpy()
        scale = np.abs(e).max(1)
        ours.append(np.abs(a["layers.0.logits"] - e).max(1) / scale)
        theirs.append(np.abs(r - e).max(1) / scale)
    return float(np.median(np.concatenate(ours))), float(np.median(np.concatenate(theirs)))


def check(name, folder, inputs, scratch):
    rows = []
    exact = load_reference(folder)
    for dtype in ("float32", "bfloat16"):
        out = scratch / f"{len(list(scratch.iterdir()))}"
        start = time.perf_counter()
        succeed(folder, *inputs, "-o", out, "--device", "cuda", "--dtype", dtype)
        seconds = time.perf_counter() - start
        trace = Trace(out)
        assert trace.manifest["run"]["device"] == "cuda:0"
        row = dict(model=name, dtype=dtype, documents=len(trace.documents), tokens=trace.manifest["tokens"],
                   seconds=round(seconds, 3))
        if dtype == "float32":
            d = compare(trace, exact)
            row |= dict(max_logit_error=d.logits, wrong_selections=d.selections, max_weight_error=d.weights,
                        max_logprob_error=d.logprob, max_loss_error=d.loss, wrong_predictions=d.predicted,
                        passed=d.agrees())
        else:
            ours, theirs = first_layer_error(trace, exact, load_reference(folder, torch.bfloat16).cuda())
            row |= dict(median_logit_error=ours, median_logit_error_transformers=theirs, passed=ours <= 1.5 * theirs)
        rows.append(row)
        print(json.dumps(row))
    return rows


def main():
    if not torch.cuda.is_available():
        print("gpu_check: no CUDA device, or a torch without CUDA; nothing was checked", file=sys.stderr)
        return 2
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        scratch = root / "traces"
        scratch.mkdir()
        documents = write_documents(root / "texts.jsonl", texts())
        for name, config in CONFIGS.items():
            folder = random_checkpoint(root / f"model-{len(rows)}", seed=len(name), **config)
            rows += check(name, folder, [documents], scratch)
        if (DEMO / "model.safetensors").exists():
            rows += check("demo-olmoe", DEMO, sorted((REPOSITORY / "examples/texts").glob("*.jsonl")), scratch)
    import transformers
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({
        "card": torch.cuda.get_device_name(0), "cuda": torch.version.cuda, "torch": torch.__version__,
        "transformers": transformers.__version__, "rows": rows}, indent=2) + "\n")
    print(f"written to {RESULTS.relative_to(REPOSITORY)}")
    return 0 if all(row["passed"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
