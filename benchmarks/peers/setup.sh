#!/bin/bash
# Makes benchmarks/peers/.venv with PyTorch, transformers and mambapy, once. PyTorch's default build
# brings CUDA libraries, 3 GB to download; it runs on a CPU all the same. Where PyTorch's own CPU
# index can be reached, PIP_EXTRA_INDEX_URL and TORCH choose the small build:
#   PIP_EXTRA_INDEX_URL=... TORCH=torch==2.15.0+cpu benchmarks/peers/setup.sh
set -euo pipefail
cd "$(dirname "$0")"

[[ ! -e .venv/complete ]] || exit 0
python3 -c 'import ensurepip' 2> /dev/null || ../../scripts/setup.sh peers
python3 -m venv .venv
.venv/bin/pip install --quiet "${TORCH:-torch}" transformers tokenizers mambapy einops numpy
.venv/bin/python -c 'import torch; print("torch", torch.__version__, "is ready")'
touch .venv/complete
