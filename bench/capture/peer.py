# SPDX-License-Identifier: Apache-2.0
"""transformers on the same weights, documents, type, threads and batches; and the matrix products alone.

    peer.py check  MODEL DOCUMENTS TRACE --dtype T           our router logits against its, exit code 1 if they differ
    peer.py time   MODEL DOCUMENTS --dtype T --threads N     one JSON line: nanoseconds per token of each way to run it
"""
import argparse
import json
import pathlib
import time

import torch
import transformers
from safetensors import safe_open

# (attention, experts): what a user gets by default in older releases, and the faster ways. batched_mm copies the weights of
# the chosen experts for every token: ten times slower here, and left out.
WAYS = {"transformers eager": ("eager", "eager"), "transformers sdpa": ("sdpa", "eager"),
        "transformers sdpa grouped_mm": ("sdpa", "grouped_mm")}
clocks = {"cpu": time.process_time, "wall": time.perf_counter}


def load(folder, dtype, device, attention, experts):
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention, experts_implementation=experts).eval().to(device)


def read(file, count=None):
    return [json.loads(line)["ids"] for line in file.read_text().splitlines()][:count]


def forward(model, ids):
    """One pass, with the router logits of all layers in host memory, as capture leaves them."""
    with torch.inference_mode():
        out = model(ids.to(model.device), output_router_logits=True, use_cache=False)
        return [z.cpu() for z in out.router_logits]


def check(a):
    model = load(a.model, a.dtype, a.device, "eager", "eager")
    manifest = json.loads((a.trace / "manifest.json").read_text())
    ours = {}
    with safe_open(a.trace / manifest["shards"][0]["file"], "pt") as shard:
        for layer in manifest["layers"]:
            ours[layer["layer"]] = shard.get_tensor(f"layers.{layer['layer']}.logits").float()
    documents = read(a.documents)[:manifest["documents"]]
    theirs = [z.float() for z in forward(model, torch.tensor(documents))]
    for (l, z), reference in zip(ours.items(), theirs, strict=True):
        error = (z - reference).abs().amax(1) / reference.abs().amax(1)
        # Rounded to 8 bits, choices of experts differ from the second layer on: two right answers drift apart.
        worst, bound = (error.max(), 1e-4) if a.dtype == torch.float32 else (error.median(), 0.02 if l == 0 else 0.2)
        if not worst <= bound:
            raise SystemExit(f"bench: answers differ: router logits of layer {l} by {worst:.2g} of the largest, {a.dtype}")


def products(config, tokens, dtype, device):
    """(rows, inner width, matrices): every product of a pass with an even routing. Different matrices, as in the model."""
    h, i, e = config.hidden_size, config.intermediate_size, config.num_experts
    rows = tokens * config.num_experts_per_tok // e
    head = max(512, (1 << 22) // config.vocab_size)  # rows at a time; the whole batch at once is slower
    for n, k, m, count in ((h, h, tokens, 4), (e, h, tokens, 1), (2 * i, h, rows, e), (h, i, rows, e)):
        yield config.num_hidden_layers, torch.randn(m, k).to(device, dtype), torch.randn(count, n, k).to(device, dtype)
    yield -(-tokens // head), torch.randn(min(head, tokens), h).to(device, dtype), torch.randn(1, config.vocab_size, h).to(
        device, dtype)


def best(function, rounds, tokens, device):
    least = dict.fromkeys(clocks, float("inf"))
    for _ in range(rounds):
        starts = {name: clock() for name, clock in clocks.items()}
        function()
        if device != "cpu":
            torch.cuda.synchronize()
        for name, clock in clocks.items():
            least[name] = min(least[name], (clock() - starts[name]) / tokens * 1e9)
    return least


def measure(a):
    torch.set_num_threads(a.threads)
    documents = torch.tensor(read(a.documents, a.batch))
    tokens, result = documents.numel(), {}
    for name, (attention, experts) in WAYS.items():
        model = load(a.model, a.dtype, a.device, attention, experts)
        forward(model, documents)
        result[name] = best(lambda: forward(model, documents), a.repeat, tokens, a.device)
        config = model.config
        del model
    total = dict.fromkeys(clocks, 0.0)
    for times, x, matrices in products(config, tokens, a.dtype, a.device):
        out = torch.empty(x.shape[0], matrices.shape[1], dtype=a.dtype, device=a.device)

        def one_pass():
            for w in matrices:
                torch.mm(x, w.t(), out=out)

        one_pass()
        for clock, ns in best(one_pass, 3, tokens, a.device).items():
            total[clock] += times * ns
    result["matrix products alone"] = total
    print(json.dumps(result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=("check", "time"))
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("documents", type=pathlib.Path)
    parser.add_argument("trace", type=pathlib.Path, nargs="?")
    parser.add_argument("--dtype", type=lambda name: getattr(torch, name), default=torch.float32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8, help="documents of a pass")
    parser.add_argument("--repeat", type=int, default=1)
    arguments = parser.parse_args()
    check(arguments) if arguments.command == "check" else measure(arguments)
