// Prints attention's speed on a CUDA device: prompts by arithmetic, decoding beside the time of
// reading keys and values.
#include <cmath>
#include <exception>

#include "adder/backend/cuda/cuda_bench.h"
#include "adder/ops/attention/attention.h"

namespace adder {
namespace {

using bench::kCuda;

AttentionInputs Inputs(Random& random, int64_t sequences, int64_t rows, int64_t keys, int64_t heads,
                       int64_t kv_heads, int64_t d_head, DType dtype) {
  AttentionInputs in;
  in.q = bench::RandomRows(random, sequences * rows, heads * d_head, dtype);
  in.keys = bench::RandomRows(random, sequences * keys, kv_heads * d_head, dtype);
  in.values = bench::RandomRows(random, sequences * keys, kv_heads * d_head, dtype);
  in.layout = SequenceLayout::Uniform(sequences, rows);
  for (int64_t s = 0; s < sequences; ++s) in.key_ranges.push_back({s * keys, keys});
  in.heads = heads;
  in.kv_heads = kv_heads;
  in.scale = 1 / std::sqrt(static_cast<double>(d_head));
  return in;
}

AttentionOutputs Outputs(const AttentionInputs& in) {
  return {Tensor::Empty(in.q.shape(), in.q.dtype(), kCuda),
          Tensor::Empty({in.q.dim(0), in.heads}, DType::kF32, kCuda)};
}

// Multiplications and additions of both products of a causal forward.
double Operations(int64_t sequences, int64_t rows, int64_t heads, int64_t d_head) {
  return 4.0 * static_cast<double>(sequences * heads * d_head) * static_cast<double>(rows) *
         static_cast<double>(rows + 1) / 2;
}

void Prompts(int64_t sequences, int64_t rows, int64_t heads, int64_t kv_heads, int64_t d_head,
             DType dtype, double peer) {
  std::vector<std::function<void()>> forward;
  std::vector<std::function<void()>> backward;
  for (uint64_t i = 0; i < 2; ++i) {
    Random random(i);
    const AttentionInputs in =
        Inputs(random, sequences, rows, rows, heads, kv_heads, d_head, dtype);
    const AttentionOutputs out = Outputs(in);
    const Tensor dy = bench::RandomRows(random, in.q.dim(0), in.q.dim(1), dtype);
    const AttentionGradients g = {Tensor::Empty(in.q.shape(), dtype, kCuda),
                                  Tensor::Empty(in.keys.shape(), dtype, kCuda),
                                  Tensor::Empty(in.values.shape(), dtype, kCuda)};
    forward.emplace_back([in, out] { Attention(in, out); });
    backward.emplace_back([in, out, dy, g] { AttentionBackward(in, out, dy, g); });
  }
  const double operations = Operations(sequences, rows, heads, d_head);
  const std::string shape = fmt::format("{} x {}, {}/{} heads of {} {}", sequences, rows, heads,
                                        kv_heads, d_head, DTypeName(dtype));
  const double forward_seconds = bench::MedianSeconds(forward);
  const double backward_seconds = bench::MedianSeconds(backward);
  bench::PrintLine("forward " + shape, peer, 0, forward_seconds);
  bench::PrintLine("backward " + shape, 0, 0, backward_seconds);
  fmt::print("    {:.0f} and {:.0f} TFLOP/s (the backward counted as 2.5 forwards)\n",
             operations / forward_seconds * 1e-12, 2.5 * operations / backward_seconds * 1e-12);
}

void Decoding(double copy, int64_t sequences, int64_t keys, int64_t heads, int64_t kv_heads,
              int64_t d_head, DType dtype) {
  std::vector<std::function<void()>> calls;
  double bytes = 0;
  for (uint64_t i = 0; i < 2; ++i) {
    Random random(i);
    const AttentionInputs in = Inputs(random, sequences, 1, keys, heads, kv_heads, d_head, dtype);
    const AttentionOutputs out = {Outputs(in).y, {}};
    bytes = static_cast<double>(in.keys.bytes() + in.values.bytes());
    calls.emplace_back([in, out] { Attention(in, out); });
  }
  bench::PrintLine(fmt::format("decode {} of {} keys, {}/{} heads of {} {}", sequences, keys, heads,
                               kv_heads, d_head, DTypeName(dtype)),
                   0, bytes / copy, bench::MedianSeconds(calls));
}

void Run() {
  const double copy = bench::CopyBytesPerSecond();
  // Peer: PyTorch 2.11's fused kernel on an H100.
  Prompts(1, 2048, 16, 16, 64, DType::kBF16, 0.0407e-3);
  Prompts(1, 8192, 16, 16, 64, DType::kBF16, 0.343e-3);
  Prompts(1, 32768, 16, 16, 64, DType::kBF16, 4.85e-3);
  Prompts(8, 2048, 16, 16, 128, DType::kBF16, 0);
  Prompts(8, 2048, 16, 4, 128, DType::kBF16, 0);
  Prompts(8, 2048, 8, 8, 256, DType::kBF16, 0);
  Prompts(2, 2048, 16, 16, 128, DType::kF32, 0);
  for (const int64_t sequences : {1, 16, 128}) {
    Decoding(copy, sequences, 2048, 16, 16, 128, DType::kBF16);
    Decoding(copy, sequences, 2048, 32, 8, 128, DType::kBF16);
  }
  Decoding(copy, 128, 2048, 16, 16, 64, DType::kBF16);
  Decoding(copy, 1, 65536, 16, 16, 128, DType::kBF16);
  Decoding(copy, 32, 2048, 16, 16, 128, DType::kF32);
}

}  // namespace
}  // namespace adder

int main() {
  try {
    adder::Run();
  } catch (const std::exception& error) {
    fmt::print(stderr, "attention_cuda_bench: {}\n", error.what());
    return 1;
  }
}
