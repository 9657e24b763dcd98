#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Is a build without -march=native nearly as fast as one with it? Builds the benchmarks both ways, runs them in turns.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
rounds=3
only=

usage() {
  cat <<TEXT
usage: bench/portable.sh [--rounds N] [--only NAME,...]
  --rounds  how often both builds take turns; the smallest time of each counts (default 3)
  --only    the benchmarks to run, for example kde,top_k (default all)
Builds in build/release and build/native, then takes about three minutes a round, on one thread. Exit status: 0 every task of
the portable build reaches 80 % of the speed of the other; 1 not all do; 2 usage.
TEXT
}

while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage && exit 0 ;;
    --rounds | --only) [ $# -ge 2 ] || { echo "bench/portable.sh: $1 needs a value" >&2 && exit 2; } ;;
    *) usage >&2 && exit 2 ;;
  esac
  case $1 in
    --rounds) rounds=$2 ;;
    --only) only=$2 ;;
  esac
  shift 2
done

names=$only
if [ -z "$names" ]; then
  for source in "$here"/*_bench.cpp; do
    names=$names,$(basename "$source" _bench.cpp)
  done
fi
targets=$(echo "$names" | tr ',' '\n' | sed -n 's/..*/bench_&/p')
cd "$root"
# shellcheck disable=SC2086  # one target per word
for tree in release native; do
  flags=
  [ "$tree" = release ] || flags=-march=native
  cmake --preset release -B "build/$tree" "-DCMAKE_CXX_FLAGS=$flags" >/dev/null
  cmake --build "build/$tree" --target $targets
done
exec python3 "$here/portable.py" "$rounds" $targets
