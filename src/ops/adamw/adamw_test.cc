// Tests of adamw: several steps against scalar loops, and the norm of gradients.
#include "adder/ops/adamw/adamw.h"

#include <gmock/gmock.h>

#include "adder/backend/cpu/parallel.h"
#include "adder/core/error.h"
#include "adder/ops/operator_test.h"

namespace adder {
namespace {

using test::ErrorOf;
using test::ForEveryInstructionSet;
using test::Near;
using test::RandomNormal;
using test::SameBits;
using testing::HasSubstr;

struct Trained {
  Tensor weight, m, v, compute_weight;
};

Trained Fresh(const Tensor& weight, DType dtype, bool compute_weight, DType compute_dtype) {
  Trained trained = {weight.Clone().To(dtype),
                     Tensor::Zeros(weight.shape(), dtype),
                     Tensor::Zeros(weight.shape(), dtype),
                     {}};
  if (compute_weight) trained.compute_weight = Tensor::Zeros(weight.shape(), compute_dtype);
  return trained;
}

// Kingma & Ba's algorithm 1 with Loshchilov & Hutter's decay, one weight, written out.
double ScalarAdamW(double w, const std::vector<double>& gradients, const AdamWOptions& options) {
  double m = 0;
  double v = 0;
  double power1 = 1;
  double power2 = 1;
  for (const double gradient : gradients) {
    const double g = gradient * options.gradient_scale;
    m = options.beta1 * m + (1 - options.beta1) * g;
    v = options.beta2 * v + (1 - options.beta2) * g * g;
    power1 *= options.beta1;
    power2 *= options.beta2;
    const double m_hat = m / (1 - power1);
    const double v_hat = v / (1 - power2);
    w = w - options.lr * (m_hat / (std::sqrt(v_hat) + options.eps) + options.weight_decay * w);
  }
  return w;
}

TEST(AdamWReference, FollowsTheScalarAlgorithm) {
  Random random(1);
  AdamWOptions options;
  options.lr = 0.03;
  options.weight_decay = 0.2;
  options.gradient_scale = 0.7;
  const Tensor weight = RandomNormal(random, {3, 4});
  const Trained trained = Fresh(weight, DType::kF64, false, DType::kBF16);
  std::vector<std::vector<double>> gradients(12);
  for (int64_t step = 1; step <= 20; ++step) {
    const Tensor gradient = RandomNormal(random, {3, 4});
    options.step = step;
    reference::AdamW(options, gradient, trained.weight, trained.m, trained.v, {});
    for (size_t i = 0; i < 12; ++i) gradients[i].push_back(gradient.data<double>()[i]);
    for (size_t i = 0; i < 12; ++i) {
      EXPECT_NEAR(trained.weight.data<double>()[i],
                  ScalarAdamW(weight.data<double>()[i], gradients[i], options), 1e-13);
    }
  }
}

TEST(AdamWReference, FirstStepIsTheRateAndDecayAloneShrinks) {
  AdamWOptions options;
  options.lr = 0.25;
  options.weight_decay = 0;
  options.eps = 0;
  const auto one = [](double value) {
    return Tensor::From({1}, std::span<const double>(&value, 1));
  };
  // m / (1 - beta1) is the gradient itself and sqrt(v / (1 - beta2)) its magnitude.
  Tensor weight = one(1);
  reference::AdamW(options, one(-1e-3), weight, one(0), one(0), {});
  EXPECT_DOUBLE_EQ(weight.data<double>()[0], 1.25);
  // No gradient: w · (1 - lr · weight_decay).
  options.eps = 1e-8;
  options.weight_decay = 0.5;
  weight = one(2);
  reference::AdamW(options, one(0), weight, one(0), one(0), {});
  EXPECT_DOUBLE_EQ(weight.data<double>()[0], 2 * (1 - 0.125));
}

TEST(AdamWCpu, AgreesWithTheReferenceOverSteps) {
  ForEveryInstructionSet([] {
    Random random(2);
    int64_t number = 0;
    for (const Shape& shape :
         {Shape{}, Shape{0}, Shape{1}, Shape{15}, Shape{16}, Shape{3, 111}, Shape{2, 3, 5000}}) {
      SCOPED_TRACE(shape.ToString());
      AdamWOptions options;
      options.lr = 1e-2;
      options.gradient_scale = 0.5;
      const Tensor weight = RandomNormal(random, shape).To(DType::kF32);
      const DType compute_dtype = number % 2 == 0 ? DType::kBF16 : DType::kF16;
      const Trained fast = Fresh(weight, DType::kF32, number % 3 != 2, compute_dtype);
      const Trained exact = Fresh(weight, DType::kF64, false, compute_dtype);
      for (options.step = 1; options.step <= 12; ++options.step) {
        const Tensor gradient = RandomNormal(random, shape, 0, 1e-3).To(DType::kF32);
        AdamW(options, gradient, fast.weight, fast.m, fast.v, fast.compute_weight);
        reference::AdamW(options, gradient.To(DType::kF64), exact.weight, exact.m, exact.v, {});
      }
      // Twelve steps' roundings of 2^-24 each.
      EXPECT_TRUE(Near(fast.weight, exact.weight, 1e-6));
      EXPECT_TRUE(Near(fast.m, exact.m, 1e-6));
      EXPECT_TRUE(Near(fast.v, exact.v, 1e-6));
      if (fast.compute_weight) {
        EXPECT_TRUE(SameBits(fast.compute_weight, fast.weight.To(compute_dtype)));
      }
      ++number;
    }
  });
}

TEST(AdamWCpu, SmallDecayIsNotLostToRounding) {
  // lr · weight_decay = 1e-6: formed as the factor 1 - 1e-6 in f32, it would be off by 5 %.
  ForEveryInstructionSet([] {
    AdamWOptions options;
    options.lr = 1e-5;
    options.weight_decay = 0.1;
    const Tensor weight = Tensor::Zeros({999}, DType::kF32);
    for (int i = 0; i < 999; ++i) weight.data<float>()[i] = 1 + 1e-3f * static_cast<float>(i);
    const Tensor before = weight.To(DType::kF64).Clone();
    const Tensor zero = Tensor::Zeros({999}, DType::kF32);
    AdamW(options, zero, weight, zero.Clone(), zero.Clone(), {});
    for (int i = 0; i < 999; ++i) {
      const double w = before.data<double>()[i];
      // Half an ulp in [1, 2), and what rounding the decay itself costs.
      EXPECT_NEAR(static_cast<double>(weight.data<float>()[i]), w * (1 - 1e-6), 0x1.01p-24) << w;
    }
  });
}

TEST(AdamWCpu, NanReachesItsOwnWeightAlone) {
  ForEveryInstructionSet([] {
    Random random(3);
    const Tensor gradient = RandomNormal(random, {50}).To(DType::kF32);
    gradient.data<float>()[7] = std::numeric_limits<float>::quiet_NaN();
    gradient.data<float>()[49] = std::numeric_limits<float>::infinity();
    const Tensor weight = RandomNormal(random, {50}).To(DType::kF32);
    const Trained t = Fresh(weight, DType::kF32, true, DType::kBF16);
    AdamW({}, gradient, t.weight, t.m, t.v, t.compute_weight);
    const Tensor copy = t.compute_weight.To(DType::kF32);
    for (int i = 0; i < 50; ++i) {
      const bool poisoned = i == 7 || i == 49;
      EXPECT_EQ(std::isnan(t.weight.data<float>()[i]), poisoned) << i;
      EXPECT_EQ(std::isnan(copy.data<float>()[i]), poisoned) << i;
      EXPECT_EQ(std::isfinite(t.m.data<float>()[i]), !poisoned) << i;
      EXPECT_EQ(std::isfinite(t.v.data<float>()[i]), !poisoned) << i;
    }
    EXPECT_TRUE(std::isnan(GradientNorm(std::vector<Tensor>{gradient})));
    gradient.data<float>()[7] = 0;
    EXPECT_EQ(GradientNorm(std::vector<Tensor>{gradient}), std::numeric_limits<double>::infinity());
  });
}

// A gradient whose square leaves the range of f32 moves its weight by a step like any other, and is
// forgotten like any other; squared as it is, it would stop the weight for good.
TEST(AdamWCpu, OneHugeGradientDoesNotStopAWeight) {
  ForEveryInstructionSet([] {
    const std::vector<float> huge = {1e20f, -3e38f, 0x1p63f, 1.0f};
    const Trained t = Fresh(Tensor::Zeros({4}, DType::kF64), DType::kF32, false, DType::kBF16);
    AdamWOptions options;
    options.lr = 0.5;
    options.weight_decay = 0;
    AdamW(options, Tensor::From<float>({4}, huge), t.weight, t.m, t.v, {});
    // The first step's length is the rate.
    const double expected[] = {-0.5, 0.5, -0.5, -0.5};
    for (int i = 0; i < 4; ++i) EXPECT_NEAR(t.weight.data<float>()[i], expected[i], 1e-6) << i;
    const Tensor after = t.weight.Clone();
    const std::vector<float> one = {1, 1, 1, 1};
    for (options.step = 2; options.step < 4000; ++options.step) {
      AdamW(options, Tensor::From<float>({4}, one), t.weight, t.m, t.v, {});
    }
    for (int i = 0; i < 4; ++i) {
      EXPECT_NEAR(t.v.data<float>()[i], 1, 1e-3) << i;
      EXPECT_LT(t.weight.data<float>()[i], after.data<float>()[i] - 1) << i;
    }
  });
}

TEST(AdamWCpu, ResultsDoNotDependOnThreads) {
  const int threads = cpu::ThreadCount();
  Random random(4);
  const Tensor weight = RandomNormal(random, {100003}).To(DType::kF32);
  const Tensor gradient = RandomNormal(random, {100003}).To(DType::kF32);
  std::vector<Trained> results;
  std::vector<double> norms;
  for (const int count : {1, 2, 3, 5}) {
    cpu::SetThreadCount(count);
    results.push_back(Fresh(weight, DType::kF32, true, DType::kBF16));
    AdamWOptions options;
    for (options.step = 1; options.step <= 3; ++options.step) {
      AdamW(options, gradient, results.back().weight, results.back().m, results.back().v,
            results.back().compute_weight);
    }
    norms.push_back(GradientNorm(std::vector<Tensor>{gradient, weight}));
    EXPECT_TRUE(SameBits(results.back().weight, results.front().weight));
    EXPECT_TRUE(SameBits(results.back().m, results.front().m));
    EXPECT_TRUE(SameBits(results.back().v, results.front().v));
    EXPECT_TRUE(SameBits(results.back().compute_weight, results.front().compute_weight));
    EXPECT_EQ(norms.back(), norms.front());
  }
  cpu::SetThreadCount(threads);
}

// Each tensor's own rate and decay; one pass gives the bits of one call a tensor.
TEST(AdamWCpu, AllAtOnceIsOneByOne) {
  Random random(6);
  std::vector<AdamWTensors> all;
  std::vector<Trained> alone;
  for (const int64_t elements : {0, 5, 1000}) {
    const Tensor weight = RandomNormal(random, {elements}).To(DType::kF32);
    const Trained t = Fresh(weight, DType::kF32, elements != 5, DType::kBF16);
    alone.push_back(Fresh(weight, DType::kF32, elements != 5, DType::kBF16));
    all.push_back({RandomNormal(random, {elements}).To(DType::kF32), t.weight, t.m, t.v,
                   t.compute_weight, elements == 5 ? 0.5 : 2.0, elements == 5 ? 0.0 : 0.1});
  }
  AdamWOptions options;
  for (options.step = 1; options.step <= 3; ++options.step) {
    AdamWAll(options, all);
    for (size_t i = 0; i < all.size(); ++i) {
      AdamWOptions own = options;
      own.lr *= all[i].lr_scale;
      own.weight_decay = all[i].weight_decay;
      AdamW(own, all[i].gradient, alone[i].weight, alone[i].m, alone[i].v, alone[i].compute_weight);
    }
  }
  for (size_t i = 0; i < all.size(); ++i) {
    EXPECT_TRUE(SameBits(all[i].weight, alone[i].weight));
    EXPECT_TRUE(SameBits(all[i].m, alone[i].m));
    EXPECT_TRUE(SameBits(all[i].v, alone[i].v));
    if (alone[i].compute_weight) {
      EXPECT_TRUE(SameBits(all[i].compute_weight, alone[i].compute_weight));
    }
  }
  all[1].m = {};
  EXPECT_THAT(ErrorOf([&] { AdamWAll(options, all); }), HasSubstr("adamw: m is not given"));
}

// What follows from the step's numbers in one call is what follows from them in three.
TEST(ClippedAdamW, IsNormScaleAndStep) {
  Random random(8);
  const auto all = [&] {
    std::vector<AdamWTensors> tensors;
    for (const int64_t elements : {0, 5, 1000}) {
      const Trained t = Fresh(RandomNormal(random, {elements}).To(DType::kF32), DType::kF32,
                              elements != 5, DType::kBF16);
      tensors.push_back({RandomNormal(random, {elements}).To(DType::kF32), t.weight, t.m, t.v,
                         t.compute_weight, elements == 5 ? 0.5 : 2.0, 0.1});
    }
    return tensors;
  }();
  std::vector<AdamWTensors> apart;
  for (AdamWTensors t : all) {
    t.weight = t.weight.Clone();
    t.m = t.m.Clone();
    t.v = t.v.Clone();
    if (t.compute_weight) t.compute_weight = t.compute_weight.Clone();
    apart.push_back(t);
  }
  const auto expect_same = [&] {
    for (size_t i = 0; i < all.size(); ++i) {
      EXPECT_TRUE(SameBits(all[i].weight, apart[i].weight));
      EXPECT_TRUE(SameBits(all[i].m, apart[i].m));
      EXPECT_TRUE(SameBits(all[i].v, apart[i].v));
    }
  };
  std::vector<Tensor> gradients;
  for (const AdamWTensors& t : all) gradients.push_back(t.gradient);
  const double norm = GradientNorm(gradients);
  const float values[] = {1, 2, 4};
  const Tensor losses = Tensor::From({3}, std::span<const float>(values));
  const Tensor result = Tensor::Empty({2}, DType::kF64);
  AdamWOptions options;
  options.lr = 1e-2;
  for (const double clip : {0.0, 0.5 * norm, 2 * norm}) {
    options.gradient_scale = clip > 0 && clip < norm ? clip / norm : 1;
    AdamWAll(options, apart);
    // The scalars count, and not the options of the call.
    ClippedAdamW({}, clip, losses, all, AdamWScalars(options), result);
    EXPECT_EQ(result.data<double>()[0], 7);
    EXPECT_EQ(result.data<double>()[1], norm);
    expect_same();
    ++options.step;
  }
  losses.data<float>()[1] = std::numeric_limits<float>::infinity();
  ClippedAdamW({}, 1, losses, all, AdamWScalars(options), result);
  EXPECT_TRUE(std::isinf(result.data<double>()[0]));
  expect_same();
  losses.data<float>()[1] = 0;
  gradients[2].data<float>()[7] = std::numeric_limits<float>::quiet_NaN();
  ClippedAdamW({}, 1, losses, all, AdamWScalars(options), result);
  EXPECT_TRUE(std::isnan(result.data<double>()[1]));
  expect_same();
  options.lr = -1;
  EXPECT_THAT(ErrorOf([&] { AdamWScalars(options); }), HasSubstr("lr is -1"));
  EXPECT_THAT(ErrorOf([&] { ClippedAdamW({}, -1, losses, all, result, result); }),
              HasSubstr("clip is -1"));
  EXPECT_THAT(ErrorOf([&] { ClippedAdamW({}, 1, losses, all, result, result); }),
              HasSubstr("scalars is f64 [2], expected f64 [4]"));
}

TEST(SetZeroAll, ClearsAll) {
  Random random(7);
  std::vector<Tensor> tensors;
  for (const int64_t elements : {0, 5, 1000}) {
    tensors.push_back(RandomNormal(random, {elements}).To(DType::kF32));
  }
  SetZeroAll(tensors);
  for (const Tensor& tensor : tensors) {
    EXPECT_TRUE(SameBits(tensor, Tensor::Zeros(tensor.shape(), DType::kF32)));
  }
  tensors.push_back(Tensor::Zeros({2}, DType::kF16));
  EXPECT_THAT(ErrorOf([&] { SetZeroAll(tensors); }), HasSubstr("set zero: a tensor is f16 [2]"));
}

TEST(RoundAll, CopiesAllRounded) {
  Random random(8);
  std::vector<RoundedCopy> copies;
  for (const int64_t elements : {0, 5, 1000}) {
    const Tensor from = RandomNormal(random, {elements}).To(DType::kF32);
    const DType dtype = elements == 5 ? DType::kF16 : DType::kBF16;
    copies.push_back({from, Tensor::Zeros({elements}, dtype)});
  }
  RoundAll(copies);
  for (const auto& [from, to] : copies) EXPECT_TRUE(SameBits(to, from.To(to.dtype())));
  copies.push_back({Tensor::Zeros({2}, DType::kF32), Tensor::Zeros({2}, DType::kF32)});
  EXPECT_THAT(ErrorOf([&] { RoundAll(copies); }), HasSubstr("rounded copy: to is f32 [2]"));
}

TEST(GradientNorm, AgreesWithTheReferenceAndAcrossInstructionSets) {
  Random random(5);
  std::vector<Tensor> fast;
  std::vector<Tensor> exact;
  for (const int64_t elements : {0, 1, 31, 32, 1000, 70001}) {
    // Values whose squares leave the range of f32.
    fast.push_back(
        RandomNormal(random, {elements}, 0, elements % 2 == 0 ? 1 : 1e25).To(DType::kF32));
    exact.push_back(fast.back().To(DType::kF64));
  }
  const double expected = reference::GradientNorm(exact);
  std::vector<double> norms;
  ForEveryInstructionSet([&] {
    norms.push_back(GradientNorm(fast));
    // 70001 roundings of 2^-53 in the reference's plain sum, were all of them in one direction.
    EXPECT_NEAR(norms.back() / expected, 1, 70001 * 0x1p-53);
    EXPECT_EQ(norms.back(), norms.front());  // every bit
  });
  EXPECT_EQ(GradientNorm({}), 0);
  const float values[] = {3, 4};
  EXPECT_EQ(GradientNorm(std::vector<Tensor>{Tensor::From({2}, std::span<const float>(values))}),
            5);
}

TEST(AdamW, RefusesWhatDoesNotFit) {
  const auto zeros = [](const Shape& shape, DType dtype = DType::kF32) {
    return Tensor::Zeros(shape, dtype);
  };
  const Tensor good = zeros({4, 6});
  const auto with_options = [&](auto change) {
    AdamWOptions options;
    change(options);
    return ErrorOf([&] { AdamW(options, good, zeros({4, 6}), zeros({4, 6}), zeros({4, 6}), {}); });
  };
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(with_options([](AdamWOptions& o) { o.lr = -1; }), HasSubstr("lr is -1"));
  EXPECT_THAT(with_options([](AdamWOptions& o) { o.lr = kNan; }), HasSubstr("lr is nan"));
  EXPECT_THAT(with_options([](AdamWOptions& o) { o.beta1 = 1; }),
              HasSubstr("beta1 is 1, expected 0 ≤ beta1 < 1"));
  EXPECT_THAT(with_options([](AdamWOptions& o) { o.beta2 = -0.1; }), HasSubstr("beta2"));
  EXPECT_THAT(with_options([](AdamWOptions& o) { o.eps = -1; }), HasSubstr("eps"));
  EXPECT_THAT(with_options([](AdamWOptions& o) { o.weight_decay = kNan; }),
              HasSubstr("weight_decay"));
  EXPECT_THAT(with_options([](AdamWOptions& o) { o.gradient_scale = kNan; }),
              HasSubstr("gradient_scale is nan"));
  EXPECT_THAT(with_options([](AdamWOptions& o) { o.step = 0; }), HasSubstr("step is 0"));

  const auto with_tensors = [&](const Tensor& gradient, const Tensor& weight, const Tensor& m,
                                const Tensor& v, const Tensor& compute_weight) {
    return ErrorOf([&] { AdamW({}, gradient, weight, m, v, compute_weight); });
  };
  EXPECT_THAT(with_tensors(good, {}, good, good, {}), HasSubstr("adamw: weight is not given"));
  EXPECT_THAT(with_tensors({}, good, good, good, {}), HasSubstr("gradient is not given"));
  EXPECT_THAT(with_tensors(zeros({4, 5}), good, good, good, {}),
              HasSubstr("gradient is f32 [4, 5], expected f32 [4, 6]"));
  EXPECT_THAT(with_tensors(good, good, zeros({4, 6}, DType::kBF16), good, {}),
              HasSubstr("m is bf16"));
  EXPECT_THAT(with_tensors(good, good, good, zeros({4, 12}).Columns(0, 6), {}),
              HasSubstr("v has gaps"));
  EXPECT_THAT(with_tensors(good, good, good, good, good),
              HasSubstr("compute_weight is f32 [4, 6], expected bf16 or f16 [4, 6]"));
  EXPECT_THAT(with_tensors(good, good, zeros({4, 6}), zeros({4, 6}), {}),
              HasSubstr("weight lies on gradient"));
  EXPECT_THAT(with_tensors(zeros({4, 6}), zeros({4, 6}), good, good, {}), HasSubstr("v lies on m"));
  EXPECT_THAT(ErrorOf([&] {
                GradientNorm(std::vector<Tensor>{good, {}});
              }),
              HasSubstr("a gradient is not given"));
  EXPECT_THAT(ErrorOf([&] { GradientNorm(std::vector<Tensor>{zeros({2}, DType::kF64)}); }),
              HasSubstr("a gradient is f64 [2], expected f32 [2]"));
}

}  // namespace
}  // namespace adder
