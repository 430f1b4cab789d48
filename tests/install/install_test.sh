#!/bin/bash
# Installs a built Adder into a scratch folder, then configures, builds and runs a project that
# finds it there.
# usage: install_test.sh CMAKE BUILD_FOLDER CXX VERSION
set -euo pipefail
cmake=$1 build=$2 cxx=$3 version=$4
consumer=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

"$cmake" --install "$build" --prefix "$scratch/prefix" > "$scratch/install.log"
"$cmake" -S "$consumer" -B "$scratch/build" -G Ninja -DCMAKE_PREFIX_PATH="$scratch/prefix" \
  -DCMAKE_CXX_COMPILER="$cxx"
"$cmake" --build "$scratch/build"
"$scratch/build/consumer"

# Every installed header can be included without the headers of Adder's own dependencies.
(cd "$scratch/prefix/include" && find adder -name '*.h' | sort | sed 's/.*/#include "&"/') \
  > "$scratch/headers.cc"
"$cxx" -std=c++20 -fsyntax-only -I "$scratch/prefix/include" "$scratch/headers.cc"
if grep -rE '#include <(fmt|spdlog|boost|CLI|toml|dnnl|omp|xxhash|utf8proc|pcre2|gtest)' \
  "$scratch/prefix/include"; then
  echo "an installed header includes a header of a library that Adder uses inside"
  exit 1
fi

program=$("$scratch/prefix/bin/adder" --version)
[[ $program == "adder $version" ]] || { echo "the program says '$program', not $version"; exit 1; }
