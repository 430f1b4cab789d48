// linear for few rows: decoding reads every weight for one or a few rows of x, so the kernel's one
// aim is to keep the memory busy, and to unpack a weight once however many rows there are.
//
// Up to kDirectRows rows multiply the weights in the registers they are unpacked in. More rows take
// panels: some rows of W, unpacked into the first-level cache, times all rows of x.
#include "adder/ops/linear/linear_kernel.h"

#include <cstddef>

#include "adder/backend/cpu/simd.h"
#include "adder/backend/cpu/unpack_simd.h"
#include "adder/ops/linear/linear_results_simd.h"

namespace adder::cpu::ADDER_ISA {
namespace {

// Tiles of rows of x times rows of W. Each pair has its own sum in a register; sums, rows of W and
// one of x must fit the registers of the set.
constexpr int kDirectRows = kLanes == 16 ? 4 : 2;
constexpr int kDirectOutputs = 4;
// Bytes of W to fetch ahead: what the memory of a core at full speed has under way, and more for
// two. In rows it would be too little for narrow ones.
constexpr int64_t kFetchAhead = 16384;
constexpr int kPanelRows = 4;
constexpr int kPanelOutputs = kLanes == 16 ? 6 : 3;
// Elements of a row of W in a panel: six rows fit the first-level cache.
template <class X>
constexpr int64_t kPanelDepth = 4096 / sizeof(X);
// Rows of x whose sums are kept while W goes by.
constexpr int64_t kPanelMostRows = 64;

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

// Fetches what lies kFetchAhead behind `bytes` bytes at W in each of kRows rows. One after the
// other these are rows, as they lie in memory, from end to end: a row is too short for the machine
// to notice in time. Past the last row this fetches what nobody needs, but cannot fault.
template <int kRows>
ADDER_SIMD void FetchAhead(const uint8_t* W, int64_t row_bytes, int bytes) {
  for (int j = 0; j < kRows; ++j) {
    for (int line = 0; line < bytes; line += 64) {
      __builtin_prefetch(W + j * row_bytes + kFetchAhead + line, 0, 2);
    }
  }
}

// kRows rows of x from `row` times kOutputs rows of W from `output`.
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
    for (int j = 0; j < kOutputs; ++j) headers[j] = U::Read(W + j * a.W_row_bytes);
    FetchAhead<kOutputs>(W, a.W_row_bytes, U::kBytes);
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
  int64_t output;
  int64_t k;
  int64_t depth;
  // The bytes of W that the next panel begins with, and how many of them a step takes.
  const uint8_t* next;
  int64_t step_bytes;
};

// kRows rows of x times the kOutputs rows of the panel: begins the sums with a row's first panel,
// keeps them from one panel to the next, stores the results with the last. Every loop is unrolled:
// one that is not would keep the sums in memory.
//
// Meanwhile fetches `fetched` bytes a step of each row of the next panel, from `next` on.
template <class Product, int kRows, int kOutputs>
void PanelTile(const LinearArguments& a, const Panel<Product>& panel, int64_t row,
               const uint8_t* next, int64_t fetched, F32 (*kept)[kPanelOutputs]) {
  using X = typename Product::X;
  using Vector = typename Product::Vector;
  const X* x = RowOfX<Product>(a, row) + panel.k;
  const X* w = panel.w;
  F32 sums[kRows][kOutputs];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int j = 0; j < kOutputs; ++j) sums[r][j] = panel.k == 0 ? Zero() : kept[r][j];
  }
  int64_t k = 0;
  for (; k + Product::kStep <= panel.depth; k += Product::kStep) {
    Vector v[kOutputs];
#pragma GCC unroll 8
    for (int j = 0; j < kOutputs; ++j) {
      v[j] = Product::From(w + j * panel.stride + k);
      __builtin_prefetch(next + j * a.W_row_bytes, 0, 2);
    }
    next += fetched;
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vector u = Product::From(x + r * a.x_stride + k);
#pragma GCC unroll 8
      for (int j = 0; j < kOutputs; ++j) sums[r][j] = Product::Dot(u, v[j], sums[r][j]);
    }
  }
  if (const int64_t rest = panel.depth - k; rest > 0) {
    Vector v[kOutputs];
#pragma GCC unroll 8
    for (int j = 0; j < kOutputs; ++j) v[j] = Product::FromPartial(w + j * panel.stride + k, rest);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vector u = Product::FromPartial(x + r * a.x_stride + k, rest);
#pragma GCC unroll 8
      for (int j = 0; j < kOutputs; ++j) sums[r][j] = Product::Dot(u, v[j], sums[r][j]);
    }
  }
  if (panel.k + panel.depth < a.K) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int j = 0; j < kOutputs; ++j) kept[r][j] = sums[r][j];
    }
    return;
  }
#pragma GCC unroll 8
  for (int j = 0; j < kOutputs; ++j) {
    const int64_t output = panel.output + j;
    F32 of_rows[kPanelRows];
#pragma GCC unroll 8
    for (int r = 0; r < kPanelRows; ++r) of_rows[r] = r < kRows ? sums[r][j] : Zero();
    const F32 bias = Set(a.bias == nullptr ? 0.0f : a.bias[output]);
    StoreResults<kLanes / kPanelRows>(a, SumOfEach<kPanelRows>(of_rows) + bias, kRows,
                                      row * a.y_stride + output, a.y_stride);
  }
}

// All of up to kPanelMostRows rows of x from `row` times the panel. Each tile fetches its share of
// the next one, so that the memory is never idle.
template <class Product, int kOutputs>
void PanelRows(const LinearArguments& a, const Panel<Product>& panel, int64_t row, int64_t rows,
               F32 (*sums)[kPanelOutputs]) {
  const int64_t tiles = (rows + kPanelRows - 1) / kPanelRows;
  const int64_t fetched = (panel.step_bytes + tiles - 1) / tiles;
  const int64_t share = panel.depth / Product::kStep * fetched;
  const uint8_t* next = panel.next;
  int64_t r = 0;
  for (; r + kPanelRows <= rows; r += kPanelRows, next += share) {
    PanelTile<Product, kPanelRows, kOutputs>(a, panel, row + r, next, fetched, sums + r);
  }
  if (rows - r == 3) PanelTile<Product, 3, kOutputs>(a, panel, row + r, next, fetched, sums + r);
  if (rows - r == 2) PanelTile<Product, 2, kOutputs>(a, panel, row + r, next, fetched, sums + r);
  if (rows - r == 1) PanelTile<Product, 1, kOutputs>(a, panel, row + r, next, fetched, sums + r);
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
  constexpr int64_t kDepth = kPanelDepth<X>;
  alignas(64) F32 sums[kPanelMostRows][kPanelOutputs];
  // Bytes, because a BFloat16 begins as zero: that took a tenth of the time.
  alignas(64) std::byte bytes[kAsItIs ? 1 : kOutputs * kDepth * sizeof(X)];
  [[maybe_unused]] X* const unpacked = reinterpret_cast<X*>(bytes);
  for (int64_t k = 0; k < a.K; k += kDepth) {
    const int64_t depth = a.K - k < kDepth ? a.K - k : kDepth;
    const uint8_t* W = RowOf(a, output) + k / U::kElements * U::kBytes;
    Panel<Product> panel = {.w = reinterpret_cast<const X*>(W),
                            .stride = a.W_row_bytes / static_cast<int64_t>(sizeof(X)),
                            .output = output,
                            .k = k,
                            .depth = depth,
                            .next = W + kOutputs * a.W_row_bytes,
                            .step_bytes = Product::kStep * U::kBytes / U::kElements};
    if constexpr (!kAsItIs) {
      for (int j = 0; j < kOutputs; ++j) {
        UnpackForProduct<Product, T>(W + j * a.W_row_bytes, depth, unpacked + j * kDepth);
      }
      panel.w = unpacked;
      panel.stride = kDepth;
    }
    PanelRows<Product, kOutputs>(a, panel, row, rows, sums);
  }
}

template <class Product, class T>
void Panels(const LinearArguments& a) {
  static_assert(kPanelDepth<typename Product::X> % Unpack<T>::kElements == 0);
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
  VisitActivation(a.dtype, [&](auto type) { SumRows<decltype(type)>(a); });
}

}  // namespace adder::cpu::ADDER_ISA
