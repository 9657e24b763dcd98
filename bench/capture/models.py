# SPDX-License-Identifier: Apache-2.0
"""The models and documents that are timed: the one that ships, and OLMoE's shape with random weights."""
import json
import math
import pathlib

import torch
from safetensors.torch import save_file

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
DEMO = REPOSITORY / "examples/models/demo-olmoe"

# OLMoE-1B-7B-0924, and half its width with as many layers as fill a gigabyte.
OLMOE_1B_7B = dict(hidden_size=2048, intermediate_size=1024, num_hidden_layers=16, vocab_size=50304)
ONE_GIGABYTE = dict(hidden_size=1024, intermediate_size=512, num_hidden_layers=2, vocab_size=25152)
COMMON = dict(
    architectures=["OlmoeForCausalLM"], attention_bias=False, clip_qkv=None, hidden_act="silu", max_position_embeddings=4096,
    model_type="olmoe", norm_topk_prob=False, num_attention_heads=16, num_key_value_heads=16, num_experts=64,
    num_experts_per_tok=8, rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False, pad_token_id=1, eos_token_id=0)


def tensors(config):
    """Names and shapes of an OLMoE checkpoint, layer by layer; the last layer also has what stands outside the layers."""
    h, i, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    for l in range(config["num_hidden_layers"]):
        stem = f"model.layers.{l}."
        layer = {stem + f"self_attn.{part}_proj.weight": (h, h) for part in "qkvo"}
        layer |= {stem + name + ".weight": (h,) for name in
                  ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm")}
        layer[stem + "mlp.gate.weight"] = (config["num_experts"], h)
        for e in range(config["num_experts"]):
            expert = stem + f"mlp.experts.{e}."
            layer |= {expert + "gate_proj.weight": (i, h), expert + "up_proj.weight": (i, h), expert + "down_proj.weight": (h, i)}
        if l + 1 == config["num_hidden_layers"]:
            layer |= {"model.embed_tokens.weight": (v, h), "lm_head.weight": (v, h), "model.norm.weight": (h,)}
        yield layer


def random_checkpoint(folder, dtype=torch.float32, seed=1, **shape):
    """An OLMoE with random weights, one file a layer. The router is spread enough to choose by token."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**COMMON, **shape, "dtype": str(dtype).removeprefix("torch.")}
    generator = torch.Generator().manual_seed(seed)
    where, total, count = {}, 0, config["num_hidden_layers"]
    for l, layer in enumerate(tensors(config)):
        file, data = f"model-{l + 1:05}-of-{count:05}.safetensors", {}
        for name, size in layer.items():
            noise = torch.randn(size, generator=generator, dtype=torch.float32)
            scale = 1 if "embed" in name else (2 if "mlp.gate" in name else 1) / math.sqrt(size[-1])
            data[name] = (1 + 0.1 * noise if len(size) == 1 else noise * scale).to(dtype)
            where[name] = file
            total += data[name].nbytes
        save_file(data, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": where}))
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    return total


def documents(file, ids, length, count):
    """`count` documents of `length` ids each, as --token-ids reads them; all of one length, so that nobody pads."""
    chosen = [ids[i * length:(i + 1) * length] for i in range(count)]
    if len(chosen[-1]) != length:
        raise SystemExit(f"bench: {len(ids)} ids are too few for {count} documents of {length}")
    file.write_text("".join(json.dumps({"id": f"d{i}", "ids": d}) + "\n" for i, d in enumerate(chosen)))


def random_ids(vocabulary, count):
    return torch.randint(2, vocabulary, (count,), generator=torch.Generator().manual_seed(2)).tolist()


def shipped_ids():
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    texts = [json.loads(line)["text"] for f in sorted((REPOSITORY / "examples/texts").glob("*.jsonl"))
             for line in f.read_text(encoding="utf-8").split("\n") if line]
    return [i for t in texts for i in tokenizer.encode(t, add_special_tokens=False).ids]
