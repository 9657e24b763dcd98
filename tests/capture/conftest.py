# SPDX-License-Identifier: Apache-2.0
"""What the tests of moeroute-capture share: the binary, tiny random checkpoints, the trace as arrays."""
import json
import os
import pathlib
import subprocess

import numpy as np
import pytest
from safetensors.numpy import load_file

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("MOEROUTE_BIN", REPOSITORY / "build/release/bin")) / "moeroute-capture"
SHARED = pathlib.Path(os.environ.get("MOEROUTE_SHARED", REPOSITORY.parent / "shared"))
DEMO = REPOSITORY / "examples/models/demo-olmoe"

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: minutes; run with -m slow")


def pytest_collection_modifyitems(config, items):
    """Slow tests run where they are asked for."""
    if "slow" in config.option.markexpr:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]


def command(*arguments):
    return [str(BINARY), *map(str, arguments)]


def run(*arguments, **options):
    """Runs moeroute-capture to its end; the caller looks at the exit code."""
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300, **options)


def succeed(*arguments, **options):
    result = run(*arguments, **options)
    assert result.returncode == 0, result.stderr
    return result


def fail(code, *arguments, **options):
    """Runs it, expects this exit code and one line of complaint, which is returned."""
    result = run(*arguments, "--quiet", **options)
    assert result.returncode == code, (result.returncode, result.stderr)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("moeroute: "), result.stderr
    return lines[0]


class Trace:
    """A finished trace: manifest, documents, and per document the arrays of all shards."""

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        self.manifest = json.loads((folder / "manifest.json").read_text())
        self.documents, self.arrays = [], []
        for shard in self.manifest["shards"]:
            columns = load_bf16_too(folder / shard["file"])
            text = (folder / shard["documents_file"]).read_text(encoding="utf-8")
            lines = [json.loads(line) for line in text.split("\n")[:-1]]  # splitlines would also cut at U+2028
            offsets = columns.pop("offsets")
            assert columns.pop("document").tolist() == [line["document"] for line in lines]
            assert len(offsets) == len(lines) + 1
            for d, line in enumerate(lines):
                self.documents.append(line)
                self.arrays.append({name: a[offsets[d]:offsets[d + 1]] for name, a in columns.items()})
        self.layers = [layer["layer"] for layer in self.manifest["layers"]]


def load_bf16_too(path):
    try:
        return load_file(path)
    except (TypeError, KeyError, ValueError):
        from safetensors.torch import load_file as load_torch
        import torch
        return {k: (v.float() if v.dtype == torch.bfloat16 else v).numpy() for k, v in load_torch(path).items()}


def write_documents(path, texts, **labels):
    with open(path, "w", encoding="utf-8") as out:
        for i, text in enumerate(texts):
            out.write(json.dumps({"id": f"d{i}", "text": text, **labels}, ensure_ascii=False) + "\n")
    return path


def byte_tokenizer(folder, vocabulary=300):
    """A byte-level tokenizer with a few merges, so that any text has ids below `vocabulary`."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  special_tokens=["<|endoftext|>"], show_progress=False)
    t.train_from_iterator(["the routing of the experts in the model " * 3, "ein Modell und seine Experten"], trainer)
    t.save(str(pathlib.Path(folder) / "tokenizer.json"))
    return t


def random_checkpoint(folder, seed=0, save=None, **overrides):
    """An OLMoE in which every tensor is random: transformers' own start values, norms of one and biases of zero,
    would hide a decoder that leaves them out. The router is spread enough to choose by token."""
    import torch
    from transformers import OlmoeConfig, OlmoeForCausalLM
    settings = dict(vocab_size=300, hidden_size=32, intermediate_size=16, num_hidden_layers=3, num_attention_heads=4,
                    num_key_value_heads=4, num_experts=8, num_experts_per_tok=2, max_position_embeddings=128,
                    tie_word_embeddings=False, pad_token_id=None, eos_token_id=0)
    model = OlmoeForCausalLM(OlmoeConfig(**{**settings, **overrides})).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if "norm" in name:
                p.copy_(1 + 0.3 * noise)
            elif p.dim() == 1:
                p.copy_(0.3 * noise)
            elif "embed" in name:
                p.copy_(noise)
            else:
                p.copy_(noise * (2 if "gate.weight" in name else 1) / p.shape[-1] ** 0.5)
    model.save_pretrained(folder, **(save or {}))
    byte_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """One small checkpoint for everything that is not about arithmetic."""
    return random_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session", autouse=True)
def the_binary_is_there():
    assert BINARY.exists(), f"{BINARY} is not built; set MOEROUTE_BIN"
