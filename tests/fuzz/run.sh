#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: tests/fuzz/run.sh [--seconds N] [--log FILE] [TARGET...]

Builds the preset fuzz (clang 16, libFuzzer, address and undefined behaviour sanitizers) and runs every target (safetensors,
config, tokenizer), one after the other, for N seconds (600) from the committed corpus. An input may take 10 s and 2 GB at
most. Says for each what was run and what was found, and writes that to FILE too. A finding is kept in build/fuzz/findings:
mend the reader, then add the file to tests/fuzz/corpus/TARGET. Exit status: 0 nothing found, 1 a finding, 2 usage.
TEXT
}

seconds=600 log=/dev/null targets=()
while (($#)); do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --seconds) seconds=${2:?'--seconds needs a number'}; shift ;;
    --log) log=$(realpath "${2:?'--log needs a file'}"); shift ;;
    safetensors | config | tokenizer) targets+=("$1") ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done
((${#targets[@]})) || targets=(safetensors config tokenizer)

. "$(dirname "$0")/../../tools/install.sh"
cd "$root"
install_packages "${packages_to_build[@]}" doctest-dev clang-16 libclang-rt-16-dev
[[ -f build/fuzz/CMakeCache.txt ]] || configure fuzz >&2
cmake --build build/fuzz --target "${targets[@]/#/fuzz_}" >&2

scratch=$(mktemp -d)
trap 'rm -r "$scratch"' EXIT
findings=$root/build/fuzz/findings
mkdir -p "$findings"
: >"$log"
found=0
for target in "${targets[@]}"; do
  mkdir "$scratch/$target"
  status=0
  # A memory file system spares the disk: every input is written to a file, as the readers take files.
  TMPDIR=$([[ -w /dev/shm ]] && echo /dev/shm || echo "$scratch") "build/fuzz/bin/tests/fuzz_$target" \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=1024 -max_len=8192 -print_final_stats=1 \
    -dict="tests/fuzz/$target.dict" -artifact_prefix="$findings/$target-" "$scratch/$target" "tests/fuzz/corpus/$target" \
    >"$scratch/$target.log" 2>&1 || status=$?
  {
    echo "== $target, $(date -u +%F), $(clang++-16 --version | head -1)"
    grep -E '^INFO: Seed|files found in tests/|DONE|^stat::number_of_executed|^stat::average_exec|^stat::peak_rss|^Done' "$scratch/$target.log" || true
    if ((status == 0)); then
      echo "no finding"
    else
      echo "FINDING, status $status"
      grep -E '^==.*ERROR|^SUMMARY|runtime error|broken promise|Test unit written' "$scratch/$target.log" | sed "s|$root/||g" || true
      found=1
    fi
  } | tee -a "$log"
done
exit "$found"
