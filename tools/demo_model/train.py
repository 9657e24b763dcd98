"""Train the demo model on the CPU: `train.py --corpus corpus/ --model model/`.

The folder of --model already holds the tokenizer (tokenizer.py). Training writes there the final
weights, `checkpoints/step-NNNNNN/` for the earlier ones, and into --log what the card is made of.
A run that was cut off goes on from the last saved state when the same command is given again.
"""

from __future__ import annotations

import argparse
import copy
import csv
import functools
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import OlmoeConfig, OlmoeForCausalLM

from data import END_OF_TEXT, LABELS, Streams, corpus_file

# Rows of the logits made at a time: 256 x 3072 floats are 3 MB, which stay in a core's caches.
LOSS_CHUNK = 256
# Shares of the run at which a checkpoint is kept: routing changes early, so they are denser there.
CHECKPOINTS = (0.02, 0.10, 0.25, 0.50, 1.00)
# Every fourth sequence of a label begins where a document begins, so that position 0 is trained on
# what a user will put there; the others are cut anywhere.
DOCUMENT_START_EVERY = 4


class TiedCrossEntropy(torch.autograd.Function):
    """Mean cross entropy of `hidden @ weight.T`, with both gradients made on the way.

    The logits of a batch (4096 x 3072 floats, 50 MB) would otherwise be written and read again and
    again; in chunks they never leave the cache."""

    @staticmethod
    def forward(ctx, hidden, weight, targets):
        rows = hidden.shape[0]
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight)
        total = 0.0
        for start in range(0, rows, LOSS_CHUNK):
            part = hidden[start : start + LOSS_CHUNK]
            target = targets[start : start + LOSS_CHUNK, None]
            logits = part @ weight.T
            total += (logits.logsumexp(-1) - logits.gather(1, target)[:, 0]).sum().item()
            delta = logits.softmax(-1)
            delta.scatter_add_(1, target, torch.full_like(target, -1, dtype=delta.dtype))
            grad_hidden[start : start + LOSS_CHUNK] = delta @ weight
            grad_weight.addmm_(delta.T, part)
        ctx.save_for_backward(grad_hidden.div_(rows), grad_weight.div_(rows))
        return hidden.new_tensor(total / rows)

    @staticmethod
    def backward(ctx, grad):
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad * grad_hidden, grad * grad_weight, None


def router_losses(router_logits, experts: int, top_k: int):
    """Load balance and z-loss, averaged over the layers, and every layer's MaxVio.

    transformers' own load_balancing_loss_func pools the tokens of all layers before it counts, so
    that one layer's favourite expert can hide behind another's; here every layer is balanced alone.
    """
    balance, z, max_violation = [], [], []
    for logits in router_logits:
        probabilities = logits.softmax(-1)
        chosen = probabilities.topk(top_k, -1).indices.reshape(-1)
        share = torch.bincount(chosen, minlength=experts).float() / chosen.numel()
        balance.append(experts * (share * probabilities.mean(0)).sum())
        z.append(logits.logsumexp(-1).square().mean())
        max_violation.append(share.max().item() * experts - 1)
    return torch.stack(balance).mean(), torch.stack(z).mean(), max_violation


class Batches:
    """Training sequences as a function of (seed, step) alone, so that a resumed run sees the same.

    The labels take turns, so each gets the same number of tokens: the scarce ones (Korean, Chinese)
    are seen more often. A label's windows are a shuffled grid with another offset in every epoch."""

    def __init__(self, streams: Streams, length: int, batch: int, seed: int):
        self.length, self.batch, self.seed = length, batch, seed
        self.train = streams.train
        self.starts = {k: s[s + length < streams.train[k].size] for k, s in streams.starts.items()}
        self.grid = functools.lru_cache(maxsize=2 * len(LABELS))(self._grid)

    def _grid(self, label: int, epoch: int) -> np.ndarray:
        random = np.random.default_rng([self.seed, label, epoch])
        windows = (self.train[LABELS[label]].size - self.length - 1) // self.length
        return random.permutation(windows) * self.length + random.integers(self.length)

    def _position(self, label: int, draw: int) -> int:
        group, place = divmod(draw, DOCUMENT_START_EVERY)
        if place == 0:
            starts = self.starts[LABELS[label]]
            return int(starts[np.random.default_rng([self.seed, label, draw, 1]).integers(starts.size)])
        windows = self._grid_size(label)
        epoch, index = divmod(group * (DOCUMENT_START_EVERY - 1) + place - 1, windows)
        return int(self.grid(label, epoch)[index])

    def _grid_size(self, label: int) -> int:
        return (self.train[LABELS[label]].size - self.length - 1) // self.length

    def __call__(self, step: int) -> torch.Tensor:
        rows = []
        for sequence in range(step * self.batch, (step + 1) * self.batch):
            draw, label = divmod(sequence, len(LABELS))
            position = self._position(label, draw)
            rows.append(self.train[LABELS[label]][position : position + self.length + 1])
        return torch.from_numpy(np.stack(rows).astype(np.int64))


def make_model(tokenizer: Tokenizer, max_positions: int) -> OlmoeForCausalLM:
    end = tokenizer.token_to_id(END_OF_TEXT)
    return OlmoeForCausalLM(
        OlmoeConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=96,
            intermediate_size=32,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_experts=16,
            num_experts_per_tok=4,
            norm_topk_prob=False,
            tie_word_embeddings=True,
            max_position_embeddings=max_positions,
            bos_token_id=None,
            eos_token_id=end,
            # A padding id would freeze that row of the embedding, and end-of-text is a real input here.
            pad_token_id=None,
        )
    )


def save_bf16(model: OlmoeForCausalLM, folder: Path) -> None:
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # it is written readable by its owner alone
    if folder.name.startswith("step-"):
        (folder / "generation_config.json").unlink()  # the final model's serves them all


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    rising = min(1.0, (step + 1) / warmup)
    falling = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps))
    return peak * rising * falling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder written by corpus.py")
    parser.add_argument("--model", type=Path, required=True, help="folder with tokenizer.json; the weights go there")
    parser.add_argument("--log", type=Path, required=True, help="folder for log.csv, run.json and the resume state")
    parser.add_argument("--steps", type=int, default=6500, help="optimizer steps (default %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="sequences of a step (default %(default)s)")
    parser.add_argument("--length", type=int, default=256, help="tokens of a sequence (default %(default)s)")
    parser.add_argument("--max-positions", type=int, default=1024, help="max_position_embeddings (default %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=4e-3, help="peak, cosine to 1%% (default %(default)s)")
    parser.add_argument("--warmup", type=int, default=150, help="steps of linear warmup (default %(default)s)")
    parser.add_argument("--weight-decay", type=float, default=0.1, help="of matrices (default %(default)s)")
    parser.add_argument("--balance", type=float, default=0.01, help="weight of the balance loss (default %(default)s)")
    parser.add_argument("--z-loss", type=float, default=0.001, help="weight of the z-loss (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="weights and batches (default %(default)s)")
    parser.add_argument("--log-every", type=int, default=20, help="steps per row of log.csv (default %(default)s)")
    parser.add_argument("--save-every", type=int, default=300, help="steps per saved state (default %(default)s)")
    args = parser.parse_args()
    if not (args.model / "tokenizer.json").is_file():
        parser.error(f"{args.model}/tokenizer.json is not there: run tokenizer.py first")
    for label in LABELS:
        if not corpus_file(args.corpus, label).is_file():
            parser.error(f"{corpus_file(args.corpus, label)} is not there: run corpus.py first")

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    streams = Streams(args.corpus, tokenizer)
    batches = Batches(streams, args.length, args.batch, args.seed)
    model = make_model(tokenizer, args.max_positions)
    # Measured on one thread: the loop over experts is as quick as grouped_mm and needs no extra memory.
    model.set_experts_implementation("eager")
    model.train()
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": args.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=args.learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )

    args.log.mkdir(parents=True, exist_ok=True)
    state_file, log_file = args.log / "state.pt", args.log / "log.csv"
    first, seconds, rows = 0, 0.0, []
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, seconds = state["step"], state["seconds"]
        with open(log_file, newline="") as f:
            rows = [r for r in list(csv.reader(f))[1:] if int(r[0]) <= first]
        print(f"goes on from step {first}", flush=True)
    kept_at = {round(share * args.steps): share for share in CHECKPOINTS}
    tokens_per_step = args.batch * args.length

    with open(log_file, "w", newline="") as f:
        log = csv.writer(f)
        layers = range(model.config.num_hidden_layers)
        log.writerow(["step", "tokens", "seconds", "learning_rate", "loss", "balance", "z"] + [f"maxvio_{i}" for i in layers])
        log.writerows(rows)
        began = time.monotonic() - seconds
        window: list[list[float]] = []  # the rows of the log are means over log_every steps
        for step in range(first, args.steps):
            rate = learning_rate(step, args.steps, args.learning_rate, args.warmup)
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = batches(step)
            # The model below the head: the head and the loss are TiedCrossEntropy.
            output = model.model(batch[:, :-1], use_cache=False, output_router_logits=True)
            hidden = output.last_hidden_state.view(-1, model.config.hidden_size)
            loss = TiedCrossEntropy.apply(hidden, model.lm_head.weight, batch[:, 1:].reshape(-1))
            balance, z, max_violation = router_losses(
                output.router_logits, model.config.num_experts, model.config.num_experts_per_tok
            )
            (loss + args.balance * balance + args.z_loss * z).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

            done = step + 1
            window.append([loss.item(), balance.item(), z.item(), *max_violation])
            if done % args.log_every == 0 or done == args.steps:
                means = np.mean(window, axis=0)
                window.clear()
                elapsed = time.monotonic() - began
                log.writerow([done, done * tokens_per_step, f"{elapsed:.1f}", f"{rate:.3e}"] + [f"{v:.4f}" for v in means])
                f.flush()
                if done % (5 * args.log_every) == 0:
                    left = elapsed / done * (args.steps - done) / 60
                    print(
                        f"step {done} loss {means[0]:.3f} balance {means[1]:.3f} "
                        f"{done * tokens_per_step / elapsed:.0f} tokens/s, {left:.0f} min left",
                        flush=True,
                    )
            if done in kept_at:
                last = done == args.steps
                save_bf16(model, args.model if last else args.model / "checkpoints" / f"step-{done:06d}")
            if done % args.save_every == 0 and done < args.steps:
                state = {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": done,
                    "seconds": time.monotonic() - began,
                }
                torch.save(state, state_file.with_suffix(".new"))
                os.replace(state_file.with_suffix(".new"), state_file)
        seconds = time.monotonic() - began

    state_file.unlink(missing_ok=True)  # a finished run is not to be resumed
    facts = {
        "settings": {k: v for k, v in vars(args).items() if not isinstance(v, Path)},
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": args.steps * tokens_per_step,
        "seconds": round(seconds),
        "data": streams.facts,
    }
    (args.log / "run.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
