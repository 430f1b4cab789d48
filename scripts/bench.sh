#!/bin/bash
# Runs the operators' benchmarks, then the whole-model ones, and prints what they print.
# usage: scripts/bench.sh [NAME...]      NAME: an operator, as in scripts/bench.sh selective_scan, or
#                                        "models" for the whole-model ones
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ $# -gt 0 ]]; then
  names=("$@")
else
  mapfile -t names < <(find src -name '*_bench.cc' -printf '%f\n' | sed 's/_bench\.cc$//' | sort)
  names+=(models)
fi
models() {
  local arguments
  for arguments in "roofs" "scan" "train-step --dtype f32" "train-step --dtype bf16" \
    "generate --size 130m --dtype f32" "generate --size 130m --dtype bf16"; do
    echo "== adder bench $arguments"
    # shellcheck disable=SC2086  # words
    build/adder bench $arguments
  done
}
for name in "${names[@]}"; do
  if [[ $name == models ]]; then
    models
  else
    echo "== $name"
    "build/${name}_bench"
  fi
done
