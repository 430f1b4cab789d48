// Recorded work: repeated on what its tensors hold, in memory that nobody else gets meanwhile.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "adder/backend/cuda/cuda_test.h"
#include "adder/core/error.h"
#include "adder/ops/elementwise/elementwise.h"

namespace adder {
namespace {

using test::kCuda;
using GraphCudaTest = test::CudaTest;

Tensor Filled(float value, int64_t elements = 1000) {
  const std::vector<float> values(static_cast<size_t>(elements), value);
  return Tensor::From<float>({elements}, values).To(kCuda);
}
float First(const Tensor& tensor) { return tensor.To(Device{}).data<float>()[0]; }

TEST_F(GraphCudaTest, IsRepeatedOnWhatItsTensorsHold) {
  const cuda::Module& module = cuda::GetModule();
  const Tensor x = Filled(2);
  const Tensor sum = Filled(1);
  // sum += x · x, by way of memory that is freed again.
  const auto work = [&] {
    const Tensor square = Tensor::Zeros({1000}, DType::kF32, kCuda);
    AddProduct(square, x, x);
    AddTo(sum, square);
  };
  work();
  EXPECT_EQ(First(sum), 5);
  const std::unique_ptr<cuda::Graph> graph = module.Record(0, work);
  EXPECT_EQ(First(sum), 5) << "recording does nothing yet";
  graph->Launch();
  EXPECT_EQ(First(sum), 9);
  x.CopyFrom(Filled(10));
  // What is allocated now is none of the graph's.
  std::vector<Tensor> others;
  for (int i = 0; i < 20; ++i) others.push_back(Filled(static_cast<float>(i)));
  graph->Launch();
  graph->Launch();
  EXPECT_EQ(First(sum), 209);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(First(others[static_cast<size_t>(i)]), static_cast<float>(i));
  }
}

TEST_F(GraphCudaTest, GivesItsMemoryBack) {
  const cuda::Module& module = cuda::GetModule();
  const Tensor x = Filled(2, 1 << 20);
  const auto work = [&] { AddTo(x, Tensor::Zeros({1 << 20}, DType::kF32, kCuda)); };
  work();
  const int64_t before = module.Use(0).in_use;
  std::unique_ptr<cuda::Graph> graph = module.Record(0, work);
  EXPECT_EQ(module.Use(0).in_use, before + (int64_t{4} << 20));
  graph.reset();
  EXPECT_EQ(module.Use(0).in_use, before);
}

// Memory that is planned: what is not there together shares its place.
TEST_F(GraphCudaTest, PlansWhatTakesMuchMemory) {
  test::WithLargeMemory([] {
    const cuda::Module& module = cuda::GetModule();
    constexpr int64_t kElements = int64_t{100} << 20;  // 400 MiB
    const Tensor x = Tensor::Zeros({kElements}, DType::kF32, kCuda);
    const Tensor last = x.Rows(kElements - 1, 1);
    last.CopyFrom(Filled(3, 1));
    const Tensor sum = Tensor::Zeros({1}, DType::kF32, kCuda);
    Tensor kept;
    const auto work = [&] {
      {
        const Tensor squares = Tensor::Zeros({kElements}, DType::kF32, kCuda);
        AddProduct(squares, x, x);
        AddTo(sum, squares.Rows(kElements - 1, 1));
      }
      const Tensor copies = Tensor::Zeros({2 * kElements}, DType::kF32, kCuda);
      AddTo(copies.Rows(0, kElements), x);
      AddTo(copies.Rows(kElements, kElements), copies.Rows(0, kElements));
      AddTo(sum, copies.Rows(2 * kElements - 1, 1));
      kept = sum.Clone();
    };
    work();
    EXPECT_EQ(First(kept), 12);
    const int64_t before = module.Use(0).in_use;
    const int64_t most_before = module.Use(0).most_in_use;
    std::unique_ptr<cuda::Graph> graph = module.Record(0, work);
    EXPECT_LT(module.Use(0).in_use, before + 8 * kElements + (1 << 20)) << "800 MiB, not 1200";
    EXPECT_LT(module.Use(0).most_in_use, most_before + (1 << 20));
    EXPECT_EQ(First(sum), 12) << "recording does nothing yet";
    graph->Launch();
    EXPECT_EQ(First(kept), 24);
    last.CopyFrom(Filled(1, 1));
    graph->Launch();
    EXPECT_EQ(First(kept), 26);
    EXPECT_EQ(First(sum), 26);
    graph.reset();
    EXPECT_LT(module.Use(0).in_use, before + (1 << 20));
  });
}

TEST_F(GraphCudaTest, ErrorsEndTheRecording) {
  const cuda::Module& module = cuda::GetModule();
  const Tensor x = Filled(2);
  EXPECT_THROW(module.Record(0, [&] { Filled(3); }), Error) << "a copy from the host";
  EXPECT_THROW(module.Record(0, [&] { First(x); }), Error) << "a copy to the host";
  EXPECT_EQ(First(Filled(4)), 4);
  const auto work = [&] { AddTo(x, x.Clone()); };
  work();
  module.Record(0, work)->Launch();
  EXPECT_EQ(First(x), 8);
}

}  // namespace
}  // namespace adder
