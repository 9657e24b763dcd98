# SPDX-License-Identifier: Apache-2.0
"""Killed, interrupted and out of space: nothing half-written reads as whole, and --resume ends in the same bytes."""
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

import pytest

from conftest import Trace, command, fail, random_checkpoint, run, succeed, write_documents

SEED = int(os.environ.get("MOEROUTE_TEST_SEED", random.randrange(1 << 30)))


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A model, texts and options that take a second or two and write dozens of shards, and the trace of a whole run."""
    folder = tmp_path_factory.mktemp("slow")
    random_checkpoint(folder, num_hidden_layers=8, num_experts=16)
    rng = random.Random(3)
    write_documents(folder / "texts.jsonl", ["the routing of experts " * rng.randrange(1, 6) for _ in range(400)])
    arguments = [folder, folder / "texts.jsonl", "--batch-tokens", 40, "--shard-tokens", 400, "--threads", 1]
    start = time.monotonic()
    succeed(*arguments, "-o", folder / "whole")
    return arguments, contents(folder / "whole"), time.monotonic() - start


def contents(folder):
    return {f.name: f.read_bytes() for f in pathlib.Path(folder).iterdir()}


def start(arguments, out, *more):
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(command(*arguments, "-o", out, "--quiet", *more), **pipes)


def wait_for_shards(process, out, count):
    """Until so many shards are done; the process must still be running then."""
    while process.poll() is None:
        try:
            if len(json.loads((out / "manifest.partial.json").read_text())["shards"]) >= count:
                return
        except FileNotFoundError:
            pass
        time.sleep(0.005)
    raise AssertionError(f"ended too early: {process.communicate()}")


def assert_unfinished(out):
    assert not (out / "manifest.json").exists()


def test_whole_run_is_worth_testing(slow):
    arguments, whole, _ = slow
    assert sum(name.startswith("shard-") for name in whole) >= 10
    assert "manifest.partial.json" not in whole and not any(name.endswith(".tmp") for name in whole)


def test_resume_after_20_kills(slow, tmp_path):
    arguments, whole, seconds = slow
    rng = random.Random(SEED)
    print("seed", SEED)
    kills = round = 0
    while kills < 20:
        out = tmp_path / str(round)
        round += 1
        last = min(20, kills + 4)  # of this trace; then it may come to its end
        while True:
            process = start(arguments, out, "--resume")
            try:
                process.wait(timeout=rng.uniform(0, seconds) if kills < last else None)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
            else:
                assert process.returncode == 0, process.communicate()
                break
        assert contents(out) == whole, f"trace {round}, {kills} kills, seed {SEED}"
        shutil.rmtree(out)
    print(kills, "kills of", round, "captures")


def test_resume_after_a_kill_between_shards(slow, tmp_path):
    arguments, whole, _ = slow
    out = tmp_path / "t"
    process = start(arguments, out)
    wait_for_shards(process, out, 3)
    process.kill()
    process.wait()
    assert_unfinished(out)
    (out / "shard-00002.safetensors.tmp").write_bytes(b"half")  # what a kill in the middle of a write leaves
    (out / "documents-00009.jsonl").write_bytes(b"half")
    succeed(*arguments, "-o", out, "--resume")
    left = contents(out)
    assert left == whole
    succeed(*arguments, "-o", out, "--resume")  # complete already
    assert contents(out) == whole


def test_resume_of_something_else_is_refused(slow, tmp_path):
    arguments, whole, _ = slow
    out = tmp_path / "t"
    process = start(arguments, out)
    wait_for_shards(process, out, 2)
    process.kill()
    process.wait()
    before = contents(out)
    changed = [*arguments]
    changed[changed.index("--batch-tokens") + 1] = 50
    assert "manifest.partial.json:run.batch_tokens: was 40, is 50 now" in fail(1, *changed, "-o", out, "--resume")
    assert "run.inputs_sha256" in fail(1, *arguments, "--max-docs", 399, "-o", out, "--resume")
    shard = out / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert "shard-00000.safetensors" in fail(1, *arguments, "-o", out, "--resume")
    shard.write_bytes(before["shard-00000.safetensors"])
    assert contents(out) == before
    succeed(*arguments, "-o", out, "--overwrite")
    assert contents(out) == whole


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_interrupt(slow, tmp_path, signal_):
    arguments, whole, _ = slow
    out = tmp_path / "t"
    process = start(arguments, out)
    wait_for_shards(process, out, 2)
    process.send_signal(signal_)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.count("\n") == 1 and "interrupted after" in errors and "--resume" in errors
    assert_unfinished(out)
    assert not list(out.glob("*.tmp"))
    succeed(*arguments, "-o", out, "--resume")
    assert contents(out) == whole


def test_two_at_once(slow, tmp_path):
    arguments, _, _ = slow
    out = tmp_path / "t"
    process = start(arguments, out)
    wait_for_shards(process, out, 1)
    assert "another capture is writing here" in fail(3, *arguments, "-o", out, "--resume")
    process.kill()
    process.wait()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no small file system without root: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_disk_fills_up(slow, small_disk):
    arguments, whole, _ = slow
    out = small_disk / "t"
    process = start(arguments, out)
    wait_for_shards(process, out, 1)
    with open(small_disk / "filler", "wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            pass
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 3, errors
    assert errors.count("\n") == 1 and "No space left on device" in errors and "--resume" in errors
    assert_unfinished(out)
    assert not list(out.glob("*.tmp"))
    (small_disk / "filler").unlink()
    succeed(*arguments, "-o", out, "--resume")
    assert contents(out) == whole


def test_too_small_a_disk_is_refused_at_once(slow, small_disk):
    arguments, _, _ = slow
    (small_disk / "filler").write_bytes(bytes(7 << 20))
    message = fail(3, *arguments, "-o", small_disk / "t")
    assert "the trace needs" in message and "of disk" in message
    assert not (small_disk / "t").exists()


def test_trace_of_a_resumed_run_reads_back(slow, tmp_path):
    arguments, whole, _ = slow
    for name, data in whole.items():
        (tmp_path / name).write_bytes(data)
    trace = Trace(tmp_path)
    assert len(trace.documents) == trace.manifest["documents"] == 400
    assert [d["document"] for d in trace.documents] == list(range(400))
    assert sum(d["tokens"] for d in trace.documents) == trace.manifest["tokens"]
