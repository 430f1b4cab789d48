#!/bin/bash
# Fails if kernel object files define a weak symbol outside their instruction set's namespace: the
# linker may merge such symbols with the copy of another file, and a machine without AVX-512 would
# then run AVX-512. See src/backend/cpu/instruction_set.h.
# usage: kernel_symbols.sh NM SET OBJECT...
set -euo pipefail
nm=$1 set=$2
shift 2
IFS=';' read -r -a objects <<< "$(IFS=';' && echo "$*")"  # CMake separates them by semicolons
[[ ${#objects[@]} -gt 0 ]] || { echo "no object file was given"; exit 1; }
# Itanium mangling spells a namespace as its length and its name, at its first mention in a symbol.
namespace="5adder3cpu${#set}${set}"
status=0
for object in "${objects[@]}"; do
  # W, w: weak functions; V, v: weak objects; u: unique objects (static locals of inline functions).
  found=$("$nm" --defined-only --format=posix "$object" |
    awk -v namespace="$namespace" '$2 ~ /^[WwVvu]$/ && index($1, namespace) == 0 {print $1}')
  if [[ -n $found ]]; then
    echo "$object defines symbols that another file's copy may replace:"
    c++filt <<< "$found" | sed 's/^/  /'
    status=1
  fi
done
[[ $status -ne 0 ]] || echo "${#objects[@]} object files, all clean"
exit $status
