#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Times moeroute and its peers in one go, writes bench/results/latest.json and docs/benchmarks.md. See bench/README.md.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
binaries=$root/build/release/bin/bench
output=$here/results/latest.json
page=$root/docs/benchmarks.md
rounds=3
prototypes=-
only=
python=$root/.venv/bin/python

usage() {
  cat <<TEXT
usage: bench/run.sh [--binaries FOLDER] [--output FILE] [--page FILE] [--rounds N] [--python PROGRAM] [--prototypes FOLDER]
                    [--only NAME,...]
  --binaries    where bench_top_k and the others are (default build/release/bin/bench)
  --output      the list of timings to write (default bench/results/latest.json)
  --page        the table to write (default docs/benchmarks.md)
  --rounds      how often both sides take turns; the smallest time of each counts (default 3)
  --python      the Python that has the peers (default .venv/bin/python)
  --only        the benchmarks to run, for example kde,top_k (default all)
  --prototypes  a folder of prototypes (proto_topk.cpp, ...): they are timed too, and set the pass lines
Takes about eight minutes. Exit status: 0 done; 1 answers differ or something failed; 2 usage; 3 something is missing.
TEXT
}

fail() {
  echo "bench/run.sh: $1" >&2
  exit "$2"
}

while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage && exit 0 ;;
    --binaries | --output | --page | --rounds | --python | --prototypes | --only) [ $# -ge 2 ] || fail "$1 needs a value" 2 ;;
    *) usage >&2 && exit 2 ;;
  esac
  case $1 in
    --binaries) binaries=$2 ;;
    --output) output=$2 ;;
    --page) page=$2 ;;
    --rounds) rounds=$2 ;;
    --python) python=$2 ;;
    --prototypes) prototypes=$2 ;;
    --only) only=$2 ;;
  esac
  shift 2
done
case $rounds in
  '' | *[!0-9]* | 0) fail "--rounds $rounds: must be a number from 1" 2 ;;
esac
[ "$prototypes" = - ] || [ -d "$prototypes" ] || fail "--prototypes $prototypes: no such folder" 2

[ -x "$binaries/bench_top_k" ] ||
  fail "$binaries/bench_top_k is missing; build with: cmake --preset release && cmake --build --preset release" 3
command -v "$python" >/dev/null || fail "$python is missing; tools/test.sh makes .venv, --python takes another" 3
"$python" - "$here/peers/requirements.txt" <<'PYTHON' || exit 3
import importlib.metadata, pathlib, sys
needed, missing = {"numpy", "scipy", "torch", "threadpoolctl"}, set()
for line in pathlib.Path(sys.argv[1]).read_text().splitlines():
    name, _, version = line.partition("==")
    if not version:
        continue
    try:
        there = importlib.metadata.version(name).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        missing.add(name)
        continue
    if there != version:
        print(f"bench/run.sh: {name} {there}, not the {version} of {sys.argv[1]}", file=sys.stderr)
if missing:
    print(f"bench/run.sh: {'missing' if missing & needed else 'peers that are not there and left out'}: {' '.join(sorted(missing))}; "
          f"install with: {sys.executable} -m pip install -r {sys.argv[1]}", file=sys.stderr)
sys.exit(3 if missing & needed else 0)
PYTHON
# Whoever tunes a peer by the environment would not time the peer that users meet.
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE OPENBLAS_NUM_THREADS OMP_NUM_THREADS MKL_NUM_THREADS

load=$(cut -d' ' -f1 /proc/loadavg)
case $load in
  0.*) ;;
  *) echo "bench/run.sh: the load is $load already: these timings will not be worth keeping" >&2 ;;
esac

timings=$(mktemp)
trap 'rm -f "$timings"' EXIT
trap 'exit 130' INT TERM
"$python" "$here/measure.py" "$binaries" "$rounds" "$prototypes" "$timings" "$only"
mkdir -p "$(dirname "$output")" "$(dirname "$page")"
"$python" "$here/compare.py" "$timings" "$output" "$page" "$load"
echo "wrote $output and $page"
