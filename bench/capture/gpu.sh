#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Times moeroute-capture on a CUDA device against transformers and writes bench/results/capture_gpu_speed.json.
# Exit code 2, and nothing is written, where there is no such device.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$(dirname "$here")")
binary=$root/build/release/bin/moeroute-capture

case ${1-} in
  --help | -h)
    echo "usage: bench/capture/gpu.sh [--output FILE] [--rounds N]"
    echo "OLMoE-1B-7B's shape with random weights: 14 GB of temporary files and 30 GB on the device. Needs a torch with CUDA"
    echo "in .venv, or python3's, and a moeroute-capture that was built against it."
    exit 0
    ;;
esac
python=python3
[ -x "$root/.venv/bin/python" ] && python=$root/.venv/bin/python
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  echo "bench/capture/gpu.sh: no CUDA device, or a torch without CUDA: NOT RUN, nothing was measured" >&2
  exit 2
fi
[ -x "$binary" ] || { echo "bench/capture/gpu.sh: $binary is missing" >&2 && exit 3; }
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
exec "$python" "$here/gpu.py" --binary "$binary" --output "$root/bench/results/capture_gpu_speed.json" "$@"
