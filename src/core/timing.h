// How long a piece of work takes.
#pragma once

#include <chrono>

namespace adder {

// Wall-clock seconds of work().
template <class Work>
double SecondsOf(Work&& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace adder
