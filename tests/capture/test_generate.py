# SPDX-License-Identifier: Apache-2.0
"""Going on from prompts: the tokens and the routing are those of transformers' generate and of our own prefill of the same
ids, draws are those of the formula written out here, and nothing depends on batches, order, threads or a kill."""
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from conftest import DEMO, REPOSITORY, Trace, command, fail, random_checkpoint, succeed, write_documents
from reference import compare, load_reference
from test_families import made, texts

SEED = int(os.environ.get("MOEROUTE_TEST_SEED", random.randrange(1 << 30)))
ONE = ["--threads", 1]
MORE = 40  # beyond every window and from below to above every original context length


def contents(folder):
    return {f.name: f.read_bytes() for f in folder.iterdir()}


def generated(trace):
    """Per document of the trace the ids of its decode rows; what else the trace says of them must agree."""
    out = {}
    for document, a in zip(trace.documents, trace.arrays):
        n = len(document["generated"]["ids"])
        assert a["phase"].tolist() == [0] * (document["tokens"] - n) + [1] * n
        assert a["position"].tolist() == list(range(document["tokens"]))
        assert a["token_ids"].tolist()[document["tokens"] - n:] == document["generated"]["ids"]
        out[document["id"]] = document["generated"]["ids"]
    return out


# Every kind of attention: windows in all, some and no layers, sinks, latent, key heads shared or not, parts of heads rotated.
CASES = [
    ("olmoe", "plain"), ("qwen3_moe", "window, yarn"), ("mixtral", "window, tied, wide heads"), ("granitemoe", "multipliers"),
    ("minimax_m2", "part of the head rotated"), ("gpt_oss", "plain"), ("gpt_oss", "window everywhere, no bias"),
    ("deepseek_v2", "groups, yarn"), ("deepseek_v3", "groups, yarn"), ("dots1", "windows"),
]


@pytest.fixture(scope="module")
def greedy(tmp_path_factory):
    """The trace of 40 more tokens behind ragged prompts, per checkpoint."""
    made_before = {}

    def of(case):
        if case not in made_before:
            folder = made(case)[0] if case[0] != "olmoe" else random_checkpoint(tmp_path_factory.mktemp("olmoe"), max_position_embeddings=256)
            out = tmp_path_factory.mktemp("greedy") / "t"
            file = write_documents(folder / "prompts.jsonl", texts())
            succeed(folder, file, "-o", out, "--generate", MORE, "--batch-tokens", 900, *ONE)
            made_before[case] = folder, Trace(out)
        return made_before[case]

    return of


@pytest.mark.parametrize("case", CASES, ids=": ".join)
def test_greedy_is_that_of_transformers(greedy, case):
    folder, trace = greedy(case)
    model = load_reference(folder)
    ours = generated(trace)
    for document, a in list(zip(trace.documents, trace.arrays))[::5]:
        prompt = torch.from_numpy(a["token_ids"][a["phase"] == 0].astype(np.int64))[None]
        theirs = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=MORE, do_sample=False, pad_token_id=0)
        assert ours[document["id"]] == theirs[0, prompt.shape[1]:].tolist(), document["id"]
    difference = compare(trace, model)
    print(case, difference)
    assert difference.agrees(), difference
    lengths = [(a["phase"] == 0).sum() for a in trace.arrays]
    assert min(lengths) == 1 and max(lengths) > 64 and len(set(lengths)) > 5
    assert len({tuple(ids) for ids in ours.values()}) > 5, "prompts are forgotten"


def assert_rows_of_a_prefill(folder, trace, scratch):
    file = scratch / "ids.jsonl"
    file.write_text("\n".join(json.dumps({"ids": a["token_ids"].tolist()}) for a in trace.arrays))
    succeed(folder, file, "-o", scratch / "prefill", "--token-ids", "ids", *ONE)
    for ours, whole in zip(trace.arrays, Trace(scratch / "prefill").arrays):
        for l in trace.layers:
            z, w = ours[f"layers.{l}.logits"], whole[f"layers.{l}.logits"]
            assert (np.abs(z - w).max(1) <= 1e-4 * np.abs(w).max(1)).all()
            a, b = (np.sort(x[f"layers.{l}.ids"], 1) for x in (ours, whole))
            assert (a == b).all(1).mean() > 0.995
        assert np.allclose(ours["logprob"], whole["logprob"], atol=1e-4, equal_nan=True)
        # What is said to be predicted is what followed.
        first = int((ours["phase"] == 0).sum())
        assert (ours["predicted"][first - 1:-1] == ours["token_ids"][first:]).all()


@pytest.mark.parametrize("case", CASES, ids=": ".join)
def test_rows_are_those_of_a_prefill(greedy, case, tmp_path):
    assert_rows_of_a_prefill(*greedy(case), tmp_path)


def test_attention_that_changes_with_length(tmp_path):
    """longrope turns all keys of a document otherwise beyond the original length; DeepSeek-V3.2 leaves keys out."""
    folder, _ = made(("phimoe", "biases, longrope"))
    file = tmp_path / "p.jsonl"
    file.write_text("\n".join(json.dumps({"ids": list(range(1, n + 1))}) for n in (30, 70)))
    arguments = [folder, file, "--token-ids", "ids", *ONE]
    succeed(*arguments, "-o", tmp_path / "t", "--generate", 34)
    trace = Trace(tmp_path / "t")
    assert trace.documents[0]["tokens"] <= 64 and trace.documents[1]["tokens"] > 64
    assert_rows_of_a_prefill(folder, trace, tmp_path)
    message = fail(1, *arguments, "-o", tmp_path / "u", "--generate", 35)
    assert "p.jsonl:1: the prompt has 30 tokens, with --generate 35 would pass 64 tokens" in message

    shutil.copytree(made(("deepseek_v32", "groups, yarn"))[0], tmp_path / "m", ignore=shutil.ignore_patterns("trace"))
    config = json.loads((tmp_path / "m/config.json").read_text()) | {"index_topk": 74}
    (tmp_path / "m/config.json").write_text(json.dumps(config))
    message = fail(1, tmp_path / "m", *arguments[1:], "-o", tmp_path / "u", "--generate", 5)
    assert "p.jsonl:2: the document has 70 tokens and may get 5 more" in message and "--max-tokens 69" in message
    succeed(tmp_path / "m", *arguments[1:], "-o", tmp_path / "u", "--generate", 4)


@pytest.mark.skipif(not (DEMO / "model.safetensors").exists(), reason="the demo model is not there")
def test_shipped_model(tmp_path):
    lines = (REPOSITORY / "examples/texts").glob("*.jsonl")
    prompts = [" ".join(json.loads(f.read_text(encoding="utf-8").splitlines()[0])["text"].split()[:n])
               for n, f in zip((3, 8, 20), sorted(lines))]
    succeed(DEMO, write_documents(tmp_path / "p.jsonl", prompts), "-o", tmp_path / "t", "--generate", 24, *ONE)
    trace, model = Trace(tmp_path / "t"), load_reference(DEMO)
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    for document, a in zip(trace.documents, trace.arrays):
        prompt = torch.from_numpy(a["token_ids"][a["phase"] == 0].astype(np.int64))[None]
        theirs = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=24, do_sample=False, pad_token_id=0)
        assert generated(trace)[document["id"]] == theirs[0, prompt.shape[1]:].tolist()
        assert document["generated"]["text"] == tokenizer.decode(document["generated"]["ids"], skip_special_tokens=False)
    assert compare(trace, model).agrees()


def test_half_width_types(tiny, tmp_path):
    """The cache is of the type that the model runs in."""
    args = [tiny, "--text", "the routing of the experts", "--generate", 8, *ONE]
    for dtype in ("float32", "bfloat16", "float16"):
        succeed(*args, "-o", tmp_path / dtype, "--dtype", dtype)
    wide, narrow = (Trace(tmp_path / d).arrays[0] for d in ("float32", "float16"))
    assert wide["token_ids"].tolist() == narrow["token_ids"].tolist()
    z, h = (a["layers.0.logits"].astype("float32") for a in (wide, narrow))
    assert 0 < np.abs(z - h).max() < 0.02 * np.abs(z).max()


# Drawing.

def mix64(x):
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ k[0], b % 2**32, a >> 32 ^ c[3] ^ k[1], a % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def number(seed, document, position):
    key = mix64((mix64(seed) + int.from_bytes(b"generate", "big")) % 2**64)
    name = int(hashlib.sha256(document.encode()).hexdigest()[:16], 16)
    words = philox((0, position, name % 2**32, name >> 32), (key % 2**32, key >> 32))
    return ((words[0] | words[1] << 32) >> 11) / 2**53


@pytest.mark.parametrize("temperature, top_p", [(1.0, 1.0), (0.7, 0.8), (2.5, 0.3), (0.3, 1.0)])
def test_draws_are_those_of_the_formula(tiny, tmp_path, temperature, top_p):
    file = write_documents(tmp_path / "p.jsonl", texts())
    nucleus = ["--top-p", top_p] if top_p < 1 else []
    succeed(tiny, file, "-o", tmp_path / "t", "--generate", 30, "--max-tokens", 60, "--temperature", temperature, "--seed", 17, *nucleus, *ONE)
    trace, model = Trace(tmp_path / "t"), load_reference(tiny)
    near = compared = greedy = 0
    for document, a in zip(trace.documents, trace.arrays):
        ids = a["token_ids"].astype(np.int64)
        with torch.no_grad():
            logits = model(torch.from_numpy(ids)[None]).logits[0].double()
        for t in np.flatnonzero(a["phase"]):
            p = torch.softmax(logits[t - 1] / temperature, -1).numpy()
            order = np.argsort(-p, kind="stable")
            kept = np.sort(order[:np.searchsorted(np.cumsum(p[order]), top_p) + 1]) if top_p < 1 else np.arange(len(p))
            sums = np.cumsum(p[kept]) - number(17, document["id"], int(t)) * p[kept].sum()
            compared += 1
            if np.abs(sums).min() < 1e-5 or top_p < 1 and np.abs(p[order].cumsum() - top_p).min() < 1e-5:
                near += 1  # rounding may decide
            else:
                assert ids[t] == kept[np.argmax(sums > 0)], (document["id"], t)
            greedy += int(ids[t] == a["predicted"][t - 1])
    print(f"{compared} draws, {near} near a bound, {greedy} the most probable")
    assert near < 0.05 * compared and compared > 200 and greedy < 0.95 * compared


def test_draws_depend_on_nothing_else(tiny, tmp_path):
    documents = [{"id": f"d{i}", "text": text} for i, text in enumerate(texts())]
    options = ["--generate", 20, "--max-tokens", 60, "--temperature", 1, "--top-p", 0.9]
    results = {}
    rng = random.Random(5)
    for name, more in dict(a=["--seed", 3], b=["--seed", 3, "--batch-tokens", 100], c=["--seed", 3, "--shard-tokens", 200],
                           d=["--seed", 3, "--threads", 2], e=["--seed", 4]).items():
        if name == "c":
            rng.shuffle(documents)
        (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, documents)))
        succeed(tiny, tmp_path / "p.jsonl", "-o", tmp_path / name, *options, *(more if name == "d" else [*more, *ONE]))
        results[name] = generated(Trace(tmp_path / name))
    assert results["a"] == results["b"] == results["c"] == results["d"]
    assert sum(results["a"][d] != results["e"][d] for d in results["a"]) > 8
    # Two documents with one text draw their own numbers; nothing but the id names them.
    succeed(tiny, "--text", "the routing", "--text", "the routing", "-o", tmp_path / "f", "--generate", 20, "--temperature", 1, *ONE)
    first, second = generated(Trace(tmp_path / "f")).values()
    assert first != second


# Where it stops.

def with_end(tiny, folder, config=..., generation=None, wrapped=False):
    shutil.copytree(tiny, folder)
    data = json.loads((folder / "config.json").read_text())
    data.pop("eos_token_id", None)
    if config is not ...:
        data["eos_token_id"] = config
    if wrapped:  # the language model of a larger one
        data = {"model_type": "some_wrapper", "dtype": data.pop("dtype"), "tie_word_embeddings": False, "text_config": data}
    (folder / "config.json").write_text(json.dumps(data))
    (folder / "generation_config.json").unlink(missing_ok=True)
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def test_stops_at_end_tokens(tiny, tmp_path):
    options = ["--text", "the routing of", "--text", "of the experts in the model", "--generate", 30, "--temperature", 1.5, *ONE]
    succeed(with_end(tiny, tmp_path / "m0", None), *options, "-o", tmp_path / "free")
    free = generated(Trace(tmp_path / "free"))
    assert [len(ids) for ids in free.values()] == [30, 30]
    one, two = free.values()
    x = next(i for i in one[10:] if i not in one[:10] and i not in two[:5])
    y = next(i for i in two[5:] if i not in one and i not in two[:5] and i != x)
    cases = dict(config=dict(config=x), listed=dict(config=[x, y]), over=dict(config=5, generation={"eos_token_id": [y, x]}),
                 other=dict(config=x, generation={"top_k": 5}), wrapped=dict(config=x, wrapped=True), absent=dict())
    for name, files in cases.items():
        folder = with_end(tiny, tmp_path / name, **files)
        ends = {"config": [x], "listed": [x, y], "over": [y, x], "other": [x], "wrapped": [x], "absent": []}[name]
        succeed(folder, *options, "-o", tmp_path / name / "t")
        trace = Trace(tmp_path / name / "t")
        assert trace.manifest["run"]["generate"]["end_tokens"] == ends
        for document, (key, ids) in zip(trace.documents, generated(trace).items()):
            stop = min([free[key].index(e) + 1 for e in ends if e in free[key]], default=30)
            assert ids == free[key][:stop], name
            assert document["generated"]["stop"] == ("end" if ids[-1] in ends else "length")
        assert trace.manifest["tokens"] == sum(d["tokens"] for d in trace.documents)
    for bad, words in (({"eos_token_id": "x"}, "generation_config.json:eos_token_id: expected an integer"),
                       ({"eos_token_id": [1, -1]}, "generation_config.json:eos_token_id[1]: expected an integer from 0")):
        (tmp_path / "over/generation_config.json").write_text(json.dumps(bad))
        assert words in fail(1, tmp_path / "over", *options, "-o", tmp_path / "bad")


def test_input_and_limits(tiny, tmp_path):
    (tmp_path / "p.txt").write_text("the routing\nof the experts\n")
    args = ["--generate", 3, *ONE]
    succeed(tiny, tmp_path / "p.txt", "--lines", "-o", tmp_path / "t", *args)
    succeed(tiny, "-", "--lines", "-o", tmp_path / "u", *args, input="the routing\nof the experts\n")
    for t in (Trace(tmp_path / "t"), Trace(tmp_path / "u")):
        assert [len(d["generated"]["ids"]) for d in t.documents] == [3, 3]
        assert [d["pieces"][0] for d in t.documents] == ["the", "of"]
    assert Trace(tmp_path / "t").arrays[0]["token_ids"].tolist() == Trace(tmp_path / "u").arrays[0]["token_ids"].tolist()
    ids = tmp_path / "ids.jsonl"
    ids.write_text('{"ids": [5, 6, 7]}')
    succeed(tiny, ids, "--token-ids", "ids", "-o", tmp_path / "v", *args)
    assert Trace(tmp_path / "v").documents[0]["generated"]["text"] == ""

    long = tmp_path / "long.jsonl"
    long.write_text('{"text": "a"}\n' + json.dumps({"text": "x " * 60}))
    n = len(Tokenizer.from_file(str(tiny / "tokenizer.json")).encode("x " * 60).ids)
    message = fail(1, tiny, long, "-o", tmp_path / "w", "--generate", 129 - n, *ONE)
    assert f"long.jsonl:2: the prompt has {n} tokens, with --generate {129 - n} that exceeds the model's max_position_embeddings 128" in message
    succeed(tiny, long, "-o", tmp_path / "w", "--generate", 128 - n, *ONE)
    assert max(d["tokens"] for d in Trace(tmp_path / "w").documents) == 128
    result = succeed(tiny, long, "-o", tmp_path / "x", "--generate", 100, "--max-tokens", 28, *ONE)
    assert "1 documents were cut" in result.stderr and "up to 200 generated" in result.stderr


def test_plan(tiny, tmp_path):
    """3 layers, 4 heads of 8, keys and values, 4 bytes: 768 bytes a position."""
    plan = succeed(tiny, "--plan", "--generate", 100, *ONE).stdout
    assert "cache        3.0 MiB of keys and values" in plan
    plan = succeed(tiny, "--plan", "--generate", 100, "--text", "the", "--batch-tokens", 101, *ONE).stdout
    assert "cache        75.8 KiB of keys and values" in plan and "1 documents, 1 tokens, up to 100 generated" in plan


@pytest.mark.parametrize("arguments, words", [
    (["--generate", 0], "--generate"), (["--generate", -3], "--generate"), (["--generate", 128], "--generate 128: the model has max_position"),
    (["--generate", 100, "--max-tokens", 29], "--generate 100 behind --max-tokens 29: the model has max_position_embeddings 128"),
    (["--temperature", 1], "--temperature is for --generate"), (["--seed", 1], "--seed is for --generate"),
    (["--generate", 5, "--top-p", 0.5], "at --temperature 0 nothing is drawn"),
    (["--generate", 5, "--temperature", 1, "--top-p", 0], "--top-p: expected more than 0"),
    (["--generate", 5, "--temperature", 1, "--top-p", 1.5], "--top-p"), (["--generate", 5, "--temperature", -1], "--temperature"),
    (["--generate", 5, "--temperature", "nan"], "--temperature"),
])
def test_wrong_use(tiny, tmp_path, arguments, words):
    assert words in fail(2, tiny, "--text", "x", "-o", tmp_path / "t", *arguments)
    assert not (tmp_path / "t").exists()


def test_what_does_not_go_together(tiny, tmp_path):
    arguments = [tiny, "-o", tmp_path / "t", "--generate", 5, *ONE]
    assert "use --residency all" in fail(2, *arguments, "--text", "x", "--residency", "stream")
    assert "--keep counts wants the length" in fail(2, *arguments, "--text", "x", "--keep", "counts")
    (tmp_path / "l.jsonl").write_text('{"text": "the routing of the experts"}')
    assert "have their answers in them" in fail(2, *arguments, "--data", f"lambada:{tmp_path / 'l.jsonl'}")
    assert not (tmp_path / "t").exists()
    succeed(*arguments, "--text", "the routing", "--keep", "topk")
    trace = Trace(tmp_path / "t")
    assert len(generated(trace)["text-1"]) == 5 and "layers.0.logits" not in trace.arrays[0]


def test_parts(tiny, tmp_path):
    """Two processes that share the shards write what one writes."""
    file = write_documents(tmp_path / "p.jsonl", texts())
    arguments = [tiny, file, "--generate", 10, "--max-tokens", 60, "--temperature", 1, "--shard-tokens", 100, *ONE]
    succeed(*arguments, "-o", tmp_path / "one")
    for part in ("2/2", "1/2"):
        succeed(*arguments, "-o", tmp_path / "two", "--shard", part)
    assert contents(tmp_path / "one") == contents(tmp_path / "two") and len(contents(tmp_path / "one")) > 6


def test_a_decoder_that_is_not_built_is_refused(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "m")
    path = tmp_path / "m/tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"decoder": {"type": "WordPiece", "prefix": "##"}}))
    succeed(tmp_path / "m", "--text", "x", "-o", tmp_path / "t", *ONE)
    message = fail(1, tmp_path / "m", "--text", "x", "-o", tmp_path / "u", "--generate", 2, *ONE)
    assert 'tokenizer.json:decoder.type: "WordPiece" is not built yet' in message
    assert not (tmp_path / "u").exists()


def test_nan_weights(tiny, tmp_path):
    from safetensors.torch import load_file, save_file
    shutil.copytree(tiny, tmp_path / "m")
    tensors = load_file(tmp_path / "m/model.safetensors")
    tensors["model.layers.2.mlp.gate.weight"][3, 0] = float("nan")
    save_file(tensors, tmp_path / "m/model.safetensors")
    for more in ([], ["--temperature", 1, "--top-p", 0.5]):
        result = succeed(tmp_path / "m", "--text", "the routing", "-o", tmp_path / "t", "--generate", 4, "--overwrite", "--quiet", *more, *ONE)
        assert "NaN or infinite" in result.stderr
        trace = Trace(tmp_path / "t")
        counts = trace.manifest["run"]["nonfinite"]
        assert counts["next_token"] == counts["router_logits"][2] == trace.documents[0]["tokens"]


# Text.

def byte_level():
    t = Tokenizer.from_file(str(byte_level.folder / "tokenizer.json"))
    t.add_special_tokens(["<|im_end|>"])
    t.add_tokens([AddedToken(" plain ", special=False)])
    return t


def characters(byte_fallback, more=()):
    """300 tokens: the bytes if asked for, pieces with the mark in several places, characters."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256) if byte_fallback), "▁", "a", "b", "é", "漢", "▁a", "▁▁",
              "▁▁▁b", "a▁b", "<0xZZ>", "<0x1>", "<0xG1>", " ", *more]
    tokens += [chr(0x4E00 + i) for i in range(300 - len(tokens))]
    merges = [("▁", "a"), ("▁", "▁")]
    t = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges, unk_token="<unk>",
                             byte_fallback=byte_fallback, fuse_unk=True))
    t.add_special_tokens(["<unk>", "<s>", "</s>"])
    return t


def llama():
    t = characters(True)
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return t


def strip_both():
    t = llama()
    t.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip("▁", 2, 1), decoders.Replace("▁▁", "+")])
    return t


def metaspace(scheme):
    def make():
        t = characters(False)
        t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        t.decoder = decoders.Metaspace(prepend_scheme=scheme)
        return t
    return make


def no_decoder():
    t = llama()
    t.decoder = None
    return t


@pytest.mark.parametrize("skip", [False, True], ids=["all tokens", "without special tokens"])
@pytest.mark.parametrize("make", [byte_level, llama, strip_both, metaspace("always"), metaspace("first"), metaspace("never"), no_decoder],
                         ids=["byte level", "llama", "strip", "metaspace always", "metaspace first", "metaspace never", "none"])
def test_text_is_that_of_hugging_face_tokenizers(tiny, tmp_path, make, skip):
    byte_level.folder = tiny
    (tmp_path / "words").mkdir()
    path = tmp_path / "words/tokenizer.json"
    tokenizer = make()
    tokenizer.save(str(path))
    tokenizer = Tokenizer.from_file(str(path))
    folder = random_checkpoint(tmp_path / "m", vocab_size=310, eos_token_id=None)
    # At such a temperature all ids come up.
    succeed(folder, *(x for i in range(12) for x in ("--text", "ab" * i + "a")), "-o", tmp_path / "t", "--tokenizer", tmp_path / "words",
            "--generate", 60, "--temperature", 1000, "--seed", SEED, *(["--skip-special-tokens"] if skip else []), *ONE)
    ids = generated(trace := Trace(tmp_path / "t"))
    print("seed", SEED)
    assert len({i for row in ids.values() for i in row}) > 250
    for document in trace.documents:
        expected = tokenizer.decode(document["generated"]["ids"], skip_special_tokens=skip)
        assert document["generated"]["text"] == expected, document["generated"]["ids"]


# Killed.

def test_interrupt(tmp_path):
    """Heard after every token, not only after a batch."""
    folder = random_checkpoint(tmp_path / "m", num_hidden_layers=8, num_experts=16, max_position_embeddings=512, eos_token_id=None)
    arguments = [folder, *(["--text", "the routing"] * 60), "--generate", 300, "--batch-tokens", 100_000, *ONE]
    process = subprocess.Popen(command(*arguments, "-o", tmp_path / "t", "--quiet"), stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "t/manifest.partial.json").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted after 0 of 60 documents; continue with --resume" in errors, errors


def test_resume_after_sigkill(tmp_path):
    folder = random_checkpoint(tmp_path / "m", num_hidden_layers=6, num_experts=16)
    rng = random.Random(3)
    file = write_documents(folder / "texts.jsonl", ["the routing of experts " * rng.randrange(1, 5) for _ in range(80)])
    arguments = [folder, file, "--generate", 24, "--temperature", 1, "--top-p", 0.9, "--batch-tokens", 400, "--shard-tokens", 400, *ONE]
    succeed(*arguments, "-o", tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    assert sum(name.startswith("shard-") for name in whole) >= 8
    print("seed", SEED)
    rng = random.Random(SEED)
    out, kills = tmp_path / "t", 0

    def shards():
        return len(list(out.glob("shard-*.safetensors")))

    while kills < 6:
        # Some time after the next shard, however fast the machine is.
        before = shards()
        process = subprocess.Popen(command(*arguments, "-o", out, "--resume", "--quiet"), stderr=subprocess.PIPE)
        while process.poll() is None and shards() == before:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        _, errors = process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, errors
        kills += 1
    succeed(*arguments, "-o", out, "--resume")
    assert kills > 0 and contents(out) == whole
    before = contents(out)
    assert "run.generate: was" in fail(1, folder, file, "--batch-tokens", 400, "--shard-tokens", 400, *ONE, "-o", out, "--resume")
    assert "run.generate: was" in fail(1, *arguments, "--seed", 5, "-o", out, "--resume")
    assert contents(out) == before
