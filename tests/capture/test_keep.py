# SPDX-License-Identifier: Apache-2.0
"""--keep logits, topk, counts: the same numbers from each, as far as they go; nothing of the tokens in counts."""
import json
import os
import random
import subprocess

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from conftest import BINARY, Trace, command, fail, succeed, write_documents

ONE = ["--threads", 1]
KINDS = ["logits", "topk", "counts"]
SEED = int(os.environ.get("MOEROUTE_TEST_SEED", random.randrange(1 << 30)))


def contents(folder):
    return {f.name: f.read_bytes() for f in folder.iterdir()}


def analyze(trace, out, *arguments, code=0):
    done = subprocess.run([BINARY.parent / "moeroute", "analyze", trace, "-o", out, "--permutations", "99", "--bootstrap", "99", *arguments],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return (json.loads((out / "results.json").read_text()), done.stdout) if code == 0 else done.stderr


def labelled(path, n):
    rng = random.Random(5)
    with open(path, "w") as out:
        for i in range(n):
            text = " ".join(rng.choice(["the", "routing", "expert", "Modell", "of", "12"]) for _ in range(rng.randrange(1, 12)))
            out.write(json.dumps({"id": f"d{i}", "text": text, "label": "ab"[i % 2], "passage": f"p{i // 2}"}) + "\n")
    return path


@pytest.fixture(scope="module", params=[(40, "float32"), (300, "bfloat16")], ids=["documents", "groups"])
def traces(request, tiny, tmp_path_factory):
    n, dtype = request.param
    folder = tmp_path_factory.mktemp("keep")
    file = labelled(folder / "x.jsonl", n)
    for kind in KINDS:
        succeed(tiny, file, "-o", folder / kind, "--keep", kind, "--shard-tokens", 200, "--dtype", dtype, *ONE)
    # What a trace of counts does with more than 256 documents, analyze does when it may not keep counts of each.
    more = ["--count-memory", "0"] if n > 256 else []
    return folder, {kind: analyze(folder / kind, folder / f"{kind}-results", *more) for kind in KINDS}


def test_what_is_written(traces):
    folder, _ = traces
    whole, topk = Trace(folder / "logits"), Trace(folder / "topk")
    assert [k for k in whole.arrays[0] if k not in topk.arrays[0]] == [f"layers.{l}.logits" for l in whole.layers]
    for a, b in zip(whole.arrays, topk.arrays, strict=True):
        assert all(np.array_equal(a[k], b[k], equal_nan=a[k].dtype.kind == "f") for k in b)
    assert whole.documents == topk.documents and "logits" not in topk.manifest["tensors"]
    assert sorted(f.name for f in (folder / "counts").iterdir()) == ["counts.safetensors", "manifest.json"]
    counted = json.loads((folder / "counts/manifest.json").read_text())
    assert (counted["documents"], counted["tokens"], counted["shards"]) == (whole.manifest["documents"], whole.manifest["tokens"], [])
    assert counted["run"] == {**whole.manifest["run"], "keep": "counts"} and counted["counts"]["parts"] == len(whole.manifest["shards"]) > 1


def test_counts_give_what_logits_give(traces):
    _, results = traces
    (a, text_a), (b, text_b) = results["logits"], results["counts"]
    assert a["documents"] and not b["documents"]
    assert [m["what"] for m in b["not_computed"]] == [m["what"] for m in a["not_computed"]] + ["documents"]
    assert "Not computed: documents: the trace keeps counts alone" in text_b and "Not computed" not in text_a
    for r in a, b:
        del r["documents"], r["not_computed"], r["trace"]["run"]["keep"]
    assert a == b


def test_topk_gives_what_it_can(traces):
    folder, _ = traces
    a, b = (json.loads((folder / f"{kind}-results/results.json").read_text()) for kind in ("logits", "topk"))
    assert [m["what"] for m in b["not_computed"]] == ["probability"]
    for layer in a["layers"]:
        for key in "probability", "gate", "tied_rows", "selection_mismatch_rows", "selection_mismatch_gap":
            del layer[key]
        for label in layer["labels"]:
            del label["probability"]
        for loss in "load_balancing_loss", "load_balancing_loss_olmoe":
            del layer["balance"][loss]
    del a["lag_correlation"]["probability"]
    for d in a["documents"]:
        for layer in d["layers"]:
            del layer["probability"]
    for r in a, b:
        del r["not_computed"], r["trace"]["run"]["keep"]
    assert a == b


def test_state_does_not_grow_with_tokens(tiny, tmp_path):
    for n in 300, 900:
        succeed(tiny, labelled(tmp_path / "x.jsonl", n), "-o", tmp_path / str(n), "--keep", "counts", *ONE)
    sizes = [(tmp_path / f"{n}/counts.safetensors").stat().st_size for n in (300, 900)]
    assert sizes[0] == sizes[1]
    with safe_open(tmp_path / "300/counts.safetensors", "np") as f:
        assert json.loads(f.metadata()["table"])["grouped"] and f.get_tensor("row_labels").tolist() == [0] * 256 + [1] * 256


def test_labels_cannot_be_chosen_later(traces, tmp_path):
    folder, _ = traces
    assert "--label kind: this trace keeps counts, and they were counted by 'label'" in analyze(folder / "counts", tmp_path / "r", "--label", "kind", code=2)
    assert "--block kind: this trace" in analyze(folder / "counts", tmp_path / "r", "--block", "kind", code=2)


@pytest.mark.parametrize("kind", KINDS)
def test_resume_after_sigkill(tiny, tmp_path, kind):
    file = labelled(tmp_path / "x.jsonl", 300)
    arguments = [tiny, file, "--keep", kind, "--shard-tokens", 100, "--batch-tokens", 50, *ONE]
    succeed(*arguments, "-o", tmp_path / "whole")
    rng = random.Random(SEED)
    print("seed", SEED)
    out, kills = tmp_path / "t", 0
    while True:
        process = subprocess.Popen(command(*arguments, "-o", out, "--quiet", "--resume"), stderr=subprocess.PIPE, text=True)
        try:
            process.wait(timeout=rng.uniform(0.1, 0.6) if kills < 6 else None)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
        else:
            assert process.returncode == 0, process.communicate()
            break
    assert contents(out) == contents(tmp_path / "whole"), f"{kills} kills, seed {SEED}"


def test_scores_with_counts(tiny, tmp_path):
    (tmp_path / "x").write_text("".join(json.dumps({"text": f"the routing of expert {i}"}) + "\n" for i in range(20)))
    for kind in KINDS:
        succeed(tiny, "--data", f"lambada:{tmp_path / 'x'}", "-o", tmp_path / kind, "--keep", kind, "--shard-tokens", 60, *ONE)
    scores = [(tmp_path / kind / "scores.json").read_bytes() for kind in KINDS]
    assert scores[0] == scores[1] == scores[2]


def test_resume_with_another_keep_is_refused(tiny, tmp_path):
    file = write_documents(tmp_path / "x.jsonl", ["the routing"])
    succeed(tiny, file, "-o", tmp_path / "t", "--keep", "topk", *ONE)
    assert 'run.keep: was "topk", is "counts" now' in fail(1, tiny, file, "-o", tmp_path / "t", "--keep", "counts", "--resume", *ONE)
    assert "--keep" in fail(2, tiny, file, "-o", tmp_path / "u", "--keep", "all", *ONE)


def test_damaged_counts(traces, tmp_path):
    folder, _ = traces
    whole = contents(folder / "counts")
    name = "counts.safetensors"
    tensors = load_file(folder / "counts" / name)
    with safe_open(folder / "counts" / name, "np") as f:
        metadata = f.metadata()
    from safetensors.numpy import save_file

    def complaint(change, table=None):
        bad = tmp_path / "bad"
        bad.mkdir(exist_ok=True)
        changed = {k: v.copy() for k, v in tensors.items()}
        change(changed)
        save_file(changed, bad / name, {"table": table or metadata["table"]})
        manifest = json.loads(whole["manifest.json"])
        manifest["counts"]["bytes"] = (bad / name).stat().st_size
        (bad / "manifest.json").write_text(json.dumps(manifest))
        return analyze(bad, tmp_path / "r", code=1)

    def cut(t):
        t["moe_layers.0.load"] = t["moe_layers.0.load"][:-1]

    def swap(t):
        t["moe_layers.0.load"] = t["moe_layers.0.gate"]

    def label(t):
        t["row_labels"][0] = 7

    def rows(t):
        t["row_labels"], t["row_blocks"] = t["row_labels"][:-1], t["row_blocks"][:-1]

    assert "counts.safetensors:tensor 'moe_layers.0.load', byte" in complaint(cut)
    assert "is not a load" in complaint(swap)
    assert "has no tensor 'moe_layers.1.load'" in complaint(lambda t: t.pop("moe_layers.1.load"))
    assert "names a label that there is not" in complaint(label)
    assert "does not fit the manifest's router or the table" in complaint(rows)
    assert "table" in complaint(lambda t: None, "{")
    bad = json.loads(metadata["table"])
    bad["documents"] += 1
    assert "documents or tokens differ from the manifest" in complaint(lambda t: None, json.dumps(bad))
    (tmp_path / "bad" / name).write_bytes(whole[name][:-5])
    assert "counts.safetensors:byte" in analyze(tmp_path / "bad", tmp_path / "r", code=1)
