"""N-gram losses that the model has to beat: `baselines.py --corpus corpus/ --model model/ -o baselines.json`.

Unigram, bigram and trigram with absolute discounting, interpolated down to the uniform
distribution, counted on the model's training tokens and evaluated on the very positions that
evaluate.py evaluates the model on. They are counted twice: on the training tokens of all labels
together, as the model is trained, and on those of the label alone, which knows the label for free.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from data import LABELS, Streams, held_out_windows

DISCOUNT = 0.75


class Counts:
    """Counts of n-grams by sorted key, and for every context its total and number of kinds."""

    def __init__(self, keys: np.ndarray, vocab: int):
        self.keys, self.counts = np.unique(keys, return_counts=True)
        # The keys are sorted with the context in the high digits, so a context is one run of them.
        self.contexts, first = np.unique(self.keys // vocab, return_index=True)
        self.totals = np.add.reduceat(self.counts, first)
        self.kinds = np.diff(np.append(first, self.keys.size))

    @staticmethod
    def _look_up(sorted_keys: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        at = np.minimum(np.searchsorted(sorted_keys, wanted), sorted_keys.size - 1)
        return at, sorted_keys[at] == wanted

    def interpolate(self, contexts: np.ndarray, tokens: np.ndarray, lower: np.ndarray, vocab: int) -> np.ndarray:
        """(max(c - d, 0) + d * kinds * lower) / total, and `lower` itself after an unseen context."""
        at, seen = self._look_up(self.keys, contexts * vocab + tokens)
        count = np.where(seen, self.counts[at], 0)
        at, known = self._look_up(self.contexts, contexts)
        total, kinds = self.totals[at], self.kinds[at]
        return np.where(known, (np.maximum(count - DISCOUNT, 0) + DISCOUNT * kinds * lower) / total, lower)


def ngram_keys(stream: np.ndarray, order: int, vocab: int) -> np.ndarray:
    ids = stream.astype(np.int64)
    key = ids[: ids.size - order + 1].copy()
    for i in range(1, order):
        key = key * vocab + ids[i : ids.size - order + 1 + i]
    return key


class Ngrams:
    """The streams are counted one by one: no n-gram spans two labels."""

    def __init__(self, streams: list[np.ndarray], vocab: int):
        self.vocab = vocab
        self.orders = [
            Counts(np.concatenate([ngram_keys(s, order, vocab) for s in streams]), vocab) for order in (1, 2, 3)
        ]

    def losses(self, stream: np.ndarray, positions: int) -> list[float]:
        """Mean nats of stream[1 .. positions] for each order; longer contexts reach back as far as the stream does."""
        ids = stream.astype(np.int64)[: positions + 1]
        tokens, previous = ids[1:], ids[:-1]
        # An impossible context before the first token: the trigram of position 1 is its bigram.
        before = np.concatenate(([self.vocab], ids[:-2]))
        contexts = [np.zeros_like(tokens), previous, before * self.vocab + previous]
        probability = np.full(tokens.size, 1.0 / self.vocab)
        result = []
        for counts, context in zip(self.orders, contexts):
            probability = counts.interpolate(context, tokens, probability, self.vocab)
            result.append(float(-np.log(probability).mean()))
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder written by corpus.py")
    parser.add_argument("--model", type=Path, required=True, help="folder with tokenizer.json")
    parser.add_argument("--length", type=int, default=256, help="window of evaluate.py (default %(default)s)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON to write")
    args = parser.parse_args()

    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    vocab = tokenizer.get_vocab_size()
    streams = Streams(args.corpus, tokenizer)
    pooled = Ngrams(list(streams.train.values()), vocab)
    result = {"discount": DISCOUNT, "labels": {}}
    for label in LABELS:
        held = streams.held_out[label]
        positions = held_out_windows(held, args.length).shape[0] * args.length
        row = {"positions": positions}
        for name, ngrams in (("pooled", pooled), ("own", Ngrams([streams.train[label]], vocab))):
            row[name] = dict(zip(("unigram", "bigram", "trigram"), ngrams.losses(held, positions)))
        result["labels"][label] = row
        print(label, positions, {n: {k: round(v, 3) for k, v in row[n].items()} for n in ("pooled", "own")})
    args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
