#!/bin/bash
# The official packages' CUDA and Triton kernels (mamba-ssm, causal-conv1d) beside Adder's on the same
# tensors, in one run on one GPU: see cuda_official.py.
# usage: benchmarks/peers/cuda_official.sh [--sources DIR] [--adder PROGRAM] [OPERATOR...]
#   --sources DIR    where the source packages (mamba_ssm-*.tar.gz, causal_conv1d-*.tar.gz) are already;
#                    otherwise they come from PyPI
#   --adder PROGRAM  default: build/adder
#   OPERATOR...      rms_norm, ssd, conv1d, scan; default: all
# Takes a Python with PyTorch for CUDA (PYTHON, default python3), einops, transformers and safetensors,
# and nvcc of the same CUDA release; building the scan's kernels takes minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."

sources=
only=()
adder=build/adder
while [[ $# -gt 0 ]]; do
  case $1 in
    --sources) sources=$2 && shift 2 ;;
    --adder) adder=$2 && shift 2 ;;
    rms_norm | ssd | conv1d | scan) only+=("$1") && shift ;;
    *) sed -n '2,/^set /p' "$0" | sed '$d; s/^# \{0,1\}//' >&2 && exit 2 ;;
  esac
done
python=${PYTHON:-python3}
[[ -x $adder ]] || { echo "$adder is missing: make build" >&2; exit 1; }
"$python" -c 'import einops, ninja, safetensors, torch, transformers, triton
assert torch.cuda.is_available(), "PyTorch sees no CUDA device"'

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [[ -z $sources ]]; then
  sources=$work/packages
  # Source packages alone: their setup.py is not run.
  "$python" - "$sources" <<'PYTHON'
import json, pathlib, sys, urllib.request
folder = pathlib.Path(sys.argv[1])
folder.mkdir()
for package in ("mamba-ssm", "causal-conv1d"):
    with urllib.request.urlopen(f"https://pypi.org/pypi/{package}/json") as answer:
        files = json.load(answer)["urls"]
    source = next(file for file in files if file["packagetype"] == "sdist")
    with urllib.request.urlopen(source["url"]) as answer:
        (folder / source["filename"]).write_bytes(answer.read())
PYTHON
fi
mkdir "$work/sources"
for package in "$sources"/mamba_ssm-*.tar.gz "$sources"/causal_conv1d-*.tar.gz; do
  tar xzf "$package" -C "$work/sources"
done
TORCH_EXTENSIONS_DIR=${TORCH_EXTENSIONS_DIR:-$work/build} \
  "$python" benchmarks/peers/cuda_official.py --sources "$work/sources" --adder "$(realpath "$adder")" \
  ${only:+--only "${only[@]}"}
