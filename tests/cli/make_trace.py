# SPDX-License-Identifier: Apache-2.0
"""Writes a small trace with a known truth, by the description of docs/design/trace-format.md and without moeroute itself."""
import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def make_documents(seed=7, labels=("de", "en", "ko"), passages=24, layers=(0, 2, 5), experts=8, top_k=2, effect=2.0, document_noise=0.5,
                   tokens=(20, 60), period=None):
    """Documents with logits: each label prefers two experts by `effect`; documents share a passage effect and have one of their own."""
    rng = np.random.default_rng(seed)
    base = rng.normal(0, 0.7, (len(layers), experts))
    if period:
        for i in range(period, len(layers)):
            base[i] = base[i - period] + rng.normal(0, 0.1, experts)
    documents = []
    for p in range(passages):
        topic = rng.normal(0, document_noise, (len(layers), experts))
        for c, label in enumerate(labels):
            t = int(rng.integers(*tokens))
            own = rng.normal(0, document_noise, (len(layers), experts))
            z = base[None] + topic[None] + own[None] + rng.normal(0, 1, (t, len(layers), experts))
            z[:, :, [(2 * c) % experts, (2 * c + 1) % experts]] += effect
            documents.append({"id": f"{label}/p{p:03d}", "labels": {"label": label, "passage": f"p{p:03d}"}, "logits": z.astype(np.float32)})
    return {"documents": documents, "layers": list(layers), "experts": experts, "top_k": top_k}


def write_trace(folder, data, shard_documents=None, order=None, dtype="F32", keep=("logits", "weights"), version=1, complete=True):
    """Writes `data` in shards of the given numbers of documents; `order` shuffles the documents over shards, their global ids stay."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    documents, layers, k = data["documents"], data["layers"], data["top_k"]
    order = [int(d) for d in (range(len(documents)) if order is None else order)]
    sizes = [len(order)] if shard_documents is None else list(shard_documents)
    assert sum(sizes) == len(order)
    shards, first = [], 0
    for s, size in enumerate(sizes):
        chosen = order[first:first + size]
        first += size
        lengths = [len(documents[d]["logits"]) for d in chosen]
        total = sum(lengths)
        tensors = {"token_ids": np.concatenate([np.arange(n) for n in lengths]).astype(np.int32) if total else np.zeros(0, np.int32),
                   "offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
                   "document": np.array(chosen, np.int64)}
        z_all = np.concatenate([documents[d]["logits"] for d in chosen]) if total else np.zeros((0, len(layers), data["experts"]), np.float32)
        for i, layer in enumerate(layers):
            z = np.ascontiguousarray(z_all[:, i])
            p = softmax(z.astype(np.float64))
            # Lowest index first among equals, as the library's own rule; a stable sort of the negated logits does that.
            ids = np.argsort(-z, axis=-1, kind="stable")[:, :k]
            if "logits" in keep:
                tensors[f"layers.{layer}.logits"] = z.astype(np.float16) if dtype == "F16" else z
            if "weights" in keep:
                tensors[f"layers.{layer}.weights"] = np.ascontiguousarray(np.take_along_axis(p, ids, -1).astype(np.float32))
            tensors[f"layers.{layer}.ids"] = np.ascontiguousarray(ids.astype(np.int16))
        name, lines_name = f"shard-{s:05d}.safetensors", f"documents-{s:05d}.jsonl"
        save_file(tensors, folder / name)
        lines = "".join(json.dumps({"document": d, "id": documents[d]["id"], "labels": documents[d]["labels"], "source": "made", "tokens": n,
                                    "loss": None, "pieces": [f"t{i}" for i in range(n)]}, ensure_ascii=False) + "\n"
                        for d, n in zip(chosen, lengths))
        (folder / lines_name).write_text(lines, encoding="utf-8")
        raw = (folder / name).read_bytes()
        shards.append({"file": name, "documents_file": lines_name, "documents": len(chosen), "tokens": total, "bytes": len(raw),
                       "sha256": hashlib.sha256(raw).hexdigest(), "documents_bytes": len(lines.encode()),
                       "documents_sha256": hashlib.sha256(lines.encode()).hexdigest()})
    router = {"score": "softmax", "experts": data["experts"], "top_k": k, "renormalize": False, "scale": 1.0}
    manifest = {"format": "moeroute.trace", "version": version, "tool": "make_trace.py", "model": {"name": "made"}, "run": {}, "tensors": {},
                "layers": [{"layer": l, "router": router} for l in layers], "documents": sum(s["documents"] for s in shards),
                "tokens": sum(s["tokens"] for s in shards), "shards": shards, "complete": complete}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    return folder
