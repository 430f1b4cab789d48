// elementwise on a CUDA device computes what it computes on the CPU.
#include "adder/backend/cuda/cuda_test.h"
#include "adder/ops/elementwise/elementwise.h"
#include "adder/ops/operator_test.h"

namespace adder {
namespace {

using test::kCuda;
using test::Near;
using test::OnCpu;
using test::OnCuda;
using test::RandomNormal;
using test::SameBits;
using ElementwiseCudaTest = test::CudaTest;

TEST_F(ElementwiseCudaTest, AddsToStridedTargets) {
  Random random(1);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const Shape& shape :
         {Shape{0, 3}, Shape{3, 0}, Shape{1, 1}, Shape{5, 7}, Shape{40, 1000}, Shape{300, 64}}) {
      for (const int64_t gap : {0, 3, 8}) {
        SCOPED_TRACE(testing::Message()
                     << shape.ToString() << " " << DTypeName(dtype) << ", gap " << gap);
        const Tensor before = RandomNormal(random, shape).To(dtype);
        const Tensor source = RandomNormal(random, shape).To(dtype);
        const Tensor target = gap > 0 ? test::WithRowGap(before, gap) : before;
        const Tensor cuda_target = OnCuda(target);
        AddTo(target, source);
        AddTo(cuda_target, OnCuda(source));
        EXPECT_TRUE(SameBits(OnCpu(cuda_target), target));
      }
    }
  }
}

TEST_F(ElementwiseCudaTest, AddsToColumnsOfThreeDimensions) {
  Random random(2);
  const Tensor wide = RandomNormal(random, {3, 5, 12}).To(DType::kF32);
  const Tensor source = RandomNormal(random, {3, 5, 4}).To(DType::kF32);
  const Tensor cuda_wide = OnCuda(wide);
  AddTo(wide.Columns(4, 4), source);
  AddTo(cuda_wide.Columns(4, 4), OnCuda(source));
  EXPECT_TRUE(SameBits(OnCpu(cuda_wide), wide));
}

TEST_F(ElementwiseCudaTest, ProductsAndExponentials) {
  Random random(3);
  for (const int64_t elements : {0, 1, 1000, 40000}) {
    const Tensor a = RandomNormal(random, {elements}).To(DType::kF32);
    const Tensor b = RandomNormal(random, {elements}).To(DType::kF32);
    const Tensor sum = RandomNormal(random, {elements}).To(DType::kF32);
    const Tensor cuda_sum = OnCuda(sum);
    AddProduct(sum, a, b);
    AddProduct(cuda_sum, OnCuda(a), OnCuda(b));
    EXPECT_TRUE(Near(OnCpu(cuda_sum), sum, 2e-7));
    const Tensor y = Tensor::Empty({elements}, DType::kF32);
    const Tensor cuda_y = Tensor::Empty({elements}, DType::kF32, kCuda);
    NegativeExp(a, y);
    NegativeExp(OnCuda(a), cuda_y);
    EXPECT_TRUE(Near(OnCpu(cuda_y), y, 3e-7));
  }
}

}  // namespace
}  // namespace adder
