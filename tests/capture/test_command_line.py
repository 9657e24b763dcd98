# SPDX-License-Identifier: Apache-2.0
"""Options, inputs and refusals of moeroute-capture."""
import json
import os
import shutil
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import Trace, byte_tokenizer, fail, random_checkpoint, run, succeed, write_documents

ONE = ["--threads", 1]


def copied(tiny, folder, **config):
    """A copy of the checkpoint with fields of config.json changed; None removes one."""
    shutil.copytree(tiny, folder)
    path = folder / "config.json"
    data = json.loads(path.read_text()) | config
    path.write_text(json.dumps({k: v for k, v in data.items() if v is not ...}))
    return folder


def test_inputs_and_labels(tiny, tmp_path):
    first = '{"id": "x", "text": "one", "language": "en", "n": 3}'
    (tmp_path / "a.jsonl").write_text(first + '\n\n{"text": "two", "kind": "k"}\r\n')
    (tmp_path / "b.txt").write_text("first line\nsecond line\n")
    succeed(tiny, tmp_path / "a.jsonl", tmp_path / "b.txt", "--text", "three", "--text", "-four", "-o", tmp_path / "t",
            "--label", "set=s", "--label", "kind=wins", *ONE)
    trace = Trace(tmp_path / "t")
    assert [(d["id"], d["source"]) for d in trace.documents] == [
        ("text-1", "--text:1"), ("text-2", "--text:2"), ("x", "a.jsonl:1"), ("a:3", "a.jsonl:3"), ("b.txt", "b.txt")]
    assert trace.documents[2]["labels"] == {"language": "en", "set": "s", "kind": "wins"}
    assert trace.documents[3]["labels"] == {"set": "s", "kind": "wins"}
    assert "".join(trace.documents[4]["pieces"]) == "first line\nsecond line\n"
    for d, a in zip(trace.documents, trace.arrays):
        n = d["tokens"]
        assert len(d["pieces"]) == n == len(a["token_ids"])
        assert a["position"].tolist() == list(range(n)) and (a["phase"] == 0).all()
        assert a["layers.0.logits"].shape == (n, 8) and a["layers.0.ids"].shape == a["layers.0.weights"].shape == (n, 2)
        assert a["layers.0.ids"].dtype == np.int16 and a["layers.0.weights"].dtype == np.float32


def test_lines_standard_input_and_limits(tiny, tmp_path):
    (tmp_path / "b.txt").write_text("first line\r\nsecond line\nthird")
    succeed(tiny, tmp_path / "b.txt", "--lines", "--max-docs", 2, "--max-tokens", 3, "-o", tmp_path / "t", *ONE)
    trace = Trace(tmp_path / "t")
    found = [(d["id"], d["source"], d["tokens"]) for d in trace.documents]
    assert found == [("b:1", "b.txt:1", 3), ("b:2", "b.txt:2", 3)]
    assert trace.manifest["run"]["documents_truncated"] == 2
    result = succeed(tiny, "-", "--text-field", "body", "--label-field", "lang", "-o", tmp_path / "u", *ONE,
                     input='{"body": "a b c", "lang": "de", "text": "kept as a label"}\n')
    document = Trace(tmp_path / "u").documents[0]
    assert document["id"] == "-:1" and document["labels"] == {"label": "de", "text": "kept as a label"}
    assert "plan:" in result.stderr


def test_long_documents_are_cut_with_a_warning(tiny, tmp_path):
    result = succeed(tiny, "--text", "x" * 500, "-o", tmp_path / "t", "--quiet", *ONE)
    assert result.stderr.count("\n") == 1 and "warning: 1 documents were cut" in result.stderr
    trace = Trace(tmp_path / "t")
    assert trace.documents[0]["tokens"] == 128 and trace.manifest["run"]["documents_truncated"] == 1


def test_same_command_same_bytes(tiny, tmp_path):
    for name in "tu":
        succeed(tiny, "--text", "the same bytes", "--text", "again", "-o", tmp_path / name, *ONE)
    for file in (tmp_path / "t").iterdir():
        assert file.read_bytes() == (tmp_path / "u" / file.name).read_bytes(), file.name


def test_existing_output(tiny, tmp_path):
    args = [tiny, "--text", "x", "--text", "y", "-o", tmp_path / "t", "--shard-tokens", 1, *ONE]
    succeed(*args)
    before = (tmp_path / "t/manifest.json").read_bytes()
    assert (tmp_path / "t/shard-00001.safetensors").exists()
    assert "is not empty; use --resume" in fail(2, *args)
    assert (tmp_path / "t/manifest.json").read_bytes() == before
    succeed(tiny, "--text", "another", "-o", tmp_path / "t", "--overwrite", *ONE)
    assert "".join(Trace(tmp_path / "t").documents[0]["pieces"]) == "another"
    assert {f.name for f in (tmp_path / "t").iterdir()} == {"manifest.json", "shard-00000.safetensors", "documents-00000.jsonl"}
    (tmp_path / "t/notes.md").write_text("mine")
    assert "notes.md" in fail(2, *args, "--overwrite")
    assert "Not a directory" in fail(3, tiny, "--text", "x", "-o", tmp_path / "t/notes.md", *ONE)


def test_hugging_face_cache(tiny, tmp_path):
    base = tmp_path / "hub/models--owner--name"
    shutil.copytree(tiny, base / "snapshots/abc")
    (base / "refs").mkdir()
    (base / "refs/main").write_text("abc")
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub")}
    succeed("owner/name", "--text", "x", "-o", tmp_path / "t", *ONE, env=environment)
    assert Trace(tmp_path / "t").manifest["model"]["name"] == "owner/name"
    message = fail(3, "owner/other", "--text", "x", "-o", tmp_path / "u", *ONE, env=environment)
    assert "not in the Hugging Face cache" in message and "models--owner--other" in message


def test_tokenizer_of_another_folder(tiny, tmp_path):
    """Checkpoints of one training run share a tokenizer; theirs need not lie beside each."""
    folder = copied(tiny, tmp_path / "step")
    (folder / "tokenizer.json").unlink()
    args = [folder, "--text", "the routing", *ONE]
    assert "step/tokenizer.json: cannot open" in fail(3, *args, "-o", tmp_path / "t")
    succeed(*args, "-o", tmp_path / "t", "--tokenizer", tiny)
    succeed(tiny, *args[1:], "-o", tmp_path / "u")
    shard = "shard-00000.safetensors"
    assert (tmp_path / "t" / shard).read_bytes() == (tmp_path / "u" / shard).read_bytes()
    t, u = (Trace(tmp_path / name).manifest["model"]["tokenizer_sha256"] for name in "tu")
    assert t == u


def test_families_help_and_version():
    assert "olmoe" in succeed("--families").stdout
    assert "--resume" in succeed("--help").stdout
    assert succeed("--version").stdout.startswith("moeroute-capture 0.")


@pytest.mark.parametrize("arguments, words", [
    ([], "no model given"), (["MODEL"], "no texts given"), (["MODEL", "--text", "x"], "use -o"),
    (["MODEL", "--text", "x", "-o", "OUT", "--label", "novalue"], "expected key=value"),
    (["MODEL", "--text", "x", "-o", "OUT", "--device", "tpu"], "--device tpu"),
    (["MODEL", "--text", "x", "-o", "OUT", "--dtype", "int8"], "--dtype int8"),
    (["MODEL", "--text", "x", "-o", "OUT", "--max-tokens", "1000"], "max_position_embeddings 128"),
    (["MODEL", "--text", "x", "-o", "OUT", "--batch-tokens", "0"], "--batch-tokens"),
    (["MODEL", "--text", "x", "-o", "OUT", "--resume", "--overwrite"], "--resume"),
    (["--no-such-option"], "--no-such-option"),
])
def test_wrong_use(tiny, tmp_path, arguments, words):
    place = {"MODEL": tiny, "OUT": tmp_path / "t"}
    assert words in fail(2, *[place.get(a, a) for a in arguments])
    assert not (tmp_path / "t").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda(tiny, tmp_path):
    assert "sees no CUDA device" in fail(2, tiny, "--text", "x", "-o", tmp_path / "t", "--device", "cuda")


@pytest.mark.parametrize("name, content, code, words", [
    ("none.jsonl", None, 3, "none.jsonl: cannot open: No such file"),
    ("a.jsonl", b'{"text": "good"}\n{"text": "bad \xff"}\n', 1, "a.jsonl:byte 31: is not UTF-8"),
    ("a.txt", b"ok \xed\xa0\x80", 1, "a.txt:byte 3: is not UTF-8"),
    ("a.jsonl", b'{"text": "good"}\nnot json\n', 1, "a.jsonl:2: is not valid JSON"),
    ("a.jsonl", b'["text"]\n', 1, "a.jsonl:1: is not a JSON object"),
    ("a.jsonl", b'{"txt": "x"}\n', 1, 'a.jsonl:1: has no field "text"'),
    ("a.jsonl", b'{"text": 3}\n', 1, 'a.jsonl:1: field "text" is not a string'),
    ("a.jsonl", b'{"text": "x", "id": [1]}\n', 1, 'a.jsonl:1: field "id"'),
    ("a.jsonl", b'{"text": "x"}\n{"text": ""}\n', 1, "a.jsonl:2: the document is empty"),
    ("a.txt", b"", 1, "a.txt:1: the document is empty"),
    ("a.jsonl", b'{"text": "x", "id": "d"}\n{"text": "y", "id": "d"}\n', 1,
     'a.jsonl:2: document id "d" was used before'),
    ("a.jsonl", b'{"text": "good", "n": 1e999}\n', 1, "a.jsonl:1: holds a number beyond all bounds"),
    ("a.jsonl", b'{"text": "\\ud800"}\n', 1, "a.jsonl:1: is not valid JSON"),
    ("a.jsonl", b"\n\n", 2, "no documents"),
])
def test_bad_texts(tiny, tmp_path, name, content, code, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert words in fail(code, tiny, tmp_path / name, "-o", tmp_path / "t", *ONE)
    assert not (tmp_path / "t/manifest.json").exists()


def test_bad_texts_can_be_let_through(tiny, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "bad \xff\xed\xa0 x"}\n{"text": ""}\n')
    succeed(tiny, tmp_path / "a.jsonl", "-o", tmp_path / "t", "--skip-empty", "--replace-invalid-utf8", *ONE)
    (document,) = Trace(tmp_path / "t").documents
    expected = byte_tokenizer(tmp_path).encode(b"bad \xff\xed\xa0 x".decode("utf-8", "replace")).ids
    assert Trace(tmp_path / "t").arrays[0]["token_ids"].tolist() == expected


@pytest.mark.parametrize("change, words", [
    ({"model_type": "mamba"}, 'config.json:model_type: "mamba" is not a family this program knows; known: olmoe'),
    ({"num_experts": ...}, 'has no "num_experts"'),
    ({"num_experts": "many"}, "config.json:num_experts: expected an integer"),
    ({"num_experts_per_tok": 9}, "config.json:num_experts_per_tok: expected an integer from 1 to 8"),
    ({"hidden_size": -4}, "config.json:hidden_size"),
    ({"hidden_size": 33}, "does not divide hidden_size"),
    ({"num_key_value_heads": 3}, "does not divide num_attention_heads"),
    ({"hidden_act": "gelu"}, 'config.json:hidden_act: "gelu" is not built yet'),
    ({"rope_parameters": {"rope_type": "proportional", "rope_theta": 1e4}}, 'parameters.rope_type: "proportional" is not'),
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, 'config.json:rope_parameters: has no "factor"'),
    ({"rope_parameters": {"partial_rotary_factor": 0.1}}, "rotates 0 of 8 elements of a head"),
    ({"attention_bias": True}, "o_proj.bias: is missing"),
    ({"model_type": "mixtral", "num_local_experts": 8}, "block_sparse_moe.gate.weight: is missing"),
    ({"model_type": "qwen3_moe", "moe_intermediate_size": 16}, "q_norm.weight: has shape [32]"),
    ({"model_type": "gpt_oss", "layer_types": ["full_attention"]}, "config.json:layer_types: has 1 entries for 3 layers"),
    ({"layer_types": ["full_attention"] * 2 + ["lightning"]}, 'config.json:layer_types[2]: "lightning" is not built yet'),
    ({"num_hidden_layers": 2, "model_type": "flex_olmo"}, "post_feedforward_layernorm.weight: is missing"),
    ({"quantization_config": {"quant_method": "fp8"}}, "config.json:quantization_config"),
    ({"num_hidden_layers": 4}, "tensor model.layers.3.input_layernorm.weight: is missing"),
    ({"intermediate_size": 17}, "has shape [16, 32], config.json asks for [17, 32]"),
    ({"vocab_size": 200}, "tokenizer.json:id "),
    ({"num_hidden_layers": 10_000, "num_experts": 30_000}, "config.json:num_hidden_layers: times experts exceeds"),
])
def test_bad_config(tiny, tmp_path, change, words):
    folder = copied(tiny, tmp_path / "m", **change)
    message = fail(1, folder, "--text", "the routing é", "-o", tmp_path / "t", *ONE)
    assert words in message
    assert not (tmp_path / "t/manifest.json").exists()


def header_of(path):
    data = path.read_bytes()
    size, = struct.unpack("<Q", data[:8])
    return json.loads(data[8:8 + size]), data[8 + size:]


def with_header(path, header, data, size=None):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + data)


def test_bad_weights(tiny, tmp_path):
    folder = copied(tiny, tmp_path / "m")
    weights = folder / "model.safetensors"
    args = [folder, "--text", "x", "-o", tmp_path / "t", *ONE]
    header, data = header_of(weights)

    weights.write_bytes((tiny / "model.safetensors").read_bytes()[:-100])
    assert "model.safetensors:byte 8: tensor '" in (message := fail(1, *args)) and "truncated?" in message
    weights.write_bytes(b"")
    assert "model.safetensors:byte 0" in fail(1, *args)
    with_header(weights, header, data, size=1 << 62)
    assert "header length" in fail(1, *args)
    lying = json.loads(json.dumps(header))
    lying["model.norm.weight"]["shape"] = [1 << 40]
    with_header(weights, lying, data)
    assert "model.norm.weight" in fail(1, *args)
    integers = json.loads(json.dumps(header))
    integers["model.norm.weight"]["dtype"] = "I32"
    with_header(weights, integers, data)
    assert "tensor model.norm.weight: is I32, expected F32, BF16 or F16" in fail(1, *args)
    weights.unlink()
    assert "model.safetensors: cannot open" in fail(3, *args)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    assert "is not a plain file name" in fail(1, *args)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "nowhere.safetensors"}}))
    assert "nowhere.safetensors: cannot open" in fail(3, *args)
    assert not (tmp_path / "t").exists() or not (tmp_path / "t/manifest.json").exists()


def test_nan_weights_are_counted(tiny, tmp_path):
    folder = copied(tiny, tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.gate.weight"][3, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    args = [folder, "--text", "the routing", "-o", tmp_path / "t", "--quiet", *ONE]
    result = succeed(*args)
    assert result.stderr.count("\n") == 1 and "NaN or infinite" in result.stderr
    trace = Trace(tmp_path / "t")
    tokens = trace.documents[0]["tokens"]
    counts = trace.manifest["run"]["nonfinite"]
    assert counts["router_logits"][:2] == [0, tokens] and counts["next_token"] == tokens
    assert np.isnan(trace.arrays[0]["layers.1.logits"][:, 3]).all()
    # The counts are of all passes and all shards.
    for more in (["--batch-tokens", tokens], ["--shard-tokens", tokens]):
        succeed(*args[:3], "--text", "the routing", "--text", "the routing", *args[3:], "--overwrite", *more)
        counts = Trace(tmp_path / "t").manifest["run"]["nonfinite"]
        assert counts["router_logits"][:2] == [0, 3 * tokens] and counts["next_token"] == 3 * tokens
    assert "--fail-on-nonfinite" in fail(1, *args[:-3], "--overwrite", "--fail-on-nonfinite", *ONE)
    assert not (tmp_path / "t/manifest.json").exists()


def test_missing_model(tmp_path):
    assert "no such model folder" in fail(3, tmp_path / "none", "--text", "x", "-o", tmp_path / "t")
    (tmp_path / "empty").mkdir()
    assert "config.json: cannot open" in fail(3, tmp_path / "empty", "--text", "x", "-o", tmp_path / "t")


def test_what_cannot_fit_is_refused_at_once(tiny, tmp_path):
    """A model of a petabyte: the plan says no before anything is read."""
    folder = copied(tiny, tmp_path / "m", num_hidden_layers=1000, hidden_size=65536, intermediate_size=65536)
    result = run(folder, "--plan")
    assert result.returncode == 3 and "of memory" in result.stderr and "parameters" in result.stdout
    result = run(tiny, "--plan", "--text", "the routing", "-o", tmp_path / "t")
    assert result.returncode == 0 and "1 documents" in result.stdout and not (tmp_path / "t").exists()


def test_family_given_on_the_command_line(tiny, tmp_path):
    """A fork with a name of its own runs as the family that it is."""
    folder = copied(tiny, tmp_path / "m", model_type="olmoe_of_somebody")
    assert "is not a family" in fail(1, folder, "--text", "the routing", "-o", tmp_path / "t", *ONE)
    succeed(folder, "--text", "the routing", "-o", tmp_path / "t", "--model-type", "olmoe", *ONE)
    succeed(tiny, "--text", "the routing", "-o", tmp_path / "u", *ONE)
    shard = "shard-00000.safetensors"
    assert (tmp_path / "t" / shard).read_bytes() == (tmp_path / "u" / shard).read_bytes()
    message = fail(2, tiny, "--text", "x", "-o", tmp_path / "v", "--model-type", "gpt2", *ONE)
    assert '--model-type "gpt2" is not a family' in message


def test_float16(tiny, tmp_path):
    for dtype in ("float32", "float16"):
        succeed(tiny, "--text", "the routing of the experts", "-o", tmp_path / dtype, "--dtype", dtype, *ONE)
    wide, narrow = (Trace(tmp_path / d) for d in ("float32", "float16"))
    assert narrow.manifest["tensors"]["logits"] == "F16"
    z, h = (t.arrays[0]["layers.0.logits"].astype("float32") for t in (wide, narrow))
    assert 0 < abs(z - h).max() < 0.02 * abs(z).max()


def test_token_ids(tiny, tmp_path):
    """Documents of ids for models without a tokenizer.json: the same routing as their text."""
    succeed(tiny, "--text", "the routing of the experts", "-o", tmp_path / "t", *ONE)
    ids = Trace(tmp_path / "t").arrays[0]["token_ids"].tolist()
    folder = copied(tiny, tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    file = tmp_path / "ids.jsonl"
    file.write_text(json.dumps({"id": "a", "ids": ids, "label": "en"}))
    succeed(folder, file, "-o", tmp_path / "u", "--token-ids", "ids", *ONE)
    text, given = Trace(tmp_path / "t"), Trace(tmp_path / "u")
    assert (given.documents[0]["id"], given.documents[0]["labels"]) == ("a", {"label": "en"})
    for name, column in text.arrays[0].items():
        assert np.array_equal(column, given.arrays[0][name], equal_nan=column.dtype.kind == "f"), name
    for line, words in (({"ids": [1, -2]}, "holds -2, which is no token id"), ({"ids": [1, 2.5]}, "holds 2.5"),
                        ({"ids": "1 2"}, "is not an array of token ids"), ({"ids": []}, "the document is empty"),
                        ({"ids": [1, 300]}, "id 300")):
        file.write_text(json.dumps(line))
        assert words in fail(1, folder, file, "-o", tmp_path / "v", "--token-ids", "ids", *ONE)
    assert "with --token-ids documents are ids" in fail(2, folder, "--text", "x", "-o", tmp_path / "v", "--token-ids", "ids", *ONE)
