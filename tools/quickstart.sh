#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: tools/quickstart.sh [-jN] [--help]

From a fresh clone to a report in one command, on Debian or Ubuntu:
  1. installs what is missing: Debian packages (as root), torch and plotly into .venv (unless Torch_DIR, CMAKE_PREFIX_PATH
     or the active Python have a libtorch >= 2.11)
  2. builds moeroute and moeroute-capture into build/release/bin
  3. runs the bundled model on the bundled texts       -> build/demo/trace
  4. analyses how its experts were chosen              -> build/demo/results
  5. writes one HTML page that needs no network        -> build/demo/report.html

Safe to run again: what is there is not fetched or built twice; build/demo is written anew.
  -jN   compile with N jobs (default: one per core)
Exit status: 0 done; 3 something is missing and could not be installed; else that of the step that failed.
TEXT
}

jobs=$(nproc)
for argument in "$@"; do
  case $argument in
    --help | -h) usage; exit 0 ;;
    -j[1-9]*) jobs=${argument#-j} ;;
    *) usage >&2; exit 2 ;;
  esac
done

. "$(dirname "$0")/install.sh"
cd "$root"
install_packages "${packages_to_build[@]}"
if has_libtorch; then install_python plotly; else install_python torch plotly; fi

# A tree that tools/test.sh has configured stays as it is; a new one needs neither tests nor doctest, and a compiler newer than
# ours may warn.
options=()
for option in BUILD_TESTS BUILD_EXAMPLES BUILD_BENCH WERROR; do
  value=$(sed -n "s/^MOEROUTE_$option:[A-Z]*=//p" build/release/CMakeCache.txt 2>/dev/null || true)
  options+=("-DMOEROUTE_$option=${value:-OFF}")
done
configure release "${options[@]}"
say "building build/release/bin/moeroute and moeroute-capture"
cmake --build build/release --parallel "$jobs" --target moeroute_tools >&2
for program in moeroute moeroute-capture; do
  [[ -x build/release/bin/$program ]] || stop "build/release/bin/$program was not built; the lines of CMake above say why"
done

PATH=$root/build/release/bin:$PATH
run() {
  say "$*"
  "$@"
}
mkdir -p build/demo
run moeroute capture examples/models/demo-olmoe examples/texts/*.jsonl -o build/demo/trace --overwrite
run moeroute analyze build/demo/trace -o build/demo/results
run moeroute report build/demo/results -o build/demo/report.html
printf '\nreport: %s\n' "$root/build/demo/report.html"
