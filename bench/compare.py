# SPDX-License-Identifier: Apache-2.0
"""Joins the timings that bench/run.sh took: as latest.json, what they were taken on as latest_machine.json beside it, and both as
a page.

    compare.py timings.json latest.json benchmarks.md LOAD_AT_START
"""
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import typing


class Peer(typing.NamedTuple):
    goal: float | dict  # the ratio to reach, or by n
    must: float | None = None  # the ratio below which something is wrong, where there is no prototype to say so


class About(typing.NamedTuple):
    unit: str  # what is timed
    size: str  # what n is, and m
    tolerance: str  # to which the answers agree
    peers: dict = {}
    prototype: bool = True  # a prototype showed the goal: the pass line is twice its time, else half the goal


GRID = "n values, m = 10,000 points"
EXACT = "equal"
COMPACT = "1e-13 of the peak, or 2e-12 relative"
BINNED = "ours within its bound, < 1e-3; the peer 1e-3"
TASKS = {
    "kde_gaussian": About("point", GRID, "1e-11 relative", {
        "scipy gaussian_kde": Peer({10_000: 1200, 100_000: 9700}), "sklearn KernelDensity": Peer(26_000),
        "sklearn KernelDensity, rtol=1e-4": Peer(4000)}),
    "kde_exponential": About("point", GRID, "2e-12 relative", {
        "sklearn KernelDensity": Peer(14_000), "sklearn KernelDensity, rtol=1e-4": Peer(4300)}),
    "kde_epanechnikov": About("point", GRID, COMPACT, {"sklearn KernelDensity": Peer(980), "KDEpy TreeKDE": Peer(2400)}),
    "kde_tophat": About("point", GRID, COMPACT, {"sklearn KernelDensity": Peer(930)}),
    "kde_triangular": About("point", GRID, COMPACT, {"sklearn KernelDensity": Peer(930)}),
    "kde_cosine": About("point", GRID, COMPACT, {"sklearn KernelDensity": Peer(1100)}),
    "kde_biweight": About("point", GRID, "1e-12 of the peak", {"KDEpy TreeKDE": Peer(2400)}),
    "kde_triweight": About("point", GRID, "1e-12 of the peak", {"KDEpy TreeKDE": Peer(2400)}),
    "kde_survival": About("point", GRID, "1e-11 relative, scipy's own 0 beyond p = 1e-20", {
        "scipy integrate_box_1d": Peer({10_000: 44, 100_000: 770})}),
    "kde_cdf_table": About("point", "n values, m = 16,384 points", "ours 1e-11 relative, the peer 1e-3", {
        "statsmodels KDEUnivariate.cdf": Peer(10_000, 10_000)}, prototype=False),
    "streaming_kde float": About("value", "n values", BINNED, {
        "KDEpy FFTKDE": Peer(10), "statsmodels KDEUnivariate, fft": Peer(250)}),
    "streaming_kde bf16": About("value", "n values", "ours 1e-12 relative; the peer 1e-3", {"KDEpy FFTKDE of double": Peer(20)}),
    "histogram": About("value", "n values, 1,024 bins", EXACT, {"numpy.histogram": Peer(13), "torch.histc": Peer(10)}),
    "moments": About("value", "n values", "1e-10 relative", {
        "scipy skew and kurtosis": Peer(120), "torch.var_mean": Peer(34), "numpy mean and var": Peer(9)}),
    "quantiles": About("value", "n values, 5 quantiles", "1e-6 relative, numpy's rounding to binary32", {"numpy.quantile": Peer(55, 30)}, prototype=False),
    "top_8 float": About("row", "n experts", EXACT, {
        "torch.topk": Peer({64: 39, 128: 35, 256: 32}), "numpy argpartition and sort": Peer({64: 40, 128: 52, 256: 51})}),
    "top_8 bf16": About("row", "n experts", EXACT, {"torch.topk": Peer({64: 39, 256: 32})}),
    "log_sum_exp": About("row", "n experts", "1e-6 relative", {"torch.logsumexp": Peer({64: 10, 128: 12, 256: 13})}),
    "softmax, top 8, renormalize": About("row", "n experts", "2e-6 relative", {"torch softmax, topk, division": Peer(25)}),
    "softmax": About("row", "n experts", "4e-6 relative"),
    "softmax_mean": About("row", "n experts", "1e-8 relative"),
    "load uint8": About("id", "n experts", EXACT, {"numpy.bincount of int64": Peer(5), "torch.bincount of int64": Peer(4)}),
    "load int16": About("id", "n experts", EXACT, {"numpy.bincount of int64": Peer(5, 3), "torch.bincount of int64": Peer(4, 3)},
                        prototype=False),
    "coactivation": About("token", "8 of n experts", EXACT, {
        "numpy Gram, one-hot ready": Peer(24), "numpy one-hot and Gram": Peer(80)}),
    "coactivation increments": About("token", "8 of n experts", EXACT),
    "coactivation, all pairs of 16 layers": About("token", "8 of n experts a layer", EXACT, {
        "numpy Gram, one-hot ready": Peer(10, 6)}, prototype=False),
    "corrcoef": About("matrix", "48 layers, n experts", "1e-12", {"numpy.corrcoef": Peer(9)}),
    "layer_order": About("permutation", "n layers, 24 lags", "p within 5 standard errors", {"numpy loop": Peer(180)}),
    "expert_labels": About("permutation", "48 layers, n experts, 24 lags", "p within 5 standard errors"),
    "gram float": About("column", "n experts, 2^20 weights", "1e-5", {"torch W W^T": Peer(1.5), "numpy W W^T": Peer(1.5)}, prototype=False),
    "gram bf16": About("column", "n experts, 2^20 weights", "1e-2, ours 1e-7", {
        "torch W W^T, rounded to bf16": Peer(1.5), "torch W W^T after a cast to float": Peer(8)}, prototype=False),
    "bootstrap": About("replicate", "n documents, 64 experts", "mean and sd within 5 standard errors"),
    "analysis_pass": About("token", "8 of n experts", "1e-4 relative, ours 1e-6", {"memory_read": Peer(0.14)}, prototype=False),
    "memory_read": About("value", "n floats", ""),
    "memory_triad": About("value", "n floats", ""),
}


def number(value):
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def machine(load):
    info = dict(line.split(":", 1) for line in pathlib.Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines() if ":" in line)
    info = {name.strip(): value.strip() for name, value in info.items()}
    flags = info.get("flags", "").split()
    versions = {}
    for name in ("numpy", "scipy", "scikit-learn", "statsmodels", "KDEpy", "torch"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    compiler = subprocess.run(["c++", "--version"], capture_output=True, text=True).stdout.partition("\n")[0]
    return {"date": datetime.date.today().isoformat(), "cpu": info.get("model name", platform.machine()), "cores": os.cpu_count(),
            "avx2": "avx2" in flags, "avx512": "avx512f" in flags, "load_at_start": float(load), "system": platform.platform(),
            "compiler": compiler, "python": platform.python_version(), **versions}


def targets(task, n, peer, peer_ns, prototype_ns):
    """Documented for one thread against one."""
    about = TASKS[task]
    if peer not in about.peers:
        return None, None
    goal, must = about.peers[peer]
    goal = goal.get(n) if isinstance(goal, dict) else goal
    if about.prototype and prototype_ns:
        must = peer_ns / (2 * prototype_ns)
    elif about.prototype and goal:
        must = goal / 2
    return must, goal


def rows_of(timings):
    ours = {(task, n, threads): ns for task, n, threads, ns, _ in timings["ours"]}
    item_bytes = {(task, n, threads): b for task, n, threads, _, b in timings["ours"] if b}
    peers = {(task, n, threads, peer): ns for task, n, threads, peer, ns in timings["peers"]}
    prototypes = {(task, n): ns for task, n, ns in timings["prototypes"]}
    # A byte of the fastest reading in this run.
    byte_ns = {threads: ns / item_bytes[task, n, threads] for (task, n, threads), ns in ours.items() if task == "memory_read"}
    rows = []
    for (task, n, threads), ns in ours.items():
        against = {peer: time for (*k, t, peer), time in peers.items() if k == [task, n] and t == threads}
        if (task, n, threads) in item_bytes and threads in byte_ns and not task.startswith("memory_"):
            against["memory_read"] = item_bytes[task, n, threads] * byte_ns[threads]
        for peer, time in against.items() or [(None, None)]:
            must, goal = targets(task, n, peer, time, prototypes.get((task, n))) if threads == 1 else (None, None)
            rows.append({"task": task, "n": n, "threads": threads, "ours_ns": round(ns, 3), "peer": peer,
                         "peer_ns": None if time is None else round(time, 3), "ratio": None if time is None else round(time / ns, 3),
                         "must": None if must is None else round(must, 2), "goal": goal})
    order = list(TASKS)
    return sorted(rows, key=lambda r: (order.index(r["task"]), r["n"], r["threads"], r["peer"] == "memory_read", r["peer"] or ""))


def page(rows, facts, timings):
    prototypes = {(task, n): ns for task, n, ns in timings["prototypes"]}
    lines = ["# Benchmarks", "", "Made by `bench/run.sh`, which [bench/README.md](../bench/README.md) describes; the numbers are those of "
             "`bench/results/latest.json`.", "",
             "Time per item in nanoseconds, the smallest of all rounds, on one thread. *ratio* is the peer's time over ours; *must* the ratio "
             "that follows from twice the time of a prototype, or half the goal; *goal* what a prototype reached on this kind of "
             "machine, against older peers. *all* is the ratio where both sides may use every core. A row of `memory_read` says which share "
             "of the bandwidth of reading a task reaches. Ratios of a thousand and more are algorithmic: sums over boxes instead of over all "
             "pairs of a value and a point.", "",
             "| machine | |", "|---|---|", *(f"| {name.replace('_', ' ')} | {'not installed' if value is None else value} |" for name, value in facts.items()), ""]
    every = max(r["threads"] for r in rows)
    on_all = {(r["task"], r["n"], r["peer"]): r["ratio"] for r in rows if r["threads"] == every > 1}
    lines += ["| task | n | per | ours | peer | its time | ratio | must | goal | all |", "|---|--:|---|--:|---|--:|--:|--:|--:|--:|"]
    for r in rows:
        if r["threads"] != 1:
            continue
        missed = r["must"] is not None and r["ratio"] < r["must"]
        lines.append(f"| {r['task']} | {r['n']:,} | {TASKS[r['task']].unit} | {number(r['ours_ns'])} | {r['peer'] or ''} | {number(r['peer_ns'])} | "
                     f"{number(r['ratio'])}{' (below)' if missed else ''} | {number(r['must'])} | {number(r['goal'])} | "
                     f"{number(on_all.get((r['task'], r['n'], r['peer'])))} |")
    lines += ["", "What the sizes are, and to what the answers were found to agree before anything was timed:", "",
              "| task | size | agreement | prototype, ns |", "|---|---|---|--:|"]
    for task, about in TASKS.items():
        times = ", ".join(f"{number(ns)} (n = {n:,})" if len([k for k in prototypes if k[0] == task]) > 1 else number(ns)
                          for (name, n), ns in sorted(prototypes.items()) if name == task)
        lines.append(f"| {task} | {about.size} | {about.tolerance} | {times} |")
    return "\n".join(lines) + "\n"


def main(source, output, report, load):
    timings = json.loads(source.read_text())
    rows, facts = rows_of(timings), machine(load)
    if not rows:
        raise SystemExit("bench: no timings to compare")
    output.with_name(output.stem + "_machine.json").write_text(json.dumps(facts, indent=1) + "\n")
    output.write_text("[\n" + ",\n".join(" " + json.dumps(r) for r in rows) + "\n]\n")
    report.write_text(page(rows, facts, timings))

    print(f"{'task':36} {'n':>9} {'threads':>7} {'ours ns':>10} {'peer ns':>10} {'ratio':>8} {'must':>8}  peer")
    for r in rows:
        missed = "  BELOW" if r["must"] and r["ratio"] < r["must"] else ""
        print(f"{r['task']:36} {r['n']:>9} {r['threads']:>7} {number(r['ours_ns']):>10} {number(r['peer_ns']):>10} "
              f"{number(r['ratio']):>8} {number(r['must']):>8}  {r['peer'] or ''}{missed}")


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:4]), sys.argv[4])
