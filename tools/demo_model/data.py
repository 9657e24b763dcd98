"""What every script of the recipe shares: the labels, the corpus files, the split, the token streams."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

LABELS = ("en", "ko", "ja", "de", "zh", "code")
END_OF_TEXT = "<|endoftext|>"
HELD_OUT_PERCENT = 4


def is_held_out(document_id: str) -> bool:
    """The split is a function of the id alone: a document and its translations (which carry the
    same id under another label) always fall on the same side, so no held-out text was seen in
    another language, and no seed decides the split."""
    return int(hashlib.md5(document_id.encode()).hexdigest(), 16) % 100 < HELD_OUT_PERCENT


def corpus_file(corpus: Path, label: str) -> Path:
    return corpus / f"debian_{label}.jsonl"


def read_documents(corpus: Path, label: str) -> list[dict]:
    with open(corpus_file(corpus, label), encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def encode_documents(tokenizer, texts: list[str], end_of_text: int) -> tuple[np.ndarray, np.ndarray]:
    """One stream `document <|endoftext|> document <|endoftext|> ...` and where each document starts."""
    ids: list[int] = []
    starts: list[int] = []
    for encoding in tokenizer.encode_batch(texts, add_special_tokens=False):
        starts.append(len(ids))
        ids.extend(encoding.ids)
        ids.append(end_of_text)
    return np.asarray(ids, dtype=np.uint16), np.asarray(starts, dtype=np.int64)


class Streams:
    """The token streams of all labels: `train[label]`, `held_out[label]`, `starts[label]` (of train)."""

    def __init__(self, corpus: Path, tokenizer):
        end = tokenizer.token_to_id(END_OF_TEXT)
        self.train: dict[str, np.ndarray] = {}
        self.held_out: dict[str, np.ndarray] = {}
        self.starts: dict[str, np.ndarray] = {}
        self.facts: dict[str, dict] = {}
        for label in LABELS:
            documents = read_documents(corpus, label)
            kept = [d["text"] for d in documents if not is_held_out(d["id"])]
            held = [d["text"] for d in documents if is_held_out(d["id"])]
            self.train[label], self.starts[label] = encode_documents(tokenizer, kept, end)
            self.held_out[label], _ = encode_documents(tokenizer, held, end)
            self.facts[label] = {
                "train_documents": len(kept),
                "held_out_documents": len(held),
                "train_bytes": sum(len(t.encode()) for t in kept),
                "held_out_bytes": sum(len(t.encode()) for t in held),
                "train_tokens": int(self.train[label].size),
                "held_out_tokens": int(self.held_out[label].size),
            }


def held_out_windows(stream: np.ndarray, length: int) -> np.ndarray:
    """Consecutive windows of `length` inputs and their next tokens, as rows of length + 1.

    The rows overlap by one token, so the targets are stream[1 .. n * length], each exactly once;
    the n-gram baselines are evaluated on these same positions."""
    n = (stream.size - 1) // length
    index = np.arange(n)[:, None] * length + np.arange(length + 1)[None, :]
    return stream[index].astype(np.int64)
