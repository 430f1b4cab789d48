// The key and value cache on a CUDA device holds what it holds on the CPU.
#include <vector>

#include "adder/backend/cuda/cuda_test.h"
#include "adder/ops/attention/key_value_cache.h"
#include "adder/ops/operator_test.h"

namespace adder {
namespace {

using test::OnCpu;
using test::OnCuda;
using test::RandomNormal;
using test::SameBits;
using KeyValueCacheCudaTest = test::CudaTest;

TEST_F(KeyValueCacheCudaTest, AppendsAndTakesOutAsOnTheCpu) {
  Random random(1);
  for (const SequenceLayout& layout : test::SequenceLayouts()) {
    for (const int64_t columns : {6, 64, 1024}) {
      for (const DType rows_dtype : {DType::kF32, DType::kBF16}) {
        for (const DType cache_dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
          std::vector<int64_t> lengths;
          for (int64_t s = 0; s < layout.sequences(); ++s) {
            lengths.push_back(static_cast<int64_t>(random.NextBelow(9)));
          }
          const int64_t capacity = GrownCapacity(lengths, layout, 8) + 2;
          const Tensor rows =
              test::WithRowGap(RandomNormal(random, {layout.rows(), columns}).To(rows_dtype), 4);
          const Tensor cache =
              RandomNormal(random, {layout.sequences(), capacity, columns}).To(cache_dtype);
          const Tensor cuda_cache = OnCuda(cache);
          AppendToCache(rows, layout, lengths, cache);
          AppendToCache(OnCuda(rows), layout, lengths, cuda_cache);
          EXPECT_TRUE(SameBits(OnCpu(cuda_cache), cache));

          const Tensor d_rows = Tensor::Zeros({layout.rows(), columns}, rows_dtype);
          const Tensor cuda_d_rows = OnCuda(d_rows);
          AppendToCacheBackward(cache, layout, lengths, d_rows);
          AppendToCacheBackward(cuda_cache, layout, lengths, cuda_d_rows);
          EXPECT_TRUE(SameBits(OnCpu(cuda_d_rows), d_rows));

          const Shape larger = {layout.sequences(), capacity + 3, columns};
          const Tensor grown = RandomNormal(random, larger).To(cache_dtype);
          const Tensor cuda_grown = OnCuda(grown);
          CopyFilledRows(cache, lengths, grown);
          CopyFilledRows(cuda_cache, lengths, cuda_grown);
          EXPECT_TRUE(SameBits(OnCpu(cuda_grown), grown));
        }
      }
    }
  }
}

TEST_F(KeyValueCacheCudaTest, AppendsByLengthsOnTheDevice) {
  Random random(2);
  const std::vector<int64_t> lengths = {3, 0, 6, 2, 6};
  const Tensor lengths_tensor = Tensor::From<int64_t>({5}, lengths);
  for (const int64_t columns : {6, 64, 5000}) {
    for (const DType rows_dtype : {DType::kF32, DType::kBF16}) {
      for (const DType cache_dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
        const Tensor rows = test::WithRowGap(RandomNormal(random, {5, columns}).To(rows_dtype), 4);
        const Tensor cache = RandomNormal(random, {5, 7, columns}).To(cache_dtype);
        const Tensor cuda_cache = OnCuda(cache);
        AppendToCache(rows, SequenceLayout::Uniform(5, 1), lengths, cache);
        AppendToCache(OnCuda(rows), OnCuda(lengths_tensor), cuda_cache);
        EXPECT_TRUE(SameBits(OnCpu(cuda_cache), cache));
      }
    }
  }
  // Without room: the row is left out, and the next wait throws.
  const Tensor rows = RandomNormal(random, {5, 6}).To(DType::kF32);
  const Tensor cache = Tensor::Zeros({5, 6, 6}, DType::kF32, test::kCuda);
  AppendToCache(OnCuda(rows), OnCuda(lengths_tensor), cache);
  EXPECT_THROW(OnCpu(cache), Error);
  EXPECT_EQ(test::MaxAbs(OnCpu(cache).Rows(2, 1)), 0);
}

}  // namespace
}  // namespace adder
