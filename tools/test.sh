#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: tools/test.sh [-jN] [--slow] [--oracles] [--preset NAME] [--help]

Installs what is missing, builds, and runs every test that needs no GPU:
  1. build/release: all tests (C++, structure, consumers, README, Python tests of the tools)
  2. tools/quickstart.sh
  3. build/asan: core, io and the tools under the address and undefined behaviour sanitizers

  -jN            compile and test with N jobs (default: one per core)
  --slow         also the calibration tests, label slow (minutes)
  --oracles      also make the golden values anew with their Python oracles and compare them with those in tests/golden
  --preset NAME  instead of all this build and test that preset of CMakePresets.json alone, for example dev, tsan, clang,
                 tidy, fuzz, coverage
The last line is "N passed, N failed". Exit status: 0 all passed; 1 something failed; 2 usage; 3 something is missing and
could not be installed.
TEXT
}

jobs=$(nproc) slow='' oracles='' only=''
while (($#)); do
  case $1 in
    --help | -h) usage; exit 0 ;;
    -j[1-9]*) jobs=${1#-j} ;;
    --slow) slow=yes ;;
    --oracles) oracles=yes ;;
    --preset) only=${2:?'--preset needs a name'}; shift ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done

. "$(dirname "$0")/install.sh"
cd "$root"
packages=("${packages_to_build[@]}" "${packages_to_test[@]}")
case $only in
  clang) packages+=(clang-16) ;;
  fuzz) packages+=(clang-16 libclang-rt-16-dev) ;;
  tidy) packages+=(clang-16 clang-tidy-16) ;;
  coverage) packages+=(gcovr) ;;
esac
install_packages "${packages[@]}"
install_python

passed=0 failed=0 not_run=0 red=()
# step NAME COMMAND...: counts as one test.
step() {
  local name=$1
  shift
  if "$@"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    red+=("$name")
  fi
}

# test_preset PRESET [CMAKE OPTION...]: configures, builds, runs CTest, adds to the counts what CTest's own record says.
test_preset() {
  local preset=$1 record=build/$1/tests.xml filter=(-LE '^slow$') counts
  shift
  [[ -z $slow ]] || filter=()
  if ! configure "$preset" "$@" || ! { say "building build/$preset"; cmake --build "build/$preset" --parallel "$jobs" >&2; }; then
    failed=$((failed + 1))
    red+=("build of $preset")
    return 0
  fi
  say "testing build/$preset"
  rm -f "$record"
  ctest --preset "$preset" --parallel "$jobs" "${filter[@]}" --output-junit "$root/$record" >&2 || true
  # <testsuite name="..." tests="9" failures="1" disabled="0" skipped="0" ...
  if ! counts=$(grep -m1 -A6 '<testsuite' "$record" | tr '\n\t' '  ') || [[ $counts != *' tests="'* ]]; then
    failed=$((failed + 1))
    red+=("ctest of $preset, which left no record")
    return 0
  fi
  number() { sed "s/.* $1=\"\([0-9]*\)\".*/\1/" <<<"$counts"; }
  local bad=$(($(number failures))) idle=$(($(number disabled) + $(number skipped)))
  passed=$((passed + $(number tests) - bad - idle))
  failed=$((failed + bad))
  not_run=$((not_run + idle))
  ((bad == 0)) || red+=("$bad of the tests of $preset, named in build/$preset/Testing/Temporary/LastTestsFailed.log")
}

if [[ -n $only ]]; then
  test_preset "$only"
  [[ $only != coverage ]] || gcovr --root . --filter include/ --filter tools/ --object-directory build/coverage >&2
else
  test_preset release -DMOEROUTE_BUILD_TESTS=ON -DMOEROUTE_BUILD_EXAMPLES=ON -DMOEROUTE_BUILD_BENCH=ON -DMOEROUTE_WERROR=ON
  say "testing tools/quickstart.sh"
  step tools/quickstart.sh tools/quickstart.sh "-j$jobs"
  # Under the sanitizers what reads foreign bytes; the rest would take long and find less.
  test_preset asan "-DMOEROUTE_TEST_MODULES=core;io;capture;fuzz;report;cli" -DMOEROUTE_STRUCTURE_TESTS=OFF \
    -DMOEROUTE_BUILD_EXAMPLES=OFF
fi
# same_golden SCRIPT: what it writes today, beside a copy of itself, equals what is in tests/golden, up to the last digits.
same_golden() {
  local name folder
  name=$(basename "$1" .py)
  name=${name#make_}.json
  folder=$(mktemp -d)
  cp "$1" "$folder/"
  if "$venv/bin/python" "$folder/$(basename "$1")" >&2 && "$venv/bin/python" - "tests/golden/$name" "$folder/$name" <<'PYTHON'; then
import json, math, sys

def differ(a, b, place):
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [d for k in a for d in differ(a[k], b[k], f"{place}.{k}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b)) for d in differ(x, y, f"{place}[{i}]")]
    if isinstance(a, float) and isinstance(b, float):
        same = math.isclose(a, b, rel_tol=1e-11, abs_tol=1e-300) or (math.isnan(a) and math.isnan(b))
    else:
        same = a == b
    return [] if same else [f"{place}: {a!r} in the repository, {b!r} now"]

found = differ(*(json.load(open(path, encoding="utf-8")) for path in sys.argv[1:]), sys.argv[1])
print("\n".join(found[:20]), file=sys.stderr)
sys.exit(bool(found))
PYTHON
    rm -r "$folder"
    return 0
  fi
  rm -r "$folder"
  return 1
}
if [[ -n $oracles ]]; then
  for script in tests/golden/make_*.py; do
    say "comparing with $script"
    step "$script" same_golden "$script"
  done
fi

for name in "${red[@]}"; do say "FAILED: $name"; done
((not_run == 0)) || say "$not_run tests were skipped"
echo "$passed passed, $failed failed"
((failed == 0))
