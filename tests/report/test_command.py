# SPDX-License-Identifier: Apache-2.0
"""`moeroute report` and bad input: one line, the right exit code, nothing half-written. No browser."""
import copy
import json
import pathlib
import subprocess

import pytest

import make_results
from support import BINARY, report, written


@pytest.fixture(scope="session")
def full():
    return make_results.make()


def bad(results, output, code, *parts):
    output.write_text("the earlier report", encoding="utf-8")
    done = report(results, output)
    assert done.returncode == code, (done.returncode, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("moeroute: "), done.stderr
    for part in parts:
        assert part in lines[0], (part, lines[0])
    assert output.read_text(encoding="utf-8") == "the earlier report", "a failed run leaves what was there"
    assert sorted(path.suffix for path in output.parent.iterdir() if path.stem.startswith(output.stem)) in ([".html"],
        [".html", ".json"])


@pytest.mark.parametrize("name", ["missing", "folder without results"])
def test_missing_input(tmp_path, name):
    (tmp_path / "folder without results").mkdir()
    bad(tmp_path / name, tmp_path / "report.html", 3, name, "No such file")


@pytest.mark.parametrize("content, place", [
    (b"", "byte"), (b"{\"schema\": \"moeroute.results\"", "byte"), (b"{\"schema\": \"\xff\xfe\"}",
        "byte"), (b"[" * 1_000_000, "nested deeper"),
    (b"[" * 100 + b"]" * 100, "nested deeper"), (b"{\"a\": 1e999}", "out of range"), (b"[]",
        "object is expected"), (b"{}", "\"schema\" is missing"),
    (b"{\"schema\": \"other\"}", "/schema: this is not a moeroute results file"), (b"\x00", "byte"),
], ids=["empty", "cut", "utf-8", "deep", "deep closed", "overflow", "array", "no schema", "other schema", "nul"])
def test_bytes_that_are_not_results(tmp_path, content, place):
    path = tmp_path / "results.json"
    path.write_bytes(content)
    bad(path, tmp_path / "report.html", 1, "results.json", place)


def test_cut_at_any_place_is_refused(full, tmp_path):
    whole = json.dumps(full).encode()
    path = tmp_path / "results.json"
    for length in range(1, len(whole), len(whole) // 12):
        path.write_bytes(whole[:length])
        bad(path, tmp_path / "report.html", 1, f"byte {length + 1}")


def set_at(path, value):
    def change(results):
        *parents, last = path
        for key in parents:
            results = results[key]
        if value is KeyError:
            del results[last]
        else:
            results[last] = value
    return change


@pytest.mark.parametrize("path, value, parts", [
    (["schema_version"], 2, ["/schema_version", "version 2", "use a newer moeroute"]),
    (["schema_version"], "1", ["/schema_version", "count"]),
    (["trace"], KeyError, ["\"trace\" is missing"]),
    (["trace", "tokens"], -5, ["/trace/tokens", "-5"]),
    (["trace", "labels", 2, "name"], 7, ["/trace/labels/2/name", "text"]),
    (["layers"], {}, ["/layers", "array"]),
    (["layers", 3, "counts"], [1, 2, 3], ["/layers/3/counts", "3 values where there are 16 experts"]),
    (["layers", 3, "load_share", 4], "<b>", ["/layers/3/load_share/4", "a number is expected"]),
    (["layers", 3, "experts"], 2.5, ["/layers/3/experts", "2.5"]),
    (["layers", 2, "labels"], [], ["/layers/2/labels", "0 values where there are 6 labels"]),
    (["layers", 2, "labels", 1, "lift"], KeyError, ["/layers/2/labels/1", "\"lift\" is missing"]),
    (["documents", 0, "layers", 1, "ids"], [[0]], ["/documents/0/layers/1/ids", "tokens"]),
    (["documents", 0, "tokens", 3], None, ["/documents/0/tokens/3", "text", "null"]),
    (["lag_correlation", "load", "matrix"], [[0.1]], ["/lag_correlation/load/matrix",
        "1 values where there are 6 layers"]),
    (["effective_experts", "labels", 0, "value"], "many", ["/effective_experts/labels/0/value", "number"]),
    (["answers", 0], 42, ["/answers/0", "42"]),
])
def test_results_that_contradict_the_schema(full, tmp_path, path, value, parts):
    results = copy.deepcopy(full)
    set_at(path, value)(results)
    bad(results, tmp_path / "report.html", 1, "report.json", *parts)


def test_places_that_cannot_be_written(full, tmp_path):
    source = tmp_path / "results.json"
    source.write_text(json.dumps(full), encoding="utf-8")
    for output, reason in [(tmp_path / "no" / "report.html", "No such file"), (tmp_path, "Is a directory"),
        (pathlib.Path("/dev/null"), "not a regular file")]:
        done = report(source, output)
        assert done.returncode == 3 and reason in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert pathlib.Path("/dev/null").is_char_device()


def test_no_space_left(full, tmp_path):
    source = tmp_path / "results.json"
    source.write_text(json.dumps(full), encoding="utf-8")
    output = tmp_path / "report.html"
    # A limit on the size of files fails a write half way, as a full disk does, and needs no rights.
    done = subprocess.run(["bash", "-c", "trap '' XFSZ; ulimit -f 500; exec \"$@\"", "bash", BINARY, "report", source,
        "-o", output], capture_output=True, text=True)
    assert done.returncode == 3 and "File too large" in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_same_input_same_bytes(full, tmp_path):
    assert written(full, tmp_path / "a.html").read_bytes() == written(full, tmp_path / "b.html").read_bytes()
