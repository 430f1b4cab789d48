// causal_conv1d on a CUDA device computes what it computes on the CPU, whole and in chunks.
#include "adder/backend/cuda/cuda_test.h"
#include "adder/ops/causal_conv1d/causal_conv1d.h"
#include "adder/ops/operator_test.h"

namespace adder {
namespace {

using test::kCuda;
using test::Near;
using test::OnCpu;
using test::RandomNormal;
using test::SameBits;
using CausalConv1dCudaTest = test::CudaTest;

// f32: the sigmoid's approximations, 2 units in the last place each. 16 bits: one rounding, which
// may go the other way.
double Tolerance(DType dtype) {
  return dtype == DType::kF32 ? 2e-6 : dtype == DType::kBF16 ? 0x1p-8 : 0x1p-11;
}

struct Case {
  int64_t channels;
  int64_t width = 4;
  DType dtype = DType::kF32;
  bool options = true;  // bias, initial window, activation
  int64_t gap = 0;
};

CausalConv1dInputs OnCuda(const CausalConv1dInputs& in) {
  CausalConv1dInputs copy = in;
  copy.x = test::OnCuda(in.x);
  copy.weight = test::OnCuda(in.weight);
  copy.bias = test::OnCuda(in.bias);
  copy.initial_window = test::OnCuda(in.initial_window);
  return copy;
}

void ExpectAsOnCpu(Random& random, const Case& c, const SequenceLayout& layout) {
  SCOPED_TRACE(testing::Message() << layout.sequences() << " sequences, " << layout.rows()
                                  << " rows x " << c.channels << ", width " << c.width << ", "
                                  << DTypeName(c.dtype) << ", gap " << c.gap);
  const Shape window = {layout.sequences(), c.width - 1, c.channels};
  const auto rows = [&] {
    const Tensor t = RandomNormal(random, {layout.rows(), c.channels}).To(c.dtype);
    return c.gap > 0 ? test::WithRowGap(t, c.gap) : t;
  };
  CausalConv1dInputs in;
  in.x = rows();
  in.weight = RandomNormal(random, {c.channels, c.width}).To(DType::kF32);
  in.layout = layout;
  in.activation = ConvActivation::kNone;
  if (c.options) {
    in.bias = RandomNormal(random, {c.channels}).To(DType::kF32);
    in.initial_window = RandomNormal(random, window).To(DType::kF32);
    in.activation = ConvActivation::kSilu;
  }
  const auto outputs = [&](Device device) {
    return CausalConv1dOutputs{.y = Tensor::Empty(in.x.shape(), c.dtype, device),
                               .final_window = Tensor::Empty(window, DType::kF32, device)};
  };
  const CausalConv1dInputs cuda_in = OnCuda(in);
  const CausalConv1dOutputs out = outputs({});
  const CausalConv1dOutputs cuda_out = outputs(kCuda);
  CausalConv1d(in, out);
  CausalConv1d(cuda_in, cuda_out);
  EXPECT_TRUE(Near(OnCpu(cuda_out.y), out.y, Tolerance(c.dtype)));
  EXPECT_TRUE(SameBits(OnCpu(cuda_out.final_window), out.final_window));

  const Tensor dy = rows();
  const Tensor dfw = c.options ? RandomNormal(random, window).To(DType::kF32) : Tensor();
  const auto gradients = [&](Device device) {
    return CausalConv1dGradients{.dx = Tensor::Empty(in.x.shape(), c.dtype, device),
                                 .dweight = Tensor::Zeros(in.weight.shape(), DType::kF32, device),
                                 .dbias = Tensor::Zeros({c.channels}, DType::kF32, device),
                                 .d_initial_window = Tensor::Empty(window, DType::kF32, device)};
  };
  const CausalConv1dGradients g = gradients({});
  CausalConv1dBackward(in, dy, dfw, g);
  const CausalConv1dGradients cuda_g = gradients(kCuda);
  CausalConv1dBackward(cuda_in, test::OnCuda(dy), test::OnCuda(dfw), cuda_g);
  EXPECT_TRUE(Near(OnCpu(cuda_g.dx), g.dx, Tolerance(c.dtype)));
  EXPECT_TRUE(Near(OnCpu(cuda_g.d_initial_window), g.d_initial_window, 2e-6));
  EXPECT_TRUE(Near(OnCpu(cuda_g.dweight), g.dweight, 1e-5));
  EXPECT_TRUE(Near(OnCpu(cuda_g.dbias), g.dbias, 1e-5));
  const CausalConv1dGradients again = gradients(kCuda);
  CausalConv1dBackward(cuda_in, test::OnCuda(dy), test::OnCuda(dfw), again);
  EXPECT_TRUE(SameBits(OnCpu(again.dweight), OnCpu(cuda_g.dweight)));
}

TEST_F(CausalConv1dCudaTest, MatchesTheCpuOnAllLayouts) {
  Random random(1);
  for (const SequenceLayout& layout : test::SequenceLayouts()) {
    ExpectAsOnCpu(random, {.channels = 17}, layout);
    ExpectAsOnCpu(random, {.channels = 64, .options = false}, layout);
    ExpectAsOnCpu(random, {.channels = 24, .width = 3}, layout);
  }
}

TEST_F(CausalConv1dCudaTest, MatchesTheCpuForEveryWidthAndDtype) {
  Random random(2);
  for (int64_t width = 2; width <= 8; ++width) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      const SequenceLayout layout = test::RandomLayout(random, 7, 200);
      ExpectAsOnCpu(random, {.channels = 1032, .width = width, .dtype = dtype}, layout);
      ExpectAsOnCpu(random, {.channels = 131, .width = width, .dtype = dtype, .gap = 3}, layout);
    }
  }
}

// More than a warp looks through at a time, empty ones among them, which meet anywhere.
TEST_F(CausalConv1dCudaTest, MatchesTheCpuOnManySequences) {
  Random random(6);
  for (const int64_t sequences : {31, 32, 33, 1500}) {
    for (const int64_t longest : {2, 20}) {
      const SequenceLayout layout = test::RandomLayout(random, sequences, longest);
      ExpectAsOnCpu(random, {.channels = 72, .dtype = DType::kBF16}, layout);
      ExpectAsOnCpu(random, {.channels = 5, .width = 7}, layout);
    }
  }
}

// Sequences of one row each, as in generation.
TEST_F(CausalConv1dCudaTest, MatchesTheCpuOnSteps) {
  Random random(4);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int64_t sequences : {1, 3, 31, 33, 70}) {
      const SequenceLayout layout = SequenceLayout::Uniform(sequences, 1);
      ExpectAsOnCpu(random, {.channels = 1032, .dtype = dtype}, layout);
      ExpectAsOnCpu(random, {.channels = 256, .dtype = dtype, .options = false, .gap = 8}, layout);
      ExpectAsOnCpu(random, {.channels = 131, .dtype = dtype, .gap = 3}, layout);
      for (const int64_t width : {2, 3, 8}) {
        ExpectAsOnCpu(random, {.channels = 64, .width = width, .dtype = dtype}, layout);
      }
    }
  }
}

// Steps of several sequences, whose windows are overwritten, end where the whole does.
TEST_F(CausalConv1dCudaTest, WholeEqualsSteps) {
  Random random(5);
  constexpr int64_t kSequences = 40;
  constexpr int64_t kLength = 7;
  CausalConv1dInputs in;
  in.x = RandomNormal(random, {kSequences * kLength, 64}).To(DType::kBF16).To(kCuda);
  in.weight = RandomNormal(random, {64, 4}).To(DType::kF32).To(kCuda);
  in.bias = RandomNormal(random, {64}).To(DType::kF32).To(kCuda);
  in.layout = SequenceLayout::Uniform(kSequences, kLength);
  const Tensor y = Tensor::Empty({kSequences * kLength, 64}, DType::kBF16, kCuda);
  const Tensor last = Tensor::Empty({kSequences, 3, 64}, DType::kF32, kCuda);
  CausalConv1d(in, {.y = y, .final_window = last});
  const Tensor window = Tensor::Zeros({kSequences, 3, 64}, DType::kF32, kCuda);
  for (int64_t t = 0; t < kLength; ++t) {
    const Tensor rows = Tensor::Empty({kSequences, 64}, DType::kBF16, kCuda);
    const Tensor expected = Tensor::Empty({kSequences, 64}, DType::kBF16, kCuda);
    for (int64_t s = 0; s < kSequences; ++s) {
      rows.Rows(s, 1).CopyFrom(in.x.Rows(s * kLength + t, 1));
      expected.Rows(s, 1).CopyFrom(y.Rows(s * kLength + t, 1));
    }
    CausalConv1dInputs step = in;
    step.x = rows;
    step.layout = SequenceLayout::Uniform(kSequences, 1);
    step.initial_window = window;  // and the final one
    const Tensor out = Tensor::Empty({kSequences, 64}, DType::kBF16, kCuda);
    CausalConv1d(step, {.y = out, .final_window = window});
    EXPECT_TRUE(SameBits(OnCpu(out), OnCpu(expected)));
  }
  EXPECT_TRUE(SameBits(OnCpu(window), OnCpu(last)));
}

TEST_F(CausalConv1dCudaTest, WholeEqualsChunks) {
  Random random(3);
  CausalConv1dInputs in;
  in.x = RandomNormal(random, {150, 40}).To(DType::kBF16).To(kCuda);
  in.weight = RandomNormal(random, {40, 4}).To(DType::kF32).To(kCuda);
  in.layout = SequenceLayout::Single(150);
  const Tensor y = Tensor::Empty({150, 40}, DType::kBF16, kCuda);
  const Tensor last = Tensor::Empty({1, 3, 40}, DType::kF32, kCuda);
  CausalConv1d(in, {.y = y, .final_window = last});
  const Tensor parts = Tensor::Empty({150, 40}, DType::kBF16, kCuda);
  const Tensor window = Tensor::Zeros({1, 3, 40}, DType::kF32, kCuda);
  int64_t begin = 0;
  for (const int64_t count : {1, 1, 2, 70, 64, 12}) {
    CausalConv1dInputs part = in;
    part.x = in.x.Rows(begin, count);
    part.layout = SequenceLayout::Single(count);
    part.initial_window = window;  // and the final one
    CausalConv1d(part, {.y = parts.Rows(begin, count), .final_window = window});
    begin += count;
  }
  EXPECT_TRUE(SameBits(OnCpu(parts), OnCpu(y)));
  EXPECT_TRUE(SameBits(OnCpu(window), OnCpu(last)));
}

}  // namespace
}  // namespace adder
