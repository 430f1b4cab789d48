#!/bin/bash
# Runs clang-tidy with the checks of .clang-tidy on all C++ sources, or on the files named.
# usage: scripts/lint.sh [FILE...]      after cmake --preset release
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ $# -gt 0 ]]; then
  files=("$@")
else
  mapfile -t files < <(git ls-files 'src/*.cc' 'tests/*_test.cc' | grep -v '_fuzz\.cc$')
fi
# Most files take seconds: the heaviest first, so that no core waits for one at the end.
mapfile -t files < <(wc -c "${files[@]}" | grep -v ' total$' | sort -rn | awk '{print $2}')
# What the tests' macros expand to is GoogleTest's affair.
check() {
  local output
  if ! output=$(clang-tidy -p build --quiet "$1" 2> /dev/null); then
    printf '%s\n' "$output"
    return 1
  fi
}
export -f check
printf '%s\0' "${files[@]}" | xargs -0 -n 1 -P "$(nproc)" bash -c 'check "$1"' check
echo "clang-tidy: ${#files[@]} files, no findings"
