# SPDX-License-Identifier: Apache-2.0
"""--residency stream: the same bytes as a resident run, each weight read once, one layer and the next in memory, and going on
in the layer in which it was killed."""
import json
import os
import pathlib
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import DEMO, REPOSITORY, byte_tokenizer, command, fail, random_checkpoint, run, succeed, write_documents
from test_families import made

SEED = int(os.environ.get("MOEROUTE_TEST_SEED", random.randrange(1 << 30)))
ONE = ["--threads", 1]
SCRATCH = {f"scratch-1-of-1.{name}" for name in ("json", "hidden.tmp", "spool.tmp")}


def contents(folder):
    return {f.name: f.read_bytes() for f in pathlib.Path(folder).iterdir()}


def report(result):
    """Bytes, stages, and seconds of reading, waiting, loading and computing that a stream run tells."""
    found = re.search(r"weights: (\d+) bytes read in (\d+) stages, each once; ([\d.]+) s of reading, ([\d.]+) s waited for it, "
                      r"([\d.]+) s of loading, ([\d.]+) s of computing", result.stderr)
    assert found, result.stderr
    return int(found[1]), int(found[2]), *map(float, found.groups()[2:])


def weight_bytes(folder):
    """By the headers alone."""
    total = 0
    for path in pathlib.Path(folder).glob("*.safetensors"):
        with open(path, "rb") as file:
            header = json.loads(file.read(*struct.unpack("<Q", file.read(8))))
        total += sum(b - a for a, b in (t["data_offsets"] for n, t in header.items() if n != "__metadata__"))
    return total


def both(model, tmp_path, *arguments):
    """The trace of a resident run and, after comparison, what a stream run of the same batches said."""
    arguments = [model, *arguments, *ONE]
    succeed(*arguments, "-o", tmp_path / "all", "--residency", "all")
    result = succeed(*arguments, "-o", tmp_path / "stream", "--residency", "stream")
    assert "layer by layer" in result.stderr
    resident, streamed = contents(tmp_path / "all"), contents(tmp_path / "stream")
    assert resident.keys() == streamed.keys()
    for name, data in resident.items():
        assert data == streamed[name], name
    return result


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_demo_model_same_bytes(tmp_path, dtype):
    texts = sorted((REPOSITORY / "examples/texts").glob("*.jsonl"))[:1]
    result = both(DEMO, tmp_path, *texts, "--max-docs", 12, "--batch-tokens", 300, "--shard-tokens", 900, "--dtype", dtype)
    layers = json.loads((DEMO / "config.json").read_text())["num_hidden_layers"]
    bytes_read, stages, *_ = report(result)
    assert (bytes_read, stages) == (weight_bytes(DEMO), layers + 2)


# Dense first layers with shared experts and latent attention; dense layers in between; sinks, windows and fused experts;
# norms behind attention; a tied head; the dense layers of a family with groups.
FAMILIES = [("deepseek_v3", "groups, yarn"), ("glm4_moe", "head norm, biases, scale"),
            ("qwen2_moe", "dense layers, renormalised, no bias"), ("gpt_oss", "plain"), ("flex_olmo", "linear rotation, tied"),
            ("ernie4_5_moe", "biases, every other layer, tied"), ("granitemoe", "multipliers")]


@pytest.mark.parametrize("case", FAMILIES, ids=": ".join)
def test_families_same_bytes(case, tmp_path):
    folder, _ = made(case)
    result = both(folder, tmp_path, folder / "texts.jsonl", "--batch-tokens", 90, "--shard-tokens", 200)
    assert report(result)[0] == weight_bytes(folder)


def test_quantised_same_bytes(tmp_path):
    source, _ = made(("deepseek_v3", "groups, yarn"))
    folder = tmp_path / "m"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("trace"))
    tensors = load_file(source / "model.safetensors")
    for name, w in list(tensors.items()):
        if w.dim() == 2 and "proj" in name:
            tensors[name] = w.to(torch.float8_e4m3fn)
            tensors[name + "_scale_inv"] = torch.rand((w.shape[0] + 7) // 8, (w.shape[1] + 11) // 12) + 0.5
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [8, 12]}
    (folder / "config.json").write_text(json.dumps(config))
    result = both(folder, tmp_path, folder / "texts.jsonl", "--batch-tokens", 90)
    assert report(result)[0] == weight_bytes(folder)


def test_sharded_checkpoint(tmp_path):
    """Files that cut through layers; and tensors that the decoder does not use, which are not read."""
    folder = random_checkpoint(tmp_path / "m", save=dict(max_shard_size="20KB"))
    assert len(list(folder.glob("*.safetensors"))) > 3
    used = weight_bytes(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    extra = {"model.layers.3.eh_proj.weight": torch.zeros(100, 100)}  # predicts a further token
    save_file(extra, folder / "extra.safetensors")
    index["weight_map"] |= {name: "extra.safetensors" for name in extra}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    result = both(folder, tmp_path, "--text", "the routing", "--text", "of the experts", "--batch-tokens", 5)
    assert report(result)[0] == used


def test_bad_weights_are_found_before_the_first_layer(tmp_path):
    """What the third layer lacks is said at once, not when it is reached."""
    folder = random_checkpoint(tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    arguments = [folder, "--text", "x", "-o", tmp_path / "t", "--residency", "stream", "--overwrite", *ONE]
    for change, words in (({"model.layers.2.mlp.experts.3.up_proj.weight": None}, "experts.3.up_proj.weight: is missing"),
                          ({"model.layers.2.self_attn.q_norm.weight": torch.ones(5)}, "q_norm.weight: has shape [5]"),
                          ({"model.layers.2.mlp.other.weight": torch.ones(5)}, "other.weight: has no place")):
        save_file({n: t for n, t in (tensors | change).items() if t is not None}, folder / "model.safetensors")
        assert words in fail(1, *arguments)
        assert json.loads((tmp_path / "t/scratch-1-of-1.json").read_text())["stages"] == []
    save_file(tensors, folder / "model.safetensors")
    succeed(*arguments)
    assert not SCRATCH & contents(tmp_path / "t").keys()


# A checkpoint of zeros that takes no room on the disk: memory, bytes and seconds do not depend on the values.

HIDDEN, WIDTH, EXPERTS, LAYERS, VOCABULARY = 512, 256, 16, 24, 300
LAYER_BYTES = 4 * (HIDDEN * WIDTH * 3 * EXPERTS + 4 * HIDDEN * HIDDEN + EXPERTS * HIDDEN + 4 * HIDDEN)


def zeros(folder, layers):
    folder.mkdir(exist_ok=True)
    shapes = {"model.embed_tokens.weight": [VOCABULARY, HIDDEN], "lm_head.weight": [VOCABULARY, HIDDEN],
              "model.norm.weight": [HIDDEN]}
    for l in range(layers):
        stem = f"model.layers.{l}."
        for norm in ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"):
            shapes[f"{stem}{norm}.weight"] = [HIDDEN]
        for p in "qkvo":
            shapes[f"{stem}self_attn.{p}_proj.weight"] = [HIDDEN, HIDDEN]
        shapes[stem + "mlp.gate.weight"] = [EXPERTS, HIDDEN]
        for e in range(EXPERTS):
            for p in ("gate", "up", "down"):
                shapes[f"{stem}mlp.experts.{e}.{p}_proj.weight"] = [HIDDEN, WIDTH] if p == "down" else [WIDTH, HIDDEN]
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4 * shape[0] * (shape[1] if len(shape) == 2 else 1)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    (folder / "config.json").write_text(json.dumps(dict(
        model_type="olmoe", vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=WIDTH, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=8, num_experts=EXPERTS, num_experts_per_tok=2, rms_norm_eps=1e-5,
        max_position_embeddings=4096, tie_word_embeddings=False, rope_theta=10000.0, hidden_act="silu",
        torch_dtype="float32")))
    byte_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return zeros(tmp_path_factory.mktemp("large"), LAYERS)


def measured(*arguments):
    """Peak of the resident set, and bytes that its calls of read got, of a run that succeeds. Through a small process in
    between: Linux counts what the parent held at the moment of the fork."""
    code = """if True:
        import os, resource, subprocess, sys
        p = subprocess.Popen(sys.argv[1:])
        os.waitid(os.P_PID, p.pid, os.WEXITED | os.WNOWAIT)
        print(open(f"/proc/{p.pid}/io").read().split()[1])
        code = p.wait()
        print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
        sys.exit(code)"""
    result = subprocess.run([sys.executable, "-S", "-c", code, *command(*arguments)], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    read, peak = map(int, result.stdout.split())
    return peak, read, result


def test_peak_memory_bytes_read_and_overlap(large, tiny, tmp_path):
    texts = write_documents(tmp_path / "t.jsonl", ["the routing of experts " * 8 for _ in range(24)])
    constant, read_before, _ = measured(tiny, "--text", "x", "-o", tmp_path / "tiny", "--residency", "stream", *ONE)
    arguments = [large, texts, "--batch-tokens", 256, "--shard-tokens", 512, *ONE]
    peak, read, result = measured(*arguments, "-o", tmp_path / "stream", "--residency", "stream")
    manifest = json.loads((tmp_path / "stream/manifest.json").read_text())
    hidden = manifest["tokens"] * HIDDEN * 4
    checkpoint = weight_bytes(large)
    mib = 1 << 20
    print(f"constant {constant / mib:.0f} MiB, peak {peak / mib:.0f}, layer {LAYER_BYTES / mib:.1f}, hidden {hidden / mib:.1f}, "
          f"checkpoint {checkpoint / mib:.0f}; {report(result)}")
    assert checkpoint > 10 * (2 * LAYER_BYTES + hidden)
    assert constant < 384 * mib  # process_bytes of plan.hpp
    # 24 MiB: activations of 256 tokens and what the heap keeps of them.
    assert peak - constant < 2 * LAYER_BYTES + hidden + 24 * mib
    bytes_read, stages, reading, waiting, _, computing = report(result)
    assert (bytes_read, stages) == (checkpoint, LAYERS + 2)
    # The next layer is read while one computes.
    assert computing > 0.2 * reading, "nothing to hide the reading behind"
    assert waiting < reading - 0.3 * min(reading, computing)
    # By the system's own count: the weights once, and the rest is small. Hidden states in memory are not read back.
    shards = sum(s["bytes"] for s in manifest["shards"])
    assert checkpoint <= read - read_before < checkpoint + shards + 2 * mib
    whole, *_ = measured(*arguments, "-o", tmp_path / "all", "--residency", "all")
    assert whole - constant > checkpoint, "the measure sees a resident model"
    assert contents(tmp_path / "all") == contents(tmp_path / "stream")


def test_hidden_states_spill(tmp_path):
    """With room for all of the hidden states, for little, and for half: the same bytes, and what there was no room for, no
    more and no less, is read back in every stage."""
    texts = write_documents(tmp_path / "t.jsonl", ["the routing of experts " * 8 for _ in range(45)])
    folder = zeros(tmp_path / "m", 2)
    with open(folder / "model.safetensors", "r+b") as file:
        # Values after all: states that come back from the wrong place must be seen.
        file.seek(8 + struct.unpack("<Q", file.read(8))[0])
        file.write((0.1 * torch.randn(weight_bytes(folder) // 4, generator=torch.Generator().manual_seed(1))).numpy().tobytes())
    arguments = [folder, texts, "--batch-tokens", 128, "--shard-tokens", 700, *ONE]
    line = re.compile(r"hidden +([\d.]+) (\w+), ([\d.]+) (\w+) of it in host memory")
    traces, kept, reads = [], [], []
    for i, memory in enumerate(("2G", "", "")):
        arguments_now = [*arguments, "-o", tmp_path / str(i), "--residency", "stream"]
        if i > 0:
            host = re.search(r"host memory +([\d.]+) MiB", run(*arguments, "-o", tmp_path / "p", "--residency", "stream", "--plan",
                                                              "--host-memory", "2G").stdout)
            memory = f"{1024 * (float(host[1]) + 0.1 - (2.4 if i == 1 else 1.2)):.0f}KiB"
        _, read, result = measured(*arguments_now, "--host-memory", memory)
        reads.append(read)
        all_, _, some, unit = line.search(result.stderr).groups()
        kept.append(float(some) * {"B": 0, "KiB": 1 / 1024, "MiB": 1}[unit] / float(all_))
        traces.append(contents(tmp_path / str(i)))
    print(kept)
    assert kept[0] == 1 and kept[1] < kept[2] < 1
    assert traces[0] == traces[1] == traces[2]
    hidden = json.loads(traces[0]["manifest.json"])["tokens"] * HIDDEN * 4
    for share, read in zip(kept[1:], reads[1:]):
        spilled, batch = (1 - share) * hidden, 128 * HIDDEN * 4
        # By the layers and the head; batches are kept whole, and the plan says its sizes in tenths of a MiB.
        assert 3 * (spilled - 0.1 * (1 << 20)) < read - reads[0] < 3 * (spilled + batch + 0.1 * (1 << 20))


def test_auto_and_what_cannot_fit(large, tmp_path):
    arguments = [large, "--text", "the routing of the experts", *ONE]
    resident = run(*arguments, "-o", tmp_path / "t", "--plan", "--host-memory", "4G")
    assert "all in memory" in resident.stdout and resident.returncode == 0
    streamed = run(*arguments, "-o", tmp_path / "t", "--plan", "--host-memory", "900M")
    assert "layer by layer" in streamed.stdout and streamed.returncode == 0
    for words in ("26 stages", "hidden ", "spool ", "disk ", "host memory "):
        assert words in streamed.stdout, words
    message = fail(3, *arguments, "-o", tmp_path / "t", "--host-memory", "900M", "--residency", "all")
    assert "try --residency stream" in message and "900.0 MiB are free" in message
    message = fail(3, *arguments, "-o", tmp_path / "t", "--host-memory", "300M")
    assert "needs" in message and "--residency" not in message
    assert not (tmp_path / "t").exists()
    assert "--residency" in fail(2, *arguments, "-o", tmp_path / "t", "--residency", "disk")
    assert "--host-memory" in fail(2, *arguments, "-o", tmp_path / "t", "--host-memory", "much")


# Resume.

@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A model, texts and options of a second or two, and the trace of a whole resident run."""
    folder = tmp_path_factory.mktemp("slow")
    random_checkpoint(folder, num_hidden_layers=10, num_experts=16)
    rng = random.Random(3)
    write_documents(folder / "texts.jsonl", ["the routing of experts " * rng.randrange(1, 6) for _ in range(150)])
    arguments = [folder, folder / "texts.jsonl", "--batch-tokens", 60, "--shard-tokens", 400, *ONE]
    succeed(*arguments, "-o", folder / "whole", "--residency", "all")
    start = time.monotonic()
    succeed(*arguments, "-o", folder / "streamed", "--residency", "stream")
    whole = contents(folder / "whole")
    assert contents(folder / "streamed") == whole and len(whole) > 10
    return arguments, whole, time.monotonic() - start


def start(arguments, out, *more):
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(command(*arguments, "-o", out, "--residency", "stream", *more), **pipes)


def stages_done(out, part="1-of-1"):
    try:
        return len(json.loads((out / f"scratch-{part}.json").read_text())["stages"])
    except FileNotFoundError:
        return 0


def killed_after(arguments, out, stages, signal_=signal.SIGKILL):
    """A run that got this signal when so many stages or more were done, but not all."""
    process = start(arguments, out)
    while stages_done(out) < stages:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(signal_)
    _, errors = process.communicate(timeout=60)
    assert not (out / "manifest.json").exists()
    return process.returncode, errors


@pytest.mark.parametrize("stages", [1, 5])
def test_killed_in_a_layer_it_goes_on_there(slow, tmp_path, stages):
    arguments, whole, _ = slow
    out = tmp_path / "t"
    killed_after(arguments, out, stages)
    done = stages_done(out)
    assert stages <= done < 12
    result = succeed(*arguments, "-o", out, "--resume", "--residency", "stream")
    assert report(result)[1] == 12 - done
    assert contents(out) == whole


@pytest.mark.parametrize("file", ["hidden", "spool"])
def test_scratch_files_that_were_cut_are_not_gone_on_with(slow, tmp_path, file):
    arguments, whole, _ = slow
    out = tmp_path / "t"
    killed_after(arguments, out, 3)
    path = out / f"scratch-1-of-1.{file}.tmp"
    os.truncate(path, path.stat().st_size // 2)
    result = succeed(*arguments, "-o", out, "--resume", "--residency", "stream")
    assert report(result)[1] == 12
    assert contents(out) == whole


def test_killed_with_a_tied_head(tmp_path):
    """The embedding is read for the first stage; one that goes on reads it for the last."""
    folder = random_checkpoint(tmp_path / "m", num_hidden_layers=10, num_experts=16, tie_word_embeddings=True)
    texts = write_documents(tmp_path / "x.jsonl", ["the routing of experts " * 4 for _ in range(100)])
    arguments = [folder, texts, "--batch-tokens", 60, *ONE]
    succeed(*arguments, "-o", tmp_path / "whole", "--residency", "all")
    killed_after(arguments, tmp_path / "t", 2)
    succeed(*arguments, "-o", tmp_path / "t", "--resume", "--residency", "stream")
    assert contents(tmp_path / "t") == contents(tmp_path / "whole")


def test_parts(slow, tmp_path):
    """Every part has scratch files of its own: it takes away those, and no others, when it is complete."""
    arguments, whole, _ = slow
    out = tmp_path / "t"
    process = start(arguments, out, "--shard", "1/2")
    while (done := stages_done(out, "1-of-2")) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.kill()
    process.communicate()
    done = stages_done(out, "1-of-2")
    succeed(*arguments, "-o", out, "--residency", "stream", "--shard", "2/2")
    assert {n for n in contents(out) if n.startswith("scratch")} == {n.replace("1-of-1", "1-of-2") for n in SCRATCH}
    result = succeed(*arguments, "-o", out, "--residency", "stream", "--shard", "1/2", "--resume")
    assert report(result)[1] == 12 - done
    assert contents(out) == whole


def test_random_kills(slow, tmp_path):
    arguments, whole, seconds = slow
    rng = random.Random(SEED)
    print("seed", SEED)
    for round in range(2):
        out = tmp_path / str(round)
        kills = 0
        while True:
            process = start(arguments, out, "--resume")
            try:
                process.wait(timeout=rng.uniform(0, seconds) if kills < 5 else 60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
            else:
                assert process.returncode == 0, process.communicate()
                break
        assert contents(out) == whole, f"round {round}, {kills} kills, seed {SEED}"


def test_interrupt(slow, tmp_path):
    arguments, whole, _ = slow
    out = tmp_path / "t"
    code, errors = killed_after([*arguments, "--quiet"], out, 4, signal.SIGINT)
    assert code == 130 and errors.count("\n") == 1 and re.search(r"interrupted after \d+ of 10 layers", errors), errors
    succeed(*arguments, "-o", out, "--resume", "--residency", "stream")
    assert contents(out) == whole


def test_one_residency_goes_on_where_the_other_stopped(slow, tmp_path):
    arguments, whole, _ = slow
    out = tmp_path / "t"
    killed_after(arguments, out, 3)
    process = subprocess.Popen(command(*arguments, "-o", out, "--quiet", "--resume", "--residency", "all"))
    while True:
        assert process.poll() is None
        try:
            if json.loads((out / "manifest.partial.json").read_text())["shards"]:
                break
        except FileNotFoundError:
            pass
        time.sleep(0.002)
    process.kill()
    process.wait()
    left = contents(out)
    assert not SCRATCH & left.keys()
    done = len(json.loads(left["manifest.partial.json"])["shards"])
    assert 0 < done < len([n for n in whole if n.startswith("shard")])
    killed_after([*arguments, "--resume"], out, 2)
    succeed(*arguments, "-o", out, "--resume", "--residency", "stream")
    assert contents(out) == whole


def test_resume_with_other_weights_is_refused(slow, tmp_path):
    arguments, whole, _ = slow
    model = tmp_path / "m"
    shutil.copytree(arguments[0], model, ignore=shutil.ignore_patterns("whole", "streamed"))
    arguments = [model, *arguments[1:]]
    out = tmp_path / "t"
    killed_after(arguments, out, 3)
    os.utime(model / "model.safetensors", ns=(1, 1))
    message = fail(1, *arguments, "-o", out, "--resume", "--residency", "stream")
    assert "scratch-1-of-1.json:files: the weights were written anew" in message
    (out / "scratch-1-of-1.json").write_text("{")
    assert "scratch-1-of-1.json" in fail(1, *arguments, "-o", out, "--resume", "--residency", "stream")
    (out / "scratch-1-of-1.json").unlink()  # begins again with the first layer
    succeed(*arguments, "-o", out, "--resume", "--residency", "stream")
    left = contents(out)
    assert {n: d for n, d in left.items() if n != "manifest.json"} == {n: d for n, d in whole.items() if n != "manifest.json"}


def test_nonfinite_values_stop_a_stream_in_their_layer(tiny, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(tiny, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.gate.weight"][3, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    result = both(folder, tmp_path, "--text", "the routing")
    assert "NaN or infinite" in result.stderr
    out = tmp_path / "t"
    arguments = [folder, "--text", "the routing", "-o", out, "--residency", "stream", *ONE]
    assert "--fail-on-nonfinite" in fail(1, *arguments, "--fail-on-nonfinite")
    assert stages_done(out) == 2
