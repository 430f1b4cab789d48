#!/bin/bash
# Adder and PyPI's tokenizers on the same text, each on one thread, one after the other, as a table.
# Adder is measured before and after the package, so that a machine that slows down shows. Fails
# where the ids differ.
# usage: benchmarks/peers/tokenize.sh TEXT TOKENIZER.json...
set -euo pipefail
[[ $# -ge 2 ]] || { sed -n '5s/^# //p' "$0" >&2; exit 2; }
text=$(realpath "$1")
shift
tokenizers=()
for tokenizer in "$@"; do tokenizers+=("$(realpath "$tokenizer")"); done
cd "$(dirname "$0")/../.."
adder=build/adder
[[ -x $adder ]] || { echo "$adder is missing: make build" >&2; exit 1; }
benchmarks/peers/setup.sh

field() { sed -n "s/.*\"$1\": *\"\{0,1\}\([0-9.]*\).*/\1/p"; }
run_adder() { "$adder" --threads 1 bench tokenize --tokenizer "$1" --file "$text" --json; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

printf '%-32s %10s %14s %14s\n' "" tokens "encode MB/s" "adder faster"
for tokenizer in "${tokenizers[@]}"; do
  name=$(basename "$tokenizer" .json)
  before=$(run_adder "$tokenizer")
  peer=$(TOKENIZERS_PARALLELISM=false RAYON_NUM_THREADS=1 benchmarks/peers/.venv/bin/python \
    benchmarks/peers/tokenize_speed.py "$tokenizer" "$text" "$scratch/peer")
  after=$(run_adder "$tokenizer")
  "$adder" tokenize --tokenizer "$tokenizer" --ids --file "$text" > "$scratch/adder"
  cmp "$scratch/adder" "$scratch/peer" || { echo "$name: the ids differ" >&2; exit 1; }
  awk -v name="$name" -v tokens="$(field tokens <<< "$before")" \
    -v peer="$(field encode_MB_per_s <<< "$peer")" \
    -v before="$(field encode_MB_per_s <<< "$before")" \
    -v after="$(field encode_MB_per_s <<< "$after")" \
    'BEGIN {
       slower = before < after ? before : after
       printf "%-32s %10d %14.1f %13.1fx\n", name " (tokenizers)", tokens, peer, slower / peer
       printf "%-32s %10d %14.1f\n", name " (adder)", tokens, slower
     }'
done
