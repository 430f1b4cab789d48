// Prints mamba_step's time on a CUDA device for one sequence, a block in a recorded graph of many,
// beside the block's operators one by one and beside the memory that its weights are.
#include <exception>

#include "adder/backend/cuda/cuda_bench.h"
#include "adder/ops/mamba_step/mamba_step_backends.h"

namespace adder {
namespace {

using bench::kCuda;

struct Model {
  const char* name;
  int64_t d_model, dt_rank;
};

struct BlockOfModel {
  MambaStepWeights weights;
  MambaStepMemory memory;
};

BlockOfModel RandomBlock(Random& random, const Model& model, DType W_dtype) {
  const int64_t d_inner = 2 * model.d_model;
  constexpr int64_t kStates = 16;
  constexpr int64_t kWidth = 4;
  const auto floats = [&](int64_t rows, int64_t columns, double mean) {
    return bench::RandomRows(random, rows, columns, DType::kF32, mean);
  };
  const auto vector = [&](int64_t size) { return floats(1, size, 0).Reshape({size}); };
  const auto projection = [&](int64_t rows, int64_t columns) {
    const Tensor W = bench::RandomRows(random, rows, columns, DType::kBF16);
    // Rows that are no whole number of blocks stay as they are, as in a model.
    const bool quantizes = IsQuantized(W_dtype) && columns % 32 == 0;
    return quantizes ? W.To(Device{}).To(DType::kF32).To(W_dtype).To(kCuda) : W;
  };
  return {.weights = {.norm = vector(model.d_model),
                      .in_proj = projection(2 * d_inner, model.d_model),
                      .in_proj_bias = {},
                      .conv = floats(d_inner, kWidth, 0),
                      .conv_bias = vector(d_inner),
                      .x_proj = projection(model.dt_rank + 2 * kStates, d_inner),
                      .dt_proj = projection(d_inner, model.dt_rank),
                      .dt_bias = vector(d_inner),
                      .A = floats(d_inner, kStates, -9),
                      .D = vector(d_inner),
                      .out_proj = projection(model.d_model, d_inner),
                      .out_proj_bias = {},
                      .norm_eps = 1e-5f,
                      .selection_eps = {}},
          .memory = {.window = Tensor::Zeros({1, kWidth - 1, d_inner}, DType::kF32, kCuda),
                     .h = Tensor::Zeros({1, d_inner, kStates}, DType::kF32, kCuda)}};
}

int64_t WeightBytes(const MambaStepWeights& w) {
  int64_t bytes = 0;
  for (const Tensor& tensor : {w.in_proj, w.x_proj, w.dt_proj, w.out_proj, w.A, w.conv}) {
    bytes += tensor.bytes();
  }
  return bytes;
}

void Measure(const Model& model, DType W_dtype, double copy) {
  constexpr int64_t kBlocks = 8;  // more than the cache holds
  Random random(1);
  const BlockOfModel first = RandomBlock(random, model, W_dtype);
  std::vector<BlockOfModel> blocks = {first};
  for (int64_t i = 1; i < kBlocks; ++i) {
    BlockOfModel block = first;
    MambaStepWeights& w = block.weights;
    for (Tensor* tensor : {&w.in_proj, &w.x_proj, &w.dt_proj, &w.out_proj, &w.A, &w.conv,
                           &block.memory.window, &block.memory.h}) {
      *tensor = tensor->Clone();
    }
    blocks.push_back(std::move(block));
  }
  Tensor x = bench::RandomRows(random, 1, model.d_model, DType::kBF16);
  Tensor residual = bench::RandomRows(random, 1, model.d_model, DType::kF32);
  const auto seconds = [&](bool as_a_whole) {
    const auto work = [&] {
      Tensor stream = x;
      Tensor sum = residual;
      for (size_t i = 0; i < blocks.size(); ++i) {
        const MambaStepOutputs outputs = {
            .y = Tensor::Empty(x.shape(), DType::kBF16, kCuda),
            .residual_out = Tensor::Empty(x.shape(), DType::kF32, kCuda)};
        const MambaStepInputs inputs = {.x = stream, .residual = sum};
        if (as_a_whole) {
          MambaStep(inputs, blocks[i].weights, blocks[i].memory, outputs);
        } else {
          MambaStepByParts<MambaStepParts>(inputs, blocks[i].weights, blocks[i].memory, outputs);
        }
        stream = outputs.y;
        sum = outputs.residual_out;
      }
    };
    work();
    const auto graph = cuda::GetModule().Record(0, work);
    return bench::MedianSeconds({[&] { graph->Launch(); }}) / static_cast<double>(kBlocks);
  };
  const double parts = seconds(false);
  const double whole = seconds(true);
  // A copy reads and writes as many bytes as it moves a second.
  const double floor = static_cast<double>(WeightBytes(first.weights)) / copy;
  const std::string name = fmt::format("{}, {}", model.name, DTypeName(W_dtype));
  bench::PrintLine(name + ", one by one", 0, floor, parts);
  bench::PrintLine(name, 0, floor, whole);
}

void Run() {
  const double copy = bench::CopyBytesPerSecond();
  for (const Model& model : {Model{"130m", 768, 48}, {"1.4b", 2048, 128}, {"2.8b", 2560, 160}}) {
    for (const DType W_dtype : {DType::kBF16, DType::kQ8_0, DType::kQ4_0}) {
      Measure(model, W_dtype, copy);
    }
  }
}

}  // namespace
}  // namespace adder

int main() {
  try {
    adder::Run();
  } catch (const std::exception& error) {
    fmt::print(stderr, "mamba_step_cuda_bench: {}\n", error.what());
    return 1;
  }
}
