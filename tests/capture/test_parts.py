# SPDX-License-Identifier: Apache-2.0
"""--shard i/n: several processes write one trace, whoever is last makes it whole, and it is the trace of one process."""
import json
import os
import random
import signal
import subprocess
import time

import pytest

from conftest import command, fail, random_checkpoint, run, succeed, write_documents
from test_keep import analyze, contents

LOGITS = pytest.mark.parametrize("whole", ["logits"], indirect=True)
SEED = int(os.environ.get("MOEROUTE_TEST_SEED", random.randrange(1 << 30)))


@pytest.fixture(scope="module", params=["logits", "counts"])
def whole(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    random_checkpoint(folder, num_hidden_layers=6, num_experts=16)
    rng = random.Random(3)
    write_documents(folder / "texts.jsonl", ["the routing of experts " * rng.randrange(1, 6) for _ in range(300)], label="x")
    arguments = [folder, folder / "texts.jsonl", "--batch-tokens", 80, "--shard-tokens", 400, "--threads", 1, "--keep", request.param]
    succeed(*arguments, "-o", folder / "whole")
    return arguments, contents(folder / "whole")


def begin(arguments, out, part, *more):
    return subprocess.Popen(command(*arguments, "-o", out, "--shard", part, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_three_at_once(whole, tmp_path):
    arguments, expected = whole
    out = tmp_path / "t"
    parts = [begin(arguments, out, f"{i}/3") for i in (1, 2, 3)]
    for process in parts:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert contents(out) == expected
    a, _ = analyze(out, tmp_path / "r")
    (tmp_path / "w").mkdir()
    for name, data in expected.items():
        (tmp_path / "w" / name).write_bytes(data)
    assert a == analyze(tmp_path / "w", tmp_path / "s")[0]


def test_one_is_killed_and_goes_on(whole, tmp_path):
    arguments, expected = whole
    rng = random.Random(SEED)
    print("seed", SEED)
    out = tmp_path / "t"
    parts = {i: begin(arguments, out, f"{i}/3") for i in (1, 2, 3)}
    victim = rng.choice([1, 2, 3])
    manifest = out / f"manifest.part-{victim}-of-3.json"
    while not manifest.exists():
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.05))
    # Frozen first: whether it had finished is then known for sure.
    parts[victim].send_signal(signal.SIGSTOP)
    killed = manifest.exists() and not json.loads(manifest.read_text())["complete"]
    parts[victim].send_signal(signal.SIGKILL)
    parts[victim].wait()
    for i, process in parts.items():
        _, errors = process.communicate(timeout=120)
        assert i == victim or process.returncode == 0, errors
    if killed:
        assert not (out / "manifest.json").exists()
        assert "was not finished" in analyze(out, tmp_path / "r", code=1)
        assert "use --resume" in fail(2, *arguments, "-o", out, "--shard", f"{victim}/3")
        (out / f"counts-part-{victim}-of-3-00099.safetensors.tmp").write_bytes(b"half")
    result = succeed(*arguments, "-o", out, "--shard", f"{victim}/3", "--resume")
    assert contents(out) == expected, (victim, SEED)
    again = succeed(*arguments, "-o", out, "--shard", "1/3", "--resume")
    assert "is complete already" in again.stderr and contents(out) == expected, result.stderr


@LOGITS
def test_one_after_the_other_in_any_order(whole, tmp_path):
    arguments, expected = whole
    out = tmp_path / "t"
    result = succeed(*arguments, "-o", out, "--shard", "2/2")
    assert "part 2-of-2 is complete; the trace will be when these are: 1" in result.stderr
    assert not (out / "manifest.json").exists()
    succeed(*arguments, "-o", out, "--shard", "2/2", "--resume")
    succeed(*arguments, "-o", out, "--shard", "1/2")
    assert contents(out) == expected


@LOGITS
def test_more_parts_than_shards(whole, tmp_path):
    arguments, _ = whole
    few = [*arguments, "--max-docs", 20]
    succeed(*few, "-o", tmp_path / "w")
    parts = [begin(few, tmp_path / "t", f"{i}/4") for i in (1, 2, 3, 4)]
    assert [p.wait() for p in parts] == [0] * 4
    assert contents(tmp_path / "t") == contents(tmp_path / "w")


@LOGITS
def test_what_does_not_belong_together_is_refused(whole, tmp_path):
    arguments, expected = whole
    out = tmp_path / "t"
    succeed(*arguments, "-o", out, "--shard", "1/3")
    before = contents(out)
    assert "use --resume to finish a trace" in fail(2, *arguments, "-o", out, "--shard", "1/3")
    assert "was begun in another number of parts (manifest.part-1-of-3.json)" in fail(2, *arguments, "-o", out, "--shard", "2/2")
    assert "is written in parts; use --shard" in fail(2, *arguments, "-o", out, "--resume")
    assert "is not empty" in fail(2, *arguments, "-o", out)
    assert "--overwrite" in fail(2, *arguments, "-o", out, "--shard", "1/3", "--overwrite")
    for bad in "0/3", "4/3", "1", "1/3x", "-1/3":
        assert f"--shard {bad}: expected i/n" in fail(2, *arguments, "-o", out, f"--shard={bad}")
    assert contents(out) == before
    other = [*arguments, "--max-docs", 299]
    assert "manifest.part-1-of-3.json:run.inputs_sha256" in fail(1, *other, "-o", out, "--shard", "2/3")
    assert not (out / "manifest.part-2-of-3.json").exists()
    (out / "notes.md").write_text("mine")
    assert "notes.md" in fail(2, *arguments, "-o", out, "--shard", "2/3", "--resume")


@LOGITS
def test_a_part_is_written_once_at_a_time(whole, tmp_path):
    arguments, _ = whole
    out = tmp_path / "t"
    process = begin(arguments, out, "1/2")
    while process.poll() is None and not (out / "manifest.part-1-of-2.json").exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGSTOP)  # or it may have finished before the others begin
    assert process.poll() is None and not json.loads((out / "manifest.part-1-of-2.json").read_text())["complete"]
    result = run(*arguments, "-o", out, "--shard", "1/2", "--resume")
    alone = run(*arguments, "-o", out, "--overwrite")
    process.kill()
    process.wait()
    assert result.returncode == 3 and "another capture is writing this part" in result.stderr
    assert alone.returncode == 3 and "another capture is writing here" in alone.stderr
