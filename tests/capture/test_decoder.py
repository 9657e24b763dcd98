# SPDX-License-Identifier: Apache-2.0
"""moeroute-capture against transformers: tiny checkpoints in which every tensor is random, and the model that ships."""
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
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.olmoe import modeling_olmoe

from conftest import DEMO, REPOSITORY, Trace, random_checkpoint, succeed, write_documents
from reference import compare, load_reference

CONFIGS = {
    "plain": dict(),
    # The bound bites: normalised q and k are around one.
    "clip, grouped heads, renormalised, tied": dict(
        clip_qkv=0.6, num_key_value_heads=2, norm_topk_prob=True, tie_word_embeddings=True, hidden_size=48,
        num_experts=6, num_experts_per_tok=3, rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
    "biases, large epsilon, many experts": dict(
        attention_bias=True, rms_norm_eps=0.05, hidden_size=64, num_attention_heads=8, num_key_value_heads=1,
        num_experts=16, num_experts_per_tok=4, num_hidden_layers=4, intermediate_size=24,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
}


def texts():
    rng = random.Random(5)
    words = ["the", "routing", "of", "experts", "모델", "Zürich", "経路", "x = f(y)", "\n", "🙂", "1234", "und", "token"]
    return ["a"] + [" ".join(rng.choice(words) for _ in range(rng.randrange(1, 22))) for _ in range(14)]


@functools.cache
def made(name):
    folder = pathlib.Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    random_checkpoint(folder, seed=len(name), **CONFIGS[name])
    succeed(folder, write_documents(folder / "texts.jsonl", texts()), "-o", folder / "trace", "--threads", 1)
    return name, folder, Trace(folder / "trace")


@pytest.fixture(params=list(CONFIGS))
def case(request):
    return made(request.param)


def test_versions():
    assert transformers.__version__ == "5.23.0", "the reference of these tests is pinned"


def test_agrees_with_transformers(case):
    name, folder, trace = case
    difference = compare(trace, load_reference(folder))
    print(name, difference)
    assert difference.agrees(), difference
    assert difference.tokens == sum(d["tokens"] for d in trace.documents)
    # Routing that does not differ by token would prove little.
    for l in trace.layers:
        sets = {tuple(sorted(row)) for a in trace.arrays for row in a[f"layers.{l}.ids"].tolist()}
        assert len(sets) >= 8, (l, sets)


def test_manifest_says_how_the_model_routes(case):
    _, folder, trace = case
    config = json.loads((folder / "config.json").read_text())
    for layer in trace.manifest["layers"]:
        router = layer["router"]
        assert router["score"] == "softmax"
        assert (router["experts"], router["top_k"]) == (config["num_experts"], config["num_experts_per_tok"])
        assert router.get("renormalize", False) == config["norm_topk_prob"]
    model = load_reference(folder)
    tied = config["tie_word_embeddings"]
    assert trace.manifest["model"]["parameters"] == sum(p.numel() for n, p in model.named_parameters()) and tied == (
        model.lm_head.weight is model.model.embed_tokens.weight)


# One entry per operation of the decoder: the reference is changed in that operation alone, and then our output must be
# seen to differ. So the comparison above would go red if we had left that operation out.

def _identity(module):
    module.forward = lambda x: x


def _ones(module):
    module.weight.data.fill_(1)


def _layer(model):
    return model.model.layers[1]


class _Unclamped(torch.Tensor):
    def clamp_(self, *_, **__):
        return self


def _no_clip(module):
    module.register_forward_hook(lambda _, __, output: output.as_subclass(_Unclamped))


def _swap_gate_and_up(model):
    w = _layer(model).mlp.experts.gate_up_proj.data
    half = w.shape[1] // 2
    w.copy_(torch.cat((w[:, half:].clone(), w[:, :half].clone()), 1))


def _drop_attention_residual(model):
    seen = {}
    layer = _layer(model)
    layer.input_layernorm.register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0]))
    layer.self_attn.register_forward_hook(lambda _, __, output: (output[0] - seen["x"], *output[1:]))


def _drop_expert_residual(model):
    seen = {}
    layer = _layer(model)
    layer.post_attention_layernorm.register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0]))
    layer.mlp.register_forward_hook(lambda _, __, output: output - seen["x"])


def _router_weights(change):
    def mutate(model):
        _layer(model).mlp.gate.register_forward_hook(lambda _, __, output: (output[0], change(output[1]), output[2]))
    return mutate


def _rotation(change):
    def mutate(model):
        model.model.rotary_emb.register_forward_hook(lambda _, __, output: change(*output))
    return mutate


def _replace(name, make):
    """Replaces a function of the module; the fixture `patch` undoes it."""
    def mutate(model, patch):
        patch.setattr(modeling_olmoe, name, make(getattr(modeling_olmoe, name)))
    return mutate


def _pairs(x):
    return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)


ALL = list(CONFIGS)
MUTATIONS = {
    "no norm before attention": (ALL, lambda m: _identity(_layer(m).input_layernorm)),
    "no norm before experts": (ALL, lambda m: _identity(_layer(m).post_attention_layernorm)),
    "no final norm": (ALL, lambda m: _identity(m.model.norm)),
    "no q norm": (ALL, lambda m: _identity(_layer(m).self_attn.q_norm)),
    "no k norm": (ALL, lambda m: _identity(_layer(m).self_attn.k_norm)),
    "weight of norm before attention": (ALL, lambda m: _ones(_layer(m).input_layernorm)),
    "weight of norm before experts": (ALL, lambda m: _ones(_layer(m).post_attention_layernorm)),
    "weight of final norm": (ALL, lambda m: _ones(m.model.norm)),
    "weight of q norm": (ALL, lambda m: _ones(_layer(m).self_attn.q_norm)),
    "weight of k norm": (ALL, lambda m: _ones(_layer(m).self_attn.k_norm)),
    "epsilon": (ALL[2:], lambda m: setattr(_layer(m).input_layernorm, "variance_epsilon", 1e-5)),
    "no clip of q": (ALL[1:2], lambda m: _no_clip(_layer(m).self_attn.q_norm)),
    "no clip of k": (ALL[1:2], lambda m: _no_clip(_layer(m).self_attn.k_norm)),
    "no clip of v": (ALL[1:2], lambda m: _no_clip(_layer(m).self_attn.v_proj)),
    "no rotation": (ALL, _rotation(lambda cos, sin: (torch.ones_like(cos), torch.zeros_like(sin)))),
    "rotation the other way": (ALL, _rotation(lambda cos, sin: (cos, -sin))),
    "rotation of neighbours": (ALL, _replace("rotate_half", lambda _: _pairs)),
    "no rotation of q": (ALL, _replace("apply_rotary_pos_emb", lambda f: lambda q, k, *a: (q, f(q, k, *a)[1]))),
    "no rotation of k": (ALL, _replace("apply_rotary_pos_emb", lambda f: lambda q, k, *a: (f(q, k, *a)[0], k))),
    "another theta": (ALL[1:], lambda m: m.model.rotary_emb.inv_freq.copy_(
        1e4 ** -(torch.arange(0, 2 * len(m.model.rotary_emb.inv_freq), 2) / (2 * len(m.model.rotary_emb.inv_freq))))),
    "no causal mask": (ALL, _replace("eager_attention_forward",
                                     lambda f: lambda s, q, k, v, mask, *a, **b: f(s, q, k, v, None, *a, **b))),
    "no attention scale": (ALL, lambda m: setattr(_layer(m).self_attn, "scaling", 1.0)),
    "key heads in turn": (ALL[1:2], _replace("repeat_kv", lambda _: lambda x, n: x.repeat(1, n, 1, 1))),
    "no attention": (ALL, lambda m: _layer(m).self_attn.o_proj.weight.data.zero_()),
    "no residual around attention": (ALL, _drop_attention_residual),
    "no residual around experts": (ALL, _drop_expert_residual),
    "no experts": (ALL, lambda m: _layer(m).mlp.register_forward_hook(lambda _, __, y: torch.zeros_like(y))),
    "no activation": (ALL, lambda m: setattr(_layer(m).mlp.experts, "act_fn", torch.nn.Identity())),
    "gate and up exchanged": (ALL, _swap_gate_and_up),
    "no expert weights": (ALL, _router_weights(torch.ones_like)),
    "expert weights renormalised": (ALL[:1] + ALL[2:], _router_weights(lambda w: w / w.sum(-1, keepdim=True))),
    "expert weights not renormalised": (ALL[1:2], _router_weights(lambda w: w * 0.9)),
    "another head": (ALL, lambda m: setattr(m.lm_head, "weight", torch.nn.Parameter(m.lm_head.weight.data.flip(0)))),
    "embedding as head": (ALL[:1], lambda m: setattr(m.lm_head, "weight", m.model.embed_tokens.weight)),
    "no bias of q": (ALL[2:], lambda m: _layer(m).self_attn.q_proj.bias.data.zero_()),
    "no bias of k": (ALL[2:], lambda m: _layer(m).self_attn.k_proj.bias.data.zero_()),
    "no bias of v": (ALL[2:], lambda m: _layer(m).self_attn.v_proj.bias.data.zero_()),
    "no bias of o": (ALL[2:], lambda m: _layer(m).self_attn.o_proj.bias.data.zero_()),
}


@pytest.mark.parametrize("name, mutation", [(n, m) for m, (names, _) in MUTATIONS.items() for n in names])
def test_every_operation_is_seen(name, mutation, monkeypatch):
    _, folder, trace = made(name)
    mutate = MUTATIONS[mutation][1]
    model = load_reference(folder)
    with torch.no_grad():
        if mutate.__code__.co_argcount == 2:
            mutate(model, monkeypatch)
        else:
            mutate(model)
    difference = compare(trace, model, documents=4)
    assert not difference.agrees(), f"the comparison does not see: {mutation}"
    assert max(difference.logits, difference.logprob, difference.weights) > 1e-3, difference


def test_documents_do_not_see_each_other(case):
    _, folder, trace = case
    model = load_reference(folder)
    first, second = (torch.from_numpy(trace.arrays[i]["token_ids"].astype(np.int64)) for i in (1, 2))
    with torch.no_grad():
        joined = model(torch.cat((first, second))[None], output_router_logits=True).router_logits[1]
    joined = joined[len(first):].numpy()
    assert np.abs(joined - trace.arrays[2]["layers.1.logits"]).max() > 1e-2


def test_batch_and_shard_sizes_change_nothing_but_rounding(case, tmp_path):
    _, folder, trace = case
    sizes = ["--batch-tokens", 1, "--shard-tokens", 50]
    succeed(folder, folder / "texts.jsonl", "-o", tmp_path / "t", *sizes, "--threads", 1)
    other = Trace(tmp_path / "t")
    assert len(other.manifest["shards"]) > 3
    for a, b in zip(trace.arrays, other.arrays, strict=True):
        assert np.array_equal(a["token_ids"], b["token_ids"])
        for l in trace.layers:
            z = a[f"layers.{l}.logits"]
            assert (np.abs(z - b[f"layers.{l}.logits"]).max(1) <= 1e-5 * np.abs(z).max(1)).all()


def test_other_ways_to_store_the_same_weights(tmp_path):
    """Several files with an index, experts in one tensor, the older field names: the same bytes in the trace."""
    folder = random_checkpoint(tmp_path / "one")
    texts_file = write_documents(tmp_path / "texts.jsonl", texts())
    succeed(folder, texts_file, "-o", tmp_path / "expected", "--threads", 1)
    expected = (tmp_path / "expected/shard-00000.safetensors").read_bytes()

    sharded = random_checkpoint(tmp_path / "sharded", save=dict(max_shard_size="40KB"))
    assert (sharded / "model.safetensors.index.json").exists()

    fused = tmp_path / "fused"
    fused.mkdir()
    tensors = load_file(folder / "model.safetensors")
    for l in range(3):
        stem = f"model.layers.{l}.mlp.experts."
        take = lambda kind: torch.stack([tensors.pop(f"{stem}{e}.{kind}_proj.weight") for e in range(8)])
        gate, up, down = take("gate"), take("up"), take("down")
        tensors[stem + "gate_up_proj"], tensors[stem + "down_proj"] = torch.cat((gate, up), 1).contiguous(), down
    save_file(tensors, fused / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config.update(rope_theta=rope["rope_theta"], rope_scaling=None, torch_dtype=config.pop("dtype"))
    del config["tie_word_embeddings"]  # then the presence of the head decides
    (fused / "config.json").write_text(json.dumps(config))
    (fused / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())

    for other in (sharded, fused):
        succeed(other, texts_file, "-o", other / "trace", "--threads", 1)
        assert (other / "trace/shard-00000.safetensors").read_bytes() == expected, other.name


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16], ids=str)
def test_half_width_checkpoints_run_in_float32(tmp_path, stored):
    folder = random_checkpoint(tmp_path)
    load_reference(folder).to(stored).save_pretrained(folder)
    succeed(folder, write_documents(tmp_path / "texts.jsonl", texts()), "-o", tmp_path / "t", "--threads", 1)
    trace = Trace(tmp_path / "t")
    assert trace.manifest["tensors"]["logits"] == "F32"
    difference = compare(trace, load_reference(folder))
    assert difference.agrees(), difference


def test_bfloat16_is_near(tmp_path):
    folder = random_checkpoint(tmp_path)
    load_reference(folder).to(torch.bfloat16).save_pretrained(folder)
    documents = write_documents(tmp_path / "texts.jsonl", texts())
    succeed(folder, documents, "-o", tmp_path / "t", "--dtype", "bfloat16", "--threads", 1)
    trace = Trace(tmp_path / "t")
    assert trace.manifest["tensors"]["logits"] == "BF16"
    exact, rounded = load_reference(folder), load_reference(folder, torch.bfloat16)
    ours, theirs = [], []
    for a in trace.arrays:
        ids = torch.from_numpy(a["token_ids"].astype(np.int64))[None]
        with torch.no_grad():
            e, r = (m(ids, output_router_logits=True).router_logits[0].float().numpy() for m in (exact, rounded))
        ours.append(np.abs(a["layers.0.logits"] - e).max(1) / np.abs(e).max(1))
        theirs.append(np.abs(r - e).max(1) / np.abs(e).max(1))
    # Two roundings of the same numbers: ours is as far from the exact value as transformers' is, in layer 0,
    # where no earlier choice of experts has come between.
    ours, theirs = np.concatenate(ours), np.concatenate(theirs)
    assert np.median(ours) <= 1.5 * np.median(theirs) and ours.max() < 0.1


@pytest.mark.skipif(not (DEMO / "model.safetensors").exists(), reason="the demo model is not there")
def test_shipped_model(tmp_path):
    files = sorted((REPOSITORY / "examples/texts").glob("*.jsonl"))
    lines = [json.dumps(json.loads(line) | {"file": f.stem}, ensure_ascii=False)
             for f in files for line in f.read_text(encoding="utf-8").splitlines()[:6]]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    succeed(DEMO, tmp_path / "texts.jsonl", "-o", tmp_path / "t", "--threads", 1)
    trace = Trace(tmp_path / "t")
    assert len(trace.documents) == len(lines)
    assert {d["labels"]["label"] for d in trace.documents} == {f.stem for f in files}
    difference = compare(trace, load_reference(DEMO))
    print(difference)
    assert difference.agrees(), difference


def test_olmoe_1b_7b_fits_the_table(tmp_path):
    """The published configuration parses, and the table of tensors adds up to the published size."""
    (tmp_path / "config.json").write_text(json.dumps({
        "architectures": ["OlmoeForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "clip_qkv": None,
        "eos_token_id": 50279, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
        "intermediate_size": 1024, "max_position_embeddings": 4096, "model_type": "olmoe",
        "norm_topk_prob": False, "num_attention_heads": 16,
        "num_experts": 64, "num_experts_per_tok": 8, "num_hidden_layers": 16, "num_key_value_heads": 16,
        "output_router_logits": False, "pad_token_id": 1, "rope_scaling": None, "rope_theta": 10000.0,
        "router_aux_loss_coef": 0.01, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True,
        "vocab_size": 50304, "rms_norm_eps": 1e-05}))
    result = succeed(tmp_path, "--plan", "--dtype", "bfloat16", "--device", "cpu", "--batch-tokens", 256)
    assert "6919161856 parameters" in result.stdout
    assert "12.9 GiB" in result.stdout
