// linear for few rows: decoding reads every weight for one or a few rows of x, so the kernel's one
// aim is to keep the memory busy.
#include "adder/ops/linear/linear_kernel.h"

#include "adder/backend/cpu/simd.h"

namespace adder::cpu::ADDER_ISA {
namespace {

// Rows of x and of W that share one pass over k. Each pair has its own sum in a register, and
// sums, rows of W and one of x must fit the registers of the set.
constexpr int kTileRows = kLanes == 16 ? 4 : 2;
constexpr int kTileOutputs = 4;

// How the dtypes are loaded and multiplied: f32 and f16 as f32 lanes, bf16 in pairs.
template <class T>
struct Operand {
  using Vector = F32;
  static constexpr int64_t kStep = kLanes;
  ADDER_SIMD Vector From(const T* p) { return Load(p); }
  ADDER_SIMD Vector FromPartial(const T* p, int64_t n) { return LoadPartial(p, n); }
  ADDER_SIMD F32 Dot(Vector a, Vector b, F32 sum) { return MulAdd(a, b, sum); }
};
template <>
struct Operand<BFloat16> {
  using Vector = U32;
  static constexpr int64_t kStep = 2 * kLanes;
  ADDER_SIMD Vector From(const BFloat16* p) { return LoadPairs(p); }
  ADDER_SIMD Vector FromPartial(const BFloat16* p, int64_t n) { return LoadPairsPartial(p, n); }
  ADDER_SIMD F32 Dot(Vector a, Vector b, F32 sum) { return DotPairs(a, b, sum); }
};

// kRows rows of x from `row` times kOutputs rows of W from `output`. kPrefetch: meanwhile fetches
// the rows of W that come next. A row is too short for the machine to notice in time that it is
// read from end to end.
template <class T, class Y, int kRows, int kOutputs, bool kPrefetch>
void Tile(const LinearArguments& a, int64_t row, int64_t output) {
  using Op = Operand<T>;
  const T* x = static_cast<const T*>(a.x) + row * a.x_stride;
  const T* W = static_cast<const T*>(a.W) + output * a.W_stride;
  F32 sums[kRows][kOutputs] = {};
  int64_t k = 0;
  for (; k + Op::kStep <= a.K; k += Op::kStep) {
    typename Op::Vector w[kOutputs];
    for (int j = 0; j < kOutputs; ++j) {
      w[j] = Op::From(W + j * a.W_stride + k);
      // Past the last row of W this fetches what nobody needs, but cannot fault.
      if (kPrefetch) __builtin_prefetch(W + (kOutputs + j) * a.W_stride + k, 0, 2);
    }
    for (int i = 0; i < kRows; ++i) {
      const typename Op::Vector v = Op::From(x + i * a.x_stride + k);
      for (int j = 0; j < kOutputs; ++j) sums[i][j] = Op::Dot(v, w[j], sums[i][j]);
    }
  }
  if (const int64_t rest = a.K - k; rest > 0) {
    typename Op::Vector w[kOutputs];
    for (int j = 0; j < kOutputs; ++j) w[j] = Op::FromPartial(W + j * a.W_stride + k, rest);
    for (int i = 0; i < kRows; ++i) {
      const typename Op::Vector v = Op::FromPartial(x + i * a.x_stride + k, rest);
      for (int j = 0; j < kOutputs; ++j) sums[i][j] = Op::Dot(v, w[j], sums[i][j]);
    }
  }
  Y* y = static_cast<Y*>(a.y) + row * a.y_stride + output;
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kOutputs; ++j) {
      const float bias = a.bias == nullptr ? 0.0f : a.bias[output + j];
      StoreScalar(ReduceSum(sums[i][j]) + bias, y + i * a.y_stride + j);
    }
  }
}

// The first pass over rows of W. Returns how many rows of x it took.
template <class T, class Y, int kOutputs>
int64_t TileOfFirstRows(const LinearArguments& a, int64_t output) {
  if (a.rows >= kTileRows) {
    Tile<T, Y, kTileRows, kOutputs, true>(a, 0, output);
    return kTileRows;
  }
  if (a.rows == 3) Tile<T, Y, kTileRows == 4 ? 3 : 1, kOutputs, true>(a, 0, output);
  if (a.rows == 2) Tile<T, Y, 2, kOutputs, true>(a, 0, output);
  if (a.rows == 1) Tile<T, Y, 1, kOutputs, true>(a, 0, output);
  return a.rows;
}

// All rows of x times kOutputs rows of W, which stay in the cache from the second pass on.
template <class T, class Y, int kOutputs>
void TilesOfRows(const LinearArguments& a, int64_t output) {
  int64_t row = TileOfFirstRows<T, Y, kOutputs>(a, output);
  for (; row + kTileRows <= a.rows; row += kTileRows) {
    Tile<T, Y, kTileRows, kOutputs, false>(a, row, output);
  }
  if constexpr (kTileRows == 4) {
    if (a.rows - row == 3) Tile<T, Y, 3, kOutputs, false>(a, row, output);
    if (a.rows - row == 2) Tile<T, Y, 2, kOutputs, false>(a, row, output);
  }
  if (a.rows - row == 1) Tile<T, Y, 1, kOutputs, false>(a, row, output);
}

template <class T, class Y>
void Multiply(const LinearArguments& a) {
  int64_t output = a.begin;
  for (; output + kTileOutputs <= a.end; output += kTileOutputs) {
    TilesOfRows<T, Y, kTileOutputs>(a, output);
  }
  for (; output < a.end; ++output) TilesOfRows<T, Y, 1>(a, output);
}

// Rows whose sum is formed apart, so that the error of a long sum stays that of a short one.
constexpr int64_t kSumRows = 128;

template <class T>
void SumRows(const LinearBiasGradientArguments& a) {
  const T* dy = static_cast<const T*>(a.dy);
  for (int64_t n = a.begin; n < a.end; n += kLanes) {
    const int64_t lanes = a.end - n < kLanes ? a.end - n : kLanes;
    F32 total = LoadPartial(a.dbias + n, lanes);
    for (int64_t block = 0; block < a.rows; block += kSumRows) {
      const int64_t block_end = block + kSumRows < a.rows ? block + kSumRows : a.rows;
      F32 sum = Zero();
      for (int64_t t = block; t < block_end; ++t) {
        sum += LoadPartial(dy + t * a.dy_stride + n, lanes);
      }
      total += sum;
    }
    StorePartial(total, a.dbias + n, lanes);
  }
}

}  // namespace

void LinearKernel(const LinearArguments& a) {
  const bool f32_y = a.y_dtype == DType::kF32;
  switch (a.dtype) {
    case DType::kF32:
      return Multiply<float, float>(a);
    case DType::kBF16:
      return f32_y ? Multiply<BFloat16, float>(a) : Multiply<BFloat16, BFloat16>(a);
    case DType::kF16:
      return f32_y ? Multiply<Half, float>(a) : Multiply<Half, Half>(a);
    default:
      return;
  }
}

void LinearBiasGradientKernel(const LinearBiasGradientArguments& a) {
  switch (a.dtype) {
    case DType::kF32:
      return SumRows<float>(a);
    case DType::kBF16:
      return SumRows<BFloat16>(a);
    case DType::kF16:
      return SumRows<Half>(a);
    default:
      return;
  }
}

}  // namespace adder::cpu::ADDER_ISA
