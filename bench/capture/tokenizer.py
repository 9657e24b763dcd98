# SPDX-License-Identifier: Apache-2.0
"""Speed of moeroute's tokenizer against Hugging Face tokenizers, both on one core, both from the same tokenizer.json.

    bench/capture/tokenizer.py TOKENIZER_FOLDER... --texts FILE.jsonl... [--line MB] [--rounds N]

Nothing is reported before the ids agree. The sides take turns; the smallest processor time of each counts, which on one thread
is the time on a quiet machine. `--line` puts the texts of a file into one document of so many MB on a single line."""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import numpy as np
import tokenizers

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def texts_of(path, line_mb):
    with open(path, encoding="utf-8") as file:
        records = map(json.loads, file)
        texts = [t for t in (r.get("text", r.get("code")) for r in records) if t]
    if not line_mb:
        return texts
    line, size = [], 0
    while size < line_mb * 1e6:
        for t in texts:
            t = " ".join(t.split("\n"))
            line.append(t)
            size += len(t.encode()) + 1
            if size >= line_mb * 1e6:
                break
    return [" ".join(line)]


def hugging_face(tokenizer, texts):
    start = time.process_time()
    ids = [tokenizer.encode(t, add_special_tokens=False).ids for t in texts]
    return time.process_time() - start, ids


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=pathlib.Path)
    parser.add_argument("--texts", nargs="+", type=pathlib.Path, required=True)
    parser.add_argument("--line", type=float, default=0, metavar="MB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--binary", type=pathlib.Path, default=REPOSITORY / "build/release/bin/bench/tokenizer_speed")
    arguments = parser.parse_args()
    if not arguments.binary.exists():
        sys.exit(f"{arguments.binary} is missing; build with: cmake --build --preset release --target tokenizer_speed")
    print(f"{'tokenizer':14} {'text':16} {'MB':>6} {'MB/s':>7} {'HF MB/s':>8} {'ratio':>6}")
    for folder in arguments.folders:
        theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        with tempfile.TemporaryDirectory() as work:
            work = pathlib.Path(work)
            # The time is that of the text alone: no template, no begin token.
            data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
            data["post_processor"] = None
            (work / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
            for path in arguments.texts:
                texts = texts_of(path, arguments.line)
                (work / "texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
                ours, hf = [], []
                for _ in range(arguments.rounds):
                    run = subprocess.run([arguments.binary, work, work / "texts.jsonl", "1", work / "ids.bin"], check=True,
                                         capture_output=True, text=True)
                    result = json.loads(run.stdout)
                    ours.append(result["seconds"][0])
                    seconds, ids = hugging_face(theirs, texts)
                    hf.append(seconds)
                flat = np.concatenate([np.array(i, np.int32) for i in ids])
                if not np.array_equal(flat, np.fromfile(work / "ids.bin", np.int32)):
                    sys.exit(f"{folder.name}, {path.name}: the ids differ")
                mb = result["bytes"] / 1e6
                print(f"{folder.name:14} {path.stem:16} {mb:6.1f} {mb / min(ours):7.1f} {mb / min(hf):8.1f} "
                      f"{min(hf) / min(ours):6.1f}", flush=True)


if __name__ == "__main__":
    main()
