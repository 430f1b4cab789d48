#!/bin/bash
# What `make run` does once the program is built: trains a small byte-level Mamba on a book for about
# a minute, compares its bits per byte on the book's unread end with what compressors need, and
# lets it write. Run again, it goes on with what is not done yet.
# usage: scripts/quickstart.sh
set -euo pipefail
cd "$(dirname "$0")/.."

adder=build/adder
config=configs/quickstart.toml
run=runs/quickstart
held_out=data/moby-dick/held-out.txt

# Ctrl-C reaches the program as well, which saves what it has and says how to go on.
trap 'exit 130' INT TERM

if [[ -e $run/config.toml ]]; then
  # Where the text is now: the run remembers where it was, and the checkout may have moved.
  "$adder" train --resume "$run" --set data.train=data/moby-dick/train.txt
else
  "$adder" train --config "$config" --run "$run"
fi

bytes=$(wc -c < "$held_out")
compressed() { # COMMAND...: bits per byte of the held-out text
  LC_ALL=C awk -v size="$("$@" --stdout "$held_out" | wc -c)" -v bytes="$bytes" \
    'BEGIN {printf "%.3f", 8 * size / bytes}'
}
evaluation=$("$adder" eval bpb --model "$run/model" "$held_out" --json)
measured=$(sed -n 's/.*"bits_per_byte": *\([0-9.]*\).*/\1/p' <<< "$evaluation")

echo
echo "Bits per byte of $held_out ($bytes bytes that were not trained on)"
printf '  %-20s %s\n' "gzip -9" "$(compressed gzip -9)" "xz -9e" "$(compressed xz -9e)" \
  "adder, this model" "$(LC_ALL=C printf '%.3f' "$measured")"
echo
prompt="The whale rose out of the water, and Captain Ahab"
echo "What it writes after: $prompt"
echo
"$adder" generate --model "$run/model" --prompt "$prompt" --max-tokens 600 --temperature 0.8 \
  --top-p 0.95 --seed 1
echo
echo
echo "The run, with its loss curve, is in $run. Go on from here:"
echo "  $adder generate --model $run/model --prompt 'Call me'"
echo "  $adder train --config $config --run runs/longer --set train.minutes=20"
