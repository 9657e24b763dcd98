# SPDX-License-Identifier: Apache-2.0
"""Joins the timings that bench/run.sh took: the smallest of all rounds on both sides, as latest.json and as a table; what they
were taken on goes into latest_machine.json beside it.

    compare.py FOLDER latest.json LOAD_AT_START
"""
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import sys

# (task, peer): the ratio below which something is wrong, and the one to reach, by n.
TARGETS = {
    ("top_8 float", "torch.topk"): (20, {64: 39, 128: 35, 256: 32}),
    ("top_8 float", "numpy argpartition and sort"): (20, {64: 40, 128: 52, 256: 51}),
    ("log_sum_exp", "torch.logsumexp"): (6, {64: 10, 128: 12, 256: 13}),
}


def number(value):
    return "" if value is None else f"{value:.4g}"


def smallest(best, key, value):
    best[key] = min(value, best.get(key, value))


def machine(load):
    info = dict(line.split(":", 1) for line in pathlib.Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines())
    info = {name.strip(): value.strip() for name, value in info.items()}
    flags = info.get("flags", "").split()
    return {"date": datetime.date.today().isoformat(), "cpu": info.get("model name", platform.machine()), "cores": os.cpu_count(),
            "avx2": "avx2" in flags, "avx512": "avx512f" in flags, "load_at_start": float(load), "system": platform.platform(),
            "python": platform.python_version(), **{name: importlib.metadata.version(name) for name in ("torch", "numpy")}}


def main(folder, output, load):
    ours, item_bytes, peers, speed = {}, {}, {}, {}
    for file in sorted(folder.glob("ours_*.json")):
        text = file.read_text().strip()
        for b in json.loads(text)["benchmarks"] if text else []:
            task, n, threads = b["name"].removesuffix("/real_time").rsplit("/", 2)
            key = task, int(n), int(threads)
            smallest(ours, key, 1e9 / b["items_per_second"])
            if "bytes_per_second" in b:
                item_bytes[key] = b["bytes_per_second"] / b["items_per_second"]
                if task == "memory_read":
                    speed[key[2]] = max(b["bytes_per_second"], speed.get(key[2], 0))
    for file in sorted(folder.glob("peer_*.json")):
        for p in json.loads(file.read_text()):
            smallest(peers, (p["task"], p["n"], p["threads"], p["peer"]), p["ns"])

    rows = []
    for key in ours:
        against = {peer: ns for (*k, peer), ns in peers.items() if tuple(k) == key}
        if key in item_bytes and key[2] in speed and not key[0].startswith("memory_"):
            against["memory_read"] = item_bytes[key] / speed[key[2]] * 1e9
        if not against:
            against[None] = None
        for peer, ns in against.items():
            must, goal = TARGETS.get((key[0], peer), (None, {}))
            rows.append({"task": key[0], "n": key[1], "threads": key[2], "ours_ns": round(ours[key], 3), "peer": peer,
                         "peer_ns": None if ns is None else round(ns, 3),
                         "ratio": None if ns is None else round(ns / ours[key], 3), "must": must, "goal": goal.get(key[1])})
    rows.sort(key=lambda r: (r["task"], r["n"], r["threads"], r["peer"] or ""))
    if not rows:
        raise SystemExit("bench: no timings to compare")
    output.with_name(output.stem + "_machine.json").write_text(json.dumps(machine(load), indent=1) + "\n")
    output.write_text("[\n" + ",\n".join(" " + json.dumps(r) for r in rows) + "\n]\n")

    print(f"{'task':14} {'n':>9} {'threads':>7} {'ours ns':>10} {'peer ns':>10} {'ratio':>8}  peer")
    for r in rows:
        missed = "  BELOW " + str(r["must"]) if r["must"] and r["ratio"] < r["must"] else ""
        print(f"{r['task']:14} {r['n']:>9} {r['threads']:>7} {number(r['ours_ns']):>10} {number(r['peer_ns']):>10} "
              f"{number(r['ratio']):>8}  {r['peer'] or ''}{missed}")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3])
