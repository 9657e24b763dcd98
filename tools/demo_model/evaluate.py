"""Held-out loss and routing of a saved model: `evaluate.py --corpus corpus/ --model model/ -o evaluation.json`.

Everything is computed by transformers from the saved bf16 weights (widened to float32), not by the
training code: the model itself and every checkpoint under `checkpoints/`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from data import LABELS, Streams, held_out_windows


@torch.no_grad()
def evaluate(model, windows: np.ndarray, batch: int) -> tuple[float, np.ndarray]:
    """Mean nats per token, and how many tokens each expert of each layer was chosen for."""
    config = model.config
    counts = np.zeros((config.num_hidden_layers, config.num_experts), dtype=np.int64)
    total = 0.0
    for start in range(0, windows.shape[0], batch):
        ids = torch.from_numpy(windows[start : start + batch])
        output = model(ids[:, :-1], use_cache=False, output_router_logits=True)
        logits = output.logits.flatten(0, 1)
        total += torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten(), reduction="sum").item()
        for layer, router in enumerate(output.router_logits):
            chosen = router.topk(config.num_experts_per_tok, -1).indices.flatten()
            counts[layer] += torch.bincount(chosen, minlength=config.num_experts).numpy()
    return total / windows[:, 1:].size, counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder written by corpus.py")
    parser.add_argument("--model", type=Path, required=True, help="folder with the weights and tokenizer.json")
    parser.add_argument("--length", type=int, default=256, help="tokens of a window (default %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="windows at a time (default %(default)s)")
    parser.add_argument("--final", action="store_true", help="leave out the checkpoints")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default %(default)s)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON to write")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    streams = Streams(args.corpus, Tokenizer.from_file(str(args.model / "tokenizer.json")))
    windows = {label: held_out_windows(streams.held_out[label], args.length) for label in LABELS}
    checkpoints = [] if args.final else sorted((args.model / "checkpoints").glob("step-*"))
    folders = {f.name: f for f in checkpoints}
    folders["final"] = args.model
    result: dict = {"length": args.length, "positions": {k: w[:, 1:].size for k, w in windows.items()}, "checkpoints": {}}
    for name, folder in folders.items():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        row: dict = {"loss": {}, "counts": {}}
        for label in LABELS:
            loss, counts = evaluate(model, windows[label], args.batch)
            row["loss"][label] = loss
            row["counts"][label] = counts.tolist()
        result["checkpoints"][name] = row
        print(name, {k: round(v, 3) for k, v in row["loss"].items()}, flush=True)
    args.output.write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
