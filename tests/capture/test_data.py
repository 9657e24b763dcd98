# SPDX-License-Identifier: Apache-2.0
"""Tables, packed files, standard input and --data: the documents that come out, and the words for what is wrong."""
import csv
import gzip
import io
import json
import os
import random
import subprocess
import time

import pytest

from conftest import Trace, command, fail, succeed

ONE = ["--threads", 1]
SEED = int(os.environ.get("MOEROUTE_TEST_SEED", random.randrange(1 << 30)))


def documents(model, *arguments, **options):
    """id and text of every document, from --tokenize: ASCII texts come back whole out of their pieces."""
    lines = succeed(model, *arguments, "--tokenize", **options).stdout.split("\n")[:-1]
    return [(d["id"], "".join(d["pieces"])) for d in map(json.loads, lines)]


def test_tables(tiny, tmp_path):
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfid,text,kind,note\r\nx,"one, ""two""\r\nthree",k,\r\n\r\n7,four,m,n\r\n')
    (tmp_path / "b.tsv").write_text('body\tlang\nthe text, with a comma\tde\n')
    succeed(tiny, tmp_path / "a.csv", "-o", tmp_path / "t", *ONE)
    d = Trace(tmp_path / "t").documents
    assert [(x["id"], x["source"], x["labels"]) for x in d] == [
        ("x", "a.csv:2", {"kind": "k"}), ("7", "a.csv:5", {"kind": "m", "note": "n"})]
    assert "".join(d[0]["pieces"]) == 'one, "two"\r\nthree'
    succeed(tiny, tmp_path / "b.tsv", "--text-field", "body", "--label-field", "lang", "-o", tmp_path / "u", *ONE)
    d = Trace(tmp_path / "u").documents[0]
    assert (d["id"], d["labels"], "".join(d["pieces"])) == ("b:2", {"label": "de"}, "the text, with a comma")


def test_random_tables_as_python_writes_them(tiny, tmp_path):
    print("seed", SEED)
    rng = random.Random(SEED)
    for separator, kind in (",", "csv"), ("\t", "tsv"):
        texts = ["".join(rng.choice('ab",\t\n\r x') for _ in range(rng.randrange(0, 9))) + "." for _ in range(300)]
        out = io.StringIO()
        # A field that ends in \r unquoted would lose it; Python quotes it.
        csv.writer(out, delimiter=separator, lineterminator=rng.choice(["\n", "\r\n"])).writerows(
            [["n", "text", "z"], *([i, t, '"' * (i % 3)] for i, t in enumerate(texts))])
        (tmp_path / f"x.{kind}").write_text(out.getvalue(), newline="")
        assert [t for _, t in documents(tiny, tmp_path / f"x.{kind}")] == texts


def test_packed_files_and_standard_input(tiny, tmp_path):
    line = b'{"text": "the routing", "id": "a"}\n'
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(line))
    (tmp_path / "y.csv.gz").write_bytes(gzip.compress(b"text\n") + gzip.compress(b"of the experts\n"))
    (tmp_path / "z.txt.gz").write_bytes(gzip.compress(b"plain"))
    (tmp_path / "w").write_bytes(b"text\ntabular\n")
    expected = [("a", "the routing"), ("y:2", "of the experts"), ("z.txt.gz", "plain"), ("w:2", "tabular")]
    found = documents(tiny, tmp_path / "x.jsonl.gz", tmp_path / "y.csv.gz", tmp_path / "z.txt.gz", "--data", f"tsv:{tmp_path / 'w'}")
    assert found == expected
    for data in (line, gzip.compress(line)):
        result = subprocess.run(command(tiny, "-", "--tokenize"), input=data, capture_output=True, timeout=60)
        assert json.loads(result.stdout)["id"] == "a", result.stderr
    # A pipe that gives the signature in two pieces.
    process = subprocess.Popen(command(tiny, "-", "--tokenize"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    os.write(process.stdin.fileno(), gzip.compress(line)[:1])
    time.sleep(0.3)
    assert json.loads(process.communicate(gzip.compress(line)[1:])[0])["id"] == "a"
    result = subprocess.run(command(tiny, "--data", "text:-", "--tokenize"), input=gzip.compress(b"plain"), capture_output=True, timeout=60)
    assert json.loads(result.stdout)["id"] == "-", result.stderr


def test_documents_of_every_file_are_counted_alone(tiny, tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("text\n1\n2\n3\n")
    found = documents(tiny, "--text", "x", tmp_path / "a.csv", "--data", f"csv:{tmp_path / 'b.csv'}", "--max-docs", 2)
    assert [d for d, _ in found] == ["text-1", "a:2", "a:3", "b:2", "b:3"]


@pytest.mark.parametrize("name, content, code, words", [
    ("a.csv", b"a,b\n", 1, 'a.csv:1: has no column "text"; name it with --text-field'),
    ("a.csv", b"", 1, "a.csv:1: is empty; the first line names the columns"),
    ("a.csv", b"text,a,a\n", 1, 'a.csv:1: names the column "a" twice'),
    ("a.csv", b"text,a\nx,y\nz\n", 1, "a.csv:3: has 1 fields, the header has 2"),
    ("a.csv", b'text,a\n"x\ny",z\nb"c,d\n', 1, "a.csv:4: field 1 has a quote inside"),
    ("a.csv", b'text,a\n"x,y\n', 1, "a.csv:2: field 1 opens a quote that is never closed"),
    ("a.csv", b"text\n\"x\ny\"\n\xff\n", 1, "a.csv:byte 11: is not UTF-8"),
    ("a.csv", b'id,text\n1,x\n1,y\n', 1, 'a.csv:3: document id "1" was used before, at'),
    ("a.csv", b'id,text\n1,""\n', 1, "a.csv:2: the document is empty"),
    ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n')[:-3], 1, "a.jsonl.gz:byte 31: ends inside its gzip data: the file was cut off"),
    ("a.jsonl.gz", b'{"text": "x"}\n', 1, "a.jsonl.gz:byte 0: is not gzip data"),
    ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n{"no": 1}\n'), 1, 'a.jsonl.gz:2: has no field "text"'),
    ("a.json", b"[]", 2, "give its kind with --data"),
    ("a.parquet", b"PAR1....", 1, "is parquet, which is not read"),
    ("a.jsonl.zst", b"\x28\xb5\x2f\xfd....", 1, "is zstd, which is not read"),
])
def test_bad_files(tiny, tmp_path, name, content, code, words):
    (tmp_path / name).write_bytes(content)
    assert words in fail(code, tiny, tmp_path / name, "-o", tmp_path / "t", *ONE)
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("data, words", [
    ("jsonl", "expected KIND:FILE, where KIND is one of text, jsonl"), ("xml:FILE", "--data xml:"), ("jsonl:", "expected KIND:FILE")])
def test_bad_kinds(tiny, tmp_path, data, words):
    assert words in fail(2, tiny, "--data", data, "-o", tmp_path / "t", *ONE)
