// UnpackRows against Dequantize, the formats' definition: equal on every instruction set, but for
// the sign of a zero.
#include <gtest/gtest.h>

#include "adder/backend/cpu/unpack_kernel.h"
#include "adder/ops/operator_test.h"

namespace adder {
namespace {

Tensor Unpacked(const Tensor& W, DType dtype) {
  const Tensor to = Tensor::Zeros(W.shape(), dtype);
  cpu::UnpackRows({.W = W.raw(),
                   .W_dtype = W.dtype(),
                   .W_row_bytes = DTypeBytes(W.dtype(), W.stride(0)),
                   .to = to.raw(),
                   .to_dtype = dtype,
                   .to_stride = to.stride(0),
                   .rows = W.dim(0),
                   .K = W.dim(1)});
  return to;
}

TEST(UnpackTest, GivesTheDequantizedValues) {
  test::ForEveryInstructionSet([] {
    Random random(1);
    for (const DType dtype : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_K, DType::kQ6_K}) {
      for (const int64_t K : {256, 1536}) {
        Tensor W = test::RandomNormal(random, {6, K}).To(DType::kF32).To(dtype);
        W = W.Reshape({3, 2, K}).Slice(1, 1, 1);  // rows apart
        const Tensor rows = W.Clone().Reshape({3, K});
        SCOPED_TRACE(rows.ToString());
        EXPECT_TRUE(test::Near(Unpacked(rows, DType::kF32), rows.To(DType::kF32), 0));
        EXPECT_TRUE(
            test::Near(Unpacked(rows, DType::kBF16), rows.To(DType::kF32).To(DType::kBF16), 0));
      }
    }
  });
}

// Any bits are a valid block, however its scales were made.
TEST(UnpackTest, GivesTheDequantizedValuesOfAnyBlock) {
  test::ForEveryInstructionSet([] {
    Random random(2);
    for (const DType dtype : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_K, DType::kQ6_K}) {
      const Tensor W = Tensor::Empty({40, 256}, dtype);
      auto* bytes = static_cast<uint8_t*>(W.raw());
      for (int64_t i = 0; i < W.bytes(); ++i) bytes[i] = static_cast<uint8_t>(random.NextU32());
      // But the scales, which are finite.
      for (int64_t block = 0; block < W.bytes() / DTypeBlockBytes(dtype); ++block) {
        const Half d(static_cast<float>(random.NextNormal()));
        uint8_t* at = bytes + block * DTypeBlockBytes(dtype);
        if (dtype == DType::kQ6_K) at += 208;
        std::memcpy(at, &d, 2);
        if (dtype == DType::kQ4_K) std::memcpy(at + 2, &d, 2);
      }
      EXPECT_TRUE(test::Near(Unpacked(W, DType::kF32), W.To(DType::kF32), 0));
    }
  });
}

TEST(UnpackTest, ConvertsFloatsOfAnyLength) {
  test::ForEveryInstructionSet([] {
    Random random(3);
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      for (const int64_t K : {0, 1, 5, 16, 31, 32, 45, 100}) {
        const Tensor W = test::WithRowGap(test::RandomNormal(random, {3, K}).To(dtype), 3);
        const Tensor dense = W.Clone();
        EXPECT_TRUE(test::SameBits(Unpacked(W, DType::kF32), dense.To(DType::kF32)));
        EXPECT_TRUE(test::SameBits(Unpacked(W, DType::kBF16), dense.To(DType::kBF16)));
      }
    }
  });
}

}  // namespace
}  // namespace adder
