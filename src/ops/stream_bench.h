// What the benchmarks of memory-bound operators share: times beside a ceiling taken in the same
// run.
//
// Each case and the ceiling are run in turn, many rounds, and the best time of each counts: other
// work on the machine then disturbs both alike. The ceiling is STREAM's "scale" (b = s · a) over as
// many bytes as the case moves, half read and half written, by the same thread team: plain stores,
// as the operators', whose lines the machine reads before it writes them.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "adder/backend/cpu/instruction_set.h"
#include "adder/backend/cpu/parallel.h"
#include "adder/core/tensor.h"
#include "adder/core/timing.h"

namespace adder::bench {

struct StreamCase {
  std::string name;
  double bytes;               // read and written by one run
  std::function<void()> run;  // the operator, once
};

// b = s · a over `bytes` bytes in all.
inline std::function<void()> StreamScale(double bytes) {
  const auto elements = static_cast<int64_t>(bytes / 8);
  const Tensor a = Tensor::Zeros({elements}, DType::kF32);
  const Tensor b = Tensor::Zeros({elements}, DType::kF32);
  return [a, b, elements] {
    cpu::ParallelFor(elements, 16384, [&](int64_t begin, int64_t end, int /*thread*/) {
      const float* from = a.data<float>();
      float* to = b.data<float>();
      for (int64_t i = begin; i < end; ++i) to[i] = 3.0f * from[i];
    });
  };
}

// Prints one line a case: time, GB/s, the ceiling's GB/s, the share.
inline void RunStreamCases(const std::string& operator_name, const std::vector<StreamCase>& cases) {
  fmt::print("{}: {} threads, {}\n", operator_name, cpu::ThreadCount(),
             cpu::InstructionSetName(cpu::ActiveInstructionSet()));
  for (const StreamCase& c : cases) {
    const auto ceiling = StreamScale(c.bytes);
    c.run();
    ceiling();
    const int repeats = std::max(1, static_cast<int>(2e-3 / SecondsOf(c.run)));
    const auto repeated = [repeats](const std::function<void()>& run) {
      return SecondsOf([&] {
               for (int i = 0; i < repeats; ++i) run();
             }) /
             repeats;
    };
    double best = std::numeric_limits<double>::infinity();
    double best_ceiling = best;
    double spent = 0;
    for (int round = 0; round < 200 && spent < 1; ++round) {
      const double time = repeated(c.run);
      const double ceiling_time = repeated(ceiling);
      best = std::min(best, time);
      best_ceiling = std::min(best_ceiling, ceiling_time);
      spent += repeats * (time + ceiling_time);
    }
    fmt::print("  {:<52} {:9.1f} us {:7.1f} GB/s   stream {:7.1f} GB/s   {:4.0f} %\n", c.name,
               best * 1e6, c.bytes / best * 1e-9, c.bytes / best_ceiling * 1e-9,
               100 * best_ceiling / best);
  }
}

}  // namespace adder::bench
