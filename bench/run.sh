#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Times moeroute and its peers in one go and writes bench/results/latest.json. See bench/README.md.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
binaries=$root/build/release/bin/bench
output=$here/results/latest.json
rounds=5

usage() {
  cat <<TEXT
usage: bench/run.sh [--binaries FOLDER] [--output FILE] [--rounds N]
  --binaries  where bench_top_k and the others are (default build/release/bin/bench)
  --output    the list of timings to write (default bench/results/latest.json)
  --rounds    how often both sides take turns; the smallest time of each counts (default 5)
Takes about a minute a round. Needs numpy and torch (.venv of tools/test.sh, or python3's).
TEXT
}

fail() {
  echo "bench/run.sh: $1" >&2
  exit "$2"
}

while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage && exit 0 ;;
    --binaries | --output | --rounds) [ $# -ge 2 ] || fail "$1 needs a value" 2 ;;
    *) usage >&2 && exit 2 ;;
  esac
  case $1 in
    --binaries) binaries=$2 ;;
    --output) output=$2 ;;
    --rounds) rounds=$2 ;;
  esac
  shift 2
done

[ -x "$binaries/bench_top_k" ] ||
  fail "$binaries/bench_top_k is missing; build with: cmake --preset release && cmake --build --preset release" 3
python=python3
[ -x "$root/.venv/bin/python" ] && python=$root/.venv/bin/python
"$python" -c 'import numpy, torch' 2>/dev/null || fail "$python has no numpy and torch; tools/test.sh installs them into .venv" 3
# Whoever tunes a peer by the environment would not time the peer that users meet.
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE OMP_NUM_THREADS MKL_NUM_THREADS

all=$(nproc)
counts=1
[ "$all" -gt 1 ] && counts="1 $all"
load=$(cut -d' ' -f1 /proc/loadavg)
case $load in
  0.*) ;;
  *) echo "bench/run.sh: the load is $load already: these timings will not be worth keeping" >&2 ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# First the answers: nothing is timed that is not the same.
"$python" "$here/peers/top_k.py" inputs "$work"
for name in top_k softmax; do
  "$binaries/bench_$name" --answers "$work"
  "$python" "$here/peers/$name.py" check "$work"
done
echo "answers agree"

round=1
while [ "$round" -le "$rounds" ]; do
  for threads in $counts; do
    for binary in "$binaries"/bench_*; do
      "$binary" --benchmark_format=json --benchmark_min_time=0.2 "--benchmark_filter=/$threads/real_time\$" \
        >"$work/ours_$(basename "$binary")_${threads}_$round.json" 2>>"$work/log" || { cat "$work/log" >&2; fail "$binary failed" 1; }
    done
    for name in top_k softmax; do
      "$python" "$here/peers/$name.py" time --threads "$threads" >"$work/peer_${name}_${threads}_$round.json"
    done
  done
  echo "round $round of $rounds done"
  round=$((round + 1))
done

mkdir -p "$(dirname "$output")"
"$python" "$here/compare.py" "$work" "$output" "$load"
echo "wrote $output"
