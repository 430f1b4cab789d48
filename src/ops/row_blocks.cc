#include "adder/ops/row_blocks.h"

#include <algorithm>

#include "adder/backend/cpu/parallel.h"

namespace adder::cpu {
namespace {

constexpr int64_t kBlockRows = 16;  // while that makes no more than
constexpr int64_t kMostBlocks = 128;

}  // namespace

RowBlocks::RowBlocks(int64_t rows)
    : rows_(rows),
      count_(std::clamp<int64_t>((rows + kBlockRows - 1) / kBlockRows, 1, kMostBlocks)) {}

Tensor RowBlocks::SumsFor(const Tensor& total) const {
  return total ? Tensor::Zeros({count_, total.elements()}, DType::kF32) : Tensor();
}

void RowBlocks::Add(const Tensor& sums, const Tensor& total) {
  if (!total) return;
  const int64_t blocks = sums.dim(0);
  ParallelFor(sums.dim(1), kElementsPerThread / blocks,
              [&](int64_t begin, int64_t end, int /*thread*/) {
                float* to = total.data<float>();
                for (int64_t block = 0; block < blocks; ++block) {
                  const auto* sum = static_cast<const float*>(sums.row(block));
                  for (int64_t d = begin; d < end; ++d) to[d] += sum[d];
                }
              });
}

}  // namespace adder::cpu
