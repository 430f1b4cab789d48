# The Debian 12 packages that Adder is built, tested and checked with. Sourced by setup.sh, which
# installs the groups it is asked for.

PACKAGES_build=(
  g++ make cmake ninja-build
  ccache mold                             # used where present; a rebuild takes seconds
  libdnnl-dev ocl-icd-opencl-dev          # GEMM; oneDNN's CMake package looks for OpenCL
  libfmt-dev libspdlog-dev libcli11-dev libtomlplusplus-dev libboost-json1.81-dev
  libxxhash-dev librandom123-dev libutf8proc-dev libpcre2-dev
  libgtest-dev libgmock-dev libbenchmark-dev
)
PACKAGES_run=(gzip xz-utils)              # the compressors that the quick start compares with
PACKAGES_format=(clang-format)
PACKAGES_lint=(clang-tidy clang libomp-dev)
PACKAGES_sanitize=(clang libclang-rt-14-dev libomp-dev llvm)
PACKAGES_cross=(g++-aarch64-linux-gnu qemu-user-static)
PACKAGES_peers=(python3-venv)             # the PyTorch benchmarks
