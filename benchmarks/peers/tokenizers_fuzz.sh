#!/bin/bash
# Compares Adder's tokenizers with PyPI's on random Unicode; see tokenizers_fuzz.py.
# usage: benchmarks/peers/tokenizers_fuzz.sh [CASES [SEED]]
set -euo pipefail
cd "$(dirname "$0")/../.."
[[ -x build/adder ]] || { echo "build/adder is missing: make build" >&2; exit 1; }
benchmarks/peers/setup.sh
TOKENIZERS_PARALLELISM=false benchmarks/peers/.venv/bin/python benchmarks/peers/tokenizers_fuzz.py \
  build/adder "${1:-2000}" "${2:-1}"
