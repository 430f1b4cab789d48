#!/bin/bash
# Installs the Debian packages that are missing, and does nothing, quickly, when none is.
# usage: scripts/setup.sh [GROUP...]      groups: see packages.sh; "build run" when none is named
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/packages.sh"

wanted=()
for group in "${@:-build run}"; do
  for name in $group; do
    declare -n packages="PACKAGES_$name"
    if [[ ! -v packages ]]; then
      echo "setup: no package group is called '$name'" >&2
      exit 2
    fi
    wanted+=("${packages[@]}")
  done
done

if ! command -v dpkg-query > /dev/null || ! command -v apt-get > /dev/null; then
  cat >&2 << EOF
setup: this system has no apt-get; Adder installs what it needs on Debian 12 only.
Install these yourself, under the names your system gives them, then say: make SETUP=: build
  a C++20 compiler with OpenMP (g++ 12 or later, clang 14 or later), CMake 3.25, Ninja
  oneDNN 2.6 (its version 2 interface), fmt 9, spdlog, CLI11 2.1, toml++ 3.3, Boost.JSON 1.81,
  xxHash, Random123, utf8proc, PCRE2, GoogleTest with GoogleMock, Google Benchmark, gzip, xz
(Debian calls them: ${wanted[*]})
EOF
  exit 1
fi

installed=" $(dpkg-query --show --showformat='${Package}/${db:Status-Status} ' "${wanted[@]}" \
  2> /dev/null || true)"
missing=()
for package in "${wanted[@]}"; do
  [[ $installed == *" $package/installed "* ]] || missing+=("$package")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

privileged=()
if [[ $EUID -ne 0 ]]; then
  # Asked once, before anything is tried: sudo may be there and not for this user.
  if ! command -v sudo > /dev/null || ! { sudo -n true 2> /dev/null || { [[ -t 0 ]] && sudo -v; }; }
  then
    echo "setup: packages are missing and only root can install them. As root, run:" >&2
    echo "  apt-get update && apt-get install -y --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  privileged=(sudo)
fi

apt() {
  "${privileged[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=5 \
    -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@"
}
echo "setup: installing ${missing[*]}"
for attempt in 1 2 3; do
  if apt update && apt install -y --no-install-recommends "${missing[@]}" > /dev/null; then
    exit 0
  fi
  echo "setup: attempt $attempt failed" >&2
  sleep $((attempt * 5))
done
cat >&2 << EOF
setup: these packages could not be installed: ${missing[*]}
Adder is made for Debian 12 (bookworm); this system says it is: $(. /etc/os-release && echo "$PRETTY_NAME")
EOF
exit 1
