// How fast selective_scan runs on this machine, beside the ceiling that matters: the exponential,
// of which each row takes D·N, evaluated alone on data in the first-level cache.
#pragma once

#include <cstdint>
#include <vector>

#include "adder/core/dtype.h"

namespace adder {

struct SelectiveScanBenchmarkOptions {
  int64_t rows = 4096;
  int64_t channels = 1536;
  int64_t states = 16;
  DType dtype = DType::kF32;  // of activations, B and C
  bool gate = false;          // z is given
  double seconds = 2;         // how long to measure
};

// Best times of many rounds in turn (ceiling, forward, backward, ceiling, ...), so that all three
// met the machine in its best moment. Threads are the team's.
struct SelectiveScanBenchmark {
  double exp_per_s = 0;  // the ceiling
  double forward_ns_per_row = 0;
  double backward_ns_per_row = 0;
  double forward_exp_per_s = 0;  // D·N exponentials a row
  double ceiling_share = 0;      // forward_exp_per_s / exp_per_s
  double backward_ratio = 0;     // backward time / forward time
};
SelectiveScanBenchmark MeasureSelectiveScan(const SelectiveScanBenchmarkOptions& options);

// Forward time per row for each number of rows, of one sequence, best of rounds in turn.
std::vector<double> MeasureSelectiveScanLengths(const SelectiveScanBenchmarkOptions& options,
                                                const std::vector<int64_t>& rows);

// Time of one decoding step (one row of each of `sequences` sequences, states in and out in place).
double MeasureSelectiveScanStep(const SelectiveScanBenchmarkOptions& options, int64_t sequences);

}  // namespace adder
