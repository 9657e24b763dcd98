# SPDX-License-Identifier: Apache-2.0
"""FLAME-MoE: a synthetic checkpoint as Megatron writes it, through the converter, against a reference that is written out
here on Megatron's own tensors."""
import io
import pickle
import sys
import warnings

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from torch.distributed.checkpoint import metadata

from conftest import REPOSITORY, Trace, byte_tokenizer, succeed, write_documents
from test_families import texts

sys.path.insert(0, str(REPOSITORY / "tools/convert"))
import flame_moe  # noqa: E402

HEADS, HIDDEN, LAYERS, EXPERTS, WIDTH, DENSE, TOP_K = 4, 32, 3, 8, 12, 40, 3


def megatron_tensors(seed=0):
    g = torch.Generator().manual_seed(seed)
    matrix = lambda *shape: torch.randn(shape, generator=g) / shape[-1] ** 0.5
    norm = lambda: 1 + 0.3 * torch.randn(HIDDEN, generator=g)
    t = {"embedding.word_embeddings.weight": torch.randn(320, HIDDEN, generator=g), "output_layer.weight": matrix(320, HIDDEN),
         "decoder.final_layernorm.weight": norm()}
    for l in range(LAYERS):
        p = f"decoder.layers.{l}."
        t[p + "self_attention.linear_qkv.layer_norm_weight"] = norm()
        t[p + "self_attention.linear_qkv.weight"] = 2 * matrix(3 * HIDDEN, HIDDEN)
        t[p + "self_attention.linear_proj.weight"] = matrix(HIDDEN, HIDDEN)
        if l == 0:
            t |= {p + "mlp.linear_fc1.layer_norm_weight": norm(), p + "mlp.linear_fc1.weight": matrix(2 * DENSE, HIDDEN),
                  p + "mlp.linear_fc2.weight": matrix(HIDDEN, DENSE)}
        else:
            t |= {p + "pre_mlp_layernorm.weight": norm(), p + "mlp.router.weight": 2 * matrix(EXPERTS, HIDDEN),
                  p + "mlp.experts.experts.linear_fc1.weight": matrix(EXPERTS, 2 * WIDTH, HIDDEN),
                  p + "mlp.experts.experts.linear_fc2.weight": matrix(EXPERTS, HIDDEN, WIDTH),
                  p + "mlp.shared_experts.linear_fc1.weight": matrix(4 * WIDTH, HIDDEN),
                  p + "mlp.shared_experts.linear_fc2.weight": matrix(HIDDEN, 2 * WIDTH)}
    return t


def reference(t, ids):
    """One document: router logits, ids and weights of each MoE layer, and the next-token logits. Token by token."""
    def rms(x, w):
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * w

    def unit(x, fc1, fc2):
        gate, up = (fc1 @ x).split(len(fc1) // 2)
        return fc2 @ (gate * torch.sigmoid(gate) * up)

    d = HIDDEN // HEADS
    turn = 10000.0 ** (-torch.arange(0, d, 2) / d)
    routed = []
    x = [t["embedding.word_embeddings.weight"][i] for i in ids]
    for l in range(LAYERS):
        p = f"decoder.layers.{l}."
        qkv = t[p + "self_attention.linear_qkv.weight"].view(HEADS, 3 * d, HIDDEN)
        q, k, v = [], [], []
        for position, row in enumerate(x):
            h = qkv @ rms(row, t[p + "self_attention.linear_qkv.layer_norm_weight"])  # [heads, 3 d]
            z = torch.polar(torch.ones(d // 2), position * turn)
            spin = lambda a: torch.view_as_real(torch.complex(a[:, :d // 2], a[:, d // 2:]) * z).transpose(1, 2).reshape(HEADS, d)
            q.append(spin(h[:, :d])), k.append(spin(h[:, d:2 * d])), v.append(h[:, 2 * d:])
        mixed = []
        for position in range(len(x)):
            scores = torch.stack([(q[position] * k[j]).sum(-1) for j in range(position + 1)]) / d ** 0.5
            share = torch.exp(scores) / torch.exp(scores).sum(0)
            mixed.append(sum(share[j][:, None] * v[j] for j in range(position + 1)).flatten())
        x = [row + t[p + "self_attention.linear_proj.weight"] @ m for row, m in zip(x, mixed)]
        if l == 0:
            x = [row + unit(rms(row, t[p + "mlp.linear_fc1.layer_norm_weight"]), t[p + "mlp.linear_fc1.weight"],
                            t[p + "mlp.linear_fc2.weight"]) for row in x]
            continue
        layer = []
        for i, row in enumerate(x):
            h = rms(row, t[p + "pre_mlp_layernorm.weight"])
            z = t[p + "mlp.router.weight"] @ h
            probability = torch.exp(z) / torch.exp(z).sum()
            chosen = sorted(range(EXPERTS), key=lambda e: -probability[e])[:TOP_K]
            y = unit(h, t[p + "mlp.shared_experts.linear_fc1.weight"], t[p + "mlp.shared_experts.linear_fc2.weight"])
            for e in chosen:
                y = y + probability[e] * unit(h, t[p + "mlp.experts.experts.linear_fc1.weight"][e],
                                              t[p + "mlp.experts.experts.linear_fc2.weight"][e])
            x[i] = row + y
            layer.append((z, {e: float(probability[e]) for e in chosen}))
        routed.append(layer)
    logits = torch.stack([t["output_layer.weight"] @ rms(row, t["decoder.final_layernorm.weight"]) for row in x])
    return routed, logits


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flame")
    tensors = megatron_tensors()
    byte_tokenizer(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        extra = {"decoder.layers.1.mlp.experts.experts._extra_state": b"scales", "optimizer.state.step": torch.zeros(2)}
        dcp.save(tensors | extra, checkpoint_id=folder / "iter_0000100", no_dist=True)
    return folder, tensors


def test_converted_and_captured(checkpoint, tmp_path):
    folder, tensors = checkpoint
    flame_moe.convert(folder / "iter_0000100", folder / "tokenizer.json", tmp_path / "m", heads=HEADS, top_k=TOP_K)
    documents = write_documents(tmp_path / "texts.jsonl", texts()[:6])
    succeed(tmp_path / "m", documents, "-o", tmp_path / "t", "--threads", 1)
    trace = Trace(tmp_path / "t")
    assert trace.layers == [1, 2]
    assert trace.manifest["model"]["parameters"] == sum(v.numel() for v in tensors.values())
    for arrays in trace.arrays:
        ids = arrays["token_ids"].tolist()
        routed, logits = reference(tensors, ids)
        for l, layer in zip(trace.layers, routed):
            for i, (z, chosen) in enumerate(layer):
                assert np.abs(arrays[f"layers.{l}.logits"][i] - z.numpy()).max() <= 1e-4 * z.abs().max()
                ours = dict(zip(arrays[f"layers.{l}.ids"][i].tolist(), arrays[f"layers.{l}.weights"][i].tolist()))
                assert ours == pytest.approx(chosen, abs=1e-5)
        expected = F.log_softmax(logits, -1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()
        assert np.abs(arrays["logprob"][1:] - expected).max(initial=0) <= 1e-4


@pytest.mark.parametrize("name", sorted(megatron_tensors()))
def test_every_tensor_is_seen(checkpoint, name):
    """The reference uses each tensor: without this an error that both sides share by leaving it out would not show."""
    _, tensors = checkpoint
    ids = list(range(40, 47))
    changed = tensors | {name: tensors[name] * (0.5 + torch.rand(tensors[name].shape))}
    (a, x), (b, y) = reference(tensors, ids), reference(changed, ids)
    assert (x - y).abs().max() > 1e-3


def test_foreign_classes_are_not_loaded(checkpoint, tmp_path):
    class Evil:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    (tmp_path / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(flame_moe.Refused, match="builtins.exec"):
        flame_moe.Checkpoint(tmp_path)
    assert not (tmp_path / "ran").exists()


class Attribute:
    def __init__(self, *of):
        self.of = of

    def __reduce__(self):
        return (getattr, self.of)


def test_members_of_enumerations_as_python_3_11_2_writes_them():
    kinds = metadata._MEM_FORMAT_ENCODING
    read = lambda thing: flame_moe.MetadataReader(io.BytesIO(pickle.dumps(thing))).load()
    assert read(Attribute(kinds, "TORCH_CHANNELS_LAST")) is kinds.TORCH_CHANNELS_LAST
    for of in ((kinds, "__class__"), (torch.Size, "numel"), (Attribute(kinds, "TORCH_CHANNELS_LAST"), "name"), (kinds, ["a"])):
        with pytest.raises((flame_moe.Refused, TypeError)):
            read(Attribute(*of))


@pytest.mark.parametrize("change, words", [
    (lambda f: (f / ".metadata").unlink(), "give the folder iter_XXXXXXX itself"),
    (lambda f: (f / ".metadata").write_bytes(b"\x80\x04]"), "is not the metadata"),
    (lambda f: (f / "__0_0.distcp").write_bytes(b"no zip here" * 9999), "byte "),
])
def test_broken_checkpoints(checkpoint, tmp_path, change, words):
    import shutil
    folder, _ = checkpoint
    shutil.copytree(folder / "iter_0000100", tmp_path / "i")
    change(tmp_path / "i")
    with pytest.raises(flame_moe.Refused, match=words):
        flame_moe.convert(tmp_path / "i", folder / "tokenizer.json", tmp_path / "m", heads=HEADS, top_k=TOP_K)
    assert not (tmp_path / "m/config.json").exists()
