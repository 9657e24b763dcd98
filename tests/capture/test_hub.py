# SPDX-License-Identifier: Apache-2.0
"""owner/name: the cache of huggingface_hub, and downloads into it from a server that may be broken or a liar."""
import ctypes
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import time

import pytest
from huggingface_hub import snapshot_download, try_to_load_from_cache

from conftest import command, random_checkpoint, run, succeed
from hub_server import COMMIT, Hub

if "libcurl" not in subprocess.run(["ldd", command()[0]], capture_output=True, text=True).stdout:
    pytest.skip("moeroute-capture was built without libcurl", allow_module_level=True)

TOKEN = "hf_ThisTokenMustNotBeSeenAnywhere"
NEEDED = {"config.json", "generation_config.json", "tokenizer.json", "model.safetensors"}
MODEL = "owner/name"
CAPTURE = ["--text", "the routing", "--threads", 1]


@pytest.fixture(scope="module")
def files(tiny):
    """A repository: the model, and what no run needs."""
    needless = {"pytorch_model.bin": b"pickle", "modeling_evil.py": b"print('ran')", "README.md": b"# model",
                "original/model.safetensors": b"other weights", "vocab.json": b"{}"}
    return {p.name: p.read_bytes() for p in tiny.iterdir()} | needless


@pytest.fixture
def hub(files):
    hub = Hub(files)
    yield hub
    hub.close()


class User:
    """Somebody's home with a cache, who runs the program against a hub."""

    def __init__(self, home, hub):
        self.home, self.hub, self.outputs = home, hub, ""
        self.cache = home / "hub"
        self.environment = {k: v for k, v in os.environ.items()
                            if not k.startswith("HF_") and not k.lower().endswith("_proxy")}
        self.environment |= {"HF_HOME": str(home), "HF_ENDPOINT": hub.url, "HF_HUB_DOWNLOAD_TIMEOUT": "10"}

    def run(self, *arguments, **more):
        result = run(*arguments, env=self.environment | more)
        self.outputs += result.stdout + result.stderr
        return result

    def succeed(self, *arguments, **more):
        result = self.run(*arguments, **more)
        assert result.returncode == 0, result.stderr
        return result

    def plan(self, model=MODEL, **more):
        """The quickest run: needs config.json and takes the other small files with it."""
        return self.succeed(model, "--plan", **more)

    def fail(self, *arguments, code=3, **more):
        result = self.run(*(arguments or (MODEL, "--plan")), "--quiet", **more)
        lines = result.stderr.splitlines()
        assert (result.returncode, len(lines), result.stdout) == (code, 1, ""), (result.returncode, result.stderr)
        assert lines[0].startswith("moeroute: ")
        return lines[0]

    @property
    def folder(self):
        return self.cache / "models--owner--name"

    @property
    def snapshot(self):
        return self.folder / "snapshots" / COMMIT


@pytest.fixture
def user(tmp_path, hub):
    return User(tmp_path / "home", hub)


def once(action):
    """A behaviour of the first request alone."""
    return lambda handler, data, earlier: action(handler, data) if earlier == 0 else False


def layout(folder):
    """Everything below a folder: links as they are, files by content."""
    return {str(p.relative_to(folder)): os.readlink(p) if p.is_symlink() else p.read_bytes()
            for p in sorted(folder.rglob("*")) if p.is_symlink() or p.is_file()}


# The way it should go -------------------------------------------------------------------------------------------------

def test_the_same_trace_as_from_the_folder(tiny, hub, user, tmp_path):
    result = user.succeed(MODEL, *CAPTURE, "-o", tmp_path / "t")
    size = sum(len(hub.files[name]) for name in NEEDED)
    assert f"fetching {len(NEEDED)} files of owner/name, {size / 1e3:.1f} kB, from {hub.url} into {user.folder}" in result.stderr
    succeed(tiny, *CAPTURE, "-o", tmp_path / "u")
    shard = "shard-00000.safetensors"
    assert (tmp_path / "t" / shard).read_bytes() == (tmp_path / "u" / shard).read_bytes()
    assert json.loads((tmp_path / "t/manifest.json").read_text())["model"]["name"] == MODEL
    assert not any(hub.asked(name) for name in set(hub.files) - NEEDED), "nothing that is not needed"
    # And from now on nobody is asked.
    asked = len(hub.requests)
    result = user.succeed(MODEL, *CAPTURE, "-o", tmp_path / "v", "--offline")
    assert len(hub.requests) == asked and "fetching" not in result.stderr


def test_huggingface_hub_writes_and_reads_the_same(hub, user, tmp_path):
    """The library downloads from the same server; its cache and ours are the same files and links."""
    user.succeed(MODEL, *CAPTURE, "-o", tmp_path / "t")
    script = ("import sys, huggingface_hub as h\n"
              "h.snapshot_download('owner/name', cache_dir=sys.argv[1], allow_patterns=sys.argv[2:])")
    subprocess.run([sys.executable, "-c", script, tmp_path / "theirs", *sorted(NEEDED)], check=True, capture_output=True,
                   env=user.environment | {"HF_HUB_DISABLE_XET": "1"})
    ours, theirs = (layout(c / "models--owner--name") for c in (user.cache, tmp_path / "theirs"))
    assert ours == {name: content for name, content in theirs.items() if not name.startswith("trees/")}
    assert len([name for name in ours if name.startswith("blobs/")]) == len(NEEDED)
    found = snapshot_download(MODEL, cache_dir=user.cache, local_files_only=True)
    assert pathlib.Path(found) == user.snapshot
    for name in NEEDED:
        assert try_to_load_from_cache(MODEL, name, cache_dir=user.cache) == str(user.snapshot / name)
    # What the library downloaded is found by us.
    asked = len(hub.requests)
    user.succeed(MODEL, *CAPTURE, "-o", tmp_path / "u", HF_HUB_CACHE=str(tmp_path / "theirs"))
    assert len(hub.requests) == asked


def test_shards(tmp_path):
    folder = random_checkpoint(tmp_path / "m", save={"max_shard_size": "40KB"})
    needless = {"other.safetensors": b"x" * 1000, "consolidated.safetensors": b"y"}
    hub = Hub({p.name: p.read_bytes() for p in folder.iterdir()} | needless)
    user = User(tmp_path / "home", hub)
    user.succeed(MODEL, *CAPTURE, "-o", tmp_path / "t")
    shards = {n for n in hub.files if n.startswith("model-")}
    assert len(shards) > 2 and all(hub.asked(n) for n in shards)
    assert not hub.asked("other.safetensors") and not hub.asked("consolidated.safetensors")
    # A shard goes missing: it alone is fetched again.
    lost = sorted(shards)[1]
    os.remove(user.snapshot.parent / os.readlink(user.snapshot / lost).removeprefix("../"))
    before = len(hub.requests)
    user.succeed(MODEL, *CAPTURE, "-o", tmp_path / "u")
    assert [path for _, path, _ in hub.requests[before + 1:]] == [f"/owner/name/resolve/{COMMIT}/{lost}"]
    hub.close()


def test_a_plan_needs_no_weights(hub, user):
    user.plan()
    assert not hub.asked("model.safetensors") and (user.snapshot / "config.json").is_symlink()
    assert "lacks model.safetensors" in user.fail(MODEL, *CAPTURE, "-o", user.home / "t", "--offline")


def test_revisions(hub, user):
    hub.revisions |= {"v1.0", "refs/pr/7"}
    for revision in ("v1.0", "refs/pr/7", COMMIT):
        user.plan(f"{MODEL}@{revision}")
    assert {n: c for n, c in layout(user.folder).items() if n.startswith("refs/")} == {
        "refs/v1.0": COMMIT.encode(), "refs/refs/pr/7": COMMIT.encode()}
    assert len(hub.asked("config.json")) == 1
    assert "404: no such model, revision or file" in user.fail(f"{MODEL}@v2", "--plan")
    hub.commit = "f" * 40
    hub.revisions.add("1" * 40)
    assert "is not the commit that was asked for" in user.fail(f"{MODEL}@{'1' * 40}", "--plan")


@pytest.mark.parametrize("name", ["owner/../name", "owner/name@../x", "owner/name@/x", "owner/na me", "owner/name@",
                                  "owner/.name", "a--b/c", "owner/name@x?y"])
def test_what_is_no_name_is_not_asked_for(hub, user, name):
    assert "no such model folder" in user.fail(name, "--plan")
    assert not hub.requests and not user.cache.exists()


def test_offline(hub, user):
    assert "nothing is fetched because of --offline or HF_HUB_OFFLINE" in user.fail(MODEL, "--plan", "--offline")
    for name, value in {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "yes"}.items():
        message = user.fail(**{name: value})
        assert "not in the Hugging Face cache" in message and "models--owner--name" in message
    assert not hub.requests and not user.cache.exists()


def test_token_ids_need_no_tokenizer(hub, user, tmp_path):
    del hub.files["tokenizer.json"]
    assert "has no tokenizer.json of it; use --tokenizer FOLDER or --token-ids" in user.fail(MODEL, "--text", "x", "--tokenize")
    (tmp_path / "ids.jsonl").write_text('{"ids": [1, 2, 3]}\n')
    user.succeed(MODEL, tmp_path / "ids.jsonl", "--token-ids", "ids", "-o", tmp_path / "t", "--threads", 1)


def test_pickles_are_never_fetched(hub, user, tmp_path):
    del hub.files["model.safetensors"]
    message = user.fail(MODEL, *CAPTURE, "-o", tmp_path / "t")
    assert "no safetensors of it, and no other kind of weights is ever opened" in message
    assert not hub.asked("pytorch_model.bin")


def test_a_mirror_that_lists_names_only(hub, user):
    """Checksum and size come from the headers then, those of large files from the answer that redirects."""
    hub.cdn = Hub()
    hub.change_listing = lambda l: l | {"siblings": [{"rfilename": s["rfilename"]} for s in l["siblings"]]}
    user.succeed(MODEL, *CAPTURE, "-o", user.home / "t")
    assert [m for m, _ in hub.asked("model.safetensors")] == ["HEAD", "GET"]
    assert hub.tag("model.safetensors") in os.readlink(user.snapshot / "model.safetensors")
    assert hub.cdn.asked("model.safetensors") and all(m == "GET" for m, _ in hub.cdn.asked("model.safetensors"))
    hub.cdn.close()


def test_the_weights_appear_last(files, tmp_path):
    """Who finds the weights in a snapshot may take the rest for there."""
    folder = random_checkpoint(tmp_path / "m", save={"max_shard_size": "40KB"})
    hub = Hub({p.name: p.read_bytes() for p in folder.iterdir()})
    user = User(tmp_path / "home", hub)
    user.snapshot.mkdir(parents=True)
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init()
    assert libc.inotify_add_watch(watch, os.fsencode(user.snapshot), 0x100) >= 0  # IN_CREATE
    user.succeed(MODEL, *CAPTURE, "-o", tmp_path / "t")
    events, names = os.read(watch, 1 << 16), []
    os.close(watch)
    while events:
        length, = struct.unpack_from("I", events, 12)
        names.append(events[16:16 + length].rstrip(b"\0").decode())
        events = events[16 + length:]
    shards = {n for n in hub.files if n.startswith("model-")}
    assert names[-1] == "model.safetensors.index.json" and set(names[-1 - len(shards):-1]) == shards
    assert set(names[:-1 - len(shards)]) == {"config.json", "generation_config.json", "tokenizer.json"}
    hub.close()


# Broken transfers -----------------------------------------------------------------------------------------------------

def send_part(handler, data, begin, count):
    """Promises everything from `begin` on, sends `count` bytes of it and hangs up."""
    handler.send_response(206 if begin else 200)
    if begin:
        handler.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
    handler.send_header("Content-Length", str(len(data) - begin))
    handler.end_headers()
    handler.wfile.write(data[begin:begin + count])
    return handler.drop()


def begin_of(headers):
    return int(headers["Range"].removeprefix("bytes=").removesuffix("-")) if "Range" in headers else 0


def test_dropped_connections(hub, user, tmp_path):
    """Hangs up every 30,000 bytes; every request goes on where the last one ended."""
    hub.behave["model.safetensors"] = lambda h, data, n: send_part(h, data, begin_of(h.headers), 30_000) if n % 3 else h.drop()
    size = len(hub.files["model.safetensors"])
    assert size > 70_000
    user.succeed(MODEL, *CAPTURE, "-o", tmp_path / "t")
    begins = [begin_of(headers) for _, headers in hub.asked("model.safetensors")]
    assert begins == sorted(begins) and {0, 30_000, 60_000} <= set(begins)
    assert not list(user.cache.rglob("*.incomplete"))


def test_given_up_and_continued(hub, user, tmp_path):
    """Five tries that bring nothing are the end; what came is kept, and the next run asks for the rest alone."""
    data = hub.files["model.safetensors"]
    hub.behave["model.safetensors"] = lambda h, d, n: send_part(h, d, 0, 50_000) if n == 0 else h.reply(503, Retry_After=0)
    message = user.fail(MODEL, *CAPTURE, "-o", tmp_path / "t")
    assert "model.safetensors: " in message and f"answers 503 after 50000 of {len(data)} bytes; tried 5 times, " in message
    assert message.endswith("the same command goes on from there")
    partial, = user.cache.rglob("*.incomplete")
    assert partial.read_bytes() == data[:50_000]
    assert not (user.snapshot / "model.safetensors").exists() and not (user.folder / "refs").exists()
    hub.behave.clear()
    before = len(hub.asked("model.safetensors"))
    result = user.succeed(MODEL, *CAPTURE, "-o", tmp_path / "t")
    assert "(50.0 kB are there)" in result.stderr
    assert [begin_of(h) for _, h in hub.asked("model.safetensors")[before:]] == [50_000]
    assert (user.snapshot / "model.safetensors").read_bytes() == data


def test_no_ranges(hub, user, tmp_path):
    """A server that sends everything again is no trouble."""
    data = hub.files["model.safetensors"]
    hub.behave["model.safetensors"] = lambda h, d, n: send_part(h, d, 0, 40_000) if n == 0 else h.reply(200, d)
    user.succeed(MODEL, *CAPTURE, "-o", tmp_path / "t")
    assert (user.snapshot / "model.safetensors").read_bytes() == data


def test_range_refused(hub, user, tmp_path):
    hub.behave["model.safetensors"] = lambda h, d, n: send_part(h, d, 0, 40_000) if n == 0 else n == 1 and h.reply(416)
    user.succeed(MODEL, *CAPTURE, "-o", tmp_path / "t")
    assert [begin_of(h) for _, h in hub.asked("model.safetensors")] == [0, 40_000, 0]


def test_a_damaged_beginning_is_fetched_again(hub, user, tmp_path):
    blob = user.folder / "blobs" / hub.tag("model.safetensors")
    blob.parent.mkdir(parents=True)
    data = hub.files["model.safetensors"]
    blob.with_name(blob.name + ".incomplete").write_bytes(b"x" + data[1:1000])
    user.succeed(MODEL, *CAPTURE, "-o", tmp_path / "t")
    assert [begin_of(h) for _, h in hub.asked("model.safetensors")] == [1000, 0]
    assert blob.read_bytes() == data


def test_too_long_a_beginning(hub, user, tmp_path):
    blob = user.folder / "blobs" / hub.tag("config.json")
    blob.parent.mkdir(parents=True)
    blob.with_name(blob.name + ".incomplete").write_bytes(hub.files["config.json"] + b"more")
    user.plan()
    assert blob.read_bytes() == hub.files["config.json"]


def test_statuses_that_pass(hub, user):
    hub.behave["api"] = lambda h, d, n: n < 2 and h.reply((429, 500)[n], Retry_After=0)
    hub.behave["config.json"] = once(lambda h, d: h.reply(503, Retry_After=0))
    user.plan()
    assert len(hub.asked("config.json")) == 2


def test_the_server_says_how_long_to_wait(hub, user):
    times = []
    hub.behave["api"] = lambda h, d, n: times.append(time.monotonic()) or n < 2 and h.reply(503, Retry_After=1 - n)
    user.plan()
    # Of itself the program waits 0.5 s, and then 1 s.
    assert 0.9 < times[1] - times[0] and times[2] - times[1] < 0.9


def test_a_server_that_says_nothing(hub, user):
    hub.behave["config.json"] = once(lambda h, d: time.sleep(9) or h.drop())
    begin = time.monotonic()
    user.plan(HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert time.monotonic() - begin < 8 and len(hub.asked("config.json")) == 2


@pytest.mark.parametrize("status, words", [
    (401, "401: no such model, or one that needs a token; check the name, and set HF_TOKEN"),
    (403, "403: this account may not read it; accept its terms"), (404, "404: no such model, revision or file"),
    (410, "answers 410"), (204, "answers 204")])
def test_statuses_that_stay(hub, user, status, words):
    hub.behave["api"] = lambda h, d, n: h.reply(status, b"Authorization: " + str(h.headers["Authorization"]).encode())
    assert words in user.fail(HF_TOKEN=TOKEN)
    hub.behave = {"config.json": hub.behave["api"]}
    message = user.fail(HF_TOKEN=TOKEN)
    assert words in message and "config.json: " in message
    assert len(hub.requests) == 3 and not list(user.cache.rglob("snapshots")) and TOKEN not in user.outputs


@pytest.mark.parametrize("status, words", [(429, "answers 429 (too many requests); tried 5 times"),
                                           (500, "answers 500; tried 5 times")])
def test_statuses_that_do_not_pass(hub, user, status, words):
    hub.behave["api"] = lambda h, d, n: h.reply(status, Retry_After=0)
    assert words in user.fail()
    assert len(hub.requests) == 5


def test_nobody_there(hub, user):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        message = user.fail(HF_ENDPOINT=f"http://127.0.0.1:{s.getsockname()[1]}")
    assert "owner/name: " in message and "tried 5 times" in message


def test_interrupted(hub, user, tmp_path):
    def slowly(handler, data, n):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        for i in range(0, len(data), 2000):
            handler.wfile.write(data[i:i + 2000])
            time.sleep(0.1)
        return True
    hub.behave["model.safetensors"] = slowly
    arguments = command(MODEL, *CAPTURE, "-o", tmp_path / "t", "--quiet")
    process = subprocess.Popen(arguments, env=user.environment, stderr=subprocess.PIPE, text=True)
    while not any(p.stat().st_size for p in user.cache.rglob(hub.tag("model.safetensors") + ".incomplete")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert process.stderr.read() == "moeroute: interrupted; the same command goes on where the download stopped\n"
    hub.behave.clear()
    user.succeed(*arguments[1:])
    assert begin_of(hub.asked("model.safetensors")[-1][1]) > 0


def test_two_at_once(hub, user, tmp_path):
    hub.behave["model.safetensors"] = lambda h, d, n: time.sleep(0.5)
    both = [subprocess.Popen(command(MODEL, *CAPTURE, "-o", tmp_path / name, "--quiet"), env=user.environment)
            for name in "tu"]
    assert [p.wait(120) for p in both] == [0, 0]
    assert len(hub.asked("model.safetensors")) == 1


# Liars ----------------------------------------------------------------------------------------------------------------

def endless(handler, data, n):
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for _ in range(100_000):
        handler.wfile.write(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
    return handler.drop()


def stating(length, status=200, **headers):
    return lambda h, data, n: h.reply(status, data + b"x" * 1000, Content_Length=len(data) + length, **headers)


LIES = {
    "longer": (stating(10), "the hub states {size} bytes, the server {more}"),
    "shorter": (lambda h, d, n: h.reply(200, d[:-10]), "the hub states {size} bytes, the server {less}"),
    "endless": (endless, "the server sends more than the {size} bytes that the hub states"),
    "other bytes": (lambda h, d, n: h.reply(200, b"x" * len(d)), "has another checksum than the hub states"),
    "one byte": (lambda h, d, n: h.reply(200, d[:-1] + bytes([d[-1] ^ 1])), "has another checksum than the hub states"),
}


@pytest.mark.parametrize("lie, name", [*((lie, "model.safetensors") for lie in LIES), ("endless", "config.json"),
                                       ("one byte", "config.json")])
def test_lies_about_a_file(hub, user, tmp_path, name, lie):
    behaviour, words = LIES[lie]
    hub.behave[name] = behaviour
    message = user.fail(MODEL, *CAPTURE, "-o", tmp_path / "t")
    size = len(hub.files[name])
    assert f"owner/name: {name}: " + words.format(size=size, more=size + 10, less=size - 10) in message
    assert not (user.snapshot / name).exists() and not (user.folder / "blobs" / hub.tag(name)).exists()
    assert all(p.stat().st_size == 0 for p in user.cache.rglob("*.incomplete")), "nothing of it is taken for a beginning"
    assert not (tmp_path / "t").exists()
    if lie == "one byte":
        hub.behave.clear()
        user.succeed(MODEL, *CAPTURE, "-o", tmp_path / "t")


def test_another_part_than_asked_for(hub, user, tmp_path):
    hub.behave["model.safetensors"] = lambda h, d, n: send_part(h, d, 30_000 if n else 0, 40_000)
    assert "another part than the one asked for" in user.fail(MODEL, *CAPTURE, "-o", tmp_path / "t")


@pytest.mark.parametrize("path", ["../evil.safetensors", "/etc/evil.json", "a/../../evil", "a//b", "", "./config.json",
                                  "a\\..\\b", "a\nb"])
def test_paths_that_lead_out(hub, user, path):
    hub.change_listing = lambda l: l | {"siblings": l["siblings"] + [{"rfilename": path, "size": 1, "blobId": "0" * 40}]}
    assert "is a path that leads out of the repository" in user.fail()
    assert len(hub.requests) == 1 and not user.cache.exists()


@pytest.mark.parametrize("shard", ["../../../evil.safetensors", "/evil.safetensors", "evil.bin", "", "a/b.safetensors"])
def test_shards_that_lead_out(hub, user, tmp_path, shard):
    index = {"weight_map": {"model.norm.weight": shard}}
    hub.files["model.safetensors.index.json"] = json.dumps(index).encode()
    del hub.files["model.safetensors"]
    assert "names a file that is no shard of weights" in user.fail(MODEL, *CAPTURE, "-o", tmp_path / "t", code=1)
    if shard:
        return
    hub.files["model.safetensors.index.json"] = b'{"weight_map": {"model.norm.weight": "model-9.safetensors"}}'
    assert "names model-9.safetensors, which the hub does not have" in user.fail(MODEL, *CAPTURE, "-o", tmp_path / "t")


@pytest.mark.parametrize("change, words", [
    ({"sha": "../../../evil"}, "sha: is not a commit"), ({"sha": None}, "sha: expected a string"),
    ({"siblings": "config.json"}, "siblings: expected an array"), ({"siblings": [{}]}, 'has no "rfilename"'),
    ({"siblings": [{"rfilename": "config.json", "blobId": "../x", "size": 1}]}, "blobId: is not a git object id"),
    ({"siblings": [{"rfilename": "config.json", "blobId": "0" * 40, "size": -1}]}, "size: expected an integer from 0"),
    ({"siblings": [{"rfilename": "config.json", "lfs": {"sha256": "..", "size": 1}}]}, "sha256: is not a SHA-256"),
    ({"siblings": [{"rfilename": "config.json", "blobId": "0" * 40, "size": 1 << 49}]}, "needs 562950.0 GB, the disk of"),
    ({"siblings": [{"rfilename": "config.json", "blobId": "0" * 40, "size": 1}] * 2}, "stands there twice"),
    ({"siblings": [{"rfilename": f"{i}"} for i in range(10_001)]}, "more files than any model has"),
    ({"siblings": []}, "has no config.json of it"),
])
def test_lies_in_the_listing(hub, user, change, words):
    hub.change_listing = lambda l: l | change
    assert words in user.fail()
    assert not list(user.cache.rglob("snapshots"))


@pytest.mark.parametrize("body, words", [(b"<html>", "is not valid JSON"), (b"[" * 100_000, "nested more than 64 deep"),
                                         (b'{"sha": 1e999}', "a number beyond all bounds"), (b"", "is not valid JSON")])
def test_answers_of_another_kind(hub, user, body, words):
    hub.behave["api"] = lambda h, d, n: h.reply(200, body)
    message = user.fail()
    assert "not the answer of a Hugging Face hub" in message and words in message


def test_an_endless_listing(hub, user):
    hub.behave["api"] = endless
    assert "the answer does not end" in user.fail()


def test_redirections(hub, user, tmp_path):
    hub.behave["api"] = lambda h, d, n: h.reply(307, Location=h.path + "x")
    assert "redirects without end" in user.fail()
    for target in ("file:///etc/hostname", "ftp://127.0.0.1/x"):
        hub.behave = {"config.json": lambda h, d, n, t=target: h.reply(302, Location=t)}
        assert "nsupported protocol" in user.fail()
    # A model that was renamed.
    hub.behave = {"api": lambda h, d, n: "/name" in h.path and h.reply(307, Location=h.path.replace("/name", "/renamed"))}
    user.plan()


# The token ------------------------------------------------------------------------------------------------------------

def assert_secret(user, *folders):
    assert TOKEN not in user.outputs
    for folder in folders:
        for path in folder.rglob("*"):
            assert not path.is_file() or path.name == "token" or TOKEN.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("source", ["variable", "file", "path", "none"])
def test_the_token_goes_to_the_hub_alone(hub, user, tmp_path, source):
    hub.cdn = Hub()
    user.home.mkdir()
    more = {"HF_TOKEN": TOKEN + "\n"} if source == "variable" else {}
    if source == "path":
        more["HF_TOKEN_PATH"] = str(tmp_path / "token")
    if source != "variable":
        (tmp_path / "token" if source == "path" else user.home / "token").write_text(f" {TOKEN}\n")
    if source == "none":
        more["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
    user.succeed(MODEL, *CAPTURE, "-o", tmp_path / "t", **more)
    sent = {headers.get("Authorization") for _, _, headers in hub.requests}
    assert sent == ({None} if source == "none" else {f"Bearer {TOKEN}"})
    assert hub.cdn.asked("model.safetensors")
    for _, path, headers in hub.cdn.requests:
        assert TOKEN not in path and all(TOKEN not in value for value in headers.values())
    assert_secret(user, tmp_path)
    hub.cdn.close()


def test_the_token_is_not_seen_when_things_fail(hub, user, tmp_path):
    def echo(handler, data, n):
        seen = str(handler.headers["Authorization"])
        return handler.reply(400 if n else 500, seen.encode(), X_Error_Message=seen, Retry_After=0)
    hub.behave["config.json"] = echo
    user.fail(HF_TOKEN=TOKEN)
    for token in (TOKEN + "\r\nX-Evil: 1", TOKEN + "é"):
        assert "the Hugging Face token holds a character that no token has" in user.fail(HF_TOKEN=token)
    for endpoint, words in ((f"http://user:{TOKEN}@127.0.0.1", "HF_ENDPOINT: holds a user name or password"),
                            (f"ftp://127.0.0.1/{TOKEN}", "HF_ENDPOINT: is not an http or https address"), ("?", "HF_ENDPOINT")):
        assert words in user.fail(HF_ENDPOINT=endpoint)
    assert_secret(user, tmp_path)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2"], ids=["port", "host"])
def test_an_endpoint_that_redirects_elsewhere(hub, user, tmp_path, address):
    """Even the listing: the token does not follow to another port, nor to the same port of another host."""
    other = Hub(hub.files, address=(address, 0 if address == "127.0.0.1" else hub.server.server_port))
    hub.behave["api"] = lambda h, d, n: h.reply(302, Location=other.url + h.path)
    user.plan(HF_TOKEN=TOKEN)
    assert other.requests and all("Authorization" not in headers for _, _, headers in other.requests)
    assert_secret(user, tmp_path)
    other.close()


def test_signed_addresses_are_not_printed(hub, user, tmp_path):
    hub.cdn = Hub()
    hub.cdn.behave["blob/model.safetensors"] = lambda h, d, n: h.reply(404)
    assert "signature" not in user.fail(MODEL, *CAPTURE, "-o", tmp_path / "t")
    hub.cdn.close()


def test_sha1_around_the_padding(hub, user):
    """Git's checksum of contents that end where a block or its last word does."""
    names = ["generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
    for name, total in zip(names, (55, 56, 63, 64)):
        hub.files[name] = b"x" * (total - len("blob 45:"))
    user.plan()
    assert len([n for n in layout(user.folder) if n.startswith("blobs/")]) == 5


def test_over_tls(files, tmp_path):
    """A hub whose certificate nobody vouches for learns nothing; one that the user trusts is as good as any."""
    certificate = tmp_path / "certificate.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext",
                    "subjectAltName=IP:127.0.0.1", "-keyout", certificate, "-out", tmp_path / "public.pem"],
                   check=True, capture_output=True)
    public = (tmp_path / "public.pem").read_text()
    certificate.write_text(certificate.read_text() + public)
    hub = Hub(files, certificate=certificate)
    user = User(tmp_path / "home", hub)
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        user.environment.pop(name, None)
    assert "certificate" in (message := user.fail(HF_TOKEN=TOKEN)) and "SSL_CERT_FILE names" in message
    assert "nothing-here.pem" in user.fail(SSL_CERT_FILE=str(tmp_path / "nothing-here.pem"), HF_TOKEN=TOKEN)
    # The name that the certificate is for is not this one.
    other = {"HF_ENDPOINT": hub.url.replace("127.0.0.1", "localhost"), "SSL_CERT_FILE": str(tmp_path / "public.pem")}
    assert "SSL_CERT_FILE names" in user.fail(HF_TOKEN=TOKEN, **other)
    assert not hub.requests
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        user.home = tmp_path / name
        user.plan(HF_TOKEN=TOKEN, HF_HOME=str(user.home), **{name: str(tmp_path / "public.pem")})
    assert {headers["Authorization"] for _, _, headers in hub.requests} == {f"Bearer {TOKEN}"}
    # What is not encrypted is not asked for because something encrypted says so.
    plain = Hub(files)
    hub.behave["api"] = lambda h, d, n: h.reply(302, Location=plain.url + h.path)
    message = user.fail(HF_HOME=str(tmp_path / "last"), SSL_CERT_FILE=str(tmp_path / "public.pem"), HF_TOKEN=TOKEN)
    assert "redirects from https to an address that is not safe" in message and not plain.requests
    assert_secret(user, tmp_path)
    plain.close()
    hub.close()
