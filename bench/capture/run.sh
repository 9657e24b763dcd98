#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Times moeroute-capture against transformers on the CPU and writes bench/results/capture.json. See bench/README.md.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$(dirname "$here")")
binary=$root/build/release/bin/moeroute-capture
output=$root/bench/results/capture.json

usage() {
  cat <<TEXT
usage: bench/capture/run.sh [--binary FILE] [--output FILE] [--rounds N] [--only demo|large] [--threads N...]
  --binary   moeroute-capture (default build/release/bin/moeroute-capture)
  --output   the list of timings to write (default bench/results/capture.json)
  --rounds   how often both sides take turns; the smallest time of each counts (default 3)
  --only     the model that ships, or 1 GB of random weights in OLMoE's shape (default: both)
  --threads  numbers of threads (default: 1 and all)
Takes about two minutes a round, 4 GB of memory and 1 GB of temporary files. Needs torch, transformers and safetensors.
TEXT
}

fail() {
  echo "bench/capture/run.sh: $1" >&2
  exit "$2"
}

case ${1-} in --help | -h) usage && exit 0 ;; esac
if [ "${1-}" = --binary ]; then
  [ $# -ge 2 ] || fail "--binary needs a value" 2
  binary=$2
  shift 2
fi
[ -x "$binary" ] || fail "$binary is missing; build with: cmake --preset release && cmake --build --preset release" 3
python=python3
[ -x "$root/.venv/bin/python" ] && python=$root/.venv/bin/python
"$python" -c 'import safetensors, torch, transformers' 2>/dev/null ||
  fail "$python has no torch, transformers and safetensors; tools/test.sh installs them into .venv" 3
# Whoever tunes a peer by the environment would not time the peer that users meet.
unset OMP_NUM_THREADS MKL_NUM_THREADS
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
exec "$python" "$here/measure.py" --binary "$binary" --output "$output" "$@"
