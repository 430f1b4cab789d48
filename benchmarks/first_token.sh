#!/bin/bash
# How long the first token takes from a cold start: wall time of `adder generate` with one token,
# process start, loading of a model of the 130m size and all, the files being in the page cache.
# Prints the median and the extremes of 10 runs. Makes the model once, under build/.
# usage: benchmarks/first_token.sh [ADDER [OPTION...]]
#   ADDER: the program (default: build/adder); OPTION: of adder generate, as --device cpu
set -euo pipefail
cd "$(dirname "$0")/.."

adder=${1:-build/adder}
options=("${@:2}")
runs=10
target=0.5
folder=build/first-token
model=$folder/130m

if [[ ! -e $model/config.json ]]; then
  mkdir -p "$folder"
  # Its tokens are bytes, the size of its vocabulary is the published one's.
  rm -rf "$folder/bytes"
  "$adder" init "$folder/bytes" --d-model 16 --n-layer 1
  "$adder" init "$model" --size 130m --tokenizer "$folder/bytes"
fi

export LC_ALL=C
once() {
  local begin=$EPOCHREALTIME
  "$adder" generate --model "$model" --prompt x --max-tokens 1 "${options[@]}" > /dev/null
  awk -v begin="$begin" -v end="$EPOCHREALTIME" 'BEGIN {printf "%.4f\n", end - begin}'
}
once > /dev/null  # brings the files into the page cache
for ((i = 0; i < runs; ++i)); do once; done | sort -n | awk -v target=$target '
  {seconds[NR] = $1}
  END {
    middle = NR % 2 ? seconds[(NR + 1) / 2] : (seconds[NR / 2] + seconds[NR / 2 + 1]) / 2
    printf "first token: median %.3f s of %d runs (%.3f to %.3f); target: below %s s\n",
      middle, NR, seconds[1], seconds[NR], target
  }'
