// Places in one piece of memory: apart where blocks are there together, and few bytes more than
// those that are.
#include "adder/backend/cuda/memory_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "adder/core/random.h"

namespace adder::cuda {
namespace {

void ExpectApart(const std::vector<PlannedBlock>& blocks, int64_t bytes) {
  for (size_t i = 0; i < blocks.size(); ++i) {
    const PlannedBlock& a = blocks[i];
    EXPECT_GE(a.offset, 0);
    EXPECT_LE(a.offset + a.bytes, bytes);
    for (size_t j = 0; j < i; ++j) {
      const PlannedBlock& b = blocks[j];
      const bool together = a.begin < b.end && b.begin < a.end;
      const bool overlap = a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;
      EXPECT_FALSE(together && overlap) << i << " and " << j;
    }
  }
}

TEST(MemoryPlan, SharesWhatIsFreeByThen) {
  std::vector<PlannedBlock> none;
  EXPECT_EQ(PlanMemory(none), 0);
  // The second ends as the third begins; the last has no place.
  std::vector<PlannedBlock> blocks = {{.bytes = 512, .begin = 0, .end = 9},
                                      {.bytes = 2048, .begin = 1, .end = 3},
                                      {.bytes = 1024, .begin = 3, .end = 5},
                                      {.bytes = 1024, .begin = 4, .end = 6},
                                      {.bytes = 4096, .begin = 4}};
  EXPECT_EQ(PlanMemory(blocks), 2560);
  blocks.pop_back();
  ExpectApart(blocks, 2560);
}

TEST(MemoryPlan, RandomBlocksLieApartAndClose) {
  Random random(1);
  std::vector<PlannedBlock> blocks(1000);
  std::vector<int64_t> live(2000, 0);
  for (PlannedBlock& block : blocks) {
    block.bytes = 512 * static_cast<int64_t>(1 + random.NextBelow(1000));
    block.begin = static_cast<int64_t>(random.NextBelow(1900));
    block.end = block.begin + 1 + static_cast<int64_t>(random.NextBelow(100));
    for (int64_t event = block.begin; event < block.end; ++event) {
      live[static_cast<size_t>(event)] += block.bytes;
    }
  }
  const int64_t bytes = PlanMemory(blocks);
  ExpectApart(blocks, bytes);
  const int64_t most = *std::max_element(live.begin(), live.end());
  EXPECT_GE(bytes, most);
  EXPECT_LE(bytes, most + most / 5);
}

}  // namespace
}  // namespace adder::cuda
