// What the benchmarks on a CUDA device share: random matrices, the median time of an operator on
// inputs that are not in the cache, the line that is printed.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "adder/backend/devices.h"
#include "adder/core/random.h"
#include "adder/core/tensor.h"

namespace adder::bench {

inline constexpr Device kCuda = {DeviceType::kCuda, 0};

// [rows, columns] on the device: a block of random rows, repeated.
inline Tensor RandomRows(Random& random, int64_t rows, int64_t columns, DType dtype,
                         double mean = 0) {
  const int64_t count = std::min<int64_t>(rows, 256);
  const Tensor block = Tensor::Empty({count, columns}, DType::kF32);
  FillNormal(block, random, mean, 1);
  const Tensor device_block = block.To(dtype).To(kCuda);
  const Tensor tensor = Tensor::Empty({rows, columns}, dtype, kCuda);
  for (int64_t row = 0; row < rows; row += count) {
    const int64_t n = std::min(count, rows - row);
    tensor.Rows(row, n).CopyFrom(device_block.Rows(0, n));
  }
  return tensor;
}

// Median seconds of one call; calls[i] all do the same work, each on memory of its own, and take
// turns.
inline double MedianSeconds(const std::vector<std::function<void()>>& calls) {
  const cuda::Module& module = cuda::GetModule();
  for (int i = 0; i < 3; ++i) {
    for (const auto& call : calls) call();
  }
  const double once = module.SecondsOf(0, calls[0]);
  const int runs = std::clamp(static_cast<int>(0.3 / std::max(once, 1e-6)), 9, 201);
  std::vector<double> seconds;
  for (int i = 0; i < runs; ++i) {
    seconds.push_back(module.SecondsOf(0, calls[static_cast<size_t>(i) % calls.size()]));
  }
  std::nth_element(seconds.begin(), seconds.begin() + runs / 2, seconds.end());
  return seconds[static_cast<size_t>(runs / 2)];
}

// Bytes a second of a copy within the device, read and written: the ceiling of what only moves
// bytes.
inline double CopyBytesPerSecond() {
  const Tensor from = Tensor::Zeros({int64_t{1} << 30}, DType::kU8, kCuda);
  const Tensor to = Tensor::Empty({int64_t{1} << 30}, DType::kU8, kCuda);
  return 2.0 * (1 << 30) / MedianSeconds({[&] { to.CopyFrom(from); }});
}

// "name  peer 0.594 ms  floor 0.145 ms  ours 0.250 ms: 2.38 x peer, 58% of the floor". A peer or
// floor of 0 is not printed.
inline void PrintLine(const std::string& name, double peer, double floor, double ours) {
  std::string line = fmt::format("{:<44} ours {:9.4f} ms", name, ours * 1e3);
  if (peer > 0) line += fmt::format("  peer {:9.4f} ms ({:.2f} x)", peer * 1e3, peer / ours);
  if (floor > 0)
    line += fmt::format("  floor {:.4f} ms ({:.0f}%)", floor * 1e3, 100 * floor / ours);
  fmt::print("{}\n", line);
}

}  // namespace adder::bench
