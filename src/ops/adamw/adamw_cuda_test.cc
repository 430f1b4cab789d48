// adamw on a CUDA device computes what it computes on the CPU.
#include <cmath>
#include <limits>
#include <vector>

#include "adder/backend/cuda/cuda_test.h"
#include "adder/ops/adamw/adamw.h"
#include "adder/ops/operator_test.h"

namespace adder {
namespace {

using test::kCuda;
using test::Near;
using test::OnCpu;
using test::OnCuda;
using test::RandomNormal;
using test::SameBits;
using AdamWCudaTest = test::CudaTest;

const std::vector<Shape> kShapes = {
    Shape{},       Shape{0},    Shape{1},    Shape{15},          Shape{0},
    Shape{3, 111}, Shape{8192}, Shape{8193}, Shape{2, 3, 50000}, Shape{7}};

AdamWTensors OnCudaAll(const AdamWTensors& t) {
  return {OnCuda(t.gradient),       OnCuda(t.weight), OnCuda(t.m),   OnCuda(t.v),
          OnCuda(t.compute_weight), t.lr_scale,       t.weight_decay};
}

std::vector<AdamWTensors> RandomTensors(Random& random) {
  std::vector<AdamWTensors> all;
  for (const Shape& shape : kShapes) {
    const auto number = static_cast<double>(all.size());
    AdamWTensors t;
    t.weight = RandomNormal(random, shape).To(DType::kF32);
    t.m = Tensor::Zeros(shape, DType::kF32);
    t.v = Tensor::Zeros(shape, DType::kF32);
    t.gradient = RandomNormal(random, shape, 0, 1e-3).To(DType::kF32);
    if (all.size() % 3 != 2) {
      t.compute_weight = Tensor::Zeros(shape, all.size() % 2 == 0 ? DType::kBF16 : DType::kF16);
    }
    t.lr_scale = 1 + 0.5 * number;
    t.weight_decay = all.size() % 2 == 0 ? 0.1 : 0.0;
    all.push_back(t);
  }
  return all;
}

TEST_F(AdamWCudaTest, MatchesTheCpuOverSteps) {
  Random random(1);
  const std::vector<AdamWTensors> all = RandomTensors(random);
  std::vector<AdamWTensors> cuda_all;
  std::vector<AdamWTensors> cuda_single;
  for (const AdamWTensors& t : all) {
    cuda_all.push_back(OnCudaAll(t));
    cuda_single.push_back(OnCudaAll(t));
  }
  AdamWOptions options;
  options.lr = 1e-2;
  options.gradient_scale = 0.5;
  for (options.step = 1; options.step <= 12; ++options.step) {
    AdamWAll(options, all);
    AdamWAll(options, cuda_all);
    for (const AdamWTensors& t : cuda_single) {
      AdamWOptions own = options;
      own.lr *= t.lr_scale;
      own.weight_decay = t.weight_decay;
      AdamW(own, t.gradient, t.weight, t.m, t.v, t.compute_weight);
    }
  }
  for (size_t i = 0; i < all.size(); ++i) {
    SCOPED_TRACE(all[i].weight.ToString());
    // Twelve steps' roundings.
    EXPECT_TRUE(Near(OnCpu(cuda_all[i].weight), all[i].weight, 1e-6));
    EXPECT_TRUE(Near(OnCpu(cuda_all[i].m), all[i].m, 1e-6));
    EXPECT_TRUE(Near(OnCpu(cuda_all[i].v), all[i].v, 1e-6));
    EXPECT_TRUE(Near(OnCpu(cuda_single[i].weight), OnCpu(cuda_all[i].weight), 1e-7));
    if (!all[i].compute_weight) continue;
    EXPECT_TRUE(SameBits(OnCpu(cuda_all[i].compute_weight),
                         OnCpu(cuda_all[i].weight).To(all[i].compute_weight.dtype())));
  }
}

// Scale and step worked out on the device are those that the host works out, bit for bit.
TEST_F(AdamWCudaTest, ClippedIsNormScaleAndStep) {
  Random random(4);
  std::vector<AdamWTensors> all;
  std::vector<AdamWTensors> apart;
  std::vector<Tensor> gradients;
  for (const AdamWTensors& t : RandomTensors(random)) {
    all.push_back(OnCudaAll(t));
    apart.push_back(OnCudaAll(t));
    gradients.push_back(apart.back().gradient);
  }
  const auto expect_same = [&] {
    for (size_t i = 0; i < all.size(); ++i) {
      SCOPED_TRACE(all[i].weight.ToString());
      EXPECT_TRUE(SameBits(OnCpu(all[i].weight), OnCpu(apart[i].weight)));
      EXPECT_TRUE(SameBits(OnCpu(all[i].m), OnCpu(apart[i].m)));
      EXPECT_TRUE(SameBits(OnCpu(all[i].v), OnCpu(apart[i].v)));
      if (!all[i].compute_weight) continue;
      EXPECT_TRUE(SameBits(OnCpu(all[i].compute_weight), OnCpu(apart[i].compute_weight)));
    }
  };
  const double norm = GradientNorm(gradients);
  const Tensor losses = RandomNormal(random, {70001}, 3, 1).To(DType::kF32);
  double nats = 0;
  for (int64_t i = 0; i < losses.elements(); ++i) {
    nats += static_cast<double>(losses.data<float>()[i]);
  }
  const Tensor cuda_result = Tensor::Zeros({2}, DType::kF64, kCuda);
  AdamWOptions options;
  options.lr = 1e-2;
  for (const double clip : {0.0, 0.3 * norm, 2 * norm}) {
    options.gradient_scale = clip > 0 && clip < norm ? clip / norm : 1;
    AdamWAll(options, apart);
    ClippedAdamW({}, clip, OnCuda(losses), all, OnCuda(AdamWScalars(options)), cuda_result);
    const Tensor result = OnCpu(cuda_result);
    EXPECT_NEAR(result.data<double>()[0] / nats, 1, 1e-12);
    EXPECT_EQ(result.data<double>()[1], norm);
    expect_same();
    ++options.step;
  }
  const Tensor scalars = OnCuda(AdamWScalars(options));
  losses.data<float>()[70000] = std::numeric_limits<float>::infinity();
  ClippedAdamW({}, 1, OnCuda(losses), all, scalars, cuda_result);
  EXPECT_TRUE(std::isinf(OnCpu(cuda_result).data<double>()[0]));
  expect_same();
  losses.data<float>()[70000] = 0;
  const Tensor broken = OnCpu(all[3].gradient);
  broken.data<float>()[0] = std::numeric_limits<float>::quiet_NaN();
  all[3].gradient.CopyFrom(broken);
  ClippedAdamW({}, 1, OnCuda(losses), all, scalars, cuda_result);
  EXPECT_TRUE(std::isnan(OnCpu(cuda_result).data<double>()[1]));
  expect_same();
  // Nothing to train.
  ClippedAdamW({}, 1, OnCuda(losses), {}, scalars, cuda_result);
  EXPECT_EQ(OnCpu(cuda_result).data<double>()[1], 0);
}

TEST_F(AdamWCudaTest, TakesTensorsThatAreNotAligned) {
  Random random(2);
  const auto shifted = [&] {
    const Tensor wide = OnCuda(RandomNormal(random, {20000}).To(DType::kF32));
    return wide.Rows(1, 19998);
  };
  const AdamWTensors t = {shifted(), shifted(), shifted(), shifted(), {}, 1, 0.1};
  const AdamWTensors host = {OnCpu(t.gradient.Clone()),
                             OnCpu(t.weight.Clone()),
                             OnCpu(t.m.Clone()),
                             Tensor::Zeros({19998}, DType::kF32),
                             {},
                             1,
                             0.1};
  t.v.SetZero();
  AdamWAll({}, {&t, 1});
  AdamWAll({}, {&host, 1});
  EXPECT_TRUE(Near(OnCpu(t.weight.Clone()), host.weight, 1e-6));
  const Tensor norm = t.gradient;
  EXPECT_NEAR(GradientNorm({&norm, 1}) / GradientNorm({&host.gradient, 1}), 1, 1e-12);
}

TEST_F(AdamWCudaTest, ExtremeGradients) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> gradients = {1e20f, -3e38f, 0x1p63f, 1.0f, nan, inf, -inf, 0.0f};
  const Tensor gradient = Tensor::From<float>({8}, gradients);
  const auto zeros = [] { return Tensor::Zeros({8}, DType::kF32, kCuda); };
  const AdamWTensors t = {
      OnCuda(gradient), zeros(), zeros(), zeros(), Tensor::Zeros({8}, DType::kBF16, kCuda), 1, 0};
  AdamWOptions options;
  options.lr = 0.5;
  AdamWAll(options, {&t, 1});
  const Tensor weight = OnCpu(t.weight);
  const Tensor v = OnCpu(t.v);
  const double expected[] = {-0.5, 0.5, -0.5, -0.5};
  for (int i = 0; i < 4; ++i) {
    EXPECT_NEAR(weight.data<float>()[i], expected[i], 1e-6) << i;
    EXPECT_TRUE(std::isfinite(v.data<float>()[i])) << i;
  }
  for (int i = 4; i < 7; ++i) EXPECT_TRUE(std::isnan(weight.data<float>()[i])) << i;
  EXPECT_EQ(weight.data<float>()[7], 0);
  EXPECT_TRUE(std::isnan(GradientNorm({&t.gradient, 1})));
  const Tensor no_nan = t.gradient.Rows(5, 3);
  EXPECT_EQ(GradientNorm({&no_nan, 1}), std::numeric_limits<double>::infinity());
}

TEST_F(AdamWCudaTest, GradientNormMatchesTheCpu) {
  Random random(3);
  std::vector<Tensor> gradients;
  std::vector<Tensor> cuda_gradients;
  for (const Shape& shape : kShapes) {
    // Some whose squares leave the range of f32.
    gradients.push_back(
        RandomNormal(random, shape, 0, gradients.size() % 2 == 0 ? 1 : 1e25).To(DType::kF32));
    cuda_gradients.push_back(OnCuda(gradients.back()));
  }
  const double norm = GradientNorm(cuda_gradients);
  EXPECT_NEAR(norm / GradientNorm(gradients), 1, 1e-12);
  EXPECT_EQ(GradientNorm(cuda_gradients), norm);
  SetZeroAll(cuda_gradients);
  EXPECT_EQ(GradientNorm(cuda_gradients), 0);
  EXPECT_TRUE(SameBits(OnCpu(cuda_gradients.back()), Tensor::Zeros({7}, DType::kF32)));
}

TEST_F(AdamWCudaTest, RoundsAllCopies) {
  Random random(4);
  std::vector<RoundedCopy> copies;
  std::vector<Tensor> expected;
  for (const Shape& shape : kShapes) {
    const DType dtype = copies.size() % 2 == 0 ? DType::kBF16 : DType::kF16;
    const Tensor from = RandomNormal(random, shape).To(DType::kF32);
    expected.push_back(from.To(dtype));
    copies.push_back({OnCuda(from), Tensor::Zeros(shape, dtype, kCuda)});
  }
  RoundAll(copies);
  for (size_t i = 0; i < copies.size(); ++i) {
    EXPECT_TRUE(SameBits(OnCpu(copies[i].to), expected[i])) << i;
  }
}

// Gradients past 2^31 elements.
TEST_F(AdamWCudaTest, IndexesInSixtyFourBits) {
  test::WithLargeMemory([] {
    constexpr int64_t kElements = (int64_t{1} << 31) + 100;
    const Tensor gradient = Tensor::Empty({kElements}, DType::kF32, kCuda);
    SetZeroAll({&gradient, 1});
    const std::vector<float> values = {3, -4};
    gradient.Rows(kElements - 2, 2).CopyFrom(Tensor::From<float>({2}, values));
    EXPECT_EQ(GradientNorm({&gradient, 1}), 5);
  });
}

}  // namespace
}  // namespace adder
