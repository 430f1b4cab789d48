#!/bin/bash
# Builds the fuzz targets with clang and runs each for a number of seconds, from the seeds in
# tests/corpus/ and what earlier runs found, one target a core. A finding fails the script and stays
# in the build folder.
# usage: scripts/fuzz.sh SECONDS [NAME...]      NAME: a target, as in scripts/fuzz.sh 60 safetensors
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ ! "${1:-}" =~ ^[1-9][0-9]*$ ]]; then
  sed -n '2,5s/^# //p' "$0" >&2
  exit 2
fi
seconds=$1
shift
if [[ $# -gt 0 ]]; then
  names=("$@")
else
  mapfile -t names < <(find src -name '*_fuzz.cc' -printf '%f\n' | sed 's/_fuzz\.cc$//' | sort)
fi

build=build/fuzz
cmake --preset fuzz
cmake --build "$build" --target "${names[@]/%/_fuzz}"
mkdir -p "$build/findings"
fuzz() {
  local name=$1 seconds=$2 build=$3
  local found="$build/corpus/$name" log="$build/findings/$name.log" seeds=()
  # A parser must not take gigabytes or seconds for a small file, whatever the file says.
  local limits=(-rss_limit_mb=1024 -malloc_limit_mb=512 -timeout=10 -max_len=16384)
  mkdir -p "$found"
  [[ -d "tests/corpus/$name" ]] && seeds=("tests/corpus/$name")
  if "$build/${name}_fuzz" "${limits[@]}" -max_total_time="$seconds" -print_final_stats=1 \
    -verbosity=0 -artifact_prefix="$build/findings/$name-" "$found" "${seeds[@]}" > "$log" 2>&1; then
    echo "$name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs"
  else
    printf '== %s\n' "$name"
    cat "$log"
    return 1
  fi
}
export -f fuzz
printf '%s\0' "${names[@]}" |
  xargs -0 -n 1 -P "$(nproc)" bash -c 'fuzz "$3" "$1" "$2"' fuzz "$seconds" "$build"
echo "fuzzing: ${#names[@]} targets, $seconds s each, no findings"
