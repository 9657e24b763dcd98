# SPDX-License-Identifier: Apache-2.0
"""Times moeroute-capture against transformers in turns; called by run.sh and gpu.sh.

A pass costs what a longer run takes more than a shorter one, per token: loading the model and starting the program drop out,
writing the trace stays in. The smallest of all rounds counts, on both sides and for both runs of ours.
"""
import argparse
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import tempfile
import time

import torch
import transformers

import models

HERE = pathlib.Path(__file__).resolve().parent
# Below `must` something broke; `goal` is what issue 4 asks for.
TARGETS = {"transformers eager": (1, 3), "matrix products alone": (None, 0.7)}
BEST = (0.8, 1.5)


def timed(command):
    """Wall and CPU seconds of a program, which must succeed."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if result.returncode != 0:
        raise SystemExit(result.stderr.strip() or f"bench: {command[0]} ended with {result.returncode}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "cpu": cpu}, result.stdout


class Case:
    """One model in one type: its documents, a short and a long run of ours, the batch of the peers."""

    def __init__(self, work, name, folder, ids, dtype, length, batch, short, long):
        self.name, self.folder, self.dtype, self.length, self.batch = name, folder, dtype, length, batch
        self.short, self.long = short * batch, long * batch
        self.documents = work / f"{name}-{dtype}.jsonl"
        self.trace = work / "trace"
        models.documents(self.documents, ids, length, self.long)

    def ours(self, binary, device, threads, count, options=()):
        return timed([binary, self.folder, self.documents, "--token-ids", "ids", "-o", self.trace, "--overwrite", "--quiet",
                      "--dtype", self.dtype, "--device", device, "--threads", threads, "--max-docs", count,
                      "--batch-tokens", self.batch * self.length, *options])[0]

    def peer(self, command, device, threads, *more):
        return timed([sys.executable, HERE / "peer.py", command, self.folder, self.documents, *more, "--dtype", self.dtype,
                      "--device", device, "--threads", threads, "--batch", self.batch])[1]


def smallest(best, new):
    for key, value in new.items():
        best[key] = min(value, best.get(key, value))


def run(cases, arguments, options=()):
    for case in cases:
        case.ours(arguments.binary, arguments.device, max(arguments.threads), case.batch, options)
        case.peer("check", arguments.device, max(arguments.threads), case.trace)
        print(f"{case.name} {case.dtype}: router logits agree", flush=True)
    ours, peers, load = {}, {}, []
    for round_ in range(arguments.rounds):
        for threads in arguments.threads:
            for case in cases:
                key = case, threads
                load.append(os.getloadavg()[0])
                for count in (case.short, case.long):
                    smallest(ours.setdefault((key, count), {}), case.ours(arguments.binary, arguments.device, threads, count, options))
                for peer, times in json.loads(case.peer("time", arguments.device, threads)).items():
                    smallest(peers.setdefault((key, peer), {}), times)
        print(f"round {round_ + 1} of {arguments.rounds} done", flush=True)
    rows = []
    for case in cases:
        for threads in arguments.threads:
            key = case, threads
            # What others do on the machine adds to wall time alone; of several threads only that says how long it takes.
            clock = "cpu" if threads == 1 and arguments.device == "cpu" else "wall"
            extra = ours[key, case.long][clock] - ours[key, case.short][clock]
            mine = extra / ((case.long - case.short) * case.length) * 1e9
            against = {peer: times[clock] for (k, peer), times in peers.items() if k == key}
            for peer, ns in against.items():
                must, goal = TARGETS.get(peer, BEST)
                rows.append({"task": f"capture {case.name} {case.dtype}", "n": case.length, "threads": threads,
                             "ours_ns": round(mine), "peer": peer, "peer_ns": round(ns), "ratio": round(ns / mine, 3),
                             "must": must, "goal": goal})
    return rows, load


def machine(arguments, load):
    info = dict(line.split(":", 1) for line in pathlib.Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines())
    info = {name.strip(): value.strip() for name, value in info.items()}
    out = {"cpu": info.get("model name", platform.machine()), "cores": os.cpu_count(), "system": platform.platform(),
           "torch": torch.__version__, "transformers": transformers.__version__, "rounds": arguments.rounds,
           "load": [round(min(load), 2), round(max(load), 2)],
           "clock": "CPU time of the process on one thread, wall time on more" if arguments.device == "cpu" else "wall time"}
    if arguments.device != "cpu":
        out |= {"card": torch.cuda.get_device_name(0), "cuda": torch.version.cuda}
    return out


def write(output, rows, about):
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_name(output.stem + "_machine.json").write_text(json.dumps(about, indent=1) + "\n")
    output.write_text("[\n" + ",\n".join(" " + json.dumps(r) for r in rows) + "\n]\n")
    print(f"{'task':32} {'threads':>7} {'ours/s':>8} {'peer/s':>8} {'ratio':>6} {'goal':>5}  peer (tokens a second)")
    for r in rows:
        print(f"{r['task']:32} {r['threads']:>7} {1e9 / r['ours_ns']:>8.0f} {1e9 / r['peer_ns']:>8.0f} {r['ratio']:>6.2f} "
              f"{r['goal']:>5}  {r['peer']}{'  BELOW ' + str(r['must']) if r['must'] and r['ratio'] < r['must'] else ''}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count()}))
    parser.add_argument("--only", help="demo or large", choices=("demo", "large"))
    arguments = parser.parse_args()
    arguments.device = "cpu"
    with tempfile.TemporaryDirectory() as folder:
        work, cases = pathlib.Path(folder), []
        if arguments.only != "large":
            cases += [Case(work, "demo-olmoe", models.DEMO, models.shipped_ids(), dtype, 256, 16, 1, 7)
                      for dtype in ("float32", "bfloat16")]
        if arguments.only != "demo":
            print(f"{models.random_checkpoint(work / 'large', **models.ONE_GIGABYTE) / 1e9:.2f} GB of random weights", flush=True)
            ids = models.random_ids(models.ONE_GIGABYTE["vocab_size"], 24 * 256)
            cases += [Case(work, "olmoe-1GB", work / "large", ids, dtype, 256, 8, 1, 3) for dtype in ("float32", "bfloat16")]
        rows, load = run(cases, arguments)
        write(arguments.output, rows, machine(arguments, load))


if __name__ == "__main__":
    main()
