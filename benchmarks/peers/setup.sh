#!/bin/bash
# Makes the virtual environments of the peers beside this file, each once.
# usage: benchmarks/peers/setup.sh [pytorch|llama_cpp]
#   pytorch    .venv: PyTorch, transformers and mambapy. PyTorch's default build brings CUDA
#              libraries, 3 GB to download; it runs on a CPU all the same. Where PyTorch's own CPU
#              index can be reached, PIP_EXTRA_INDEX_URL and TORCH choose the small build:
#                PIP_EXTRA_INDEX_URL=... TORCH=torch==2.15.0+cpu benchmarks/peers/setup.sh
#   llama_cpp  .venv-llama-cpp: llama.cpp, built from llama-cpp-python's sources for this very
#              processor, which takes some minutes; CMAKE_BUILD_PARALLEL_LEVEL bounds the jobs
set -euo pipefail
cd "$(dirname "$0")"

make_environment() {
  python3 -c 'import ensurepip' 2> /dev/null || ../../scripts/setup.sh peers
  python3 -m venv "$1"
}

case ${1:-pytorch} in
  pytorch)
    [[ ! -e .venv/complete ]] || exit 0
    make_environment .venv
    .venv/bin/pip install --quiet "${TORCH:-torch}" transformers tokenizers mambapy einops numpy
    .venv/bin/python -c 'import torch; print("torch", torch.__version__, "is ready")'
    touch .venv/complete
    ;;
  llama_cpp)
    [[ ! -e .venv-llama-cpp/complete ]] || exit 0
    make_environment .venv-llama-cpp
    # Without its programs for pictures and sound.
    CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF" .venv-llama-cpp/bin/pip install --quiet \
      --no-binary llama-cpp-python llama-cpp-python tokenizers numpy
    .venv-llama-cpp/bin/python -c \
      'import llama_cpp; print("llama-cpp-python", llama_cpp.__version__, "is ready")'
    touch .venv-llama-cpp/complete
    ;;
  *)
    echo "usage: benchmarks/peers/setup.sh [pytorch|llama_cpp]" >&2
    exit 2
    ;;
esac
