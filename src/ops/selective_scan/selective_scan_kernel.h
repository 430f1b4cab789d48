// selective_scan's CPU kernels, on raw pointers.
//
// Work is cut into tiles, at most kScanTileRows rows of one sequence each, beginning where the
// chunks do, and into blocks of kScanBlock channels of one group. A kernel call takes some tiles,
// in the order of time, and some blocks; tiles are the outer loop, so that a tile's rows are still
// in the cache when the next block of channels needs them, and the state passes from a tile to the
// next through `state`. Tiles of one row have a way of their own, see ScanTile::step.
//
// A "lane array" of M components for a block is f32 [M][kScanBlock]: lanes are channels. M is N for
// real states and 2·N for complex ones, re and im of a state next to each other. Lanes past the
// block's channels hold zeros.
#pragma once

#include <cstdint>

#include "adder/backend/cpu/instruction_set.h"
#include "adder/core/dtype.h"

namespace adder::cpu {

// Channels of a block: the widest vector's lanes. Narrower sets take several vectors to a block.
inline constexpr int64_t kScanBlock = 16;
// Rows of a tile: kScanChunkRows, from a header that kernels don't include.
inline constexpr int64_t kScanTileRows = 64;

struct ScanTile {
  int64_t sequence;
  int64_t row;    // first row of the tile
  int64_t rows;   // 1 to kScanTileRows
  int64_t chunk;  // number of its entry in chunk_states
  bool first;     // of its sequence
  bool last;
  // All of its sequence, one row (decoding), of real states, of which only y and hT are asked for:
  // these are advanced where they lie, with states for lanes, to the same bits.
  bool step;
};

// A [rows, columns] matrix of the activation's or the projection's type; null: not given.
struct ScanRows {
  void* data = nullptr;
  int64_t stride = 0;  // elements from a row to the next
};

// The operator's arguments, the same for every tile and block.
struct ScanProblem {
  DType activation;  // of x, dt, z, y and their gradients
  DType projection;  // of B, C
  int64_t channels;
  int64_t components;  // M
  bool is_complex;
  int64_t groups;
  int64_t blocks_per_group;
  ScanRows x, dt, z, B, C;
  const float* D;  // these may be null
  const float* dt_bias;
  const float* interval;
  const float* h0;
  const float* A;
  const float*
      rates;  // a lane array a block, as ScanRates makes it; null where all tiles are steps
};

// Turns A into the factors of dt' that the exponentials take: A · log₂ e for 2^x, and for the
// imaginary parts A · 2/π for an angle in quarter turns.
struct ScanRatesArguments {
  const ScanProblem* problem;
  float* rates;
  int64_t block_begin, block_end;
};

struct ScanForwardArguments {
  const ScanProblem* problem;
  ScanRows y;
  float* hT;            // may be null
  float* chunk_states;  // may be null
  const ScanTile* tiles;
  int64_t tile_count;
  int64_t block_begin, block_end;
  float* state;    // a lane array for each block of the whole problem; carries h between tiles
  float* scratch;  // ScanForwardScratch floats
};

struct ScanBackwardArguments {
  const ScanProblem* problem;
  const float* chunk_states;
  const float* dhT;  // may be null
  ScanRows dy;
  ScanRows dx, ddt, dz;   // each may be null
  float* dh0;             // may be null
  const ScanTile* tiles;  // taken from the last to the first
  int64_t tile_count;
  int64_t block_begin, block_end;
  float* state;  // carries the gradient of h between tiles
  float* dA;     // lane arrays, added to
  float* dD;     // [blocks][kScanBlock], added to
  float* d_dt_bias;
  // Sums over the blocks of this call, added to: rows of groups · M floats for dB and dC, one float
  // for d_interval, from row tiles[0].row on.
  float* dB;
  float* dC;
  float* d_interval;
  float* scratch;  // ScanBackwardScratch floats
};

// The scratch memory of one kernel call, in floats; it must be 64-byte aligned.
constexpr int64_t ScanForwardScratch(int64_t components, int64_t groups) {
  // Three arrays per row and lane; B and C of a tile in f32.
  return kScanTileRows * (3 * kScanBlock + 2 * groups * components);
}
constexpr int64_t ScanBackwardScratch(int64_t components, int64_t groups) {
  // Eight arrays per row and lane, decays and states of four components, sums of four components
  // of dB and dC, the state's lane array; B and C of a tile in f32.
  return kScanTileRows * (8 * kScanBlock + 2 * groups * components) +
         4 * (2 * kScanTileRows + 1) * kScanBlock +
         (components / 4 + 2) * kScanTileRows * kScanBlock + components * kScanBlock;
}

}  // namespace adder::cpu

ADDER_CPU_KERNEL(ScanRates, ScanRatesArguments)
ADDER_CPU_KERNEL(ScanForward, ScanForwardArguments)
ADDER_CPU_KERNEL(ScanBackward, ScanBackwardArguments)
