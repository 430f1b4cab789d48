// linear for few rows: decoding reads every weight for one or a few rows of x, so the kernel's one
// aim is to keep the memory busy, and to unpack a weight once however many rows there are.
//
// Up to kDirectRows rows multiply the weights in the registers they are unpacked in. More rows take
// panels: some rows of W, unpacked into the first-level cache, times all rows of x.
#include "adder/ops/linear/linear_kernel.h"

#include "adder/backend/cpu/simd.h"
#include "adder/backend/cpu/unpack_simd.h"
#include "adder/ops/linear/linear_results_simd.h"

namespace adder::cpu::ADDER_ISA {
namespace {

// Tiles of rows of x times rows of W. Each pair has its own sum in a register; sums, rows of W and
// one of x must fit the registers of the set.
constexpr int kDirectRows = kLanes == 16 ? 4 : 2;
constexpr int kDirectOutputs = 4;
constexpr int kPanelRows = 4;
constexpr int kPanelOutputs = kLanes == 16 ? 6 : 3;
// Elements of a row of W in a panel: six rows and the tile's of x fit the first-level cache.
constexpr int64_t kPanelDepth = 1024;
// Rows of x whose sums are kept while W goes by.
constexpr int64_t kPanelMostRows = 64;
static_assert(kPanelMostRows % kLanes == 0);

// How products are formed: f32 lanes, or pairs of bf16.
struct F32Product {
  using X = float;
  using Vector = F32;
  static constexpr int kStep = kLanes;
  static constexpr int kVectors = kGroupVectors;

  ADDER_SIMD Vector From(const X* p) { return Load(p); }
  ADDER_SIMD Vector FromPartial(const X* p, int64_t n) { return LoadPartial(p, n); }
  ADDER_SIMD Vector FromGroup(const Group& group, int i) { return group.v[i]; }
  ADDER_SIMD void Keep(Vector v, X* to) { Store(v, to); }
  ADDER_SIMD F32 Dot(Vector a, Vector b, F32 sum) { return MulAdd(a, b, sum); }
};
struct PairProduct {
  using X = BFloat16;
  using Vector = U32;
  static constexpr int kStep = 2 * kLanes;
  static constexpr int kVectors = kGroupVectors / 2;

  ADDER_SIMD Vector From(const X* p) { return LoadPairs(p); }
  ADDER_SIMD Vector FromPartial(const X* p, int64_t n) { return LoadPairsPartial(p, n); }
  ADDER_SIMD Vector FromGroup(const Group& group, int i) {
    return ToPairs(group.v[2 * i], group.v[2 * i + 1]);
  }
  ADDER_SIMD void Keep(Vector v, X* to) { __builtin_memcpy(static_cast<void*>(to), &v, sizeof v); }
  ADDER_SIMD F32 Dot(Vector a, Vector b, F32 sum) { return DotPairs(a, b, sum); }
};

template <class A, class B>
inline constexpr bool kSame = false;
template <class A>
inline constexpr bool kSame<A, A> = true;

// Floats have no blocks: a row of them may end in the middle of a group.
template <class T>
inline constexpr bool kMayEndInAGroup = Unpack<T>::kBytes == kGroup * sizeof(T);

ADDER_SIMD const uint8_t* RowOf(const LinearArguments& a, int64_t output) {
  return static_cast<const uint8_t*>(a.W) + output * a.W_row_bytes;
}
template <class Product>
ADDER_SIMD const typename Product::X* RowOfX(const LinearArguments& a, int64_t row) {
  return static_cast<const typename Product::X*>(a.x) + row * a.x_stride;
}
// ---- Few rows -----------------------------------------------------------------------------------

// Vector i of group g of a block of W's row.
template <class Product, class T>
ADDER_SIMD typename Product::Vector WeightVector(const uint8_t* block, const Group& group, int g,
                                                 int i) {
  if constexpr (kSame<T, typename Product::X>) {
    return Product::From(reinterpret_cast<const T*>(block) + g * kGroup + i * Product::kStep);
  } else {
    return Product::FromGroup(group, i);
  }
}

// kRows rows of x from `row` times kOutputs rows of W from `output`. Meanwhile fetches the rows of
// W that come next: a row is too short for the machine to notice in time that it is read from end
// to end.
template <class Product, class T, int kRows, int kOutputs>
void DirectTile(const LinearArguments& a, int64_t row, int64_t output) {
  using U = Unpack<T>;
  using X = typename Product::X;
  const X* x = RowOfX<Product>(a, row);
  const uint8_t* W = RowOf(a, output);
  F32 sums[kRows][kOutputs] = {};
  int64_t k = 0;
  for (; k + U::kElements <= a.K; k += U::kElements, W += U::kBytes) {
    typename U::Header headers[kOutputs];
    for (int j = 0; j < kOutputs; ++j) {
      headers[j] = U::Read(W + j * a.W_row_bytes);
      // Past the last row of W this fetches what nobody needs, but cannot fault.
      for (int line = 0; line < U::kBytes; line += 64) {
        __builtin_prefetch(W + (kOutputs + j) * a.W_row_bytes + line, 0, 2);
      }
    }
#pragma GCC unroll 8
    for (int g = 0; g < U::kElements / kGroup; ++g) {
#pragma GCC unroll 4
      for (int j = 0; j < kOutputs; ++j) {
        const uint8_t* block = W + j * a.W_row_bytes;
        const Group group = U::Get(block, headers[j], g);
#pragma GCC unroll 8
        for (int i = 0; i < Product::kVectors; ++i) {
          const typename Product::Vector w = WeightVector<Product, T>(block, group, g, i);
#pragma GCC unroll 4
          for (int r = 0; r < kRows; ++r) {
            const X* at = x + r * a.x_stride + k + g * kGroup + i * Product::kStep;
            sums[r][j] = Product::Dot(Product::From(at), w, sums[r][j]);
          }
        }
      }
    }
  }
  if constexpr (kMayEndInAGroup<T>) {
    const int64_t rest = a.K - k;
    for (int j = 0; j < kOutputs && rest > 0; ++j) {
      const uint8_t* block = W + j * a.W_row_bytes;
      const Group group = U::GetPartial(block, rest);
      for (int i = 0; i * Product::kStep < rest; ++i) {
        const int64_t left = rest - i * Product::kStep;
        const int64_t count = left < Product::kStep ? left : Product::kStep;
        typename Product::Vector w;
        if constexpr (kSame<T, X>) {
          w = Product::FromPartial(reinterpret_cast<const T*>(block) + i * Product::kStep, count);
        } else {
          w = Product::FromGroup(group, i);
        }
        for (int r = 0; r < kRows; ++r) {
          const X* at = x + r * a.x_stride + k + i * Product::kStep;
          sums[r][j] = Product::Dot(Product::FromPartial(at, count), w, sums[r][j]);
        }
      }
    }
  }
  for (int r = 0; r < kRows; ++r) StoreRow<kOutputs>(a, sums[r], row + r, output);
}

template <class Product, class T, int kRows>
void Direct(const LinearArguments& a) {
  int64_t output = a.begin;
  for (; output + kDirectOutputs <= a.end; output += kDirectOutputs) {
    DirectTile<Product, T, kRows, kDirectOutputs>(a, 0, output);
  }
  for (; output < a.end; ++output) {
    for (int row = 0; row < kRows; ++row) DirectTile<Product, T, 1, 1>(a, row, output);
  }
}

// ---- More rows ----------------------------------------------------------------------------------

// Some rows of W, [k, k + depth) of each, as the product takes them.
template <class Product>
struct Panel {
  const typename Product::X* w;
  int64_t stride;
  int64_t k;
  int64_t depth;
  // The bytes of W to fetch meanwhile: those of a step, and where the next panel's begin.
  const uint8_t* next;
  int64_t next_step;
};

// Adds kRows rows of x times the kOutputs rows of the panel to their sums.
template <class Product, int kRows, int kOutputs, bool kFetch>
void PanelTile(const LinearArguments& a, const Panel<Product>& panel, int64_t row,
               F32 (*kept)[kPanelOutputs]) {
  using X = typename Product::X;
  const X* x = RowOfX<Product>(a, row) + panel.k;
  const X* w = panel.w;
  F32 sums[kRows][kOutputs];
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kOutputs; ++j) sums[r][j] = kept[r][j];
  }
  int64_t k = 0;
  const uint8_t* next = panel.next;
  for (; k + Product::kStep <= panel.depth; k += Product::kStep) {
    typename Product::Vector v[kOutputs];
    for (int j = 0; j < kOutputs; ++j) {
      v[j] = Product::From(w + j * panel.stride + k);
      if (kFetch) __builtin_prefetch(next + j * a.W_row_bytes, 0, 2);
    }
    next += panel.next_step;
    for (int r = 0; r < kRows; ++r) {
      const typename Product::Vector u = Product::From(x + r * a.x_stride + k);
      for (int j = 0; j < kOutputs; ++j) sums[r][j] = Product::Dot(u, v[j], sums[r][j]);
    }
  }
  if (const int64_t rest = panel.depth - k; rest > 0) {
    typename Product::Vector v[kOutputs];
    for (int j = 0; j < kOutputs; ++j) v[j] = Product::FromPartial(w + j * panel.stride + k, rest);
    for (int r = 0; r < kRows; ++r) {
      const typename Product::Vector u = Product::FromPartial(x + r * a.x_stride + k, rest);
      for (int j = 0; j < kOutputs; ++j) sums[r][j] = Product::Dot(u, v[j], sums[r][j]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kOutputs; ++j) kept[r][j] = sums[r][j];
  }
}

// All of up to kPanelMostRows rows of x from `row` times the panel.
template <class Product, int kOutputs>
void PanelRows(const LinearArguments& a, const Panel<Product>& panel, int64_t row, int64_t rows,
               F32 (*sums)[kPanelOutputs]) {
  int64_t r = 0;
  for (; r + kPanelRows <= rows; r += kPanelRows) {
    if (r == 0) {
      PanelTile<Product, kPanelRows, kOutputs, true>(a, panel, row, sums);
    } else {
      PanelTile<Product, kPanelRows, kOutputs, false>(a, panel, row + r, sums + r);
    }
  }
  if (rows - r == 3) PanelTile<Product, 3, kOutputs, false>(a, panel, row + r, sums + r);
  if (rows - r == 2) PanelTile<Product, 2, kOutputs, false>(a, panel, row + r, sums + r);
  if (rows - r == 1) PanelTile<Product, 1, kOutputs, false>(a, panel, row + r, sums + r);
}

// Writes `depth` elements of a row of W, from `block` on, as the product takes them.
template <class Product, class T>
void UnpackForProduct(const uint8_t* block, int64_t depth, typename Product::X* to) {
  using U = Unpack<T>;
  int64_t k = 0;
  for (; k + U::kElements <= depth; k += U::kElements, block += U::kBytes) {
    const typename U::Header header = U::Read(block);
#pragma GCC unroll 8
    for (int g = 0; g < U::kElements / kGroup; ++g) {
      const Group group = U::Get(block, header, g);
#pragma GCC unroll 8
      for (int i = 0; i < Product::kVectors; ++i) {
        Product::Keep(Product::FromGroup(group, i), to + k + g * kGroup + i * Product::kStep);
      }
    }
  }
  if constexpr (kMayEndInAGroup<T>) {
    if (k == depth) return;
    // A whole group fits: a panel's rows are whole groups long.
    const Group group = U::GetPartial(block, depth - k);
    for (int i = 0; i < Product::kVectors; ++i) {
      Product::Keep(Product::FromGroup(group, i), to + k + i * Product::kStep);
    }
  }
}

// kOutputs rows of W from `output` times rows of x.
template <class Product, class T, int kOutputs>
void PanelOutputs(const LinearArguments& a, int64_t output, int64_t row, int64_t rows) {
  using U = Unpack<T>;
  using X = typename Product::X;
  constexpr bool kAsItIs = kSame<T, X>;
  alignas(64) F32 sums[kPanelMostRows][kPanelOutputs];
  alignas(64) X unpacked[kAsItIs ? 1 : kOutputs * kPanelDepth];
  const int64_t whole_rows = (rows + kLanes - 1) / kLanes * kLanes;
  for (int64_t r = 0; r < whole_rows; ++r) {
    for (int j = 0; j < kOutputs; ++j) sums[r][j] = Zero();
  }
  for (int64_t k = 0; k < a.K; k += kPanelDepth) {
    const int64_t depth = a.K - k < kPanelDepth ? a.K - k : kPanelDepth;
    const uint8_t* W = RowOf(a, output) + k / U::kElements * U::kBytes;
    Panel<Product> panel = {.w = reinterpret_cast<const X*>(W),
                            .stride = a.W_row_bytes / static_cast<int64_t>(sizeof(X)),
                            .k = k,
                            .depth = depth,
                            .next = W + kOutputs * a.W_row_bytes,
                            .next_step = Product::kStep * U::kBytes / U::kElements};
    if constexpr (!kAsItIs) {
      for (int j = 0; j < kOutputs; ++j) {
        UnpackForProduct<Product, T>(W + j * a.W_row_bytes, depth, unpacked + j * kPanelDepth);
      }
      panel.w = unpacked;
      panel.stride = kPanelDepth;
    }
    PanelRows<Product, kOutputs>(a, panel, row, rows, sums);
  }
  for (int j = 0; j < kOutputs; ++j) {
    const F32 bias = Set(a.bias == nullptr ? 0.0f : a.bias[output + j]);
    for (int64_t r = 0; r < rows; r += kLanes) {
      F32 of_rows[kLanes];
      for (int i = 0; i < kLanes; ++i) of_rows[i] = sums[r + i][j];
      const int64_t count = rows - r < kLanes ? rows - r : kLanes;
      StoreResults<1>(a, SumOfEach<kLanes>(of_rows) + bias, count,
                      (row + r) * a.y_stride + output + j, a.y_stride);
    }
  }
}

template <class Product, class T>
void Panels(const LinearArguments& a) {
  static_assert(kPanelDepth % Unpack<T>::kElements == 0);
  for (int64_t row = 0; row < a.rows; row += kPanelMostRows) {
    const int64_t rows = a.rows - row < kPanelMostRows ? a.rows - row : kPanelMostRows;
    int64_t output = a.begin;
    for (; output + kPanelOutputs <= a.end; output += kPanelOutputs) {
      PanelOutputs<Product, T, kPanelOutputs>(a, output, row, rows);
    }
    for (; output < a.end; ++output) PanelOutputs<Product, T, 1>(a, output, row, rows);
  }
}

template <class Product, class T>
void Multiply(const LinearArguments& a) {
  if (a.rows > kDirectRows) return Panels<Product, T>(a);
  if constexpr (kDirectRows == 4) {
    if (a.rows == 4) return Direct<Product, T, 4>(a);
    if (a.rows == 3) return Direct<Product, T, 3>(a);
  }
  if (a.rows == 2) return Direct<Product, T, 2>(a);
  if (a.rows == 1) return Direct<Product, T, 1>(a);
}

// f16 and quantized rows with either product.
template <class Product>
void MultiplyPacked(const LinearArguments& a) {
  switch (a.W_dtype) {
    case DType::kF16:
      return Multiply<Product, Half>(a);
    case DType::kQ8_0:
      return Multiply<Product, BlockQ8_0>(a);
    case DType::kQ4_0:
      return Multiply<Product, BlockQ4_0>(a);
    case DType::kQ4_K:
      return Multiply<Product, BlockQ4_K>(a);
    case DType::kQ6_K:
      return Multiply<Product, BlockQ6_K>(a);
    default:
      return;
  }
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
  if (a.x_dtype == DType::kBF16) {
    if (a.W_dtype == DType::kBF16) return Multiply<PairProduct, BFloat16>(a);
#if defined(__AVX512BF16__)
    MultiplyPacked<PairProduct>(a);
#endif
    return;
  }
  if (a.W_dtype == DType::kF32) return Multiply<F32Product, float>(a);
  if (a.W_dtype == DType::kBF16) return Multiply<F32Product, BFloat16>(a);
  MultiplyPacked<F32Product>(a);
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
