#!/bin/bash
# Adder beside llama.cpp: whether files that Adder writes mean the same there, and how fast both run
# them. Sets up llama.cpp in benchmarks/peers/.venv-llama-cpp at first (LLAMA_CPP_VENV names another
# environment that has llama-cpp-python and tokenizers).
# usage: benchmarks/peers/llama_cpp.sh check
#        benchmarks/peers/llama_cpp.sh speed [SIZE[,SIZE...] [TYPE[,TYPE...] [ROUNDS]]]
#   check  small models of every architecture that both know, with tokenizers: the same tokens,
#          logits and greedy text; fails where they differ by more than rounding explains
#   speed  random weights of published sizes (130m,370m) in every type (f16,q8_0,q4_0): prefill of
#          512 and decoding, both programs in turns (3 rounds), as a Markdown table
set -euo pipefail
cd "$(dirname "$0")/../.."

mode=${1:-}
if [[ $mode != check && $mode != speed ]] || [[ $mode == check && $# -gt 1 ]] || [[ $# -gt 4 ]]; then
  sed -n '5,6s/^# //p' "$0" >&2
  exit 2
fi
adder=build/adder
[[ -x $adder ]] || { echo "$adder is missing: make build" >&2; exit 1; }
environment=${LLAMA_CPP_VENV:-benchmarks/peers/.venv-llama-cpp}
[[ -n ${LLAMA_CPP_VENV:-} ]] || benchmarks/peers/setup.sh llama_cpp

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [[ $mode == check ]]; then
  "$environment/bin/python" benchmarks/peers/llama_cpp_check.py "$adder" "$work"
  exit
fi
IFS=, read -ra sizes <<< "${2:-130m,370m}"
IFS=, read -ra types <<< "${3:-f16,q8_0,q4_0}"
files=()
for size in "${sizes[@]}"; do
  "$adder" init --size "$size" "$work/$size"
  for type in "${types[@]}"; do
    option=--quantize
    [[ $type != f16 && $type != bf16 && $type != f32 ]] || option=--dtype
    "$adder" convert "$work/$size" "$work/$size-$type.gguf" $option "$type" > /dev/null 2>&1
    files+=("$work/$size-$type.gguf")
  done
  rm -r "${work:?}/$size"
done
"$environment/bin/python" benchmarks/peers/llama_cpp_speed.py --adder "$adder" --rounds "${4:-3}" \
  "${files[@]}"
