// Sums over rows on the CPU, as a weight's gradient is one, the same bits for any number of
// threads: rows are cut into blocks by their number alone, each block sums its own, and the blocks'
// sums are added in order.
#pragma once

#include <cstdint>

#include "adder/core/tensor.h"

namespace adder::cpu {

class RowBlocks {
 public:
  explicit RowBlocks(int64_t rows);

  int64_t count() const { return count_; }
  // The block's rows are [begin(block), begin(block + 1)).
  int64_t begin(int64_t block) const { return rows_ * block / count_; }

  // f32 zeros [count, columns], for each block to sum into a row of; undefined where `total` is.
  Tensor SumsFor(const Tensor& total) const;
  // total[d] += Σ_block sums[block, d], for `sums` from SumsFor(total).
  static void Add(const Tensor& sums, const Tensor& total);

 private:
  int64_t rows_;
  int64_t count_;
};

}  // namespace adder::cpu
