// Tests of mamba_step: the CPU against the definition, a case by hand, and what is refused.
#include "adder/ops/mamba_step/mamba_step.h"

#include <gmock/gmock.h>

#include "adder/core/error.h"
#include "adder/ops/mamba_step/mamba_step_cases_test.h"

namespace adder {
namespace {

using test::ErrorOf;
using test::ErrorsOf;
using test::ForEveryInstructionSet;
using test::MambaStepCase;
using test::MambaStepErrors;
using test::MambaStepTensors;
using test::RandomMambaStep;
using testing::HasSubstr;

// One channel of everything but the norm, so that every line of the definition is a number.
TEST(MambaStepReference, HandComputed) {
  const auto f64 = [](const Shape& shape, std::vector<double> values) {
    return Tensor::From(shape, std::span<const double>(values));
  };
  const MambaStepTensors t = {
      .inputs = {.x = f64({1, 2}, {1, 2}), .residual = f64({1, 2}, {2, 2})},
      .weights = {.norm = f64({2}, {1, 1}),
                  .in_proj = f64({2, 2}, {1, 0, 0, 1}),
                  .in_proj_bias = {},
                  .conv = f64({1, 2}, {0.5, 2}),
                  .conv_bias = f64({1}, {0.25}),
                  .x_proj = f64({3, 1}, {1, 2, 3}),
                  .dt_proj = f64({1, 1}, {0.5}),
                  .dt_bias = f64({1}, {0.1}),
                  .A = f64({1, 1}, {-0.7}),
                  .D = f64({1}, {0.3}),
                  .out_proj = f64({2, 1}, {1, -1}),
                  .out_proj_bias = {},
                  .norm_eps = 0,
                  .selection_eps = {}},
      .memory = {.window = f64({1, 1, 1}, {4}), .h = f64({1, 1, 1}, {1.5})},
      .outputs = {.y = f64({1, 2}, {0, 0}), .residual_out = f64({1, 2}, {0, 0})}};
  t.RunReference();
  const auto silu = [](double value) { return value / (1 + std::exp(-value)); };
  const double projected = 3 / std::sqrt(12.5);
  const double z = 4 / std::sqrt(12.5);
  const double v = silu(0.25 + 0.5 * 4 + 2 * projected);
  const double dt = std::log1p(std::exp(0.5 * v + 0.1));
  const double h = std::exp(dt * -0.7) * 1.5 + dt * (2 * v) * v;
  const double y = ((3 * v) * h + 0.3 * v) * silu(z);
  EXPECT_DOUBLE_EQ(t.outputs.residual_out.data<double>()[0], 3);
  EXPECT_DOUBLE_EQ(t.outputs.residual_out.data<double>()[1], 4);
  EXPECT_DOUBLE_EQ(t.memory.window.data<double>()[0], projected);
  // The same arithmetic in another order.
  EXPECT_NEAR(t.memory.h.data<double>()[0] / h, 1, 1e-14);
  EXPECT_NEAR(t.outputs.y.data<double>()[0] / y, 1, 1e-14);
  EXPECT_NEAR(t.outputs.y.data<double>()[1] / -y, 1, 1e-14);
}

TEST(MambaStepTest, AgreesWithTheDefinition) {
  ForEveryInstructionSet([] {
    Random random(1);
    for (const MambaStepCase& c :
         {MambaStepCase{}, MambaStepCase{.sequences = 3, .options = false},
          MambaStepCase{.sequences = 6,
          .d_model = 37,
          .d_inner = 70,
          .d_state = 5,
          .d_conv = 3,
          .dt_rank = 3,
          .norms_selection = true},
          MambaStepCase{.sequences = 2, .d_model = 64, .d_inner = 256, .W = DType::kQ8_0}}) {
      SCOPED_TRACE(c.ToString());
      const MambaStepTensors t = RandomMambaStep(random, c);
      const MambaStepTensors exact = t.InF64();
      exact.RunReference();
      t.Run();
      const MambaStepErrors errors = ErrorsOf(t, exact);
      EXPECT_LT(errors.y, 3e-6);
      EXPECT_LT(errors.residual_out, 1e-7);
      EXPECT_LT(errors.window, 1e-6);
      EXPECT_LT(errors.h, 1e-6);
    }
  });
}

// Values between the operators are rounded to the activations' dtype, a dozen times.
TEST(MambaStepTest, AgreesWithTheDefinitionInHalfPrecision) {
  Random random(2);
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    const double unit = dtype == DType::kBF16 ? 0x1p-8 : 0x1p-11;
    const MambaStepTensors t =
        RandomMambaStep(random, {.sequences = 3, .dtype = dtype, .W = dtype, .dt_proj = dtype});
    const MambaStepTensors exact = t.InF64();
    exact.RunReference();
    t.Run();
    const MambaStepErrors errors = ErrorsOf(t, exact);
    EXPECT_LT(errors.y, 4 * unit);
    EXPECT_LT(errors.window, unit);
    EXPECT_LT(errors.h, unit);
  }
}

TEST(MambaStepTest, NothingToDo) {
  Random random(3);
  RandomMambaStep(random, {.sequences = 0}).Run();
}

TEST(MambaStepTest, RefusesWhatDoesNotFit) {
  Random random(4);
  const MambaStepTensors t = RandomMambaStep(random, {.sequences = 2});
  const auto error = [&](auto change) {
    MambaStepTensors other = t;
    change(other);
    return ErrorOf([&] { other.Run(); });
  };
  EXPECT_THAT(error([](auto& o) { o.inputs.x = Tensor(); }), HasSubstr("mamba_step: x is not"));
  EXPECT_THAT(
      error([](auto& o) {
        o.weights.in_proj = Tensor::Zeros({255, 64}, DType::kF32);
      }),
      HasSubstr("in_proj is f32 [255, 64], expected f32 or bf16 or f16 or q8_0 or q4_0 or q4_k or "
                "q6_k [256, 64]"));
  EXPECT_THAT(error([](auto& o) {
                o.memory.h = Tensor::Zeros({2, 128, 8}, DType::kF32);
              }),
              HasSubstr("h is f32 [2, 128, 8], expected f32 [2, 128, 16]"));
  EXPECT_THAT(error([](auto& o) { o.memory.window = Tensor(); }), HasSubstr("window is not given"));
  EXPECT_THAT(error([](auto& o) { o.outputs.residual_out = o.inputs.residual; }),
              HasSubstr("residual_out lies on residual"));
  EXPECT_THAT(error([](auto& o) { o.outputs.y = o.inputs.x; }), HasSubstr("y lies on x"));
  EXPECT_THAT(error([](auto& o) {
                o.outputs.residual_out = Tensor::Wrap(o.memory.h.raw(), {2, 64}, DType::kF32);
              }),
              HasSubstr("h lies on residual_out"));
  EXPECT_THAT(error([](auto& o) { o.outputs.residual_out = o.weights.in_proj.Rows(0, 2); }),
              HasSubstr("residual_out lies on in_proj"));
  EXPECT_THAT(error([](auto& o) { o.weights.norm_eps = -1; }), HasSubstr("mamba_step: eps is -1"));
  // Found before anything is written.
  EXPECT_THAT(error([](auto& o) {
                o.weights.conv = Tensor::Zeros({128, 9}, DType::kF32);
                o.memory.window = Tensor::Zeros({2, 8, 128}, DType::kF32);
              }),
              HasSubstr("mamba_step: d_conv is 9, expected 2 to 8"));
}

}  // namespace
}  // namespace adder
