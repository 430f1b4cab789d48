// Benchmark of ssd: time per row beside the selective scan of the same channels, products of
// matrices beside the machine's, decoding beside the bandwidth of its memory.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "adder/backend/cpu/matmul.h"
#include "adder/core/random.h"
#include "adder/ops/ssd/ssd.h"
#include "adder/ops/stream_bench.h"

namespace adder {
namespace {

struct Call {
  SsdInputs inputs;
  SsdOutputs outputs;
};

Call MakeCall(const SequenceLayout& layout, int64_t heads, int64_t head_dim, int64_t states,
              DType dtype) {
  Random random(1);
  const auto normal = [&](const Shape& shape, double mean) {
    const Tensor tensor = Tensor::Empty(shape, dtype);
    FillNormal(tensor, random, mean, 1);
    return tensor;
  };
  const int64_t rows = layout.rows();
  Call call;
  call.inputs.x = normal({rows, heads * head_dim}, 0);
  call.inputs.dt = normal({rows, heads}, -4);
  call.inputs.B = normal({rows, states}, 0);
  call.inputs.C = normal({rows, states}, 0);
  call.inputs.A = Tensor::Empty({heads}, DType::kF32);
  for (int64_t h = 0; h < heads; ++h) {
    call.inputs.A.data<float>()[h] = -static_cast<float>(h % 16 + 1);
  }
  call.inputs.D = Tensor::Zeros({heads}, DType::kF32);
  call.inputs.layout = layout;
  call.inputs.head_dim = head_dim;
  call.outputs.y = Tensor::Zeros(call.inputs.x.shape(), dtype);
  return call;
}

// Runs the works in turn for about two seconds, and returns the best time of each.
std::vector<double> BestTimes(const std::vector<std::function<void()>>& works) {
  std::vector<double> best(works.size(), std::numeric_limits<double>::infinity());
  double spent = 0;
  for (int round = 0; round < 2 || spent < 2; ++round) {
    for (size_t i = 0; i < works.size(); ++i) {
      const double seconds = SecondsOf(works[i]);
      best[i] = std::min(best[i], seconds);
      spent += seconds;
    }
  }
  return best;
}

void PrintRows(int64_t rows, int64_t heads, int64_t head_dim, int64_t states, DType dtype) {
  const Call call = MakeCall(SequenceLayout::Single(rows), heads, head_dim, states, dtype);
  SsdOutputs kept = call.outputs;
  kept.chunk_states =
      Tensor::Empty({SsdChunks(call.inputs.layout), heads, head_dim, states}, DType::kF32);
  const auto like = [](const Tensor& tensor) {
    return Tensor::Zeros(tensor.shape(), tensor.dtype());
  };
  const SsdGradients gradients = {.dx = like(call.inputs.x),
                                  .ddt = like(call.inputs.dt),
                                  .dA = like(call.inputs.A),
                                  .dB = like(call.inputs.B),
                                  .dC = like(call.inputs.C),
                                  .dD = like(call.inputs.D),
                                  .d_dt_bias = {},
                                  .d_interval = {},
                                  .dh0 = {}};
  constexpr int64_t kSize = 768;
  const Tensor a = Tensor::Zeros({kSize, kSize}, DType::kF32);
  const Tensor c = Tensor::Zeros({kSize, kSize}, DType::kF32);
  Ssd(call.inputs, kept);
  const std::vector<double> best =
      BestTimes({[&] { Ssd(call.inputs, call.outputs); },
                 [&] { SsdBackward(call.inputs, kept.chunk_states, call.inputs.x, {}, gradients); },
                 [&] { cpu::MatMul(a, a, {}, c, {}); }});
  // Multiplications and additions of a row: two products with the state, and half a chunk's with x.
  const auto P = static_cast<double>(head_dim);
  const auto N = static_cast<double>(states);
  const double work = static_cast<double>(rows * heads) * 2 *
                      (2 * N * P + static_cast<double>(kSsdChunkRows) / 2 * P);
  const double ceiling = 2 * std::pow(static_cast<double>(kSize), 3) / best[2] * 1e-9;
  fmt::print(
      "  {} rows, {} heads of {}, N {}, {}: forward {:6.2f} us/row {:6.1f} GFLOP/s ({:3.0f} % of "
      "an "
      "f32 matrix product's {:.1f}), backward {:6.2f} us/row, {:.2f} x\n",
      rows, heads, head_dim, states, DTypeName(dtype), best[0] / static_cast<double>(rows) * 1e6,
      work / best[0] * 1e-9, 100 * work / best[0] * 1e-9 / ceiling, ceiling,
      best[1] / static_cast<double>(rows) * 1e6, best[1] / best[0]);
}

void Run() {
  fmt::print("ssd: {} threads, {}\n", cpu::ThreadCount(),
             cpu::InstructionSetName(cpu::ActiveInstructionSet()));
  PrintRows(512, 24, 64, 128, DType::kF32);
  PrintRows(512, 24, 64, 128, DType::kBF16);
  PrintRows(2048, 24, 64, 128, DType::kF32);
  PrintRows(512, 24, 64, 16, DType::kF32);

  std::vector<bench::StreamCase> cases;
  for (const int64_t sequences : {1, 16, 128}) {
    Call call = MakeCall(SequenceLayout::Uniform(sequences, 1), 24, 64, 128, DType::kF32);
    call.inputs.h0 = Tensor::Zeros({sequences, 24, 64, 128}, DType::kF32);
    call.outputs.hT = call.inputs.h0;
    cases.push_back({fmt::format("a row of {} sequences, 24 heads of 64, N 128", sequences),
                     static_cast<double>(2 * call.inputs.h0.bytes()),
                     [call] { Ssd(call.inputs, call.outputs); }});
  }
  bench::RunStreamCases("ssd, decoding", cases);
}

}  // namespace
}  // namespace adder

int main() { adder::Run(); }
