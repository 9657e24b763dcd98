# SPDX-License-Identifier: Apache-2.0
# What tools/quickstart.sh and tools/test.sh share; they source it. Exit status 3: something is missing and could not be had.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv

packages_to_build=(g++ cmake ninja-build libeigen3-dev libboost-dev libxtensor-dev nlohmann-json3-dev libcli11-dev
  libsimdjson-dev libpcre2-dev libutf8proc-dev zlib1g-dev libcurl4-openssl-dev pkg-config python3 python3-venv ca-certificates)
packages_to_test=(doctest-dev libbenchmark-dev chromium openssl)

say() { printf 'moeroute: %s\n' "$*" >&2; }
stop() { say "$*"; exit 3; }

has_package() {
  case $1 in
    # Another Boost than the default one may be there, and the two exclude each other.
    libboost-dev) [[ $(dpkg-query -W -f '${db:Status-Status}\n' 'libboost-dev' 'libboost1.*-dev' 2>/dev/null) == *installed* ]] ;;
    # Any Python will do that can make environments.
    python3 | python3-venv) python3 -c 'import ensurepip, venv' 2>/dev/null ;;
    *) [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]] ;;
  esac
}

# Installs the Debian packages in "$@" that are missing.
install_packages() {
  if ! command -v dpkg-query >/dev/null; then
    say "not a Debian or Ubuntu system; going on in the hope that these are there (Debian's names): $*"
    return
  fi
  local package missing=()
  for package in "$@"; do
    if [[ $package == chromium ]] && grep -q '^ID=ubuntu' /etc/os-release; then
      continue  # a snap there, not a package; the tests of the report take any Chromium or Chrome on PATH
    fi
    has_package "$package" || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  if ((EUID != 0)); then
    stop "missing packages; as root run: apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
  fi
  local apt=(env LC_ALL=C DEBIAN_FRONTEND=noninteractive apt-get)
  say "installing Debian packages: ${missing[*]}"
  "${apt[@]}" update -q >&2 || stop "apt-get update failed; without a network first install: ${missing[*]}"
  # With --assume-no apt-get says what it would fetch, and refuses itself.
  "${apt[@]}" install --assume-no --no-install-recommends "${missing[@]}" 2>/dev/null | grep '^Need to get' >&2 || true
  "${apt[@]}" install -y -q --no-install-recommends "${missing[@]}" >&2 ||
    stop "apt-get install failed; needed are: ${missing[*]}"
}

has_nvidia_gpu() { [[ -e /dev/nvidiactl ]] || { command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; }; }

# A libtorch that can be built against: Torch_DIR, CMAKE_PREFIX_PATH, the active Python, .venv.
has_libtorch() { ! grep -qsx torch "$venv/.installing" && cmake -DMOEROUTE_VENV="$venv" -P "$root/tools/cmake/libtorch.cmake" >/dev/null 2>&1; }

pip() { "$venv/bin/python" -m pip --disable-pip-version-check --no-input "$@" >&2; }

# The lines of requirements.txt for the names in "$@" (all lines if there are none) whose version .venv does not have, or
# whose installation was interrupted.
missing_requirements() {
  "$venv/bin/python" - "$root/tools/requirements.txt" "$venv/.installing" "$@" <<'PYTHON'
import importlib.metadata, pathlib, re, sys
pins, interrupted, wanted = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3:]
broken = interrupted.read_text().split() if interrupted.exists() else []
for line in pins.read_text().splitlines():
    pin = re.match(r"([\w-]+)==(\S+)", line)
    if not pin:
        continue
    name, version = pin.groups()
    try:
        there = importlib.metadata.version(name).split("+")[0] == version
    except importlib.metadata.PackageNotFoundError:
        there = False
    if (not wanted or name in wanted) and (name in broken or not there):
        print(line)
PYTHON
}

# Makes .venv and installs what of "$@" (names in requirements.txt; everything if there are none) is missing.
install_python() {
  if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    say "making the Python environment .venv"
    python3 -m venv --clear "$venv" || stop "python3 -m venv failed; Debian needs the package python3-venv"
  fi
  local lines names torch others again=()
  lines=$(missing_requirements "$@")
  [[ -n $lines ]] || return 0
  say "fetching into .venv, with what they depend on:"
  printf '    %s\n' "${lines//$'\n'/$'\n    '}" >&2

  # pip leaves halves behind when it is stopped; what stands in .installing is installed again next time.
  names=$(sed 's/==.*//' <<<"$lines")
  if grep -qsxF "$names" "$venv/.installing"; then again=(--force-reinstall); fi
  printf '%s\n' "$names" >>"$venv/.installing"
  torch=$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' <<<"$lines")
  others=$(sed -n '/^torch==/!s/ *#.*//p' <<<"$lines")
  if [[ -n $torch ]]; then
    if has_nvidia_gpu; then
      pip install "${again[@]}" "$torch" || stop "could not fetch $torch; run again when there is a network"
    elif ! pip install "${again[@]}" --timeout 15 --retries 1 --index-url https://download.pytorch.org/whl/cpu "$torch"; then
      say "the index of CPU builds did not answer; asking the default index for $torch"
      pip install "${again[@]}" "$torch" || stop "could not fetch $torch; run again when there is a network"
    fi
  fi
  if [[ -n $others ]]; then
    # shellcheck disable=SC2086  # one pin per word
    pip install "${again[@]}" $others || stop "could not fetch ${others//$'\n'/ }; run again when there is a network"
  fi
  sed -i "$(printf '/^%s$/d;' $names)" "$venv/.installing"
  [[ -s $venv/.installing ]] || rm "$venv/.installing"
}

# configure PRESET [OPTION...]: a build tree keeps the generator it was made with; a new one gets Ninja if it is there.
configure() {
  local preset=$1
  shift
  if [[ ! -f build/$preset/CMakeCache.txt ]] && command -v ninja >/dev/null; then
    set -- -G Ninja "$@"
  fi
  say "configuring build/$preset"
  cmake --preset "$preset" "$@" >&2
}
