# SPDX-License-Identifier: Apache-2.0
"""Every family of the table against transformers: tiny checkpoints in which every tensor is random, several configurations
that take every branch, documents longer than every window and every original context length in use."""
import atexit
import copy
import functools
import json
import pathlib
import random
import shutil
import tempfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, CONFIG_MAPPING

from conftest import Trace, byte_tokenizer, fail, run, succeed, write_documents
from reference import compare, corrected, load_reference

COMMON = dict(vocab_size=300, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
              max_position_embeddings=256, tie_word_embeddings=False, pad_token_id=None, eos_token_id=0, bos_token_id=None)
QWEN = dict(moe_intermediate_size=16, intermediate_size=24, num_experts=8, num_experts_per_tok=2, head_dim=8)
MIXTRAL = dict(intermediate_size=16, num_local_experts=6, num_experts_per_tok=2)
LATENT = dict(moe_intermediate_size=16, intermediate_size=24, n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=1,
              kv_lora_rank=12, q_lora_rank=10, qk_nope_head_dim=6, qk_rope_head_dim=4, v_head_dim=10, num_key_value_heads=4,
              first_k_dense_replace=1, n_group=1, topk_group=1)
INDEX = dict(index_topk=256, index_n_heads=2, index_head_dim=8)
GLM = dict(moe_intermediate_size=16, intermediate_size=24, n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=1,
           first_k_dense_replace=1, n_group=1, topk_group=1, head_dim=8)
SMALL = dict(intermediate_size=16, num_experts=6, num_experts_per_tok=2)


def rope(kind, theta=500.0, **values):
    return {"rope_type": kind, "rope_theta": theta, **values}


LONGROPE = rope("longrope", short_factor=[1.0, 1.1, 1.3, 1.2], long_factor=[1.5, 2.0, 3.0, 4.0], short_mscale=1.1,
                long_mscale=1.25, original_max_position_embeddings=64)
YARN = dict(factor=8.0, original_max_position_embeddings=64, beta_fast=4.0, beta_slow=1.0)

CONFIGS = {
    ("flex_olmo", "plain"): dict(SMALL),
    ("flex_olmo", "renormalised, biases"): dict(SMALL, norm_topk_prob=True, attention_bias=True, num_experts=7),
    ("flex_olmo", "linear rotation, tied"): dict(SMALL, tie_word_embeddings=True, rope_parameters=rope("linear", factor=4.0)),
    ("qwen2_moe", "plain"): dict(QWEN, shared_expert_intermediate_size=20),
    ("qwen2_moe", "dense layers, renormalised, no bias"): dict(
        QWEN, shared_expert_intermediate_size=12, decoder_sparse_step=2, num_hidden_layers=5, mlp_only_layers=[3],
        norm_topk_prob=True, qkv_bias=False),
    ("qwen2_moe", "sliding windows"): dict(QWEN, shared_expert_intermediate_size=8, use_sliding_window=True,
                                           sliding_window=7, max_window_layers=1),
    ("qwen3_moe", "plain"): dict(QWEN, num_experts=9),
    ("qwen3_moe", "renormalised, biases, dense layers"): dict(QWEN, norm_topk_prob=True, attention_bias=True,
                                                              mlp_only_layers=[0], rms_norm_eps=0.05),
    ("qwen3_moe", "window, yarn"): dict(QWEN, use_sliding_window=True, sliding_window=9, rope_parameters=rope("yarn", **YARN)),
    ("mixtral", "plain"): dict(MIXTRAL),
    ("mixtral", "window, tied, wide heads"): dict(MIXTRAL, sliding_window=5, tie_word_embeddings=True, head_dim=12),
    ("mixtral", "llama3 rotation, top 1"): dict(
        MIXTRAL, num_experts_per_tok=1, num_local_experts=4,
        rope_parameters=rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)),
    ("phimoe", "plain"): dict(MIXTRAL),
    ("phimoe", "biases, longrope"): dict(MIXTRAL, attention_bias=True, lm_head_bias=True, rope_parameters=LONGROPE),
    ("phimoe", "window, tied, wide jitter, large epsilon"): dict(MIXTRAL, sliding_window=6, tie_word_embeddings=True,
                                                                 router_jitter_noise=0.3, rms_norm_eps=0.05,
                                                                 num_local_experts=9),
    ("minimax_m2", "plain"): dict(MIXTRAL, head_dim=8),
    ("minimax_m2", "part of the head rotated"): dict(
        MIXTRAL, head_dim=16, num_key_value_heads=4, rope_parameters=rope("default", partial_rotary_factor=0.5)),
    ("minimax_m2", "many experts, large epsilon"): dict(MIXTRAL, head_dim=8, num_local_experts=16, num_experts_per_tok=5,
                                                        rms_norm_eps=0.05),
    ("granitemoe", "multipliers"): dict(MIXTRAL, embedding_multiplier=3.0, logits_scaling=2.5, residual_multiplier=0.4,
                                        attention_multiplier=0.2),
    ("granitemoe", "biases, tied"): dict(MIXTRAL, attention_bias=True, tie_word_embeddings=True, attention_multiplier=0.5),
    ("granitemoe", "top 4 of 8"): dict(MIXTRAL, num_local_experts=8, num_experts_per_tok=4, logits_scaling=0.5,
                                       attention_multiplier=0.35355339, num_key_value_heads=1),
    ("gpt_oss", "plain"): dict(MIXTRAL, head_dim=8, sliding_window=6, swiglu_limit=1.5,
                               rope_parameters=rope("yarn", truncate=False, **YARN)),
    ("gpt_oss", "window everywhere, no bias"): dict(
        MIXTRAL, head_dim=12, sliding_window=11, attention_bias=False, num_key_value_heads=4, swiglu_alpha=1.1,
        layer_types=["sliding_attention"] * 3, rope_parameters=rope("default")),
    ("gpt_oss", "full attention, wide window"): dict(
        MIXTRAL, head_dim=8, num_local_experts=8, num_experts_per_tok=4, sliding_window=1000,
        layer_types=["full_attention", "sliding_attention", "full_attention"], rope_parameters=rope("yarn", **YARN)),
    ("deepseek_v2", "greedy, direct q, no yarn"): dict(LATENT, q_lora_rank=None, topk_method="greedy",
                                                       routed_scaling_factor=1.7),
    ("deepseek_v2", "groups, yarn"): dict(
        LATENT, topk_method="group_limited_greedy", n_group=4, topk_group=2, n_shared_experts=2, first_k_dense_replace=0,
        rope_parameters=rope("yarn", mscale=0.707, mscale_all_dim=0.707, **YARN)),
    ("deepseek_v2", "biases"): dict(LATENT, topk_method="greedy", attention_bias=True, mlp_bias=True, rms_norm_eps=0.01,
                                    first_k_dense_replace=2),
    ("deepseek_v3", "groups, yarn"): dict(
        LATENT, n_routed_experts=16, n_group=4, topk_group=2, num_experts_per_tok=4,
        rope_parameters=rope("yarn", mscale=1.0, mscale_all_dim=1.0, **YARN)),
    ("deepseek_v3", "one group, direct q, not renormalised"): dict(LATENT, q_lora_rank=None, norm_topk_prob=False,
                                                                   routed_scaling_factor=1.3),
    ("deepseek_v3", "halves rotated, biases, unequal mscale"): dict(
        LATENT, attention_bias=True, rope_interleave=False, n_shared_experts=2, first_k_dense_replace=2,
        rope_parameters=rope("yarn", mscale=0.5, mscale_all_dim=1.0, **YARN)),
    ("deepseek_v32", "groups, yarn"): dict(
        LATENT, **INDEX, n_routed_experts=16, n_group=4, topk_group=2, num_experts_per_tok=4,
        rope_parameters=rope("yarn", mscale=1.0, mscale_all_dim=1.0, **YARN)),
    ("deepseek_v32", "biases, not renormalised"): dict(LATENT, **INDEX, attention_bias=True, norm_topk_prob=False,
                                                       routed_scaling_factor=1.3),
    ("deepseek_v32", "dense layers by name"): dict(LATENT, **INDEX, n_shared_experts=2, num_hidden_layers=4,
                                                   mlp_layer_types=["sparse", "dense", "sparse", "dense"]),
    ("glm4_moe", "plain"): dict(GLM),
    ("glm4_moe", "head norm, biases, scale"): dict(GLM, use_qk_norm=True, attention_bias=True, routed_scaling_factor=2.5,
                                                   first_k_dense_replace=2),
    ("glm4_moe", "whole head rotated, groups, no renormalisation"): dict(
        GLM, n_group=2, topk_group=1, norm_topk_prob=False, rope_parameters=rope("default", partial_rotary_factor=1.0)),
    ("dots1", "plain"): dict(GLM, norm_topk_prob=True),
    ("dots1", "biases, scale, two shared"): dict(GLM, attention_bias=True, routed_scaling_factor=2.5, n_shared_experts=2),
    ("dots1", "windows"): dict(GLM, norm_topk_prob=True, sliding_window=6, num_hidden_layers=4,
                               layer_types=["full_attention", "sliding_attention"] * 2),
    ("ernie4_5_moe", "plain"): dict(moe_intermediate_size=16, intermediate_size=24, moe_num_experts=8, moe_k=3,
                                    moe_num_shared_experts=2, moe_layer_start_index=1, moe_layer_end_index=2),
    ("ernie4_5_moe", "biases, every other layer, tied"): dict(
        moe_intermediate_size=16, intermediate_size=24, moe_num_experts=6, moe_k=2, moe_num_shared_experts=1, use_bias=True,
        moe_layer_interval=2, moe_layer_start_index=0, moe_layer_end_index=4, num_hidden_layers=5, tie_word_embeddings=True),
    ("ernie4_5_moe", "no shared expert, large minimum"): dict(
        moe_intermediate_size=16, intermediate_size=24, moe_num_experts=8, moe_k=2, moe_num_shared_experts=0, moe_norm_min=0.7,
        moe_layer_start_index=0, moe_layer_end_index=2),
    ("hunyuan_v1_moe", "plain"): dict(intermediate_size=16, num_experts=6, moe_topk=2, head_dim=8),
    ("hunyuan_v1_moe", "alpha, biases"): dict(intermediate_size=16, num_experts=8, moe_topk=3, head_dim=8, attention_bias=True,
                                              rope_parameters=rope("dynamic", alpha=50.0, factor=1.0)),
    ("hunyuan_v1_moe", "per layer lists, tied"): dict(intermediate_size=16, num_experts=4, moe_topk=[2, 2, 2], head_dim=8,
                                                      tie_word_embeddings=True, num_key_value_heads=1),
}


def texts():
    rng = random.Random(7)
    words = ["the", "routing", "of", "experts", "모델", "Zürich", "経路", "x = f(y)", "\n", "🙂", "1234", "und", "token"]
    return ["a"] + [" ".join(rng.choice(words) for _ in range(rng.randrange(1, 22))) for _ in range(12)]


def randomise(model, seed):
    """Every tensor random: transformers' own start values, norms of one and biases of zero, would hide what is left out."""
    generator = torch.Generator().manual_seed(seed)
    state = dict(model.named_parameters()) | {n: b for n, b in model.named_buffers() if "e_score_correction_bias" in n}
    with torch.no_grad():
        for name, p in state.items():
            noise = torch.randn(p.shape, generator=generator)
            if "norm" in name:
                p.copy_((1 if name.endswith("weight") else 0) + 0.3 * noise)
            elif "e_score_correction_bias" in name:
                p.copy_(0.15 * noise)
            elif p.dim() == 1 or name.endswith("_bias"):
                p.copy_(0.3 * noise)
            elif "embed" in name:
                p.copy_(noise)
            elif "experts" in name and p.dim() == 3:
                p.copy_(noise / 4)
            else:
                router = "experts" not in name and any(w in name for w in ("gate.weight", "router", "gate.wg"))
                p.copy_(noise * (2 if router else 1) / p.shape[-1] ** 0.5)
    return model


@functools.cache
def made(case):
    family, _ = case
    folder = pathlib.Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    torch.manual_seed(1)
    config = CONFIG_MAPPING[family](**{**COMMON, **CONFIGS[case]})
    model = AutoModelForCausalLM.from_config(config).eval()
    randomise(model, sum(map(ord, "".join(case)))).save_pretrained(folder)
    byte_tokenizer(folder)
    succeed(folder, write_documents(folder / "texts.jsonl", texts()), "-o", folder / "trace", "--threads", 1)
    return folder, Trace(folder / "trace")


@pytest.mark.parametrize("case", CONFIGS, ids=": ".join)
def test_agrees_with_transformers(case):
    folder, trace = made(case)
    model = load_reference(folder)
    difference = compare(trace, model)
    print(case, difference)
    assert difference.agrees(), difference
    assert difference.undecided < 0.01 * difference.tokens * len(trace.layers), difference
    for l in trace.layers:
        sets = {tuple(sorted(row)) for a in trace.arrays for row in a[f"layers.{l}.ids"].tolist()}
        assert len(sets) >= 4, (l, sets)
    assert max(len(a["token_ids"]) for a in trace.arrays) > 64
    # A tied head is a tensor of its own to nobody; the selection bias is a parameter to some and a buffer to others.
    tensors = dict(model.named_parameters()) | {n: b for n, b in model.named_buffers() if "e_score_correction_bias" in n}
    assert trace.manifest["model"]["parameters"] == sum(t.numel() for t in tensors.values())


# The comparison would go red if we had left a tensor out, or a value of the configuration: each in turn is changed in the
# reference alone, and then our output must be seen to differ.

def kinds(model):
    """Names of tensors without their numbers, each with the tensors of that name."""
    state = dict(model.named_parameters()) | {n: b for n, b in model.named_buffers() if "e_score_correction_bias" in n}
    groups = {}
    for name, tensor in state.items():
        groups.setdefault(".".join("*" if part.isdigit() else part for part in name.split(".")), []).append(tensor)
    return groups


@pytest.mark.parametrize("case", CONFIGS, ids=": ".join)
def test_every_tensor_is_seen(case):
    folder, trace = made(case)
    model = load_reference(folder)
    torch.manual_seed(3)
    for name, tensors in kinds(model).items():
        if "indexer" in name:  # chooses among more keys than these documents have
            continue
        kept = [t.detach().clone() for t in tensors]
        with torch.no_grad():
            for t in tensors:
                # Not one factor for all elements: a norm behind the tensor would take it out again.
                t.fill_(1) if "norm" in name and name.endswith("weight") else t.mul_(0.5 + torch.rand(t.shape))
            difference = compare(trace, model, documents=3)
            for t, old in zip(tensors, kept):
                t.copy_(old)
        assert not difference.agrees(), f"the comparison does not see: {name}"
    assert compare(trace, model, documents=3).agrees(), "the tensors are back"


CHANGES = [
    ("flex_olmo", "plain", dict(rms_norm_eps=0.1)),
    ("flex_olmo", "renormalised, biases", dict(norm_topk_prob=False)),
    ("flex_olmo", "linear rotation, tied", dict(rope_parameters=rope("default"))),
    ("qwen2_moe", "plain", dict(norm_topk_prob=True)),
    ("qwen2_moe", "sliding windows", dict(layer_types=["full_attention"] * 3)),
    ("qwen2_moe", "sliding windows", dict(layer_types=["sliding_attention"] * 3)),
    ("qwen2_moe", "sliding windows", dict(sliding_window=8)),
    ("qwen3_moe", "plain", dict(rope_parameters=rope("default", theta=600.0))),
    ("qwen3_moe", "renormalised, biases, dense layers", dict(norm_topk_prob=False)),
    ("qwen3_moe", "window, yarn", dict(sliding_window=None)),
    ("qwen3_moe", "window, yarn", dict(rope_parameters=rope("default"))),
    ("qwen3_moe", "window, yarn", dict(rope_parameters=rope("yarn", **YARN | {"beta_slow": 0.25}))),
    ("qwen3_moe", "window, yarn", dict(rope_parameters=rope("yarn", **YARN | {"original_max_position_embeddings": 16}))),
    ("mixtral", "window, tied, wide heads", dict(sliding_window=None)),
    ("mixtral", "llama3 rotation, top 1", dict(rope_parameters=rope("default"))),
    ("phimoe", "plain", dict(router_jitter_noise=0.2)),
    ("phimoe", "biases, longrope", dict(rope_parameters=rope("default"))),
    *(("phimoe", "biases, longrope", dict(rope_parameters=LONGROPE | change)) for change in (
        dict(long_factor=LONGROPE["short_factor"]), dict(short_factor=LONGROPE["long_factor"]), dict(long_mscale=1.1),
        dict(short_mscale=1.25), dict(original_max_position_embeddings=80))),
    ("phimoe", "window, tied, wide jitter, large epsilon", dict(sliding_window=None)),
    ("phimoe", "window, tied, wide jitter, large epsilon", dict(router_jitter_noise=0.01)),
    ("phimoe", "window, tied, wide jitter, large epsilon", dict(rms_norm_eps=1e-5)),
    ("minimax_m2", "part of the head rotated", dict(rope_parameters=rope("default"))),
    ("minimax_m2", "many experts, large epsilon", dict(rms_norm_eps=1e-6)),
    *(("granitemoe", "multipliers", {key: 1.0}) for key in
      ("embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier")),
    ("gpt_oss", "plain", dict(swiglu_limit=7.0)),
    ("gpt_oss", "plain", dict(layer_types=["full_attention"] * 3)),
    ("gpt_oss", "plain", dict(layer_types=["full_attention", "sliding_attention", "full_attention"])),
    ("gpt_oss", "plain", dict(rope_parameters=rope("yarn", truncate=True, **YARN))),
    ("gpt_oss", "plain", dict(rope_parameters=rope("yarn", truncate=False, attention_factor=1.0, **YARN))),
    ("gpt_oss", "window everywhere, no bias", dict(swiglu_alpha=1.702)),
    ("deepseek_v2", "greedy, direct q, no yarn", dict(routed_scaling_factor=1.0)),
    ("deepseek_v2", "groups, yarn", dict(topk_method="greedy")),
    ("deepseek_v2", "groups, yarn", dict(rope_parameters=rope("yarn", **YARN))),  # the scale loses its squared mscale
    ("deepseek_v2", "groups, yarn", dict(rope_parameters=rope("default"))),
    ("deepseek_v3", "groups, yarn", dict(topk_group=4)),
    ("deepseek_v3", "groups, yarn", dict(rope_interleave=False)),
    ("deepseek_v3", "groups, yarn", dict(routed_scaling_factor=1.0)),
    ("deepseek_v3", "one group, direct q, not renormalised", dict(norm_topk_prob=True)),
    ("deepseek_v3", "halves rotated, biases, unequal mscale", dict(rope_interleave=True)),
    ("deepseek_v3", "halves rotated, biases, unequal mscale",
     dict(rope_parameters=rope("yarn", mscale=1.0, mscale_all_dim=1.0, **YARN))),
    ("deepseek_v32", "groups, yarn", dict(topk_group=4)),
    ("deepseek_v32", "groups, yarn", dict(rope_parameters=rope("yarn", **YARN))),
    ("deepseek_v32", "groups, yarn", dict(index_topk=8)),
    ("deepseek_v32", "biases, not renormalised", dict(norm_topk_prob=True)),
    ("glm4_moe", "plain", dict(norm_topk_prob=False)),
    ("glm4_moe", "plain", dict(rope_parameters=rope("default", partial_rotary_factor=1.0))),
    ("glm4_moe", "head norm, biases, scale", dict(routed_scaling_factor=1.0)),
    ("glm4_moe", "whole head rotated, groups, no renormalisation", dict(n_group=1)),
    ("glm4_moe", "whole head rotated, groups, no renormalisation", dict(rope_parameters=rope("default", partial_rotary_factor=.5))),
    ("dots1", "plain", dict(norm_topk_prob=False)),
    ("dots1", "biases, scale, two shared", dict(routed_scaling_factor=1.0)),
    ("dots1", "windows", dict(layer_types=["full_attention"] * 4)),
    ("ernie4_5_moe", "no shared expert, large minimum", dict(moe_norm_min=1e-12)),
    ("hunyuan_v1_moe", "alpha, biases", dict(rope_parameters=rope("default"))),
    ("hunyuan_v1_moe", "plain", dict(rms_norm_eps=0.1)),
]


@pytest.mark.parametrize("family, name, change", CHANGES, ids=lambda v: str(v)[:60])
def test_every_value_is_seen(family, name, change):
    folder, trace = made((family, name))
    config = json.loads((folder / "config.json").read_text()) | change
    config.pop("model_type")
    model = AutoModelForCausalLM.from_pretrained(folder, config=CONFIG_MAPPING[family](**config), dtype=torch.float32,
                                                 attn_implementation="eager").eval()
    assert not compare(trace, corrected(model)).agrees(), f"the comparison does not see {change}"


def test_longrope_of_transformers():
    """What the comparison corrects is real: without it the long documents differ, and they alone."""
    folder, trace = made(("phimoe", "biases, longrope"))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    assert not compare(trace, model).agrees(), "transformers was mended: take the correction out"
    short = [i for i, a in enumerate(trace.arrays) if len(a["token_ids"]) <= 64]
    assert 0 < len(short) < len(trace.arrays)
    trace = copy.copy(trace)
    trace.documents, trace.arrays = ([x[i] for i in short] for x in (trace.documents, trace.arrays))
    assert compare(trace, model).agrees()


def test_more_tokens_than_the_index_keeps(tmp_path):
    source, _ = made(("deepseek_v32", "groups, yarn"))
    shutil.copytree(source, tmp_path / "m", ignore=shutil.ignore_patterns("trace"))
    config = json.loads((source / "config.json").read_text()) | {"index_topk": 40}
    (tmp_path / "m/config.json").write_text(json.dumps(config))
    lines = write_documents(tmp_path / "x.jsonl", ["a" * 40, "b" * 60])
    message = fail(1, tmp_path / "m", lines, "-o", tmp_path / "t")
    assert "x.jsonl:2: the document has" in message and "use --max-tokens 40" in message
    assert not (tmp_path / "t").exists()
    succeed(tmp_path / "m", lines, "-o", tmp_path / "t", "--max-tokens", 40)


WRAPPERS = {
    "language_model.model": lambda n: "language_model." + n,
    "model.language_model": lambda n: n.replace("model.", "model.language_model.", 1) if n.startswith("model.") else n,
    "none": lambda n: n.removeprefix("model."),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("case", [("mixtral", "plain"), ("deepseek_v3", "groups, yarn"), ("gpt_oss", "plain")], ids=": ".join)
def test_prefixes_of_wrappers(case, wrapper, tmp_path):
    """The language model of a larger one: other names, its configuration one level down, other parts beside it."""
    source, trace = made(case)
    tensors = {WRAPPERS[wrapper](n): t for n, t in load_file(source / "model.safetensors").items()}
    assert len(tensors) == len(load_file(source / "model.safetensors"))
    config = json.loads((source / "config.json").read_text())
    if wrapper != "none":
        tensors["vision_tower.blocks.0.weight"] = torch.zeros(2, 2)
        dtype = config.pop("dtype")
        config = {"model_type": "some_wrapper", "dtype": dtype, "tie_word_embeddings": False, "text_config": config}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    shutil.copy(source / "tokenizer.json", tmp_path)
    texts = write_documents(tmp_path / "x.jsonl", ["the model", "and"])
    both = []
    for folder in (source, tmp_path):
        succeed(folder, texts, "-o", tmp_path / f"trace{len(both)}", "--threads", 1)
        both.append(Trace(tmp_path / f"trace{len(both)}"))
    for a, b in zip(both[0].arrays, both[1].arrays, strict=True):
        assert a.keys() == b.keys() and all(np.array_equal(a[k], b[k], equal_nan=True) for k in a)

    tensors[WRAPPERS[wrapper]("model.layers.0.self_attn.other.weight")] = torch.zeros(2)
    save_file(tensors, tmp_path / "model.safetensors")
    message = fail(1, tmp_path, texts, "-o", tmp_path / "t", "--threads", 1)
    assert WRAPPERS[wrapper]("model.layers.0.self_attn.other.weight") in message


def test_complaints_name_the_part_of_the_configuration(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"model_type": "mixtral", "num_hidden_layers": -1}}))
    assert "config.json:text_config.num_hidden_layers" in fail(1, tmp_path, "--plan")


# models.md, section 8: what the releases say, and what their tensors add up to.
RELEASES = {
    "deepseek-v2-lite": (15_706_484_224, dict(
        model_type="deepseek_v2", num_hidden_layers=27, hidden_size=2048, num_attention_heads=16, num_key_value_heads=16,
        kv_lora_rank=512, q_lora_rank=None, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, n_routed_experts=64,
        num_experts_per_tok=6, n_shared_experts=2, moe_intermediate_size=1408, intermediate_size=10944,
        first_k_dense_replace=1, moe_layer_freq=1, vocab_size=102400, max_position_embeddings=163840, rope_theta=10000,
        topk_method="greedy", n_group=1, topk_group=1, norm_topk_prob=False, routed_scaling_factor=1.0, rms_norm_eps=1e-6,
        rope_scaling=dict(type="yarn", factor=40, mscale=0.707, mscale_all_dim=0.707, beta_fast=32, beta_slow=1,
                          original_max_position_embeddings=4096))),
    "deepseek-v3": (671_026_419_200, dict(
        model_type="deepseek_v3", num_hidden_layers=61, hidden_size=7168, num_attention_heads=128, num_key_value_heads=128,
        kv_lora_rank=512, q_lora_rank=1536, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, n_routed_experts=256,
        num_experts_per_tok=8, n_shared_experts=1, moe_intermediate_size=2048, intermediate_size=18432,
        first_k_dense_replace=3, vocab_size=129280, max_position_embeddings=163840, rope_theta=10000, n_group=8, topk_group=4,
        norm_topk_prob=True, routed_scaling_factor=2.5, num_nextn_predict_layers=1)),
    "kimi-k2": (1_026_408_232_448, dict(
        model_type="kimi_k2", num_hidden_layers=61, hidden_size=7168, num_attention_heads=64, num_key_value_heads=64,
        kv_lora_rank=512, q_lora_rank=1536, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, n_routed_experts=384,
        num_experts_per_tok=8, n_shared_experts=1, moe_intermediate_size=2048, intermediate_size=18432,
        first_k_dense_replace=1, vocab_size=163840, max_position_embeddings=131072, rope_theta=50000, n_group=1, topk_group=1,
        norm_topk_prob=True, routed_scaling_factor=2.827)),
    "qwen3-30b-a3b": (30_532_122_624, dict(
        model_type="qwen3_moe", num_hidden_layers=48, hidden_size=2048, num_attention_heads=32, num_key_value_heads=4,
        head_dim=128, num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768, intermediate_size=6144,
        vocab_size=151936, max_position_embeddings=40960, norm_topk_prob=True, mlp_only_layers=[], decoder_sparse_step=1,
        use_sliding_window=False, sliding_window=None, max_window_layers=48)),
    "qwen3-235b-a22b": (235_093_634_560, dict(
        model_type="qwen3_moe", num_hidden_layers=94, hidden_size=4096, num_attention_heads=64, num_key_value_heads=4,
        head_dim=128, num_experts=128, num_experts_per_tok=8, moe_intermediate_size=1536, intermediate_size=12288,
        vocab_size=151936, max_position_embeddings=40960, norm_topk_prob=True)),
    "qwen1.5-moe-a2.7b": (14_315_784_192, dict(
        model_type="qwen2_moe", num_hidden_layers=24, hidden_size=2048, num_attention_heads=16, num_key_value_heads=16,
        num_experts=60, num_experts_per_tok=4, moe_intermediate_size=1408, shared_expert_intermediate_size=5632,
        intermediate_size=5632, vocab_size=151936, max_position_embeddings=8192, use_sliding_window=False,
        sliding_window=32768, max_window_layers=21)),
    "minimax-m2": (228_689_764_864, dict(
        model_type="minimax_m2", num_hidden_layers=62, hidden_size=3072, num_attention_heads=48, num_key_value_heads=8,
        head_dim=128, rotary_dim=64, num_local_experts=256, num_experts_per_tok=8, intermediate_size=1536, vocab_size=200064,
        max_position_embeddings=196608, rope_theta=5000000)),
    "mixtral-8x7b": (46_702_792_704, dict(
        model_type="mixtral", num_hidden_layers=32, hidden_size=4096, num_attention_heads=32, num_key_value_heads=8,
        num_local_experts=8, num_experts_per_tok=2, intermediate_size=14336, vocab_size=32000, max_position_embeddings=32768,
        rope_theta=1e6, sliding_window=None)),
    "gpt-oss-20b": (20_914_757_184, dict(
        model_type="gpt_oss", num_hidden_layers=24, hidden_size=2880, num_attention_heads=64, num_key_value_heads=8,
        head_dim=64, num_local_experts=32, num_experts_per_tok=4, intermediate_size=2880, vocab_size=201088,
        max_position_embeddings=131072, sliding_window=128, attention_bias=True,
        layer_types=["sliding_attention", "full_attention"] * 12, rope_theta=150000, rope_scaling=dict(
            rope_type="yarn", factor=32.0, beta_fast=32.0, beta_slow=1.0, truncate=False,
            original_max_position_embeddings=4096))),
    "glm-4.5-air": (106_852_251_264, dict(
        model_type="glm4_moe", num_hidden_layers=46, hidden_size=4096, num_attention_heads=96, num_key_value_heads=8,
        head_dim=128, n_routed_experts=128, num_experts_per_tok=8, n_shared_experts=1, moe_intermediate_size=1408,
        intermediate_size=10944, first_k_dense_replace=1, vocab_size=151552, max_position_embeddings=131072,
        attention_bias=True, use_qk_norm=False, partial_rotary_factor=0.5, n_group=1, topk_group=1, norm_topk_prob=True)),
    "phi-3.5-moe": (41_873_153_344, dict(
        model_type="phimoe", num_hidden_layers=32, hidden_size=4096, num_attention_heads=32, num_key_value_heads=8,
        num_local_experts=16, num_experts_per_tok=2, intermediate_size=6400, vocab_size=32064, max_position_embeddings=131072,
        rope_theta=10000.0, attention_bias=True, lm_head_bias=True, sliding_window=131072, router_jitter_noise=0.01,
        original_max_position_embeddings=4096, rope_scaling=dict(
            type="longrope", short_factor=[1.0] * 64, long_factor=[2.0] * 64, short_mscale=1.24, long_mscale=1.24,
            original_max_position_embeddings=4096))),
    "olmoe-1b-7b-0924": (6_919_161_856, dict(
        model_type="olmoe", num_hidden_layers=16, hidden_size=2048, num_attention_heads=16, num_key_value_heads=16,
        num_experts=64, num_experts_per_tok=8, intermediate_size=1024, vocab_size=50304, max_position_embeddings=4096,
        clip_qkv=None, norm_topk_prob=False)),
    **{f"flame-moe-{name}": (total, dict(
        model_type="flame_moe", num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=16, num_key_value_heads=16,
        n_routed_experts=64, num_experts_per_tok=6, n_shared_experts=2, moe_intermediate_size=expert, intermediate_size=dense,
        first_k_dense_replace=1, vocab_size=50304, max_position_embeddings=2048))
       for name, total, layers, hidden, expert, dense in (
           ("38m-100m", 100_670_208, 9, 256, 176, 1368), ("98m-349m", 350_897_664, 9, 512, 352, 2736),
           ("115m-459m", 461_197_824, 12, 512, 352, 2736), ("290m-1.3b", 1_300_024_320, 9, 1024, 704, 5472),
           ("419m-2.2b", 2_182_020_096, 15, 1024, 704, 5472), ("721m-3.8b", 3_839_473_152, 12, 1536, 1056, 8208),
           ("1.7b-10.3b", 10_283_722_752, 18, 2048, 1408, 10944))},
}


def plan_of_config(file, *options):
    """Lines of the plan, in words, and the ways to run it: memory in words, whether it fits."""
    lines = [line.split() for line in succeed(file, "--plan", "--device", "cpu", *options).stdout.splitlines()]
    ways = {(w[1], w[3].rstrip(":")): (w[4:6], w[8:]) for w in lines if w[0] == "--dtype"}
    return [w for w in lines if w[0] != "--dtype"], ways


def test_plan_of_a_configuration_alone(tmp_path):
    _, config = RELEASES["qwen3-30b-a3b"]
    file = tmp_path / "some.json"
    file.write_text(json.dumps(config | {"mlp_only_layers": [0], "tie_word_embeddings": False}))
    lines, ways = plan_of_config(file, "--host-memory", "1G")
    assert ["model.layers.1.mlp.experts.0.down_proj.weight", "[2048,", "768]", "x", "128"] in lines
    assert ["model.layers.0.mlp.gate_proj.weight", "[6144,", "2048]"] in lines
    assert ["lm_head.weight", "[151936,", "2048]"] in lines
    assert not any("layers.2." in w[0] or "experts.1." in w[0] for w in lines)
    attention = 2048 * 128 * (32 * 2 + 4 * 2) + 2 * 2048 + 2 * 128
    dense, experts = attention + 3 * 6144 * 2048, attention + 128 * 2048 + 128 * 3 * 768 * 2048
    ends = [151936 * 2048, 151936 * 2048 + 2048]
    sizes = {"all": dense + 47 * experts + sum(ends), "a dense layer, such as 0": dense, "a layer with experts, such as 1": experts,
             "embedding": ends[0], "final norm and head": ends[1]}
    for title, count in sizes.items():
        assert [*title.split(), *size(4 * count), *size(2 * count)] in lines, title
    assert set(ways) == {(t, r) for t in ("float32", "bfloat16") for r in ("all", "stream")}
    assert not any("fits" in fits for _, fits in ways.values())
    gib = {key: float(memory[0]) for key, (memory, _) in ways.items()}
    assert 4 * sizes["all"] / 2**30 < gib["float32", "all"] < 4 * sizes["all"] / 2**30 + 8 > 8 + gib["float32", "stream"]
    # In 4 bits: 9/16 of a byte each, a layer unpacked, and what packing the largest tensor takes.
    kept = sum(ends) + 48 * (2 * 2048 + 2 * 128) + 47 * 128 * 2048
    packed = (sizes["all"] - kept) * 9 / 16 + 2 * (kept + experts) + 24 * 6144 * 2048
    _, in_nf4 = plan_of_config(file, "--quantize", "nf4")
    assert abs(float(in_nf4["bfloat16", "all"][0][0]) - gib["bfloat16", "all"] - (packed - 2 * sizes["all"]) / 2**30) < 0.2
    # Of the same memory as a folder with this configuration.
    (tmp_path / "folder").mkdir()
    file.rename(tmp_path / "folder/config.json")
    for dtype, residency in ways:
        plan = run(tmp_path / "folder", "--plan", "--device", "cpu", "--dtype", dtype, "--residency", residency).stdout
        assert ["host", "memory", *ways[dtype, residency][0]] == plan.splitlines()[-1].split()[:4]
    small = config | {"num_hidden_layers": 1, "num_experts": 8, "vocab_size": 1000}
    assert all(fits == ["fits"] for _, fits in plan_of_config(written(tmp_path, small), "--batch-tokens", "64")[1].values())


def test_plan_of_a_configuration_that_is_wrong(tmp_path):
    assert "config.json" in fail(1, written(tmp_path, {"model_type": "mixtral"}), "--plan")
    _, config = RELEASES["qwen3-30b-a3b"]
    assert "with the folder of a model" in fail(2, written(tmp_path, config), "--plan", "--text", "x")
    assert "no such model folder" in fail(3, tmp_path / "config.json", "--text", "x", "-o", tmp_path / "out")
    assert "max_position_embeddings" in fail(2, tmp_path / "config.json", "--plan", "--max-tokens", "9" * 9)


def size(count):
    return f"{count / 2**30:.1f} GiB".split() if count >= 2**30 else f"{count / 2**20:.1f} MiB".split()


def written(folder, config):
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "config.json"


@pytest.mark.parametrize("name", RELEASES)
def test_releases_fit_the_table(name, tmp_path):
    total, config = RELEASES[name]
    (tmp_path / "config.json").write_text(json.dumps({"torch_dtype": "bfloat16", "tie_word_embeddings": False} | config))
    result = run(tmp_path, "--plan", "--dtype", "bfloat16", "--device", "cpu", "--batch-tokens", 64)
    assert f"{total} parameters" in result.stdout, result.stdout + result.stderr
