#include "adder/ops/selective_scan/selective_scan_benchmark.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>

#include "adder/backend/cpu/parallel.h"
#include "adder/backend/cpu/vector_math.h"
#include "adder/core/random.h"
#include "adder/core/timing.h"
#include "adder/ops/selective_scan/selective_scan.h"

namespace adder {
namespace {

using Clock = std::chrono::steady_clock;

// Runs all works in turn for about `seconds`, at least twice, and returns the best time of each.
std::vector<double> BestTimes(double seconds, const std::vector<std::function<void()>>& works) {
  std::vector<double> best(works.size(), std::numeric_limits<double>::infinity());
  const auto start = Clock::now();
  for (int round = 0;
       round < 2 || std::chrono::duration<double>(Clock::now() - start).count() < seconds;
       ++round) {
    for (size_t i = 0; i < works.size(); ++i) best[i] = std::min(best[i], SecondsOf(works[i]));
  }
  return best;
}

// e^x of this many numbers by each thread, in its first-level cache.
constexpr int64_t kExpCount = int64_t{1} << 23;
void EvaluateExponentials() {
  constexpr int64_t kBlock = 2048;
  cpu::ParallelFor(cpu::ThreadCount(), 1, [&](int64_t, int64_t, int) {
    std::vector<float> x(kBlock), y(kBlock);
    for (int64_t i = 0; i < kBlock; ++i) {
      x[static_cast<size_t>(i)] = -static_cast<float>(i) / static_cast<float>(kBlock);
    }
    for (int64_t done = 0; done < kExpCount; done += kBlock) {
      cpu::VectorMath({cpu::VectorFunction::kExp, x.data(), y.data(), kBlock});
    }
  });
}

struct Call {
  SelectiveScanInputs inputs;
  SelectiveScanOutputs outputs;
};

Call MakeCall(const SelectiveScanBenchmarkOptions& options, const SequenceLayout& layout) {
  Random random(1);
  const auto normal = [&](const Shape& shape, DType dtype, double mean) {
    // A block of random rows, repeated: values matter little, and drawing them takes long.
    const int64_t rows = std::min<int64_t>(shape[0], 64);
    const Tensor block = Tensor::Empty({rows, shape[1]}, dtype);
    FillNormal(block, random, mean, 1);
    const Tensor tensor = Tensor::Empty(shape, dtype);
    for (int64_t row = 0; row < shape[0]; row += rows) {
      const int64_t count = std::min(rows, shape[0] - row);
      tensor.Rows(row, count).CopyFrom(block.Rows(0, count));
    }
    return tensor;
  };
  const int64_t rows = layout.rows();
  const int64_t channels = options.channels;
  Call call;
  call.inputs.x = normal({rows, channels}, options.dtype, 0);
  call.inputs.dt = normal({rows, channels}, options.dtype, 0);
  call.inputs.B = normal({rows, options.states}, options.dtype, 0);
  call.inputs.C = normal({rows, options.states}, options.dtype, 0);
  if (options.gate) call.inputs.z = normal({rows, channels}, options.dtype, 0);
  // As Mamba is initialised: A = -1 ... -N, steps of 0.001 to 0.1, D = 1.
  call.inputs.A = Tensor::Empty({channels, options.states}, DType::kF32);
  for (int64_t i = 0; i < call.inputs.A.elements(); ++i) {
    call.inputs.A.data<float>()[i] = -static_cast<float>(i % options.states + 1);
  }
  call.inputs.D = Tensor::Empty({channels}, DType::kF32);
  call.inputs.dt_bias = Tensor::Empty({channels}, DType::kF32);
  std::fill_n(call.inputs.D.data<float>(), channels, 1.0f);
  std::fill_n(call.inputs.dt_bias.data<float>(), channels, -5.0f);
  call.inputs.layout = layout;
  call.outputs.y = Tensor::Zeros({rows, channels}, options.dtype);
  return call;
}

}  // namespace

SelectiveScanBenchmark MeasureSelectiveScan(const SelectiveScanBenchmarkOptions& options) {
  Call call = MakeCall(options, SequenceLayout::Single(options.rows));
  const Shape states = {ScanChunks(call.inputs.layout), options.channels, options.states};
  SelectiveScanOutputs kept = call.outputs;
  kept.chunk_states = Tensor::Empty(states, DType::kF32);
  const auto like = [](const Tensor& tensor) {
    return tensor.defined() ? Tensor::Zeros(tensor.shape(), tensor.dtype()) : Tensor();
  };
  const SelectiveScanGradients gradients = {.dx = like(call.inputs.x),
                                            .ddt = like(call.inputs.dt),
                                            .dA = like(call.inputs.A),
                                            .dB = like(call.inputs.B),
                                            .dC = like(call.inputs.C),
                                            .dD = like(call.inputs.D),
                                            .d_dt_bias = like(call.inputs.dt_bias),
                                            .dz = like(call.inputs.z),
                                            .d_interval = {},
                                            .dh0 = {}};
  const Tensor dy = call.inputs.x;
  SelectiveScan(call.inputs, kept);
  const std::vector<double> best = BestTimes(
      options.seconds,
      {EvaluateExponentials, [&] { SelectiveScan(call.inputs, kept); },
       [&] { SelectiveScanBackward(call.inputs, kept.chunk_states, dy, Tensor(), gradients); }});
  const auto rows = static_cast<double>(options.rows);
  const auto per_row = static_cast<double>(options.channels * options.states);
  SelectiveScanBenchmark result;
  result.exp_per_s = static_cast<double>(kExpCount) * cpu::ThreadCount() / best[0];
  result.forward_ns_per_row = best[1] / rows * 1e9;
  result.backward_ns_per_row = best[2] / rows * 1e9;
  result.forward_exp_per_s = rows * per_row / best[1];
  result.ceiling_share = result.forward_exp_per_s / result.exp_per_s;
  result.backward_ratio = best[2] / best[1];
  return result;
}

std::vector<double> MeasureSelectiveScanLengths(const SelectiveScanBenchmarkOptions& options,
                                                const std::vector<int64_t>& rows) {
  std::vector<Call> calls;
  std::vector<std::function<void()>> works;
  calls.reserve(rows.size());
  int64_t most = 0;
  for (const int64_t count : rows) most = std::max(most, count);
  for (const int64_t count : rows) {
    calls.push_back(MakeCall(options, SequenceLayout::Single(count)));
    // A short sequence again and again, for as many rows as the longest has, up to 2^17.
    const int64_t times = std::max<int64_t>(1, std::min<int64_t>(most, 1 << 17) / count);
    const Call& call = calls.back();
    works.emplace_back([&call, times] {
      for (int64_t i = 0; i < times; ++i) SelectiveScan(call.inputs, call.outputs);
    });
  }
  std::vector<double> seconds = BestTimes(options.seconds, works);
  for (size_t i = 0; i < rows.size(); ++i) {
    const int64_t times = std::max<int64_t>(1, std::min<int64_t>(most, 1 << 17) / rows[i]);
    seconds[i] = seconds[i] / static_cast<double>(times * rows[i]) * 1e9;
  }
  return seconds;
}

double MeasureSelectiveScanStep(const SelectiveScanBenchmarkOptions& options, int64_t sequences) {
  Call call = MakeCall(options, SequenceLayout::Uniform(sequences, 1));
  call.inputs.h0 = Tensor::Zeros({sequences, options.channels, options.states}, DType::kF32);
  call.outputs.hT = call.inputs.h0;
  constexpr int kTimes = 16;
  const std::vector<double> best = BestTimes(options.seconds, {[&] {
                                               for (int i = 0; i < kTimes; ++i)
                                                 SelectiveScan(call.inputs, call.outputs);
                                             }});
  return best[0] / kTimes;
}

}  // namespace adder
