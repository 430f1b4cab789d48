#!/bin/bash
# What a type of weights costs in quality: writes a model as GGUF files of every type that Adder
# writes and prints the size of each file and its bits per byte on a text, as a Markdown table.
# usage: benchmarks/weight_types.sh MODEL TEXT [BYTES]
#        BYTES: of the text are read (default: all)      ADDER: the program (default: build/adder)
set -euo pipefail

if [[ $# -lt 2 || $# -gt 3 ]]; then
  sed -n '4,5s/^# //p' "$0" >&2
  exit 2
fi
adder=${ADDER:-$(dirname "$0")/../build/adder}
limit=()
[[ $# -lt 3 ]] || limit=(--limit "$3")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

export LC_ALL=C
echo "| weights | file, MiB | bits per byte | against f32 |"
echo "|---|---|---|---|"
reference=""
for type in f32 bf16 f16 q8_0 q6_k q4_k q4_0; do
  option=--quantize
  [[ $type == *f* ]] && option=--dtype
  file=$folder/$type.gguf
  "$adder" convert "$1" "$file" "$option" "$type" > /dev/null 2>&1
  bpb=$("$adder" eval bpb --model "$file" "${limit[@]}" --json "$2" 2> /dev/null |
    grep -o '"bits_per_byte": *[0-9.]*' | grep -o '[0-9.]*$')
  reference=${reference:-$bpb}
  awk -v type="$type" -v bytes="$(stat -c %s "$file")" -v bpb="$bpb" -v reference="$reference" \
    'BEGIN {printf "| %s | %.1f | %.4f | %+.4f |\n", type, bytes / 2^20, bpb, bpb - reference}'
  rm "$file"
done
