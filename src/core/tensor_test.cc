#include "adder/core/tensor.h"

#include <gtest/gtest.h>

#include <vector>

#include "adder/core/error.h"

namespace adder {
namespace {

TEST(TensorTest, ViewsShareElementsAndKeepStrides) {
  const std::vector<float> values = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  const Tensor tensor = Tensor::From<float>({3, 4}, values);
  const Tensor view = tensor.Columns(1, 2).Rows(1, 2);
  EXPECT_EQ(view.shape(), Shape({2, 2}));
  EXPECT_FALSE(view.contiguous());
  EXPECT_EQ(view.data<float>()[0], 5);
  EXPECT_EQ(view.data<float>()[view.stride(0) + 1], 10);
  const Tensor copy = view.Clone();
  EXPECT_TRUE(copy.contiguous());
  view.SetZero();
  EXPECT_EQ(tensor.data<float>()[6], 0);
  EXPECT_EQ(tensor.data<float>()[7], 7);
  EXPECT_EQ(copy.data<float>()[3], 10);
}

TEST(TensorTest, CopyFromMatchesAnyStridesAndConverts) {
  const std::vector<float> values = {0, 1, 2, 3, 4, 5};
  const Tensor source = Tensor::From<float>({2, 3}, values).Columns(1, 2);
  const Tensor wide = Tensor::Zeros({2, 4}, DType::kF64);
  wide.Columns(2, 2).CopyFrom(source);
  const double* out = wide.data<double>();
  EXPECT_EQ(std::vector<double>(out, out + 8), (std::vector<double>{0, 0, 1, 2, 0, 0, 4, 5}));
}

TEST(TensorTest, ErrorsNameWhatWasExpected) {
  const Tensor tensor = Tensor::Zeros({2, 3}, DType::kF32);
  EXPECT_THROW(tensor.Rows(1, 2), Error);
  EXPECT_THROW(tensor.Columns(-1, 1), Error);
  EXPECT_THROW(tensor.data<double>(), Error);
  EXPECT_THROW(tensor.Columns(0, 2).Reshape({4}), Error);
  EXPECT_THROW(Tensor::Empty({int64_t{1} << 40, int64_t{1} << 40}, DType::kF32), Error);
  EXPECT_THROW(tensor.CopyFrom(Tensor::Zeros({3, 2}, DType::kF32)), Error);
}

TEST(TensorTest, AnUndefinedTensorHasNoElementsToCopy) {
  const Tensor undefined;
  const Tensor scalar = Tensor::Zeros({}, DType::kF32);  // of the same shape and dtype
  const auto expect_invalid = [](auto&& call) {
    try {
      call();
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    }
  };
  expect_invalid([&] { undefined.Clone(); });
  expect_invalid([&] { undefined.SetZero(); });
  expect_invalid([&] { undefined.To(DType::kF64); });
  expect_invalid([&] { undefined.CopyFrom(scalar); });
  expect_invalid([&] { scalar.CopyFrom(undefined); });
  EXPECT_FALSE(undefined.To(DType::kF32).defined());  // itself
}

// Rounded to f32 first, these would become ties, and then go to the even side.
TEST(TensorTest, ConversionsFromF64RoundOnce) {
  const std::vector<double> values = {1 + 0x1p-8 + 0x1p-40,
                                      -1 - 0x1p-8 - 0x1p-40,
                                      1 + 3 * 0x1p-8 - 0x1p-40,
                                      1 + 0x1p-11 + 0x1p-40,
                                      1 + 3 * 0x1p-11 - 0x1p-40,
                                      0x1p-25 + 0x1p-60,
                                      0x1p-134 + 0x1p-170,
                                      65520 - 0x1p-30,
                                      1e300,
                                      -1e-300};
  const Tensor exact = Tensor::From<double>({10}, values);
  const auto rounded = [&](DType dtype, size_t i) {
    return exact.To(dtype).To(DType::kF64).data<double>()[i];
  };
  EXPECT_EQ(rounded(DType::kBF16, 0), 1 + 0x1p-7);
  EXPECT_EQ(rounded(DType::kBF16, 1), -1 - 0x1p-7);
  EXPECT_EQ(rounded(DType::kBF16, 2), 1 + 0x1p-7);
  EXPECT_EQ(rounded(DType::kF16, 3), 1 + 0x1p-10);
  EXPECT_EQ(rounded(DType::kF16, 4), 1 + 0x1p-10);
  EXPECT_EQ(rounded(DType::kF16, 5), 0x1p-24);    // the least f16, past half of it
  EXPECT_EQ(rounded(DType::kBF16, 6), 0x1p-133);  // the least bf16
  EXPECT_EQ(rounded(DType::kF16, 7), 65504);
  EXPECT_TRUE(std::isinf(rounded(DType::kBF16, 8)));
  EXPECT_EQ(rounded(DType::kBF16, 9), 0);
}

TEST(TensorTest, SizesPastThirtyTwoBitsAreExact) {
  std::byte byte{};
  const Tensor tensor = Tensor::Wrap(&byte, {int64_t{1} << 20, int64_t{1} << 14}, DType::kF32);
  EXPECT_EQ(tensor.elements(), int64_t{1} << 34);
  const Tensor view = tensor.Rows((int64_t{1} << 20) - 1, 1);
  EXPECT_EQ(static_cast<std::byte*>(view.raw()) - &byte,
            ((int64_t{1} << 20) - 1) * (int64_t{1} << 14) * 4);
}

}  // namespace
}  // namespace adder
