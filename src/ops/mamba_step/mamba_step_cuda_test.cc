// mamba_step on a CUDA device computes what its definition says, as exactly as the CPU does.
#include "adder/backend/cuda/cuda_test.h"
#include "adder/ops/linear/linear_int8_kernel.h"
#include "adder/ops/mamba_step/mamba_step_backends.h"
#include "adder/ops/mamba_step/mamba_step_cases_test.h"

namespace adder {
namespace {

using test::ErrorsOf;
using test::kCuda;
using test::MambaStepCase;
using test::MambaStepErrors;
using test::MambaStepTensors;
using test::OnCpu;
using test::RandomMambaStep;
using test::SameBits;
using MambaStepCudaTest = test::CudaTest;

// Results back in host memory.
MambaStepTensors RunThere(const MambaStepTensors& t) {
  MambaStepTensors there = t.Each([](const Tensor& tensor) { return tensor.To(kCuda); });
  there.Run();
  MambaStepTensors back = t;
  back.outputs = {OnCpu(there.outputs.y), OnCpu(there.outputs.residual_out)};
  back.memory = {OnCpu(there.memory.window), OnCpu(there.memory.h)};
  return back;
}

// Another order of sums may tip a rounding to the activations' dtype over, so a result may be as
// far from the definition's as the CPU's and half as much again, but no farther.
void ExpectAsExact(Random& random, const MambaStepCase& c) {
  SCOPED_TRACE(c.ToString());
  const MambaStepTensors t = RandomMambaStep(random, c);
  const MambaStepTensors exact = t.InF64();
  exact.RunReference();
  const MambaStepTensors back = RunThere(t);
  const MambaStepErrors errors = ErrorsOf(back, exact);
  const MambaStepTensors here = t.Each([](const Tensor& tensor) { return tensor; });
  here.Run();
  const MambaStepErrors allowed = ErrorsOf(here, exact);
  // The device rounds quantized weights' activations of bf16 to 8 bits, as most CPUs do: where this
  // one does not, that is 0.5 % for each projection on the way to a result.
  const bool rounds = c.dtype == DType::kBF16 && (IsQuantized(c.W) || IsQuantized(c.dt_proj));
  const double least = rounds && !cpu::HasInt8Products() ? 2e-2
                       : c.dtype == DType::kF32          ? 3e-6
                                                         : 1e-6;
  EXPECT_LT(errors.y, 1.5 * allowed.y + least);
  EXPECT_LT(errors.residual_out, 1e-7);
  EXPECT_LT(errors.window, 1.5 * allowed.window + least);
  EXPECT_LT(errors.h, 1.5 * allowed.h + least);

  const MambaStepTensors again = RunThere(t);
  EXPECT_TRUE(SameBits(again.outputs.y, back.outputs.y));
  EXPECT_TRUE(SameBits(again.outputs.residual_out, back.outputs.residual_out));
  EXPECT_TRUE(SameBits(again.memory.window, back.memory.window));
  EXPECT_TRUE(SameBits(again.memory.h, back.memory.h));
}

// Blocks of published sizes are not left to the operators one by one.
TEST_F(MambaStepCudaTest, TakesOneSequence) {
  Random random(9);
  for (const DType W : {DType::kBF16, DType::kQ8_0}) {
    const MambaStepTensors t =
        RandomMambaStep(random, {.dtype = DType::kBF16, .W = W}).Each([](const Tensor& tensor) {
          return tensor.To(kCuda);
        });
    EXPECT_TRUE(cuda::MambaStep(t.inputs, t.weights, t.memory, t.outputs)) << DTypeName(W);
  }
}

TEST_F(MambaStepCudaTest, AgreesWithTheDefinition) {
  Random random(1);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int64_t sequences : {1, 2, 5}) {
      MambaStepCase c = {
          .sequences = sequences, .dtype = dtype, .x = dtype, .W = dtype, .dt_proj = dtype};
      ExpectAsExact(random, c);
      c.d_model = 768;
      c.d_inner = 1536;
      c.dt_rank = 48;
      c.x = DType::kF32;
      c.options = false;
      ExpectAsExact(random, c);
      for (const int64_t d_conv : {2, 3}) {
        c = {.sequences = sequences,
             .d_model = 72,
             .d_inner = 136,
             .d_conv = d_conv,
             .dt_rank = 24,
             .dtype = dtype,
             .W = dtype,
             .dt_proj = DType::kF32};
        ExpectAsExact(random, c);
      }
    }
  }
}

// More rows of weights than run at a time.
TEST_F(MambaStepCudaTest, AgreesWithTheDefinitionOnLargeBlocks) {
  Random random(2);
  ExpectAsExact(random, {.d_model = 2048,
                         .d_inner = 4096,
                         .dt_rank = 128,
                         .dtype = DType::kBF16,
                         .W = DType::kBF16,
                         .dt_proj = DType::kBF16});
  ExpectAsExact(random, {.d_model = 2560,
                         .d_inner = 5120,
                         .dt_rank = 160,
                         .dtype = DType::kBF16,
                         .W = DType::kQ8_0,
                         .dt_proj = DType::kQ8_0});
}

TEST_F(MambaStepCudaTest, AgreesWithTheDefinitionByQuantizedWeights) {
  Random random(3);
  for (const DType W : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_K, DType::kQ6_K}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const int64_t sequences : {1, 3}) {
        MambaStepCase c = {.sequences = sequences,
                           .d_model = 256,
                           .d_inner = 512,
                           .dt_rank = 256,
                           .dtype = dtype,
                           .x = dtype,
                           .W = W,
                           .dt_proj = W};
        ExpectAsExact(random, c);
        c.dt_rank = 32;
        c.dt_proj = DType::kQ8_0;
        ExpectAsExact(random, c);
        c.dt_rank = 48;
        c.dt_proj = dtype;
        ExpectAsExact(random, c);
      }
    }
  }
}

// What only the operators one by one can do.
TEST_F(MambaStepCudaTest, TakesAnyBlock) {
  Random random(4);
  ExpectAsExact(random, {.d_state = 8});
  ExpectAsExact(random, {.d_conv = 6});
  ExpectAsExact(random, {.d_model = 37, .d_inner = 75, .dt_rank = 3});
  ExpectAsExact(random, {.norms_selection = true});
  ExpectAsExact(random, {.d_model = 64, .d_inner = 128, .dt_rank = 288, .dt_proj = DType::kQ8_0});
  RunThere(RandomMambaStep(random, {.sequences = 0}));
}

}  // namespace
}  // namespace adder
