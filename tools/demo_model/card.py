"""Write the model card from what was measured.

`card.py --corpus corpus/ --model model/ --log log/` reads log.csv and run.json (train.py), evaluation.json
(evaluate.py), baselines.json (baselines.py) and, if it is there, evaluation-long.json (evaluate.py --length
1024) from --log, and writes README.md and loss.svg beside the weights.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import platform
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import numpy as np

from corpus import PACKAGES
from data import LABELS, is_held_out, read_documents

NAMES = {"en": "English", "ko": "Korean", "ja": "Japanese", "de": "German", "zh": "Chinese", "code": "source code"}
# Sources of the shipped weights' corpus that corpus.py does not read, with the licences of their texts.
OTHER_LICENCES = {"lilypond-doc-html": "GFDL-1.3+", "kicad-doc": "GPL-2+ or CC-BY-SA-3.0"}
REQUIRED_MARGIN = 0.7


def table(head: list[str], rows: list[list], left: int = 1) -> str:
    """A Markdown table; the first `left` columns are words, the others numbers."""
    lines = [head, ["---" if i < left else "--:" for i in range(len(head))], *rows]
    return "\n".join("| " + " | ".join(str(c) for c in line) + " |" for line in lines)


def shares(counts: dict[str, list]) -> np.ndarray:
    """[label, layer, expert]: the share of a label's assignments in a layer that an expert gets."""
    stacked = np.array([counts[label] for label in LABELS], dtype=float)
    return stacked / stacked.sum(-1, keepdims=True)


def mutual_information(per_label: np.ndarray) -> np.ndarray:
    """Bits that one chosen expert tells about the label, for each layer, every label as likely as the others."""
    mixed = per_label.mean(0)
    ratio = np.divide(per_label, mixed, out=np.ones_like(per_label), where=per_label > 0)
    return (per_label * np.log2(ratio)).sum(-1).mean(0)


def loss_curve(rows: list[dict], evaluated: list[tuple[float, float]]) -> str:
    """An SVG of the training loss and, as dots, the mean held-out loss of the checkpoints."""
    width, height, left, right, top, bottom = 640, 300, 48, 14, 14, 40
    tokens = np.array([float(r["tokens"]) for r in rows]) / 1e6
    loss = np.array([float(r["loss"]) for r in rows])
    highest, lowest, last = math.ceil(loss.max()), math.floor(min(loss.min(), *(v for _, v in evaluated))), tokens[-1]

    def at(x: float, y: float) -> str:
        return (
            f"{left + (width - left - right) * x / last:.1f},"
            f"{top + (height - top - bottom) * (highest - y) / (highest - lowest):.1f}"
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        "<title>Loss in nats per token over millions of training tokens</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for y in range(lowest, highest + 1):
        parts.append(f'<polyline points="{at(0, y)} {at(last, y)}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{float(at(0, y).split(",")[1]) + 4}" text-anchor="end">{y}</text>')
    for x in range(0, int(last) + 1, 5):
        parts.append(f'<text x="{at(x, 0).split(",")[0]}" y="{height - bottom + 16}" text-anchor="middle">{x}</text>')
    # One point of the curve per two pixels is all that can be seen.
    step = max(1, len(rows) // 300)
    points = " ".join(at(x, y) for x, y in zip(tokens[::step], loss[::step]))
    parts.append(f'<polyline points="{points}" fill="none" stroke="#3366aa" stroke-width="1.2"/>')
    for x, y in evaluated:
        cx, cy = at(x, y).split(",")
        parts.append(f'<circle cx="{cx}" cy="{cy}" r="3.5" fill="#cc4422"/>')
    parts.append(
        f'<text x="{width - right}" y="{height - 8}" text-anchor="end">million tokens; '
        "line: training loss, dots: held-out loss (mean of the labels), nats per token</text>"
    )
    return "\n".join([*parts, "</svg>", ""])


def quick_rate(rows: list[dict]) -> float:
    """Tokens a second that a tenth of the log's rows exceed: the speed when nothing else ran."""
    tokens, seconds = (np.diff([float(r[key]) for r in rows]) for key in ("tokens", "seconds"))
    return float(np.percentile(tokens / seconds, 90))


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def losses_section(evaluation: dict, baselines: dict) -> str:
    final, rows, margins, trigram_margins, own_margins = evaluation["checkpoints"]["final"]["loss"], [], {}, {}, {}
    for label in LABELS:
        b = baselines["labels"][label]
        assert b["positions"] == evaluation["positions"][label], "the baselines were not counted on the same positions"
        margins[label] = b["pooled"]["bigram"] - final[label]
        trigram_margins[label] = b["pooled"]["trigram"] - final[label]
        own_margins[label] = b["own"]["bigram"] - final[label]
        rows.append(
            [NAMES[label], b["positions"], f"**{final[label]:.3f}**"]
            + [f"{b['pooled'][n]:.3f}" for n in ("unigram", "bigram", "trigram")]
            + [f"{margins[label]:.2f}", f"{trigram_margins[label]:+.2f}"]
            + [f"{b['own'][n]:.3f}" for n in ("bigram", "trigram")]
        )
    short = [NAMES[label] for label in LABELS if margins[label] < REQUIRED_MARGIN]
    verdict = (
        f"The model is at least {REQUIRED_MARGIN} nats under the bigram for every label "
        f"(smallest margin {min(margins.values()):.2f})."
        if not short
        else f"The margin of {REQUIRED_MARGIN} nats under the bigram is **not** reached for {', '.join(short)}."
    )
    over = [NAMES[label] for label in LABELS if trigram_margins[label] <= 0]
    verdict += " It is under the trigram for every label." if not over else f" It is not under the trigram for {', '.join(over)}."
    short = [NAMES[label] for label in LABELS if own_margins[label] < REQUIRED_MARGIN]
    verdict += (
        " Against a bigram counted on the label alone the margin is at least "
        f"{REQUIRED_MARGIN} too (smallest {min(own_margins.values()):.2f})."
        if not short
        else f" Against a bigram counted on the label alone, which is told the label, the margin is smaller than "
        f"{REQUIRED_MARGIN} for {', '.join(short)} (smallest {min(own_margins.values()):.2f})."
    )
    head = ["label", "tokens", "model", "unigram", "bigram", "trigram", "under bigram", "under trigram",
            "bigram, own label", "trigram, own label"]  # fmt: skip
    return f"""{table(head, rows)}

{verdict}

The n-gram models use absolute discounting {baselines["discount"]}, interpolated down to the uniform distribution, and are
counted on the very training tokens: of all labels together, as the model is trained ("own label": of that label
alone). Every loss is a mean over the same held-out positions. The one difference is in the n-grams' favour: the model
is evaluated in windows of {evaluation["length"]} tokens and starts each without context, while the n-grams reach back
across the windows. The model's losses are transformers' own, in float32, from the bf16 weights in this folder.
"""


def long_sentence(log: Path, evaluation: dict) -> str:
    """What becomes of the loss in windows longer than the training's, if that was measured."""
    file = log / "evaluation-long.json"
    if not file.is_file():
        return ""
    long = json.loads(file.read_text())
    mean = [np.mean(list(e["checkpoints"]["final"]["loss"].values())) for e in (evaluation, long)]
    return (
        f"\nIn windows of {long['length']} tokens instead of {evaluation['length']} the mean of the labels is "
        f"{mean[1]:.3f} instead of {mean[0]:.3f}: keep to {evaluation['length']} where the loss matters.\n"
    )


def checkpoints_section(evaluation: dict, settings: dict) -> str:
    rows = []
    for name, row in evaluation["checkpoints"].items():
        step = settings["steps"] if name == "final" else int(name.split("-")[1])
        tokens = step * settings["batch"] * settings["length"]
        per_label = shares(row["counts"])
        worst = per_label.mean(0).max(-1) * per_label.shape[-1] - 1
        rows.append(
            [name, f"{tokens / 1e6:.2f} M"]
            + [f"{row['loss'][label]:.3f}" for label in LABELS]
            + [f"{worst.max():.2f}", f"{mutual_information(per_label).mean():.3f}"]
        )
    head = ["checkpoint", "tokens", *LABELS, "worst MaxVio", "mean MI (bit)"]
    return table(head, rows)


def balance_section(final: dict) -> str:
    per_label = shares(final["counts"])
    mixed = per_label.mean(0)
    experts = mixed.shape[1]
    information = mutual_information(per_label)
    rows = []
    for layer, share in enumerate(mixed):
        entropy = -(share * np.log(share, where=share > 0, out=np.zeros_like(share))).sum() / math.log(experts)
        violations = [f"{per_label[i, layer].max() * experts - 1:.2f}" for i in range(len(LABELS))]
        rows.append(
            [layer, f"{share.max() * experts - 1:.2f}", f"{100 * share.min():.2f} %", f"{100 * share.max():.2f} %",
             f"{entropy:.3f}", *violations, f"{information[layer]:.3f}"]
        )  # fmt: skip
    head = ["layer", "MaxVio", "smallest share", "largest share", "entropy", *(f"MaxVio {x}" for x in LABELS), "MI (bit)"]
    each = [[layer, *(f"{100 * v:.1f}" for v in share)] for layer, share in enumerate(mixed)]
    return f"""{table(head, rows)}

On held-out text, every label weighing the same. The share of an expert is its part of the layer's token-expert
assignments ({100 / experts:.2f} % when even); MaxVio is the largest share over the even one, minus one; entropy is that
of the shares, 1 when even. MI is the mutual information of the label and one chosen expert: 0 if the labels were routed
alike, {math.log2(len(LABELS)):.2f} bit if an expert gave the label away. The labels were balanced together, never one by one, so
each of them is routed far less evenly than the mixture.

Shares in percent:

{table(["layer", *(f"e{i}" for i in range(experts))], each)}
"""


def data_section(corpus: Path, facts: dict, rebuilt: Path | None) -> str:
    rows = [
        [NAMES[label], f["train_documents"], f["train_bytes"], f["train_tokens"],
         f["held_out_documents"], f["held_out_bytes"], f["held_out_tokens"]]
        for label, f in facts.items()
    ]  # fmt: skip
    head = ["label", "documents", "bytes", "tokens", "held-out documents", "held-out bytes", "held-out tokens"]
    used: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(LABELS, 0))
    for label in LABELS:
        for d in read_documents(corpus, label):
            if not is_held_out(d["id"]):
                used[d["source"]][label] += len(d["text"].encode())
    licences = {p.source: p.licence for p in PACKAGES} | OTHER_LICENCES
    sources = [
        [source, licences.get(source, "?"), *(f"{size / 1e3:.0f}" if size else "" for size in used[source].values())]
        for source in sorted(used)
    ]
    if (corpus / "packages.json").is_file():
        origin = "The corpus was built by `corpus.py` of the recipe from the packages of Debian 12 below."
    else:
        origin = (
            "The corpus of these weights was built from packages of Debian 12 in the way of the recipe's `corpus.py`, "
            "but not by that script: it was handed to us as ready jsonl files. They are not distributed."
        )
    text = f"""{origin} The split is by document: held out is
every document whose id has md5 modulo 100 below 4, and a translation has the id of its original, so that no held-out
document was seen in another language. The labels took turns in training, so each gave the same number of tokens.

{table(head, rows)}

Bytes of training text by source, in thousands, and the licence of the texts as the package's `copyright` file has it:

{table(["source", "licence", *LABELS], sources, left=2)}
"""
    if rebuilt:
        report = json.loads((rebuilt / "packages.json").read_text())
        comparison = []
        for label in LABELS:
            mine, theirs = report["labels"][label], facts[label]
            here = {d["source"] for d in read_documents(corpus, label)}
            more, fewer = sorted(set(mine["sources"]) - here), sorted(here - set(mine["sources"]))
            comparison.append(
                [NAMES[label], theirs["train_documents"] + theirs["held_out_documents"],
                 theirs["train_bytes"] + theirs["held_out_bytes"], mine["documents"], mine["bytes"],
                 ", ".join(more) or "-", ", ".join(fewer) or "-"]
            )  # fmt: skip
        head = ["label", "documents here", "bytes here", "documents of corpus.py", "bytes of corpus.py",
                "sources only in corpus.py", "sources only here"]  # fmt: skip
        text += f"""
What a run of `corpus.py` gives beside it (held-out documents included; it takes at most 5 MB of a label, evenly from its
sources). Weights trained on that output will be alike, not equal:

{table(head, comparison)}

"""
        text += "The packages of that run: " + ", ".join(f"{p['package']} {p['version']}" for p in report["packages"]) + ".\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of the corpus that was trained on")
    parser.add_argument("--model", type=Path, required=True, help="folder with the weights; README.md goes there")
    parser.add_argument("--log", type=Path, required=True, help="folder with the four files named above")
    parser.add_argument("--rebuilt", type=Path, help="folder of another run of corpus.py, to compare with --corpus")
    args = parser.parse_args()

    run = json.loads((args.log / "run.json").read_text())
    evaluation = json.loads((args.log / "evaluation.json").read_text())
    baselines = json.loads((args.log / "baselines.json").read_text())
    with open(args.log / "log.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    settings = run["settings"]
    config = json.loads((args.model / "config.json").read_text())
    per_step = settings["batch"] * settings["length"] / 1e6
    evaluated = [
        ((settings["steps"] if name == "final" else int(name.split("-")[1])) * per_step, np.mean(list(row["loss"].values())))
        for name, row in evaluation["checkpoints"].items()
    ]
    (args.model / "loss.svg").write_text(loss_curve(rows, evaluated))
    curve = [rows[min(len(rows) - 1, round(i * (len(rows) - 1) / 12))] for i in range(13)]
    layers = range(config["num_hidden_layers"])
    curve_table = table(
        ["step", "tokens", "training loss", "balance loss", *(f"MaxVio layer {i}" for i in layers)],
        [[r["step"], f"{float(r['tokens']) / 1e6:.2f} M", f"{float(r['loss']):.3f}", f"{float(r['balance']):.3f}",
          *(f"{float(r[f'maxvio_{i}']):.2f}" for i in layers)] for r in curve],
    )  # fmt: skip
    versions = ", ".join(f"{p} {version(p).split('+')[0]}" for p in ("torch", "transformers", "tokenizers", "numpy"))
    size = sum(f.stat().st_size for f in args.model.rglob("*.safetensors")) / 1e6

    card = f"""---
license: apache-2.0
language: [en, ko, ja, de, zh]
library_name: transformers
pipeline_tag: text-generation
tags: [moe, olmoe, routing, code]
---

# demo-olmoe

A small Mixture-of-Experts language model in the OLMoE architecture, truly trained, for trying out tools that look at
routing: {run["parameters"] / 1e6:.2f} million parameters, {config["num_hidden_layers"]} MoE layers, {config["num_experts"]} experts of width {config["intermediate_size"]}, top-{config["num_experts_per_tok"]}
(softmax over all experts, weights not renormalized), hidden size {config["hidden_size"]}, {config["num_attention_heads"]} heads, byte-level BPE of {config["vocab_size"]} tokens
trained on the same text, tied embeddings, bf16. The weights and those of the four earlier checkpoints of the same run
under `checkpoints/` take {size:.1f} MB; the tokenizer is one for all.

It knows the prose of software documentation in five languages and source code in six programming languages, and nothing
else: it continues text, it answers nothing, and what it says is not to be relied on. There is no token at the start of
a text; documents end with `<|endoftext|>`. It was trained on sequences of {settings["length"]} tokens: beyond that many its
positions are untrained, although the configuration allows {config["max_position_embeddings"]}.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("demo-olmoe")
model = AutoModelForCausalLM.from_pretrained("demo-olmoe", dtype="float32")
out = model(**tokenizer("The kernel", return_tensors="pt"), output_router_logits=True)
print(out.router_logits[0].topk({config["num_experts_per_tok"]}).indices)  # the experts of every token in layer 0
```

## Held-out loss

Nats per token.

{losses_section(evaluation, baselines)}{long_sentence(args.log, evaluation)}
## Over the run

![loss over tokens](loss.svg)

Held-out loss of the checkpoints, the largest MaxVio of their layers, and the mean over the layers of the mutual
information of label and expert (both as explained below):

{checkpoints_section(evaluation, settings)}

During training (each row is a mean over {settings["log_every"]} steps; MaxVio is that of single batches of {settings["batch"]} sequences, which is
larger than over much text; the balance loss is {1.0:.0f} when even):

{curve_table}

## Balance of the layers, and routing by label

{balance_section(evaluation["checkpoints"]["final"])}
## Data and licences

{data_section(args.corpus, run["data"], args.rebuilt)}
The texts are under their own licences and no text is part of this folder. The weights and the tokenizer are the
project's work and under Apache-2.0.

## How it was made

With the recipe of the project, `tools/demo_model`, in its folder:

```sh
python3 -m venv venv && . venv/bin/activate && pip install -r requirements.txt
python corpus.py -o corpus/
python tokenizer.py --corpus corpus/ -o demo-olmoe/
python train.py --corpus corpus/ --model demo-olmoe/ --log log/ --steps {settings["steps"]} --seed {settings["seed"]}
python evaluate.py --corpus corpus/ --model demo-olmoe/ -o log/evaluation.json
python evaluate.py --corpus corpus/ --model demo-olmoe/ --length 1024 --batch 4 --final -o log/evaluation-long.json
python baselines.py --corpus corpus/ --model demo-olmoe/ -o log/baselines.json
python card.py --corpus corpus/ --model demo-olmoe/ --log log/
```

The exact training command of these weights is the one above, `{" ".join(["train.py --corpus corpus/ --model demo-olmoe/ --log log/", *(f"--{k.replace('_', '-')} {v}" for k, v in settings.items())])}` with every
default written out. AdamW (0.9, 0.95), gradient norm clipped to 1, cosine to 1 % of the peak; the loss is next-token
cross entropy plus {settings["balance"]} times the load-balancing loss plus {settings["z_loss"]} times the z-loss of the router, both computed for
each layer and averaged (transformers' own function pools the layers). The forward is transformers' own. {run["tokens"] / 1e6:.1f} million
tokens in {run["seconds"] / 60:.0f} minutes on {settings["threads"]} thread of an {processor()} processor, no GPU. The machine was shared: that is
{run["tokens"] / run["seconds"]:.0f} tokens a second over the run, and {quick_rate(rows):.0f} in its quickest tenth, at which it would have taken {run["tokens"] / quick_rate(rows) / 60:.0f} minutes.
{versions}, Python {platform.python_version()}. Seed {settings["seed"]} for weights and batches, 0 for the tokenizer's sample; another processor or
version of torch will round differently and arrive at other weights of the same quality.
"""
    (args.model / "README.md").write_text(card)


if __name__ == "__main__":
    main()
