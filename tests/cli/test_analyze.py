# SPDX-License-Identifier: Apache-2.0
"""`moeroute analyze` from outside: right numbers, the same bytes for any threads and shards, clear words on bad input."""
import csv
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from make_trace import make_documents, softmax, write_trace

BIN = Path(os.environ["MOEROUTE_BIN"])
FAST = ["--permutations", "199", "--bootstrap", "200"]


def run(*args, **kwargs):
    return subprocess.run([str(BIN / "moeroute"), *map(str, args)], capture_output=True, text=True, timeout=600, **kwargs)


def analyze(trace, out, *args):
    done = run("analyze", trace, "-o", out, *FAST, *args)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "results.json").read_text())


def one_line(done, code, *words):
    assert done.returncode == code, (done.returncode, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("moeroute: "), done.stderr
    for word in words:
        assert word in lines[0], (word, lines[0])


@pytest.fixture(scope="module")
def data():
    return make_documents()


@pytest.fixture(scope="module")
def trace(data, tmp_path_factory):
    return write_trace(tmp_path_factory.mktemp("t") / "trace", data)


@pytest.fixture(scope="module")
def results(trace, tmp_path_factory):
    out = tmp_path_factory.mktemp("r") / "results"
    return analyze(trace, out), out


def test_numbers_against_numpy(data, results):
    r, out = results
    z = np.concatenate([d["logits"] for d in data["documents"]]).astype(np.float64)
    assert r["trace"]["tokens"] == len(z) and r["trace"]["documents"] == len(data["documents"]) and r["trace"]["blocks"] == 24
    counts = np.load(out / "counts.npy")
    probability = np.load(out / "probability.npy")
    for i, layer in enumerate(r["layers"]):
        ids = np.argsort(-z[:, i], axis=-1, kind="stable")[:, :2]
        expected = np.bincount(ids.ravel(), minlength=8)
        assert layer["counts"] == expected.tolist() == counts[i].tolist()
        assert layer["layer"] == data["layers"][i]
        p = softmax(z[:, i])
        np.testing.assert_allclose(layer["probability"], p.mean(0), atol=1e-7)
        np.testing.assert_allclose(layer["probability"], probability[i], rtol=1e-15)
        np.testing.assert_allclose(sum(layer["probability"]), 1, atol=1e-6)
        np.testing.assert_allclose(layer["gate"]["entropy_nats"], -(p * np.log(p)).sum(-1).mean(), rtol=1e-6)
        s = np.sort(p, axis=-1)[:, ::-1]
        np.testing.assert_allclose(layer["gate"]["margin"], (s[:, 1] - s[:, 2]).mean(), rtol=1e-5)
        np.testing.assert_allclose(layer["gate"]["top_k_mass"], s[:, :2].sum(-1).mean(), rtol=1e-6)
        lse = np.log(np.exp(z[:, i]).sum(-1))
        np.testing.assert_allclose(layer["gate"]["z_loss"], (lse**2).mean(), rtol=1e-6)
        np.testing.assert_allclose(layer["balance"]["max_violation"]["value"], expected.max() / expected.mean() - 1, rtol=1e-12)
        np.testing.assert_allclose(layer["balance"]["coefficient_of_variation"]["value"], expected.std() / expected.mean(), rtol=1e-12)
        np.testing.assert_allclose(layer["balance"]["load_balancing_loss"]["value"], 8 * (expected / expected.sum() * p.mean(0)).sum(), rtol=1e-6)
        assert layer["tied_rows"] == 0 and layer["selection_mismatch_rows"] == 0
        table = np.array([c["counts"] for c in layer["labels"]], float)
        assert (table.sum(0) == expected).all()
        joint = table / table.sum()
        mi = (joint * np.log(joint / (joint.sum(1, keepdims=True) * joint.sum(0)))).sum()
        np.testing.assert_allclose(layer["mutual_information"]["nats"], mi, rtol=1e-10)


def test_planted_labels_are_found(results):
    r, _ = results
    assert [l["name"] for l in r["trace"]["labels"]] == ["de", "en", "ko"]
    for layer in r["layers"]:
        assert layer["mutual_information"]["nats"] > layer["mutual_information"]["null_q95"]
        for c, label in enumerate(layer["labels"]):
            for e in (2 * c, 2 * c + 1):
                assert label["p_adjusted"][e] < 0.05 and label["lift"][e] > 1.2
                assert label["lower"][e] <= label["share"][e] <= label["upper"][e]


def test_nothing_is_found_where_nothing_is(tmp_path):
    r = analyze(write_trace(tmp_path / "trace", make_documents(seed=3, effect=0.0, document_noise=0.8)), tmp_path / "results")
    cells = [p for layer in r["layers"] for label in layer["labels"] for p in label["p_adjusted"]]
    assert min(cells) > 0.05
    assert all(d["p_adjusted"] > 0.05 for d in r["effective_experts"]["differences"])
    assert "do not clearly differ" in r["answers"][0]


def test_planted_period_is_found(tmp_path):
    made = make_documents(seed=5, labels=("a", "b"), passages=10, layers=range(12), experts=32, top_k=4, effect=0.0, document_noise=0.1, period=4)
    r = analyze(write_trace(tmp_path / "trace", made), tmp_path / "results")
    lags = {x["delta"]: x for x in r["lag_correlation"]["load"]["lags"]}
    assert lags[4]["p_adjusted"] < 0.05 and lags[8]["p_adjusted"] < 0.05 and lags[4]["mean"] > 0.8
    assert all(lags[d]["p_adjusted"] > 0.05 for d in (1, 2, 3, 5, 6, 7))


def test_same_bytes_for_any_threads_and_shards(data, trace, results, tmp_path):
    _, reference = results
    names = sorted(p.name for p in reference.iterdir())
    n = len(data["documents"])
    rng = np.random.default_rng(1)
    variants = {
        "threads1": (trace, ["--threads", "1"]),
        "threads3": (trace, ["--threads", "3"]),
        "shards": (write_trace(tmp_path / "a", data, [1, n - 11, 10]), ["--threads", "2"]),
        "shuffled": (write_trace(tmp_path / "b", data, [20] * (n // 20) + [n % 20], rng.permutation(n)), []),
    }
    for name, (folder, args) in variants.items():
        out = tmp_path / f"out-{name}"
        analyze(folder, out, *args)
        assert sorted(p.name for p in out.iterdir()) == names
        for file in names:
            assert (out / file).read_bytes() == (reference / file).read_bytes(), (name, file)


def test_half_precision_and_absent_arrays(data, tmp_path):
    r = analyze(write_trace(tmp_path / "f16", data, dtype="F16"), tmp_path / "r16")
    z = np.concatenate([d["logits"] for d in data["documents"]]).astype(np.float16).astype(np.float64)
    np.testing.assert_allclose(r["layers"][1]["probability"], softmax(z[:, 1]).mean(0), atol=1e-7)
    r = analyze(write_trace(tmp_path / "ids", data, keep=()), tmp_path / "rids")
    assert "probability" not in r["layers"][0] and "gate" not in r["layers"][0] and "lag_correlation" in r
    assert any(x["what"] == "probability" for x in r["not_computed"])
    assert not (tmp_path / "rids" / "probability.npy").exists()


def test_one_label_is_no_comparison(data, tmp_path):
    r = analyze(write_trace(tmp_path / "trace", data), tmp_path / "results", "--label", "nothing")
    assert [l["name"] for l in r["trace"]["labels"]] == ["(none)"]
    assert any(x["what"] == "labels" for x in r["not_computed"]) and r["effective_experts"]["differences"] == []


def test_groups_of_documents_stand_for_too_many(trace, results, tmp_path):
    whole, _ = results
    r = analyze(trace, tmp_path / "r", "--count-memory", "0")
    assert any("256 groups" in w for w in r["warnings"])
    for a, b in zip(r["layers"], whole["layers"]):
        assert [x["counts"] for x in a["labels"]] == [x["counts"] for x in b["labels"]]
        assert a["mutual_information"]["nats"] == b["mutual_information"]["nats"] > a["mutual_information"]["null_q95"]


def test_tables(results):
    _, out = results
    assert "documents" in (out / "summary_report.txt").read_text()
    rows = list(csv.DictReader((out / "label_experts.csv").open()))
    assert len(rows) == 3 * 3 * 8 and {r["label"] for r in rows} == {"de", "en", "ko"}
    top = list(csv.DictReader((out / "top_experts.csv").open()))
    assert {t["rank"] for t in top} == {"1", "2"} and len({t["document"] for t in top}) == 3
    assert len(list(csv.DictReader((out / "balance.csv").open()))) == 3


def test_nan_logits_are_counted_and_said(data, tmp_path):
    made = {**data, "documents": [dict(d) for d in data["documents"]]}
    made["documents"][4]["logits"] = made["documents"][4]["logits"].copy()
    made["documents"][4]["logits"][3, 1, 2] = np.nan
    made["documents"][4]["logits"][5, 1, 2] = np.inf
    done = run("analyze", write_trace(tmp_path / "trace", made), "-o", tmp_path / "r", *FAST)
    assert done.returncode == 0 and "layer 2: 2 of" in done.stderr
    layer = json.loads((tmp_path / "r" / "results.json").read_text())["layers"]
    assert [l["nonfinite_rows"] for l in layer] == [0, 2, 0]


def test_bad_traces_give_one_clear_line(data, tmp_path):
    out = tmp_path / "out"
    one_line(run("analyze", tmp_path / "absent", "-o", out), 3, "absent", "No such file")
    (tmp_path / "empty").mkdir()
    one_line(run("analyze", tmp_path / "empty", "-o", out), 3, "manifest.json")
    newer = write_trace(tmp_path / "newer", data, version=2)
    one_line(run("analyze", newer, "-o", out), 1, "manifest.json:version", "newer moeroute")
    one_line(run("analyze", write_trace(tmp_path / "half", data, complete=False), "-o", out), 1, "--resume")
    partial = write_trace(tmp_path / "partial", data)
    (partial / "manifest.json").rename(partial / "manifest.partial.json")
    one_line(run("analyze", partial, "-o", out), 1, "--resume")
    cut = write_trace(tmp_path / "cut", data)
    raw = (cut / "shard-00000.safetensors").read_bytes()
    (cut / "shard-00000.safetensors").write_bytes(raw[:-100])
    one_line(run("analyze", cut, "-o", out), 1, "shard-00000.safetensors")
    broken = write_trace(tmp_path / "json", data)
    (broken / "manifest.json").write_text('{"format": ')
    one_line(run("analyze", broken, "-o", out), 1, "manifest.json", "not valid JSON")
    lying = write_trace(tmp_path / "lying", data)
    shutil.copy(lying / "manifest.json", tmp_path / "m.json")
    manifest = json.loads((tmp_path / "m.json").read_text())
    for edit, word in ((lambda m: m["layers"][0]["router"].update(experts=4), "id"), (lambda m: m["shards"][0].update(file="../x"), "plain file name"),
                       (lambda m: m.update(tokens=1), "add up"), (lambda m: m["layers"][0]["router"].update(top_k=99), "top_k"),
                       (lambda m: m["layers"][0]["router"].update(score="magic"), "magic")):
        m = json.loads(json.dumps(manifest))
        edit(m)
        (lying / "manifest.json").write_text(json.dumps(m))
        one_line(run("analyze", lying, "-o", out), 1, word)
    assert not (out / "results.json").exists()


def test_an_id_that_is_no_expert(data, tmp_path):
    folder = write_trace(tmp_path / "trace", data)
    path = folder / "shard-00000.safetensors"
    raw = bytearray(path.read_bytes())
    header = json.loads(raw[8:8 + int.from_bytes(raw[:8], "little")])
    begin = header["layers.2.ids"]["data_offsets"][0] + 8 + int.from_bytes(raw[:8], "little")
    raw[begin:begin + 2] = (99).to_bytes(2, "little")
    path.write_bytes(raw)
    one_line(run("analyze", folder, "-o", tmp_path / "r"), 1, "layers.2", "id 99 at token 0, slot 0")


def test_documents_twice(data, tmp_path):
    folder = write_trace(tmp_path / "trace", data, [36, 36], list(range(36)) + list(range(36)))
    one_line(run("analyze", folder, "-o", tmp_path / "r"), 1, "appears twice")


def test_usage(trace, tmp_path):
    one_line(run("analyze", trace), 2, "--output")
    one_line(run("analyse"), 2, "--help")
    one_line(run("weights", "x"), 2, "not in version")
    one_line(run("analyze", trace, "-o", tmp_path / "x", "--level", "2"), 2, "level")
    assert run("--help").returncode == 0 and "analyze" in run("--help").stdout
    assert run("--version").stdout.startswith("moeroute 0.")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    one_line(run("analyze", trace, "-o", tmp_path / "mine"), 2, "not empty")


def test_full_disk(trace, tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", mount], capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        one_line(run("analyze", trace, "-o", mount / "r", *FAST), 3, "No space left")
        assert not (mount / "r" / "results.json").exists()
        assert not list((mount / "r").glob("*.tmp"))
    finally:
        subprocess.run(["umount", mount], check=True)


def test_interrupted_leaves_no_results(trace, tmp_path):
    out = tmp_path / "r"
    analyze(trace, out)
    child = subprocess.Popen([str(BIN / "moeroute"), "analyze", str(trace), "-o", str(out), "--permutations", "1000000"])
    time.sleep(0.5)
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=20) != 0
    # Stopped before it wrote: the results of the earlier run are still whole.
    assert json.loads((out / "results.json").read_text())["options"]["permutations"] == 199


def test_phase(data, tmp_path):
    """The rows of one phase give what a trace of these rows alone gives, wherever in a document they stand."""
    from safetensors.numpy import load_file, save_file
    rng = np.random.default_rng(11)
    phases = [rng.integers(0, 2, len(d["logits"])).astype(np.uint8) for d in data["documents"]]
    phases[4][:] = 0  # a document without a decode row
    nats = [rng.exponential(2, len(p)).astype(np.float32) for p in phases]
    for p in nats:
        p[0] = np.nan
    folder = write_trace(tmp_path / "both", data, [30, len(phases) - 30])
    for shard, (first, last) in zip(("shard-00000", "shard-00001"), ((0, 30), (30, len(phases)))):
        path = folder / f"{shard}.safetensors"
        save_file(load_file(path) | {"phase": np.concatenate(phases[first:last]), "logprob": -np.concatenate(nats[first:last])}, path)
    manifest = json.loads((folder / "manifest.json").read_text())
    for shard in manifest["shards"]:
        shard["bytes"] = (folder / shard["file"]).stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for number, name in enumerate(("prefill", "decode")):
        kept = [dict(d, logits=d["logits"][p == number]) for d, p in zip(data["documents"], phases) if (p == number).any()]
        expected = analyze(write_trace(tmp_path / name, data | {"documents": kept}), tmp_path / f"{name}-expected")
        found = analyze(folder, tmp_path / f"{name}-found", "--phase", name)
        assert found["trace"]["phase"] == name and expected["trace"]["phase"] == "all"
        assert found["trace"]["tokens"] == sum((p == number).sum() for p in phases)
        assert len(kept) == found["trace"]["documents"] == len(phases) - number
        for label in found["trace"]["labels"]:
            rows = np.concatenate([n[p == number] for d, p, n in zip(data["documents"], phases, nats) if d["labels"]["label"] == label["name"]])
            np.testing.assert_allclose(label["loss"], np.nanmean(rows.astype(np.float64)), rtol=1e-12)
        def without_losses(r):
            # The number of a document names its draws, and here it is another one.
            return [{k: l[k] for k in ("counts", "probability", "gate", "tokens", "weight_share")} for l in r["layers"]]
        assert without_losses(found) == without_losses(expected)
        examples = [[(e["id"], e["layers"]) for e in r["documents"]] for r in (found, expected)]
        assert examples[0] == examples[1]
        assert f"{name} rows only" in (tmp_path / f"{name}-found/summary_report.txt").read_text()
    whole = analyze(folder, tmp_path / "all", "--phase", "all")
    assert whole["trace"]["tokens"] == sum(map(len, phases))
    plain = write_trace(tmp_path / "plain", data)
    one_line(run("analyze", plain, "-o", tmp_path / "x", "--phase", "decode"), 1, "shard-00000.safetensors:phase", "is missing")
    for shard in manifest["shards"]:
        path = folder / shard["file"]
        save_file(load_file(path) | {"phase": np.zeros(shard["tokens"], np.uint8)}, path)
    one_line(run("analyze", folder, "-o", tmp_path / "x", "--phase", "decode"), 1, "manifest.json:shards", "have no decode rows")
    one_line(run("analyze", folder, "-o", tmp_path / "x", "--phase", "both"), 2, "--phase")
