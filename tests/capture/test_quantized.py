# SPDX-License-Identifier: Apache-2.0
"""Quantised checkpoints: packed here by hand, unpacked here a second time by written-out numpy or torch, and run by
transformers on the unpacked values."""
import json
import pathlib
import shutil
from fractions import Fraction

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import Trace, fail, succeed
from reference import compare, load_reference
from test_families import made

NF4 = torch.tensor([-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
                    -0.18477343022823334, -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725,
                    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1])
FP4 = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6])


def copies(source, folder, quantization):
    """Two folders with the same configuration and words: one for packed, one for unpacked weights."""
    both = []
    for name in ("packed", "plain"):
        shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("trace", "*.safetensors", "res"))
        both.append(folder / name)
    config = json.loads((both[0] / "config.json").read_text())
    (both[0] / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))
    return both


def finish(source, packed, plain, tensors, values, **options):
    save_file({k: v.clone().contiguous() for k, v in tensors.items()}, packed / "model.safetensors")
    save_file({k: v.contiguous() for k, v in values.items()}, plain / "model.safetensors", {"format": "pt"})
    succeed(packed, source / "texts.jsonl", "-o", packed / "trace", "--threads", 1, **options)
    difference = compare(Trace(packed / "trace"), load_reference(plain))
    print(difference)
    assert difference.agrees(), difference
    return packed


def is_matrix(name, tensor):
    return tensor.dim() == 2 and not any(w in name for w in ("embed", "lm_head", "norm", "mlp.gate.weight", "moe.gate.weight"))


@pytest.mark.parametrize("case", [("deepseek_v3", "groups, yarn"), ("minimax_m2", "plain")], ids=": ".join)
def test_fp8_blocks(case, tmp_path):
    source, _ = made(case)
    packed, plain = copies(source, tmp_path, {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [8, 12],
                                              "activation_scheme": "dynamic"})
    tensors, values, partial = {}, {}, 0
    for name, w in load_file(source / "model.safetensors").items():
        tensors[name] = values[name] = w
        if not is_matrix(name, w):
            continue
        rows, columns = (n + b - 1 for n, b in zip(w.shape, (8, 12)))
        scale = torch.rand(rows // 8, columns // 12) / 100 + 0.002
        partial += w.shape[0] % 8 != 0 or w.shape[1] % 12 != 0
        factors = scale.repeat_interleave(8, 0).repeat_interleave(12, 1)[:w.shape[0], :w.shape[1]]
        codes = (w / factors).clamp(-448, 448).to(torch.float8_e4m3fn)
        tensors |= {name: codes, name + "_scale_inv": scale}
        values[name] = codes.float() * factors
    assert partial > 5
    finish(source, packed, plain, tensors, values)

    broken = dict(tensors)
    some = next(n for n in tensors if n.endswith("_scale_inv"))
    broken[some] = tensors[some][:1, :1].contiguous()
    save_file(broken, packed / "model.safetensors")
    message = fail(1, packed, source / "texts.jsonl", "-o", tmp_path / "t", "--threads", 1)
    assert some in message and "factor for each block of 8 x 12" in message
    del broken[some]
    save_file(broken, packed / "model.safetensors")
    assert "is F8_E4M3, expected" in fail(1, packed, source / "texts.jsonl", "-o", tmp_path / "t", "--threads", 1)


def test_every_fp8_code(tmp_path):
    """All 254 numbers, as torch reads them."""
    source, _ = made(("mixtral", "plain"))
    packed, plain = copies(source, tmp_path, {"quant_method": "fp8", "weight_block_size": [128, 128]})
    tensors = load_file(source / "model.safetensors")
    name = "model.layers.1.block_sparse_moe.experts.0.w1.weight"
    codes = torch.tensor([c for c in range(256) if c & 127 != 127] * 3, dtype=torch.uint8)[:tensors[name].numel()]
    codes = codes.view(tensors[name].shape).view(torch.float8_e4m3fn)
    values = tensors | {name: codes.float() * 0.01}
    finish(source, packed, plain, tensors | {name: codes, name + "_scale_inv": torch.full((1, 1), 0.01)}, values)


def test_mxfp4(tmp_path):
    source, _ = made(("gpt_oss", "plain"))
    packed, plain = copies(source, tmp_path, {"quant_method": "mxfp4"})
    config = json.loads((plain / "config.json").read_text()) | {"hidden_size": 64, "intermediate_size": 32}
    config["num_local_experts"] = experts = 4
    torch.manual_seed(2)
    from transformers import AutoModelForCausalLM, GptOssConfig
    from test_families import randomise
    model = randomise(AutoModelForCausalLM.from_config(GptOssConfig(**{k: v for k, v in config.items() if k != "model_type"})), 3)
    model.save_pretrained(plain)
    written = json.loads((plain / "config.json").read_text())
    (packed / "config.json").write_text(json.dumps(written | {"quantization_config": {"quant_method": "mxfp4"}}))
    values = load_file(plain / "model.safetensors")
    tensors = dict(values)
    for name in [n for n in values if n.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        columns, rows = values[name].shape[1:]  # as a model holds them: [E, in, out]
        blocks = torch.randint(0, 256, (experts, rows, columns // 32, 16), dtype=torch.uint8)
        scales = torch.randint(122, 126, (experts, rows, columns // 32), dtype=torch.uint8)
        pairs = torch.stack((FP4[(blocks & 15).long()], FP4[(blocks >> 4).long()]), -1)  # low nibble first
        unpacked = (pairs.flatten(-2) * torch.exp2(scales.float() - 127)[..., None]).flatten(-2)
        values[name] = unpacked.transpose(1, 2)
        del tensors[name]
        tensors |= {name + "_blocks": blocks, name + "_scales": scales}
    finish(source, packed, plain, tensors, values)


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "flat"])
def test_bitsandbytes_nf4(nested, tmp_path):
    """Under transformers 4 every linear map but the head was packed, the router too."""
    source, _ = made(("qwen3_moe", "plain"))
    packed, plain = copies(source, tmp_path, {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"})
    torch.manual_seed(4)
    tensors, values = {}, {}
    for name, w in load_file(source / "model.safetensors").items():
        tensors[name] = values[name] = w
        if w.dim() != 2 or "embed" in name or "lm_head" in name:
            continue
        block, nested_block, offset = 64, 8, 0.03
        flat = w.flatten()
        padded = torch.nn.functional.pad(flat, (0, -len(flat) % block)).view(-1, block)
        scale = padded.abs().amax(1)
        state = {"quant_type": "nf4", "blocksize": block, "dtype": "bfloat16", "shape": list(w.shape)}
        parts = {}
        if nested:
            outer = torch.nn.functional.pad(scale - offset, (0, -len(scale) % nested_block)).view(-1, nested_block).abs().amax(1)
            table = torch.linspace(-1, 1, 256)
            relative = (scale - offset) / outer.repeat_interleave(nested_block)[:len(scale)]
            index = (relative[:, None] - table).abs().argmin(1)
            scale = table[index] * outer.repeat_interleave(nested_block)[:len(scale)] + offset
            parts = {".absmax": index.to(torch.uint8), ".nested_absmax": outer, ".nested_quant_map": table}
            state |= {"nested_blocksize": nested_block, "nested_offset": offset, "nested_dtype": "float32"}
        else:
            parts = {".absmax": scale}
        factors = scale.repeat_interleave(block)[:len(flat)]
        codes = ((flat / factors)[:, None] - NF4).abs().argmin(1).to(torch.uint8)
        codes = torch.nn.functional.pad(codes, (0, len(codes) % 2))
        tensors[name] = (codes[::2] << 4 | codes[1::2])[:, None]  # high nibble first
        text = torch.from_numpy(np.frombuffer(json.dumps(state).encode(), np.uint8).copy())
        tensors |= {name + k: v for k, v in (parts | {".quant_map": NF4, ".quant_state.bitsandbytes__nf4": text}).items()}
        values[name] = (NF4[codes[:len(flat)].long()] * factors).to(torch.bfloat16).float().view(w.shape)
    finish(source, packed, plain, tensors, values)
    some = next(n for n in tensors if n.endswith(".absmax"))
    save_file({k: v.clone().contiguous() for k, v in tensors.items()} | {some: tensors[some][:-1].clone()}, packed / "model.safetensors")
    assert some in fail(1, packed, source / "texts.jsonl", "-o", tmp_path / "t", "--threads", 1)


def as_float(text):
    """The float32 next to a decimal, as compilers round it: by way of float64 three of those below end on the other side."""
    near = np.float32(text)
    around = near, np.nextafter(near, np.float32(-2)), np.nextafter(near, np.float32(2))
    return min(around, key=lambda v: abs(Fraction(float(v)) - Fraction(text)))


# Between the levels, in the digits of bitsandbytes' kernels.
NF4_BOUNDS = np.array([as_float(text) for text in (
    "-0.8480964004993439", "-0.6106329262256622", "-0.4599952697753906", "-0.33967943489551544", "-0.23460740596055984",
    "-0.13791173323988914", "-0.045525018125772476", "0.03979014977812767", "0.1202552504837513", "0.2035212516784668",
    "0.2920137718319893", "0.3893125355243683", "0.5016634166240692", "0.6427869200706482", "0.8614784181118011")])


def nf4_codes(matrix):
    """Indices and largest magnitudes of one matrix, element by element as the kernels compare them."""
    flat = matrix.astype(np.float32).ravel()
    codes, scales = np.zeros(len(flat), np.uint8), []
    for begin in range(0, len(flat), 64):
        block = flat[begin:begin + 64]
        scales.append(np.abs(block).max())
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = block * (np.float32(1) / scales[-1])
        codes[begin:begin + 64] = (relative[:, None] > NF4_BOUNDS).sum(1)  # NaN, of a block of zeros, is above none
    return codes, np.array(scales, np.float32)


def through_nf4(matrix):
    codes, scales = nf4_codes(matrix)
    return (NF4.numpy()[codes] * scales.repeat(64)[:len(codes)]).reshape(matrix.shape)


KEPT = ("embed", "lm_head", "norm", "gate.weight", "router", "sinks", "bias", "gate.wg")
QUANTIZED = {
    ("mixtral", "plain"): {},
    ("qwen3_moe", "plain"): dict(moe_intermediate_size=17),  # matrices that end inside a block
    ("qwen2_moe", "dense layers, renormalised, no bias"): {},
    ("deepseek_v3", "groups, yarn"): {},
    ("granitemoe", "biases, tied"): dict(intermediate_size=17),  # fused tensors, every matrix with blocks of its own
    ("gpt_oss", "plain"): dict(intermediate_size=17),
}


def with_odd_widths(case, changes, folder):
    """The checkpoint of test_families, or one like it whose matrices do not fill their blocks."""
    source, _ = made(case)
    if not changes:
        return source
    from transformers import AutoModelForCausalLM, CONFIG_MAPPING
    from test_families import randomise
    config = json.loads((source / "config.json").read_text()) | changes
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("trace", "*.safetensors"))
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[case[0]](**{k: v for k, v in config.items() if k != "model_type"}))
    randomise(model, 5).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("case", QUANTIZED, ids=": ".join)
def test_quantize_on_load(case, tmp_path):
    """--quantize nf4 gives what a checkpoint gives whose matrices went through the written-out formula."""
    source = with_odd_widths(case, QUANTIZED[case], tmp_path / "source")
    tensors, values, some = load_file(source / "model.safetensors"), {}, 0
    zero = next(n for n in tensors if n.endswith("o_proj.weight"))
    tensors[zero][:2] = 0  # a block of zeros; then one of the bounds themselves, which belong to the level below
    tensors[zero][2:4] = 0.1
    tensors[zero][2, :16] = torch.tensor([1, *NF4_BOUNDS])
    for name, w in tensors.items():
        values[name] = w
        if w.dim() < 2 or any(k in name for k in KEPT):
            continue
        some += 1
        m = w.numpy()
        if m.ndim == 2:
            m = through_nf4(m)
        elif case[0] == "gpt_oss":  # [E, in, out]; gate and up take turns
            step = 2 if "gate_up" in name else 1
            m = m.copy()
            for e in range(len(m)):
                for first in range(step):
                    m[e, :, first::step] = through_nf4(np.ascontiguousarray(m[e, :, first::step].T)).T
        else:
            parts = 2 if "input_linear" in name else 1
            m = np.stack([np.concatenate([through_nf4(p) for p in np.split(e, parts)]) for e in m])
        values[name] = torch.from_numpy(np.ascontiguousarray(m))
    assert some > 8
    plain, ours = tmp_path / "plain", tmp_path / "ours"
    for folder, content in ((plain, values), (ours, tensors)):
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("trace", "*.safetensors"))
        save_file({k: v.contiguous() for k, v in content.items()}, folder / "model.safetensors", {"format": "pt"})
    texts = made(case)[0] / "texts.jsonl"
    succeed(ours, texts, "-o", tmp_path / "a", "--threads", 1, "--quantize", "nf4")
    # Also with a batch for each document: what is unpacked for one batch is the same for the next.
    succeed(ours, texts, "-o", tmp_path / "b", "--threads", 1, "--quantize", "nf4", "--batch-tokens", 8)
    trace = Trace(tmp_path / "a")
    assert trace.manifest["run"]["quantize"] == "nf4"
    model = load_reference(plain)
    model.set_experts_implementation("eager")  # the other one wants widths that are multiples of 16 bytes
    succeed(ours, texts, "-o", tmp_path / "c", "--threads", 1, "--quantize", "nf4", "--residency", "stream")
    for t in (trace, Trace(tmp_path / "b"), Trace(tmp_path / "c")):
        difference = compare(t, model)
        print(difference)
        assert difference.agrees(), difference
    other = load_reference(ours)
    other.set_experts_implementation("eager")
    assert not compare(trace, other, documents=3).agrees(), "quantising changes what the model says"


def test_quantize_is_for_what_is_not_quantized(tmp_path):
    source, _ = made(("mixtral", "plain"))
    packed, _ = copies(source, tmp_path, {"quant_method": "bitsandbytes", "load_in_4bit": True})
    message = fail(2, packed, source / "texts.jsonl", "-o", tmp_path / "t", "--quantize", "nf4")
    assert "is stored in 4 bits already" in message
    assert "--quantize" in fail(2, source, source / "texts.jsonl", "-o", tmp_path / "t", "--quantize", "int3")


def test_other_methods_are_refused(tmp_path):
    source, _ = made(("mixtral", "plain"))
    packed, _ = copies(source, tmp_path, {"quant_method": "gptq", "bits": 4})
    message = fail(1, packed, source / "texts.jsonl", "-o", tmp_path / "t", "--threads", 1)
    assert 'quantization_config.quant_method: "gptq" is not built yet' in message
