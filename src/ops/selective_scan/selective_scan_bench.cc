// Prints selective_scan's speed beside the exponential's, its flatness in the sequence's length and
// the time of decoding steps. Usage: selective_scan_bench [threads]
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <vector>

#include "adder/backend/cpu/instruction_set.h"
#include "adder/backend/cpu/parallel.h"
#include "adder/ops/selective_scan/selective_scan_benchmark.h"

namespace adder {
namespace {

void PrintSpeed(const char* what, const SelectiveScanBenchmarkOptions& options) {
  const SelectiveScanBenchmark b = MeasureSelectiveScan(options);
  fmt::print(
      "{}, {} rows x {}, N={}: forward {:.0f} ns/row, {:.2f} G exp/s, {:.0f}% of the "
      "exponential alone ({:.2f} G/s); backward {:.0f} ns/row, {:.2f} x forward\n",
      what, options.rows, options.channels, options.states, b.forward_ns_per_row,
      b.forward_exp_per_s / 1e9, 100 * b.ceiling_share, b.exp_per_s / 1e9, b.backward_ns_per_row,
      b.backward_ratio);
}

void Run() {
  fmt::print("{}, {} threads\n", cpu::InstructionSetName(cpu::ActiveInstructionSet()),
             cpu::ThreadCount());
  PrintSpeed("f32", {});
  PrintSpeed("f32, gate", {.gate = true});
  PrintSpeed("bf16, gate", {.dtype = DType::kBF16, .gate = true});
  PrintSpeed("f32", {.states = 64, .seconds = 1});

  std::vector<int64_t> rows;
  for (int64_t count = 1 << 10; count <= 1 << 20; count *= 4) rows.push_back(count);
  const std::vector<double> ns = MeasureSelectiveScanLengths({.channels = 128, .seconds = 8}, rows);
  fmt::print("one sequence of 128 channels, N=16:");
  for (size_t i = 0; i < rows.size(); ++i) fmt::print(" {} rows {:.1f} ns/row;", rows[i], ns[i]);
  const auto [least, most] = std::minmax_element(ns.begin(), ns.end());
  fmt::print(" slowest / fastest {:.3f}\n", *most / *least);

  for (const int64_t sequences : {1, 16, 128}) {
    const double seconds = MeasureSelectiveScanStep({.seconds = 0.5}, sequences);
    fmt::print("decoding step of {} sequences x 1536, N=16: {:.1f} us, {:.1f} GB/s of states\n",
               sequences, seconds * 1e6,
               static_cast<double>(sequences * 1536 * 16 * 4 * 2) / seconds / 1e9);
  }
}

}  // namespace
}  // namespace adder

int main(int argc, char** argv) {
  try {
    if (argc > 1) adder::cpu::SetThreadCount(std::atoi(argv[1]));
    adder::Run();
  } catch (const std::exception& error) {
    fmt::print(stderr, "selective_scan_bench: {}\n", error.what());
    return 1;
  }
}
