#!/bin/bash
# Runs the operators' benchmarks, then the whole-model ones, and prints what they print.
# usage: scripts/bench.sh [NAME...]      NAME: an operator, as in scripts/bench.sh selective_scan
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ $# -gt 0 ]]; then
  programs=("${@/%/_bench}")
else
  mapfile -t programs < <(find src -name '*_bench.cc' -printf '%f\n' | sed 's/\.cc$//' | sort)
fi
for program in "${programs[@]}"; do
  echo "== $program"
  "build/$program"
done
