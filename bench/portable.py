# SPDX-License-Identifier: Apache-2.0
"""Runs the benchmarks of two builds in turns and compares their smallest times: portable.py ROUNDS bench_NAME..."""
import json
import pathlib
import subprocess
import sys

BUILDS = ("release", "native")
ENOUGH = 0.8
root = pathlib.Path(__file__).parent.parent


def main(rounds, names):
    best = {build: {} for build in BUILDS}
    for _ in range(rounds):
        for name in names:
            for build in BUILDS:
                text = subprocess.run([root / "build" / build / "bin" / "bench" / name, "--benchmark_format=json", "--benchmark_min_time=0.1",
                                       "--benchmark_filter=/1/real_time$"], check=True, capture_output=True, text=True).stdout
                for b in json.loads(text)["benchmarks"]:
                    task = b["name"].removesuffix("/1/real_time")
                    best[build][task] = min(1e9 / b["items_per_second"], best[build].get(task, 1e300))
    slow = 0
    print(f"{'task':42} {'portable ns':>12} {'native ns':>12} {'speed':>6}")
    for task, portable in best["release"].items():
        native = best["native"][task]
        slow += native / portable < ENOUGH
        print(f"{task:42} {portable:12.4g} {native:12.4g} {native / portable:6.2f}{'  BELOW' if native / portable < ENOUGH else ''}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
