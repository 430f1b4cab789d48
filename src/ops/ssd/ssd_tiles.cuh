// Tiles of 16-bit numbers in shared memory, for the tensor-core kernels of ssd: their layout, how
// they are filled and read as fragments.
#pragma once

#include "adder/backend/cuda/tensor_cores.cuh"
#include "adder/ops/ssd/ssd_cuda.cuh"

namespace adder::cuda::tensor {

// The same value, of which the compiler does not know that: what is computed from it is computed
// here, and not once before a loop, where it would take registers.
__device__ inline int Again(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

__device__ inline void AwaitCopies() {
  CommitCopies();
  WaitForCopies<0>();
}

// Two numbers as one word; what f16 cannot hold becomes the largest that it can.
template <class T>
__device__ inline uint32_t PackLimited(float first, float second) {
  if constexpr (std::is_same_v<T, __half>) {
    constexpr float kMost = 65504.0f;
    first = first > kMost ? kMost : first < -kMost ? -kMost : first;
    second = second > kMost ? kMost : second < -kMost ? -kMost : second;
  }
  return PackTwo<T>(first, second);
}

// [rows][kColumns] in pieces of 16 bytes. The pieces of a row are permuted, so that the same piece
// of eight rows that follow each other lies in different banks.
template <int kColumns>
struct Tile {
  static_assert(kColumns % 64 == 0);
  static constexpr int kPieces = kColumns / 8;
  // Bytes of a tile of kSsdRows rows.
  static constexpr int kBytes = kSsdRows * kColumns * 2;

  __device__ static int Offset(int row, int piece) {
    return (row * kPieces + (piece ^ (row & 7))) * 16;
  }
};

// Starts to fill a tile with rows [row, row + rows) and columns [column, column + columns) of a
// matrix, and with zeros where there are none. `pieces`: whole pieces may be copied: everything is
// a multiple of 8 elements.
template <class T, int kColumns, int kThreads>
__device__ inline void FillTile(char* tile, const Rows& from, int64_t row, int rows, int64_t column,
                                int columns, bool pieces) {
  using To = Tile<kColumns>;
  const T* data = static_cast<const T*>(from.data) + row * from.stride + column;
  const int tid = Again(static_cast<int>(threadIdx.x));
  if (pieces) {
    static_assert(kThreads % To::kPieces == 0);
    constexpr int kRowsAtOnce = kThreads / To::kPieces;
    const int first = tid / To::kPieces;
    const int piece = tid % To::kPieces;
    const bool inside = piece * 8 < columns;
    const T* at = data + first * from.stride + piece * 8;
    const unsigned to = SharedAddress(tile);
#pragma unroll
    for (int r = 0; r < kSsdRows; r += kRowsAtOnce) {
      const bool valid = inside && r + first < rows;
      CopyPiece(to + static_cast<unsigned>(To::Offset(r + first, piece)), valid ? at : data, valid);
      at += kRowsAtOnce * from.stride;
    }
    return;
  }
  for (int i = tid; i < kSsdRows * kColumns; i += kThreads) {
    const int r = i / kColumns;
    const int c = i % kColumns;
    const bool valid = r < rows && c < columns;
    reinterpret_cast<T*>(tile + To::Offset(r, c / 8))[c % 8] =
        valid ? data[r * from.stride + c] : FromFloat<T>(0.0f);
  }
}

// Reads fragments of a tile's blocks of 16 rows and 16 columns: what a lane adds to their
// addresses. Blocks begin at rows and pieces that are multiples of 8 and 2.
template <int kColumns>
struct Reader {
  // Where a lane's row of a matrix lies: in the order of A's and of B's parts.
  unsigned across, down;              // addresses of its row
  unsigned across_piece, down_piece;  // its piece, as it is permuted

  __device__ Reader(const char* tile, int lane) {
    const unsigned from = SharedAddress(tile);
    const unsigned turn = lane & 7;
    across = from + static_cast<unsigned>(lane & 15) * (kColumns * 2);
    across_piece = ((static_cast<unsigned>(lane) >> 4) ^ turn) * 16;
    down = from + (static_cast<unsigned>(lane >> 4) * 8 + turn) * (kColumns * 2);
    down_piece = (((static_cast<unsigned>(lane) >> 3) & 1) ^ turn) * 16;
  }
  __device__ unsigned Across(int row, int piece) const {
    return across + static_cast<unsigned>(row) * (kColumns * 2) +
           (static_cast<unsigned>(piece) * 16 ^ across_piece);
  }
  __device__ unsigned Down(int row, int piece) const {
    return down + static_cast<unsigned>(row) * (kColumns * 2) +
           (static_cast<unsigned>(piece) * 16 ^ down_piece);
  }
  // A = the block.
  __device__ void A(int row, int piece, uint32_t (&a)[4]) const {
    LoadMatrices(Across(row, piece), a);
  }
  // A = the block transposed: its columns are A's rows.
  __device__ void TransposedA(int row, int piece, uint32_t (&a)[4]) const {
    LoadTransposed(Down(row, piece), a);
  }
  // Two B of 16 x 8 side by side, b[0], b[1] and b[2], b[3]: the block itself.
  __device__ void B(int row, int piece, uint32_t (&b)[4]) const {
    LoadTransposed(Across(row, piece), b);
  }
  // Two B: the block transposed, its rows are B's columns.
  __device__ void TransposedB(int row, int piece, uint32_t (&b)[4]) const {
    LoadMatrices(Down(row, piece), b);
  }
};

// Whether tiles of a matrix, beginning at multiples of `step` columns, can be filled by pieces.
inline bool ByPieces(const Rows& rows, int64_t step) {
  return AlignedTo(16, rows.data, rows.stride, 2) && step % 8 == 0;
}

}  // namespace adder::cuda::tensor
