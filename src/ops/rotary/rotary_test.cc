// Tests of rotary: the definition by hand and against finite differences, the CPU against it.
#include "adder/ops/rotary/rotary.h"

#include <gmock/gmock.h>

#include <cmath>

#include "adder/ops/operator_test.h"

namespace adder {
namespace {

using test::ErrorOf;
using test::ForEveryInstructionSet;
using test::GapsUntouched;
using test::Near;
using test::RandomNormal;
using test::RoundedTo;
using test::SameBits;
using testing::HasSubstr;

struct Case {
  int64_t rows;
  int64_t heads;
  int64_t d_head;
  int64_t rotary_dim;
};
const std::vector<Case> kCases = {{0, 2, 4, 4},   {1, 1, 2, 2},     {5, 3, 7, 4}, {4, 2, 64, 64},
                                  {9, 3, 64, 16}, {3, 2, 128, 128}, {6, 1, 5, 0}, {37, 2, 80, 34}};

Tensor Positions(Random& random, int64_t rows, uint64_t most) {
  const Tensor positions = Tensor::Zeros({rows}, DType::kI64);
  for (int64_t t = 0; t < rows; ++t) {
    positions.data<int64_t>()[t] = static_cast<int64_t>(random.NextBelow(most));
  }
  return positions;
}

RotaryEmbedding RandomEmbedding(Random& random, const Case& c, bool interleaved) {
  return {.positions = Positions(random, c.rows, 100000),
          .d_head = c.d_head,
          .rotary_dim = c.rotary_dim,
          .theta = 10000,
          .interleaved = interleaved};
}

TEST(RotaryReference, HandComputed) {
  const std::vector<double> values = {1, 2, 3, 4, 5};
  const Tensor x = Tensor::From<double>({1, 5}, values);
  const Tensor y = Tensor::Empty({1, 5}, DType::kF64);
  const std::vector<int64_t> at = {3};
  RotaryEmbedding embedding = {.positions = Tensor::From<int64_t>({1}, at),
                               .d_head = 5,
                               .rotary_dim = 4,
                               .theta = 100,
                               .interleaved = false};
  reference::Rotary(x, embedding, y);
  // Angles 3 and 3 / 10.
  EXPECT_DOUBLE_EQ(y.data<double>()[0], 1 * std::cos(3) - 3 * std::sin(3));
  EXPECT_DOUBLE_EQ(y.data<double>()[2], 1 * std::sin(3) + 3 * std::cos(3));
  EXPECT_NEAR(y.data<double>()[1], 2 * std::cos(0.3) - 4 * std::sin(0.3), 1e-14);
  EXPECT_EQ(y.data<double>()[4], 5);
  embedding.interleaved = true;
  reference::Rotary(x, embedding, y);
  EXPECT_DOUBLE_EQ(y.data<double>()[0], 1 * std::cos(3) - 2 * std::sin(3));
  EXPECT_NEAR(y.data<double>()[3], 3 * std::sin(0.3) + 4 * std::cos(0.3), 1e-14);
}

TEST(RotaryReference, GradientsAgreeWithDifferences) {
  Random random(1);
  for (const bool interleaved : {false, true}) {
    const RotaryEmbedding embedding = RandomEmbedding(random, {3, 2, 7, 4}, interleaved);
    const Tensor x = RandomNormal(random, {3, 14});
    const Tensor y = Tensor::Empty({3, 14}, DType::kF64);
    const Tensor dy = RandomNormal(random, {3, 14});
    const Tensor dx = Tensor::Empty({3, 14}, DType::kF64);
    reference::RotaryBackward(embedding, dy, dx);
    test::ExpectGradients(
        [&] {
          reference::Rotary(x, embedding, y);
          return test::WeightedSum(dy, y);
        },
        {{"x", x, dx}}, random);
  }
}

TEST(RotaryCpu, AgreesWithTheReference) {
  Random random(2);
  for (const bool interleaved : {false, true}) {
    for (const Case& c : kCases) {
      for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
        SCOPED_TRACE(testing::Message()
                     << c.rows << " rows, " << c.heads << " heads of " << c.d_head << ", rotary "
                     << c.rotary_dim << (interleaved ? ", interleaved " : " ") << DTypeName(dtype));
        const RotaryEmbedding embedding = RandomEmbedding(random, c, interleaved);
        const Shape shape = {c.rows, c.heads * c.d_head};
        const Tensor raw = RandomNormal(random, shape);
        const Tensor expected = Tensor::Empty(shape, DType::kF64);
        const Tensor expected_dx = Tensor::Empty(shape, DType::kF64);
        reference::Rotary(RoundedTo(dtype, raw), embedding, expected);
        reference::RotaryBackward(embedding, RoundedTo(dtype, raw), expected_dx);
        // One rounding to the dtype; the angles' f32 before.
        const double tolerance = dtype == DType::kF32    ? 1e-6
                                 : dtype == DType::kBF16 ? 0x1p-8
                                                         : 0x1p-11;
        ForEveryInstructionSet([&] {
          const Tensor x = raw.To(dtype);
          const Tensor y = Tensor::Empty(shape, dtype);
          Rotary(x, embedding, y);
          EXPECT_TRUE(Near(y, expected, tolerance));
          const Tensor dx = Tensor::Empty(shape, dtype);
          RotaryBackward(embedding, x, dx);
          EXPECT_TRUE(Near(dx, expected_dx, tolerance));

          // In place and strided, to the same bits.
          const Tensor strided = test::WithRowGap(x, 3);
          Rotary(strided, embedding, strided);
          EXPECT_TRUE(SameBits(strided, y));
          EXPECT_TRUE(GapsUntouched(strided));
        });
      }
    }
  }
}

TEST(Rotary, RefusesWhatDoesNotFit) {
  const Tensor x = Tensor::Zeros({3, 12}, DType::kF32);
  const RotaryEmbedding good = {
      .positions = Tensor::Zeros({3}, DType::kI64), .d_head = 6, .rotary_dim = 4};
  const auto message = [&](auto change) {
    RotaryEmbedding embedding = good;
    change(embedding);
    return ErrorOf([&] { Rotary(x, embedding, x); });
  };
  using E = RotaryEmbedding;
  EXPECT_THAT(message([](E& e) { e.d_head = 5; }), HasSubstr("a head has 5 channels"));
  EXPECT_THAT(message([](E& e) { e.d_head = 0; }), HasSubstr("a head has 0 channels"));
  EXPECT_THAT(message([](E& e) { e.rotary_dim = 3; }), HasSubstr("rotary_dim is 3"));
  EXPECT_THAT(message([](E& e) { e.rotary_dim = 8; }), HasSubstr("rotary_dim is 8"));
  EXPECT_THAT(message([](E& e) { e.theta = 0; }), HasSubstr("theta is 0"));
  EXPECT_THAT(message([](E& e) { e.positions = {}; }), HasSubstr("positions is not given"));
  EXPECT_THAT(message([](E& e) { e.positions = Tensor::Zeros({4}, DType::kI64); }),
              HasSubstr("positions is i64 [4]"));
  EXPECT_THAT(message([](E& e) {
                const std::vector<int64_t> far = {0, 1, int64_t{1} << 50};
                e.positions = Tensor::From<int64_t>({3}, far);
              }),
              HasSubstr("row 2 is at position"));
  EXPECT_THAT(ErrorOf([&] {
                Rotary(x, good, Tensor::Zeros({3, 6}, DType::kF32));
              }),
              HasSubstr("rotary: y is f32 [3, 6]"));
  EXPECT_THAT(ErrorOf([&] {
                RotaryBackward(good, x, Tensor::Zeros({3, 12}, DType::kF16));
              }),
              HasSubstr("rotary backward: dx is f16"));
}

}  // namespace
}  // namespace adder
