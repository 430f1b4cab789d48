// Benchmark of attention: many rows beside the machine's fused multiply-adds, one row beside the
// bandwidth of its memory.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "adder/backend/cpu/matmul.h"
#include "adder/core/random.h"
#include "adder/ops/attention/attention.h"
#include "adder/ops/stream_bench.h"

namespace adder {
namespace {

AttentionInputs MakeInputs(int64_t rows, int64_t keys, int64_t heads, int64_t kv_heads,
                           DType dtype) {
  constexpr int64_t kHead = 64;
  Random random(1);
  const auto normal = [&](int64_t count, int64_t columns) {
    const Tensor block = Tensor::Empty({std::min<int64_t>(64, count), columns}, dtype);
    FillNormal(block, random, 0, 1);
    const Tensor tensor = Tensor::Empty({count, columns}, dtype);
    for (int64_t row = 0; row < count; row += 64) {
      const int64_t part = std::min<int64_t>(64, count - row);
      tensor.Rows(row, part).CopyFrom(block.Rows(0, part));
    }
    return tensor;
  };
  AttentionInputs in;
  in.q = normal(rows, heads * kHead);
  in.keys = normal(keys, kv_heads * kHead);
  in.values = normal(keys, kv_heads * kHead);
  in.layout = SequenceLayout::Single(rows);
  in.key_ranges = {{0, keys}};
  in.heads = heads;
  in.kv_heads = kv_heads;
  in.scale = 1 / std::sqrt(static_cast<double>(kHead));
  return in;
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

// The ceiling: an f32 product of matrices.
void PrintRows(int64_t rows, int64_t heads, int64_t kv_heads, DType dtype) {
  const AttentionInputs in = MakeInputs(rows, rows, heads, kv_heads, dtype);
  const AttentionOutputs out = {Tensor::Zeros(in.q.shape(), dtype),
                                Tensor::Zeros({rows, heads}, DType::kF32)};
  const AttentionGradients g = {Tensor::Zeros(in.q.shape(), dtype),
                                Tensor::Zeros(in.keys.shape(), dtype),
                                Tensor::Zeros(in.keys.shape(), dtype)};
  constexpr int64_t kSize = 768;
  const Tensor a = Tensor::Zeros({kSize, kSize}, DType::kF32);
  const Tensor c = Tensor::Zeros({kSize, kSize}, DType::kF32);
  const std::vector<double> best =
      BestTimes({[&] { Attention(in, out); }, [&] { AttentionBackward(in, out, in.q, g); },
                 [&] { cpu::MatMul(a, a, {}, c, {}); }});
  // Multiplications and additions of the visible half of q · k and of p · v; the backward has five
  // such products.
  const double forward = 2 * static_cast<double>(rows) * static_cast<double>(rows + 1) *
                         static_cast<double>(in.q.dim(1));
  const double ceiling = 2 * std::pow(static_cast<double>(kSize), 3) / best[2] * 1e-9;
  fmt::print(
      "  {:5} rows, {} heads, {} for keys, {}: forward {:8.2f} ms {:6.1f} GFLOP/s ({:3.0f} %), "
      "backward {:8.2f} ms {:6.1f} GFLOP/s ({:3.0f} %), f32 matrix product {:6.1f}\n",
      rows, heads, kv_heads, DTypeName(dtype), best[0] * 1e3, forward / best[0] * 1e-9,
      100 * forward / best[0] * 1e-9 / ceiling, best[1] * 1e3, 2.5 * forward / best[1] * 1e-9,
      250 * forward / best[1] * 1e-9 / ceiling, ceiling);
}

void Run() {
  fmt::print("attention: {} threads, {}\n", cpu::ThreadCount(),
             cpu::InstructionSetName(cpu::ActiveInstructionSet()));
  PrintRows(512, 12, 12, DType::kF32);
  PrintRows(512, 12, 12, DType::kBF16);
  PrintRows(2048, 12, 12, DType::kF32);
  PrintRows(2048, 12, 3, DType::kF32);

  std::vector<bench::StreamCase> cases;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const auto& [heads, kv_heads] : {std::pair<int64_t, int64_t>{12, 12}, {12, 3}}) {
      for (const int64_t keys : {int64_t{512}, int64_t{8192}, int64_t{32768}}) {
        const AttentionInputs in = MakeInputs(1, keys, heads, kv_heads, dtype);
        const AttentionOutputs out = {Tensor::Zeros(in.q.shape(), dtype), {}};
        cases.push_back({fmt::format("one row, {} keys, {} of {} heads, {}", keys, kv_heads, heads,
                                     DTypeName(dtype)),
                         static_cast<double>(2 * in.keys.bytes()), [=] { Attention(in, out); }});
      }
    }
  }
  bench::RunStreamCases("attention, one row", cases);
}

}  // namespace
}  // namespace adder

int main() { adder::Run(); }
