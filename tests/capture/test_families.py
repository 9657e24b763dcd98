# SPDX-License-Identifier: Apache-2.0
"""Every family of the table against transformers: tiny checkpoints in which every tensor is random, several configurations
that take every branch, documents longer than every window and every original context length in use."""
import atexit
import functools
import json
import pathlib
import random
import shutil
import tempfile

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, CONFIG_MAPPING

from conftest import Trace, byte_tokenizer, fail, run, succeed, write_documents
from reference import compare, load_reference

COMMON = dict(vocab_size=300, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
              max_position_embeddings=256, tie_word_embeddings=False, pad_token_id=None, eos_token_id=0, bos_token_id=None)
QWEN = dict(moe_intermediate_size=16, intermediate_size=24, num_experts=8, num_experts_per_tok=2, head_dim=8)
MIXTRAL = dict(intermediate_size=16, num_local_experts=6, num_experts_per_tok=2)
LATENT = dict(moe_intermediate_size=16, intermediate_size=24, n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=1,
              kv_lora_rank=12, q_lora_rank=10, qk_nope_head_dim=6, qk_rope_head_dim=4, v_head_dim=10, num_key_value_heads=4,
              first_k_dense_replace=1, n_group=1, topk_group=1)
GLM = dict(moe_intermediate_size=16, intermediate_size=24, n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=1,
           first_k_dense_replace=1, n_group=1, topk_group=1, head_dim=8)
SMALL = dict(intermediate_size=16, num_experts=6, num_experts_per_tok=2)


def rope(kind, theta=500.0, **values):
    return {"rope_type": kind, "rope_theta": theta, **values}


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
    assert not compare(trace, model).agrees(), f"the comparison does not see {change}"


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
    "flame-moe-290m-1.3b": (1_300_024_320, dict(
        model_type="flame_moe", num_hidden_layers=9, hidden_size=1024, num_attention_heads=16, num_key_value_heads=16,
        n_routed_experts=64, num_experts_per_tok=6, n_shared_experts=2, moe_intermediate_size=704, intermediate_size=5472,
        first_k_dense_replace=1, vocab_size=50304, max_position_embeddings=2048)),
    "flame-moe-1.7b-10.3b": (10_283_722_752, dict(
        model_type="flame_moe", num_hidden_layers=18, hidden_size=2048, num_attention_heads=16, num_key_value_heads=16,
        n_routed_experts=64, num_experts_per_tok=6, n_shared_experts=2, moe_intermediate_size=1408, intermediate_size=10944,
        first_k_dense_replace=1, vocab_size=50304, max_position_embeddings=2048)),
}


@pytest.mark.parametrize("name", RELEASES)
def test_releases_fit_the_table(name, tmp_path):
    total, config = RELEASES[name]
    (tmp_path / "config.json").write_text(json.dumps({"torch_dtype": "bfloat16", "tie_word_embeddings": False} | config))
    result = run(tmp_path, "--plan", "--dtype", "bfloat16", "--device", "cpu", "--batch-tokens", 64)
    assert f"{total} parameters" in result.stdout, result.stdout + result.stderr
