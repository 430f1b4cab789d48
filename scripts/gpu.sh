#!/bin/bash
# Everything that a GPU is needed for: builds, tests, checks with compute-sanitizer, measures, and
# writes a page of Markdown (the newest one is docs/benchmarks/cuda.md).
#
# usage: scripts/gpu.sh [--binaries DIR] [--output FILE] [--only SECTION] [--patience SECONDS]
#
#   --binaries DIR  programs that were built elsewhere, with libadder_cuda.so beside them, instead
#                   of a build here
#   --output FILE   where the page goes (default: build/cuda.md)
#   --only SECTION  tests, sanitizer, operators, long or models
#   --patience SECONDS
#                   how long a tool of compute-sanitizer may look at a program (default: 20, in which
#                   some do not end)
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

binaries=
output=build/cuda.md
only=
patience=20
while [[ $# -gt 0 ]]; do
  case $1 in
    --binaries) binaries=$2 && shift 2 ;;
    --output) output=$2 && shift 2 ;;
    --only) only=$2 && shift 2 ;;
    --patience) patience=$2 && shift 2 ;;
    *) sed -n '2,/^set /p' "$0" | sed '$d; s/^# \{0,1\}//' >&2 && exit 2 ;;
  esac
done

if [[ -z $binaries ]]; then
  binaries=build
  cmake --preset release -DADDER_CUDA=ON || exit 1
  programs=(adder_program device_memory_test)
  for source in $(git ls-files '*_cuda_test.cc' '*_cuda_bench.cc'); do
    programs+=("$(basename "$source" .cc)")
  done
  cmake --build build --target adder_cuda "${programs[@]}" || exit 1
fi
binaries=$(realpath "$binaries")
export LD_LIBRARY_PATH=$binaries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
"$binaries/adder" devices | grep -q '^cuda:' || { "$binaries/adder" devices >&2; exit 1; }

mkdir -p "$(dirname "$output")"
log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
: > "$output"
wanted() { [[ -z $only || $only == "$1" ]]; }
page() { printf '%s\n' "$@" | tee -a "$output"; }
failed=0

page "# On an NVIDIA GPU" "" \
  "Written by \`scripts/gpu.sh\` on $(date +%Y-%m-%d). Times are medians by the device's clock, of random" \
  "inputs in several buffers; what is compared with the CPU is compared before it is timed." "" \
  '```'
"$binaries/adder" devices | tee -a "$output"
page '```'

if wanted tests; then
  page "" "## Tests" "" "| program | result |" "|---|---|"
  run_test() { timeout 120 "$1" --gtest_brief=1 > "$log/$(basename "$1")" 2>&1 || touch "$log/$(basename "$1").failed"; }
  tests=("$binaries"/device_memory_test "$binaries"/*_cuda_test)
  # Most of a test's time is the CPU's, which computes what is expected: several run at a time, but
  # those that fill the device's memory alone.
  together=()
  for test in "${tests[@]}"; do
    case $(basename "$test") in
      activation_* | adamw_* | attention_* | embedding_* | graph_* | large_tensors_*) run_test "$test" ;;
      *) together+=("$test") ;;
    esac
  done
  for test in "${together[@]}"; do
    while [[ $(jobs -rp | wc -l) -ge 4 ]]; do wait -n; done
    run_test "$test" &
  done
  wait
  for test in "${tests[@]}"; do
    name=$(basename "$test")
    if [[ ! -e $log/$name.failed ]]; then
      page "| $name | $(tail -1 "$log/$name" | sed 's/\[ *PASSED *\] //') passed |"
    else
      page "| $name | **failed** |"
      failed=1
      cp "$log/$name" "$(dirname "$output")/$name.log"
    fi
  done
fi

sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
if [[ -x $sanitizer ]] && wanted sanitizer; then
  page "" "## compute-sanitizer" "" "| program | memcheck | racecheck | initcheck |" "|---|---|---|---|"
  # The smaller cases: each tool makes a kernel ten to a hundred times slower.
  filter='*Half*:*Steps*:*Backward*:*Quantized*:*MatchesTheCpu*:*AgreesWithTheCpu*:*AllLayouts*'
  filter+=':*DrawsWhat*:*AgreesWithTheDefinition*:-*Large*:*Long*:*SixtyFour*:*Blocks*:*AtATime*'
  run_tool() {  # tool, test
    local status=0
    timeout "$patience" "$sanitizer" --tool "$1" --error-exitcode 9 "$2" --gtest_brief=1 \
      --gtest_filter="$filter" > "$log/$1" 2>&1 || status=$?
    # What was found before the time was up counts, too.
    ! grep -qE '^=+ +(Error: |Invalid |Uninitialized )' "$log/$1" || status=9
    echo $status > "$log/$1.status"
  }
  tools=(memcheck racecheck initcheck)
  for name in selective_scan causal_conv1d ssd attention rms_norm gated_rms_norm linear embedding \
    softmax_cross_entropy adamw sample mamba_step; do
    test=$binaries/${name}_cuda_test
    [[ -x $test ]] || continue
    for tool in "${tools[@]}"; do run_tool "$tool" "$test" & done
    wait
    row="| $name |"
    for tool in "${tools[@]}"; do
      case $(< "$log/$tool.status") in
        0) row+=" clean |" ;;
        124) row+=" no finding in $patience s |" ;;
        *)
          row+=" **findings** |"
          failed=1
          cp "$log/$tool" "$(dirname "$output")/$tool.$name.log"
          ;;
      esac
    done
    page "$row"
  done
fi

if wanted operators; then
  page "" "## Operators" "" '```'
  for bench in "$binaries"/*_cuda_bench; do
    page "$(basename "$bench" _cuda_bench)"
    timeout 45 "$bench" 2>&1 | sed 's/^/  /' | tee -a "$output"
  done
  page '```'
fi

if wanted long; then
  page "" "## Long texts" "" "One text of mamba-130m, bf16, random weights: memory and speed by its length." "" '```'
  timeout 120 "$binaries/adder" bench length --size 130m --dtype bf16 --device cuda \
    --memory-plot "$(dirname "$output")/length-memory.svg" 2>&1 | tee -a "$output"
  page '```'
fi
wanted models || exit $failed

value() { awk -v key="$1" '$1 == key { print $2 }' "$log/bench"; }
bench() { timeout 60 "$binaries/adder" bench "$@" --dtype bf16 --device cuda > "$log/bench" 2>&1; }
page "" "## Models" "" "Random weights, bf16. Peers are the official packages on an H100 (mamba_ssm; for" \
  "Pythia Hugging Face), measured apart from this run." "" \
  "| work | peer | Adder | ratio | most memory |" "|---|---|---|---|---|"
row() {  # name, peer, value
  page "$(awk -v name="$1" -v peer="$2" -v ours="$3" -v bytes="$(value peak_device_bytes)" 'BEGIN {
    ratio = (peer > 0) ? sprintf("%.2f", ours / peer) : ""
    printf("| %s | %s | %.0f | %s | %.1f GiB |", name, (peer > 0) ? peer : "", ours, ratio,
           bytes / 1073741824) }')"
}
train() {  # size, peer, extra options
  bench train-step --size "$1" --batch 16 --length 2048 --repetitions 3 "${@:3}" &&
    row "train $1${3:+ ${*:3}}, batch 16 × 2048, tokens/s" "$2" "$(value tokens_per_s)"
}
decode() {  # size, batch, prompt, generated, peer, extra options
  bench generate --size "$1" --batch "$2" --prompt-length "$3" --gen-length "$4" --repetitions 1 \
    "${@:6}" && row "decode $1${6:+ ${*:7}}, batch $2 after $3, tokens/s" "$5" "$(value decode_tokens_per_s)"
}
train 130m 162671
train 370m 68218
train 370m 68218 --recompute scan
train mamba2-130m 184108
decode 1.4b 1 128 128 443
decode 1.4b 1 128 128 0 --quantize q8_0
decode 1.4b 1 128 128 0 --quantize q4_0
decode 1.4b 1 128 128 0 --quantize q4_k
decode 2.8b 1 64 64 255
decode 1.4b 128 2048 128 32717
page "$(awk -v prefill="$(value prefill_tokens_per_s)" -v decode="$(value decode_tokens_per_s)" 'BEGIN {
  ours = 128 * 128 / (128 * 2048 / prefill + 128 * 128 / decode)
  printf("| generate 1.4b, batch 128, 2048 → 128, prompt included, tokens/s | 6408 | %.0f | %.2f | |",
         ours, ours / 6408) }')"
decode 1.4b 512 2048 32 0
decode pythia-1.4b 32 2048 32 0
decode pythia-1.4b 64 2048 32 0
exit $failed
