"""Train the byte-level BPE of the demo model: `tokenizer.py --corpus corpus/ -o model/`."""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from data import END_OF_TEXT, LABELS, corpus_file, is_held_out, read_documents


def balanced_sample(corpus: Path, seed: int) -> list[str]:
    """The same number of training bytes of every label: merges are chosen by frequency, so a label
    with less text would otherwise be cut into bytes."""
    random_order = random.Random(seed)
    texts = {
        label: [d["text"] for d in read_documents(corpus, label) if not is_held_out(d["id"])]
        for label in LABELS
    }
    budget = min(sum(len(t.encode()) for t in label_texts) for label_texts in texts.values())
    sample: list[str] = []
    for label in LABELS:
        random_order.shuffle(texts[label])
        used = 0
        for text in texts[label]:
            if used >= budget:
                break
            sample.append(text)
            used += len(text.encode())
    return sample


def train_tokenizer(texts: list[str], vocab_size: int):
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_OF_TEXT],
            # All 256 bytes, seen or not: every input can be encoded, and no unknown token is needed.
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


def save_tokenizer(tokenizer, output: Path, max_length: int) -> None:
    from transformers import PreTrainedTokenizerFast

    output.mkdir(parents=True, exist_ok=True)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(output)
    # The name that transformers 4 knows the class by; 5 takes both.
    file = output / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="folder written by corpus.py")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for tokenizer.json")
    parser.add_argument("--vocab-size", type=int, default=3072, help="tokens in all (default %(default)s)")
    parser.add_argument("--max-length", type=int, default=1024, help="model_max_length (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="order of the sampled documents (default %(default)s)")
    args = parser.parse_args()
    missing = [str(corpus_file(args.corpus, label)) for label in LABELS if not corpus_file(args.corpus, label).is_file()]
    if missing:
        parser.error("not in the corpus: " + ", ".join(missing))

    tokenizer = train_tokenizer(balanced_sample(args.corpus, args.seed), args.vocab_size)
    save_tokenizer(tokenizer, args.output, args.max_length)
    for label in LABELS:
        held = [d["text"] for d in read_documents(args.corpus, label) if is_held_out(d["id"])]
        tokens = sum(len(e.ids) for e in tokenizer.encode_batch(held))
        print(f"{label:5s} {sum(len(t.encode()) for t in held) / tokens:.2f} bytes per token of held-out text")


if __name__ == "__main__":
    main()
