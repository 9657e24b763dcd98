# SPDX-License-Identifier: Apache-2.0
"""Checks the answers, then times moeroute and its peers in turns: the smallest time of all rounds counts, on both sides.

    measure.py BINARIES ROUNDS PROTOTYPES|- timings.json [NAME,...]
"""
import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

here = pathlib.Path(__file__).parent
sys.path.insert(0, str(here / "peers"))

import prototypes  # noqa: E402

started = time.monotonic()


def say(text):
    print(f"bench: {time.monotonic() - started:4.0f} s  {text}", flush=True)


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"bench: {command[0]} failed: {done.stderr.strip() or done.returncode}")
    return done.stdout


class Smallest(dict):
    def put(self, key, value):
        self[key] = min(value, self.get(key, value))


def time_ours(binary, threads, ours, item_bytes):
    # Nothing is printed where no benchmark matches.
    text = run([binary, "--benchmark_format=json", "--benchmark_min_time=0.1", f"--benchmark_filter=/{threads}/real_time$"])
    for b in json.loads(text)["benchmarks"] if text.strip() else []:
        task, n, _ = b["name"].removesuffix("/real_time").rsplit("/", 2)
        key = task, int(n), threads
        ours.put(key, 1e9 / b["items_per_second"])
        if "bytes_per_second" in b:
            item_bytes[key] = b["bytes_per_second"] / b["items_per_second"]


def main(binaries, rounds, prototype_folder, output, only):
    import peer
    import threadpoolctl
    import torch

    names = sorted(p.name.removeprefix("bench_") for p in binaries.glob("bench_*"))
    if unknown := [n for n in only if n not in names]:
        raise SystemExit(f"bench: no benchmark is called {' or '.join(unknown)}; there are {' '.join(names)}")
    names = [n for n in names if not only or n in only]
    modules = {n: importlib.import_module(n) for n in names if (here / "peers" / f"{n}.py").exists()}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        peer.inputs(folder)
        for name, module in modules.items():
            run([binaries / f"bench_{name}", "--answers", folder])
            module.check(folder)
    say("answers agree")

    found = prototypes.measure(prototype_folder, say) if prototype_folder else {}
    ours, item_bytes, peers = Smallest(), {}, Smallest()
    every = os.cpu_count() or 1
    for turn in range(rounds):
        for name in names:
            for threads in sorted({1, every}):
                time_ours(binaries / f"bench_{name}", threads, ours, item_bytes)
            if name not in modules:
                continue
            for task in modules[name].tasks():
                if task.once and turn > 0:
                    continue
                for threads in sorted({1, every if task.threads else 1}):
                    torch.set_num_threads(threads)
                    with threadpoolctl.threadpool_limits(threads):
                        best = peer.timed(task.call)
                        if best < 0.3:  # what takes longer needs no warming up, and there are more rounds
                            best = min(best, *(peer.timed(task.call) for _ in range(2)))
                    peers.put((task.task, task.n, threads, task.peer), best / task.items * 1e9)
            say(f"round {turn + 1} of {rounds}: {name}")
    output.write_text(json.dumps({
        "ours": [[*key, ns, item_bytes.get(key)] for key, ns in ours.items()],
        "peers": [[*key, ns] for key, ns in peers.items()],
        "prototypes": [[*key, ns] for key, ns in found.items()]}))


if __name__ == "__main__":
    binary_folder, count, prototype, timings, *chosen = sys.argv[1:]
    main(pathlib.Path(binary_folder), int(count), None if prototype == "-" else pathlib.Path(prototype), pathlib.Path(timings),
         [n for n in "".join(chosen).split(",") if n])
