# SPDX-License-Identifier: Apache-2.0
"""Writes the part of corpus/ that starts the fuzzing (good-*, bad-*) and the dictionaries of JSON keys and words.

What fuzzing itself found lies beside it under other names and is never touched here.
"""
import json
import pathlib
import struct
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "capture"))
words = {}


def remember(target, value):
    """Keys and strings of a seed, for the dictionary of its target."""
    if isinstance(value, dict):
        for key, inner in value.items():
            words.setdefault(target, set()).add(key)
            remember(target, inner)
    elif isinstance(value, list):
        for inner in value:
            remember(target, inner)
    elif isinstance(value, str):
        words.setdefault(target, set()).add(value)


def write(target, name, data):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def dumped(value):
    return value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


# safetensors ---------------------------------------------------------------------------------------------------------

def tensors(header, size, length=None):
    text = dumped(header)
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(i % 251 for i in range(size))


def entry(dtype="F32", shape=(1,), begin=0, end=4, **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end], **more}


def safetensors():
    sizes = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4,
             "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8}
    every, at = {}, 0
    for name, size in sizes.items():
        every[name.lower()] = entry(name, [3], at, at + 3 * size)
        at += 3 * size
    good = {
        "nothing": ({}, 0), "one": ({"a": entry()}, 4), "every-dtype": (every, at),
        "scalar-and-empty": ({"s": entry(shape=[]), "e": entry(shape=[0, 7], begin=4, end=4)}, 4),
        "metadata": ({"__metadata__": {"format": "pt"}, "w": entry("BF16", [2, 3], 0, 12), "ü": entry("U8", [4], 12, 16)}, 16),
    }
    for name, (header, size) in good.items():
        write("safetensors", f"good-{name}", tensors(header, size))
        remember("safetensors", header)
    two = {"a": entry(), "b": entry(begin=4, end=8)}
    bad = {
        "empty": b"", "short": b"1234567", "length": tensors({}, 0, 3), "huge-length": tensors({}, 0, 2**64 - 1),
        "array": tensors([], 0), "cut": tensors(b'{"a":', 0), "twice": tensors(b'{"a":{},"a":{}}', 0),
        "overlap": tensors(two | {"b": entry(begin=2, end=6)}, 8), "hole": tensors(two | {"b": entry(begin=6, end=10)}, 10),
        "tail": tensors(two, 9), "truncated": tensors(two, 7), "dtype": tensors({"a": entry("F33")}, 4),
        "shape": tensors({"a": entry(shape=[2])}, 4), "negative": tensors({"a": entry(shape=[-1])}, 4),
        "overflow": tensors({"a": entry(shape=[2**62, 4], end=0)}, 0),
        "overflow-to-size": tensors({"a": entry(shape=[2**62 + 1, 4], end=16)}, 16),
        "backwards": tensors({"a": entry(begin=4, end=0)}, 4), "metadata": tensors({"__metadata__": {"a": 1}}, 0),
        "utf8": tensors(b'{"\xff":1}', 0), "deep": tensors(b'{"a":' + b"[" * 100 + b"]" * 100 + b"}", 0),
        # What is complained of must be printable at any depth.
        "deep-dtype": tensors(b'{"a":{"dtype":' + b"[" * 40 + b"]" * 40 + b',"shape":[],"data_offsets":[0,0]}}', 0),
    }
    for name, data in bad.items():
        write("safetensors", f"bad-{name}", data)


# config --------------------------------------------------------------------------------------------------------------

def config():
    from test_families import COMMON, CONFIGS
    # What transformers' classes know by themselves, and a config.json says.
    defaults = {"first_k_dense_replace": 0, "moe_norm_min": 1e-12, "moe_layer_interval": 1, "sliding_window": None,
                "embedding_multiplier": 1.0, "residual_multiplier": 1.0, "attention_multiplier": 1.0, "logits_scaling": 1.0}
    counts = {}
    for (family, _), values in CONFIGS.items():
        counts[family] = counts.get(family, 0) + 1
        value = {"model_type": family, **defaults, **COMMON, **values}
        remember("config", value)
        write("config", f"good-{family}-{counts[family]}", dumped(value))
    base = {"model_type": "olmoe", "hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 4, "num_experts": 8, "num_experts_per_tok": 2, "vocab_size": 300, "clip_qkv": 8.0,
            "max_position_embeddings": 128, "tie_word_embeddings": False, "rms_norm_eps": 1e-5, "norm_topk_prob": False,
            "attention_bias": False, "hidden_act": "silu", "dtype": "bfloat16", "rope_theta": 10000.0, "rope_scaling": None}
    longrope = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 64}
    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    four = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    for name, change in {"plain": {}, "longrope": {"rope_scaling": longrope}, "fp8": {"quantization_config": fp8},
                         "mxfp4": {"quantization_config": {"quant_method": "mxfp4"}}, "4bit": {"quantization_config": four},
                         "flame": {"model_type": "flame_moe", "moe_intermediate_size": 8, "n_shared_experts": 2,
                                   "first_k_dense_replace": 1, "moe_layer_freq": 1},
                         "kimi": {"model_type": "kimi_k2", "moe_intermediate_size": 8, "n_shared_experts": 1, "v_head_dim": 8,
                                  "first_k_dense_replace": 1, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_nope_head_dim": 8,
                                  "qk_rope_head_dim": 4, "n_group": 2, "topk_group": 1}}.items():
        remember("config", base | change)
        write("config", f"good-{name}", dumped(base | change))
    wrapped = {"model_type": "a_model_that_sees", "text_config": base, "tie_word_embeddings": False}
    remember("config", wrapped)
    write("config", "good-wrapped", dumped(wrapped))
    yarn = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}
    bad = {"wrapped": {"text_config": [base]}, "empty": b"", "null": b"null", "text": b'"olmoe"', "nul": b"{\0}", "cut": b'{"model_type":"olmoe"',
           "deep": b'{"model_type":' + b"[" * 100 + b"]" * 100 + b"}"}
    for name, change in {
            "family": {"model_type": "none"}, "family-number": {"model_type": 7}, "no-layers": {"num_hidden_layers": 0},
            "many-experts": {"num_experts": 40000}, "too-many": {"num_hidden_layers": 10000, "num_experts": 30000},
            "heads": {"num_key_value_heads": 3}, "odd": {"head_dim": 5}, "float-size": {"hidden_size": 32.5},
            "negative": {"vocab_size": -1}, "wide": {"hidden_size": 2**63}, "epsilon": {"rms_norm_eps": -1.0},
            "activation": {"hidden_act": "gelu"}, "rotation": {"rope_scaling": {"type": "spiral"}},
            "yarn-factor": {"rope_scaling": yarn | {"factor": 0}},
            "mscale": {"rope_scaling": yarn | {"mscale_all_dim": 1e308}}, "partial": {"partial_rotary_factor": 1e300},
            "tiny-factor": {"rope_scaling": longrope | {"long_factor": [1e-320] * 4}},
            "length": {"rope_scaling": longrope | {"original_max_position_embeddings": 1e300}},
            "layer-types": {"layer_types": ["full_attention"]}, "longrope": {"rope_scaling": longrope | {"long_factor": []}},
            "quantization": {"quantization_config": {"quant_method": "gptq"}}, "shape-list": {"num_experts": [8, 9, 8]},
            "block": {"quantization_config": fp8 | {"weight_block_size": [128]}}}.items():
        bad[name] = base | change
    for name, value in bad.items():
        remember("config", value)
        write("config", f"bad-{name}", dumped(value))


# tokenizer -----------------------------------------------------------------------------------------------------------

def byte_alphabet():
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(0x100, 0x200))
    return [chr(b) if b in printable else chr(next(spare)) for b in range(256)]


def with_text(tokenizer, text="", flags=None):
    data = dumped(tokenizer) + (b"\0" + text.encode() if text or flags else b"")
    return data + (b"\0" + dumped(flags) if flags else b"")


def tokenizer():
    alphabet = byte_alphabet()
    letters = {c: i for i, c in enumerate(alphabet)}
    merges = ["t h", "th e", "Ġ the", "i n", "Ġ in", "1 2", "Ã ©"]
    vocab = dict(letters)
    for merge in merges:
        vocab.setdefault(merge.replace(" ", ""), len(vocab))
    bytes_model = {"type": "BPE", "vocab": vocab, "merges": merges}
    # Real ones have all 256; a few keep the seeds of the fuzzer short.
    few = {c: i for i, c in enumerate(["a", "b", "Ġ", "ab", "Ġab", "<|end|>", "Ċ", "Ã", "©", "1", "2"])}
    few_model = {"type": "BPE", "vocab": few, "merges": ["a b", "Ġ ab"]}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    end = {"id": 5, "content": "<|end|>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    gpt = {"version": "1.0", "added_tokens": [end], "normalizer": {"type": "NFC"}, "pre_tokenizer": level, "post_processor": level,
           "decoder": level, "model": few_model}

    def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
        return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}

    llama = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
             r"\s+(?!\S)|\s+")
    inner = level | {"use_regex": False}
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|end|>", "type_id": 0}}, {"Sequence": {"id": "A"}}],
                "pair": [], "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [5], "tokens": ["<|end|>"]}}}
    pieces = ["<unk>", "<s>", "</s>", "▁", "a", "b", "▁a", "ab", "▁ab", "é"]
    fallback = {f"<0x{b:02X}>": len(pieces) + i for i, b in enumerate([0x0A, 0xC3, 0xA9, 0x31])}
    sentence = {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
                "vocab": {p: i for i, p in enumerate(pieces)} | fallback, "merges": [["▁", "a"], ["a", "b"], ["▁", "ab"], ["▁a", "b"]]}
    prepend = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                                                   {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
    sequence = lambda *steps: {"type": "Sequence", "pretokenizers": list(steps)}
    stripping = end | {"id": 9, "content": "two words", "lstrip": True, "rstrip": True, "single_word": True, "normalized": True}
    good = {
        "bytes": with_text(gpt | {"model": bytes_model}, "the thing in 12 cafés"),
        "few": with_text(gpt, " ab a<|end|>b\n"),
        "prefix-space": with_text(gpt | {"pre_tokenizer": level | {"add_prefix_space": True}}, "ab"),
        "llama": with_text(gpt | {"pre_tokenizer": sequence(split(llama), inner)}, "ab  12'S\r\n"),
        "digits": with_text(gpt | {"pre_tokenizer": sequence(split("[\r\n]"), split("12", kind="String"), split("a+", "Removed", True),
                                                              {"type": "Digits", "individual_digits": True}, inner)}, "ab 121\n"),
        "template": with_text(gpt | {"post_processor": {"type": "Sequence", "processors": [level, template]}}, "ab"),
        "flags": with_text(gpt, "ab", {"add_bos_token": True, "bos_token": {"content": "<|end|>"}, "add_eos_token": True,
                                       "eos_token": "<|end|>"}),
        "added": with_text(gpt | {"added_tokens": [end, stripping]}, "a two words <|end|>two words"),
        "ignore-merges": with_text(gpt | {"model": few_model | {"ignore_merges": True}}, "ab ab"),
        "prepend": with_text({"added_tokens": [], "normalizer": prepend, "model": sentence}, "ab é 1 \n zz"),
        "metaspace": with_text({"pre_tokenizer": metaspace, "model": sentence}, "ab  ab é"),
    }
    for name, data in good.items():
        write("tokenizer", f"good-{name}", data)
    for value in (gpt, template, split("x"), prepend, metaspace, sequence({"type": "Digits", "individual_digits": True}), stripping,
                  {"add_bos_token": 1, "bos_token": 1, "add_eos_token": 1, "eos_token": 1, "ignore_merges": 1, "String": "",
                   "processors": 1}, {k: v for k, v in sentence.items() if k != "vocab"}):
        remember("tokenizer", value)
    bad = {
        "empty": b"", "null": b"null", "array": b"[]", "no-model": dumped({"added_tokens": []}),
        "deep": b'{"normalizer":' + b'{"type":"Sequence","normalizers":[' * 40 + b"]}" * 40 + b',"model":' + dumped(few_model) + b"}",
        "wordpiece": dumped({"model": {"type": "WordPiece", "vocab": {}}}),
        "vocab-array": dumped(gpt | {"model": few_model | {"vocab": ["a"]}}),
        "id": dumped(gpt | {"model": few_model | {"vocab": few | {"zz": 2**40}}}),
        "negative-id": dumped(gpt | {"model": few_model | {"vocab": few | {"zz": -1}}}),
        "merge": dumped(gpt | {"model": few_model | {"merges": ["a b c"]}}),
        "merge-unknown": dumped(gpt | {"model": few_model | {"merges": ["a 2"]}}),
        "regex": dumped(gpt | {"pre_tokenizer": sequence(split("(a"), inner)}),
        "regex-class": dumped(gpt | {"pre_tokenizer": sequence(split("[a-z&&[^b]]"), inner)}),
        "regex-backslash": dumped(gpt | {"pre_tokenizer": sequence(split("a\\"), inner)}),
        "two-levels": dumped(gpt | {"pre_tokenizer": sequence(level, level)}),
        "template": dumped(gpt | {"post_processor": template | {"single": []}}),
        "special": dumped(gpt | {"post_processor": template | {"special_tokens": {}}}),
        "bos": with_text(gpt, "a", {"add_bos_token": True, "bos_token": "<none>"}),
        "flags-array": with_text(gpt, "a", [1]),
        "unknown": dumped(gpt | {"model": few_model | {"unk_token": "zz"}}),
        "prefix": dumped(gpt | {"model": few_model | {"continuing_subword_prefix": "##"}}),
        "growth": with_text({"normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100}] * 12}, "model": sentence}, "a"),
        "steps": with_text(gpt | {"pre_tokenizer": sequence(split("(a+)+$"), inner)}, "a" * 60 + "b"),
        "replace": dumped({"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "x"}, "model": sentence}),
    }
    for name, data in bad.items():
        write("tokenizer", f"bad-{name}", data)


safetensors()
config()
tokenizer()
for target, found in words.items():
    quoted = ['"' + "".join(c if c.isalnum() and c.isascii() or c in "_ |<>.,-" else "".join(f"\\x{b:02x}" for b in c.encode())
                            for c in json.dumps(word, ensure_ascii=False)) + '"' for word in sorted(found) if len(word) < 120]
    (HERE / f"{target}.dict").write_text("".join(line + "\n" for line in quoted))
