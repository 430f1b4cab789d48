// The static plan of recorded work's memory: every block gets its place in one piece of memory,
// which blocks share that are not there at the same time. Knows nothing of CUDA.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace adder::cuda {

struct PlannedBlock {
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

  int64_t bytes = 0;
  int64_t begin = 0;     // events: it was allocated at one,
  int64_t end = kNever;  // and freed at a later one
  int64_t offset = 0;
};

// Sets the offsets of those that are freed again, and returns the bytes of the whole. Large blocks
// are placed first, each at the lowest place that is free for as long as it is there. Takes time
// that grows with the square of their number.
inline int64_t PlanMemory(std::vector<PlannedBlock>& blocks) {
  std::vector<size_t> order;
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (blocks[i].end != PlannedBlock::kNever) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return blocks[a].bytes > blocks[b].bytes; });
  std::vector<PlannedBlock> placed;  // in order of their offsets
  placed.reserve(order.size());
  int64_t bytes = 0;
  for (const size_t i : order) {
    PlannedBlock& block = blocks[i];
    block.offset = 0;
    for (const PlannedBlock& other : placed) {
      if (other.end <= block.begin || block.end <= other.begin) continue;
      if (other.offset - block.offset >= block.bytes) break;
      block.offset = std::max(block.offset, other.offset + other.bytes);
    }
    bytes = std::max(bytes, block.offset + block.bytes);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), block,
                                   [](const PlannedBlock& a, const PlannedBlock& b) {
                                     return a.offset < b.offset;
                                   }),
                  block);
  }
  return bytes;
}

}  // namespace adder::cuda
