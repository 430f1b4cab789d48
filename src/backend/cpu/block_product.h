// Products of small matrices that lie in the cache, for kernels that need several of them with
// other work in between: attention's and the state space dual's. Large products are MatMul's
// (matmul.h). As simd.h, for *_kernel.cc only.
#pragma once

#include "adder/backend/cpu/simd.h"

namespace adder::cpu::ADDER_ISA {

// Rows and vectors of the tile of C that is kept in registers: sums, a row of B, one factor of A.
inline constexpr int64_t kTileRows = 6;
#if defined(__AVX512F__)
inline constexpr int kTileVectors = 4;
#else
inline constexpr int kTileVectors = 2;
#endif

// Sizes are rounded up to this many floats where a row of a block is padded: the widest vector.
inline constexpr int64_t kBlockPad = 16;
ADDER_SIMD int64_t Padded(int64_t count) { return (count + kBlockPad - 1) / kBlockPad * kBlockPad; }
ADDER_SIMD int64_t PaddedToVector(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

// The left factor: element (m, k) is data[m · row + k · column], so that it may be transposed.
struct LeftFactor {
  const float* data;
  int64_t row;
  int64_t column;
};

template <int kRows, int kVectors, bool kAccumulate>
static __attribute__((noinline)) void ProductTile(LeftFactor A, const float* B, int64_t B_stride,
                                                  int64_t depth, float* C, int64_t C_stride) {
  F32 sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      sums[m][v] = kAccumulate ? Load(C + m * C_stride + v * kLanes) : Zero();
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    F32 b[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) b[v] = Load(B + k * B_stride + v * kLanes);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      const F32 a = Set(A.data[m * A.row + k * A.column]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[m][v] = MulAdd(a, b[v], sums[m][v]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) Store(sums[m][v], C + m * C_stride + v * kLanes);
  }
}

// kRows rows and all columns of C.
template <int kRows, bool kAccumulate>
static void ProductRows(LeftFactor A, const float* B, int64_t B_stride, int64_t depth, float* C,
                        int64_t C_stride, int64_t columns) {
  int64_t n = 0;
  for (; n + kTileVectors * kLanes <= columns; n += kTileVectors * kLanes) {
    ProductTile<kRows, kTileVectors, kAccumulate>(A, B + n, B_stride, depth, C + n, C_stride);
  }
  if constexpr (kTileVectors > 2) {
    for (; n + 2 * kLanes <= columns; n += 2 * kLanes) {
      ProductTile<kRows, 2, kAccumulate>(A, B + n, B_stride, depth, C + n, C_stride);
    }
  }
  for (; n < columns; n += kLanes) {
    ProductTile<kRows, 1, kAccumulate>(A, B + n, B_stride, depth, C + n, C_stride);
  }
}

// C = A · B, or C += A · B: C is [rows, columns], B [depth, columns], both with rows a stride
// apart. columns is a multiple of kLanes.
template <bool kAccumulate>
static void BlockProduct(int64_t rows, int64_t columns, int64_t depth, LeftFactor A, const float* B,
                         int64_t B_stride, float* C, int64_t C_stride) {
  for (int64_t m = 0; m < rows; m += kTileRows) {
    const LeftFactor a = {A.data + m * A.row, A.row, A.column};
    float* c = C + m * C_stride;
    switch (rows - m) {
      case 1:
        ProductRows<1, kAccumulate>(a, B, B_stride, depth, c, C_stride, columns);
        break;
      case 2:
        ProductRows<2, kAccumulate>(a, B, B_stride, depth, c, C_stride, columns);
        break;
      case 3:
        ProductRows<3, kAccumulate>(a, B, B_stride, depth, c, C_stride, columns);
        break;
      case 4:
        ProductRows<4, kAccumulate>(a, B, B_stride, depth, c, C_stride, columns);
        break;
      case 5:
        ProductRows<5, kAccumulate>(a, B, B_stride, depth, c, C_stride, columns);
        break;
      default:
        ProductRows<6, kAccumulate>(a, B, B_stride, depth, c, C_stride, columns);
    }
  }
}

// ---- Packing ------------------------------------------------------------------------------------

// A [rows, columns] matrix of T as f32, times `scale`, in rows of `to_stride` floats; what is left
// of the rows up to columns padded to kBlockPad becomes zero.
template <class T>
static void PackRows(const T* from, int64_t from_stride, int64_t rows, int64_t columns, float scale,
                     float* to, int64_t to_stride) {
  const int64_t padded = Padded(columns);
  for (int64_t t = 0; t < rows; ++t) {
    const T* row = from + t * from_stride;
    float* packed = to + t * to_stride;
    int64_t d = 0;
    for (; d + kLanes <= columns; d += kLanes) Store(Load(row + d) * scale, packed + d);
    if (d < columns) {
      Store(LoadPartial(row + d, columns - d) * scale, packed + d);
      d += kLanes;
    }
    for (; d < padded; d += kLanes) Store(Zero(), packed + d);
  }
}

// The transpose as f32: to[column][row], in rows of `to_stride` floats; what is left of them up to
// `rows` padded to kBlockPad becomes zero.
template <class T>
static void PackTransposed(const T* from, int64_t from_stride, int64_t rows, int64_t columns,
                           float* to, int64_t to_stride) {
  const int64_t padded = Padded(rows);
  for (int64_t t = 0; t < padded; t += kLanes) {
    for (int64_t d = 0; d < columns; d += kLanes) {
      const int64_t width = columns - d < kLanes ? columns - d : kLanes;
      F32 v[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) {
        const T* row = from + (t + i) * from_stride + d;
        v[i] = t + i >= rows ? Zero() : width == kLanes ? Load(row) : LoadPartial(row, width);
      }
      Transpose(v);
      for (int64_t i = 0; i < width; ++i) Store(v[i], to + (d + i) * to_stride + t);
    }
  }
}

// Rows of f32 times `scale` to a matrix of T.
template <class T>
static void UnpackRows(const float* from, int64_t from_stride, int64_t rows, int64_t columns,
                       float scale, T* to, int64_t to_stride) {
  for (int64_t t = 0; t < rows; ++t) {
    const float* packed = from + t * from_stride;
    T* row = to + t * to_stride;
    int64_t d = 0;
    for (; d + kLanes <= columns; d += kLanes) Store(Load(packed + d) * scale, row + d);
    if (d < columns) StorePartial(Load(packed + d) * scale, row + d, columns - d);
  }
}

// ---- Packing of a dtype known at run time -------------------------------------------------------

// Rows here is a struct of `data`, a pointer to void, and `stride`, the elements from a row to the
// next; what is packed are `rows` rows and `columns` columns from (row, column) on.
template <class T, class Rows>
ADDER_SIMD T* At(const Rows& rows, int64_t row, int64_t column) {
  return static_cast<T*>(rows.data) + row * rows.stride + column;
}

template <class Rows>
static void Pack(const Rows& from, DType dtype, int64_t row, int64_t column, int64_t rows,
                 int64_t columns, float scale, float* to, int64_t to_stride) {
  switch (dtype) {
    case DType::kBF16:
      return PackRows(At<BFloat16>(from, row, column), from.stride, rows, columns, scale, to,
                      to_stride);
    case DType::kF16:
      return PackRows(At<Half>(from, row, column), from.stride, rows, columns, scale, to,
                      to_stride);
    default:
      return PackRows(At<float>(from, row, column), from.stride, rows, columns, scale, to,
                      to_stride);
  }
}

template <class Rows>
static void PackColumns(const Rows& from, DType dtype, int64_t row, int64_t column, int64_t rows,
                        int64_t columns, float* to, int64_t to_stride) {
  switch (dtype) {
    case DType::kBF16:
      return PackTransposed(At<BFloat16>(from, row, column), from.stride, rows, columns, to,
                            to_stride);
    case DType::kF16:
      return PackTransposed(At<Half>(from, row, column), from.stride, rows, columns, to, to_stride);
    default:
      return PackTransposed(At<float>(from, row, column), from.stride, rows, columns, to,
                            to_stride);
  }
}

template <class Rows>
static void Unpack(const float* from, int64_t from_stride, int64_t rows, int64_t columns,
                   float scale, const Rows& to, DType dtype, int64_t row, int64_t column) {
  switch (dtype) {
    case DType::kBF16:
      return UnpackRows(from, from_stride, rows, columns, scale, At<BFloat16>(to, row, column),
                        to.stride);
    case DType::kF16:
      return UnpackRows(from, from_stride, rows, columns, scale, At<Half>(to, row, column),
                        to.stride);
    default:
      return UnpackRows(from, from_stride, rows, columns, scale, At<float>(to, row, column),
                        to.stride);
  }
}

// `count` floats, rounded up to a vector.
ADDER_SIMD void SetZeros(float* to, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) Store(Zero(), to + i);
}

}  // namespace adder::cpu::ADDER_ISA
