#!/bin/bash
# A training step of the same byte-level Mamba (about 6 M parameters, 1024 bytes, f32, 2 threads) in
# Adder and in PyTorch, side by side in one go, as a table. Adder is measured before and after each
# peer, so that a machine that slows down shows.
# usage: benchmarks/peers/train_step.sh [--all]
#   --all  also transformers' model without mambapy's parallel scan, whose one step takes many
#          minutes: it loops over the rows, and each row's gradient is as large as the whole scan's
set -euo pipefail
cd "$(dirname "$0")/../.."

threads=2
dimensions=(--d-model 256 --n-layer 14 --d-state 16 --length 1024 --batch 1)
peers=(transformers-mambapy mambapy)
[[ ${1:-} != --all ]] || peers+=(transformers)
adder=build/adder
[[ -x $adder ]] || { echo "$adder is missing: make build" >&2; exit 1; }
benchmarks/peers/setup.sh

export OMP_NUM_THREADS=$threads
field() { sed -n "s/.*\"$1\": *\([0-9.]*\).*/\1/p"; }
run_adder() { "$adder" --threads $threads bench train-step "${dimensions[@]}" --json; }
run_peer() {
  local steps=3
  [[ $1 != transformers ]] || steps=1
  benchmarks/peers/.venv/bin/python benchmarks/peers/train_step.py --peer "$1" --threads $threads \
    --steps $steps "${dimensions[@]}" 2> /dev/null
}

before=$(run_adder)
printf '%d parameters, %d threads\n\n' "$(field parameters <<< "$before")" $threads
printf '%-22s %10s %10s %12s\n' "" "tokens/s" "ms/step" "adder faster"
for peer in "${peers[@]}"; do
  measured=$(run_peer "$peer")
  after=$(run_adder)
  awk -v peer="$peer" -v rate="$(field tokens_per_s <<< "$measured")" \
    -v seconds="$(field seconds_per_step <<< "$measured")" \
    -v before="$(field ms_per_step <<< "$before")" -v after="$(field ms_per_step <<< "$after")" \
    -v tokens=1024 \
    'BEGIN {
       slower = before > after ? before : after
       printf "%-22s %10.1f %10.0f %11.1fx\n", peer, rate, 1000 * seconds, 1000 * seconds / slower
       printf "%-22s %10.1f %10.0f\n", "adder, around it", 1000 * tokens / slower, slower
     }'
  before=$after
done
