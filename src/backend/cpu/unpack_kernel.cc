// UnpackRows: a loop over unpack_simd.h.
#include "adder/backend/cpu/unpack_kernel.h"

#include "adder/backend/cpu/unpack_simd.h"

namespace adder::cpu::ADDER_ISA {
namespace {

template <class T, class To>
void Rows(const UnpackRowsArguments& a) {
  using U = Unpack<T>;
  for (int64_t r = 0; r < a.rows; ++r) {
    const uint8_t* block = static_cast<const uint8_t*>(a.W) + r * a.W_row_bytes;
    To* to = static_cast<To*>(a.to) + r * a.to_stride;
    int64_t k = 0;
    for (; k + U::kElements <= a.K; k += U::kElements, block += U::kBytes) {
      const typename U::Header header = U::Read(block);
#pragma GCC unroll 8
      for (int g = 0; g < U::kElements / kGroup; ++g) {
        const Group group = U::Get(block, header, g);
        for (int i = 0; i < kGroupVectors; ++i) {
          Store(group.v[i], to + k + g * kGroup + i * kLanes);
        }
      }
    }
    if constexpr (U::kElements == kGroup && sizeof(T) <= sizeof(float)) {
      for (; k < a.K; k += kLanes) {
        const int64_t lanes = a.K - k < kLanes ? a.K - k : kLanes;
        StorePartial(LoadPartial(reinterpret_cast<const T*>(block), lanes), to + k, lanes);
        block += kLanes * sizeof(T);
      }
    }
  }
}

template <class To>
void RowsTo(const UnpackRowsArguments& a) {
  switch (a.W_dtype) {
    case DType::kF32:
      return Rows<float, To>(a);
    case DType::kBF16:
      return Rows<BFloat16, To>(a);
    case DType::kF16:
      return Rows<Half, To>(a);
    case DType::kQ8_0:
      return Rows<BlockQ8_0, To>(a);
    case DType::kQ4_0:
      return Rows<BlockQ4_0, To>(a);
    case DType::kQ4_K:
      return Rows<BlockQ4_K, To>(a);
    case DType::kQ6_K:
      return Rows<BlockQ6_K, To>(a);
    default:
      return;
  }
}

}  // namespace

void UnpackRows(const UnpackRowsArguments& a) {
  a.to_dtype == DType::kBF16 ? RowsTo<BFloat16>(a) : RowsTo<float>(a);
}

}  // namespace adder::cpu::ADDER_ISA
