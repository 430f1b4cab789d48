#!/bin/bash
# Compiles the library and its portable kernels for aarch64 with Debian's cross compiler and runs
# the tests of the core and of the operators under emulation, so that the portable path stays one.
# Skipped (exit 77) without the compiler or the emulator. oneDNN has no cross package, so tests that
# multiply matrices are compiled but not run.
# usage: aarch64_test.sh SCRATCH_FOLDER
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
out=$1
cxx=aarch64-linux-gnu-g++
emulator=qemu-aarch64-static
for tool in $cxx $emulator; do
  if ! command -v $tool > /dev/null; then
    echo "skipped: $tool is not installed (Debian: g++-aarch64-linux-gnu qemu-user-static)"
    exit 77
  fi
done
googletest=/usr/src/googletest
[[ -d $googletest ]] || { echo "skipped: no sources of GoogleTest in $googletest"; exit 77; }
mkdir -p "$out"
cd "$root"

# Headers of the packages do not depend on the architecture; those of the C library do, and the
# cross compiler's own come first. Libraries that would have to be linked are taken as headers.
flags="-std=c++20 -O1 -fopenmp -ffp-contract=fast -Wall -Wextra -Wshadow -Werror -Wno-psabi
  -Iinclude -I. -idirafter /usr/include -DFMT_HEADER_ONLY -DXXH_INLINE_ALL
  -DADDER_SOURCE_DIR=\"$root\" -DADDER_BINARY_DIR=\"$out\" -DADDER_ISA=portable
  -DADDER_VERSION=\"aarch64\" -DADDER_INSTALL_LIBDIR=\"lib\" -DADDER_INSTALL_FULL_LIBDIR=\"/usr/local/lib\""
mapfile -t library < <(find src -name '*.cc' ! -path 'src/cli/*' ! -name '*_test.cc' \
  ! -name '*_bench.cc' ! -name '*_fuzz.cc' | sort)
mapfile -t tests < <(find src/core src/backend/cpu src/ops -name '*_test.cc' | sort)

# What Boost.JSON and GoogleTest would bring as libraries.
echo '#include <boost/json/src.hpp>' > "$out/boost_json.cc"
cat > "$out/googletest.cc" << EOF
#include "$googletest/googletest/src/gtest-all.cc"
#include "$googletest/googlemock/src/gmock-all.cc"
#include "$googletest/googlemock/src/gmock_main.cc"
EOF

launcher=$(command -v ccache || true)
compile() { # SOURCE: to OUT/path_with_underscores.o
  local source=$1 object
  object=$out/$(tr / _ <<< "${source#"$out"/}").o
  # shellcheck disable=SC2086
  $launcher $cxx $flags -I$googletest/googletest -I$googletest/googlemock -c "$source" -o "$object"
}
export -f compile
export cxx flags out launcher googletest
rm -f "$out"/*.o
printf '%s\0' "${library[@]}" "${tests[@]}" "$out/boost_json.cc" "$out/googletest.cc" |
  xargs -0 -P "$(nproc)" -I '{}' bash -c 'compile "$1"' compile '{}'
echo "compiled ${#library[@]} library sources and ${#tests[@]} tests for aarch64"

objects=()
for source in "${library[@]}" "$out/boost_json.cc"; do
  objects+=("$out/$(tr / _ <<< "${source#"$out"/}").o")
done
rm -f "$out/libadder.a"
aarch64-linux-gnu-ar rcs "$out/libadder.a" "${objects[@]}"
# Tests of what a process reads when it starts run themselves anew, which only the emulator could.
restarting='InstructionSetTest.TheBest*:InstructionSetTest.TheEnvironment*:LogTest.*'
ran=0
for source in "${tests[@]}"; do
  name=$(basename "$source" .cc)
  if ! $cxx -fopenmp "$out/$(tr / _ <<< "$source").o" "$out/googletest.cc.o" "$out/libadder.a" \
    -o "$out/$name" 2> "$out/link.log"; then
    # oneDNN's functions may be missing, nothing else.
    if grep 'undefined reference to' "$out/link.log" | grep -qv '`dnnl_' ||
      ! grep -q 'undefined reference to `dnnl_' "$out/link.log"; then
      cat "$out/link.log"
      exit 1
    fi
    echo "$name: compiled, not run, since it multiplies matrices"
    continue
  fi
  echo "$name:"
  OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive $emulator -L /usr/aarch64-linux-gnu "$out/$name" \
    --gtest_brief=1 --gtest_filter="-$restarting"
  ran=$((ran + 1))
done
echo "$ran of ${#tests[@]} tests ran"
[[ $ran -gt 0 ]]
