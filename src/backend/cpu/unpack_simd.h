// Rows of weights as f32 lanes, 32 elements at a time, whatever their dtype: what the kernels that
// stream weights share. Like simd.h for *_kernel.cc files only.
//
// Unpack<T>, for T float, BFloat16, Half and the blocks of quantization.h:
//   kElements, kBytes         of a block
//   Header Read(block)        the block's scales, read once
//   Group Get(block, header, g)  elements [32g, 32g + 32) of it
// Every set gives the same values: a product of a scale and an integer is exact in f32, and q4_k's
// difference is rounded once.
#pragma once

#include "adder/backend/cpu/simd.h"
#include "adder/core/quantization.h"

namespace adder::cpu::ADDER_ISA {

inline constexpr int kGroup = 32;
inline constexpr int kGroupVectors = kGroup / kLanes;

struct Group {
  F32 v[kGroupVectors];
};

// kLanes bytes from memory of any alignment, widened.
ADDER_SIMD I32 LoadWidened(const uint8_t* from) {
#if defined(__AVX512F__)
  return (I32)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#elif defined(__AVX2__)
  return (I32)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
#else
  typedef uint8_t Bytes __attribute__((vector_size(kLanes)));
  Bytes bytes;
  __builtin_memcpy(&bytes, from, sizeof bytes);
  return __builtin_convertvector(bytes, I32);
#endif
}
ADDER_SIMD I32 LoadWidened(const int8_t* from) {
#if defined(__AVX512F__)
  return (I32)_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#elif defined(__AVX2__)
  return (I32)_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
#else
  typedef int8_t Bytes __attribute__((vector_size(kLanes)));
  Bytes bytes;
  __builtin_memcpy(&bytes, from, sizeof bytes);
  return __builtin_convertvector(bytes, I32);
#endif
}
ADDER_SIMD F32 ToF32(I32 value) { return __builtin_convertvector(value, F32); }

// The f16 at any address in every lane.
ADDER_SIMD F32 LoadScale(const uint8_t* from) {
#if defined(__AVX512F__)
  // From memory to all lanes, not by way of a general register.
  return (F32)_mm512_cvtph_ps(_mm256_broadcastw_epi16(_mm_loadu_si16(from)));
#else
  uint16_t bits;
  __builtin_memcpy(&bits, from, sizeof bits);
  return FromHalfBits(bits + U16{});
#endif
}

// Sixteen values by the lowest four bits of an index: a table where a vector holds one.
struct NibbleMap {
#if defined(__AVX512F__)
  F32 table;

  ADDER_SIMD NibbleMap Make(F32 scale, F32 offset) {
    return {MulAdd(scale, ToF32(Iota()), offset)};
  }
  ADDER_SIMD F32 Low(const NibbleMap& map, I32 bytes) {
    return (F32)_mm512_permutexvar_ps((__m512i)bytes, (__m512)map.table);
  }
#else
  F32 scale, offset;

  ADDER_SIMD NibbleMap Make(F32 scale, F32 offset) { return {scale, offset}; }
  ADDER_SIMD F32 Low(const NibbleMap& map, I32 bytes) {
    return MulAdd(map.scale, ToF32(bytes & 15), map.offset);
  }
#endif
  ADDER_SIMD F32 High(const NibbleMap& map, I32 bytes) { return Low(map, bytes >> 4); }
};

// f32, bf16, f16: a "block" is a group.
template <class T>
struct Unpack {
  static constexpr int kElements = kGroup;
  static constexpr int kBytes = kGroup * static_cast<int>(sizeof(T));
  struct Header {};

  ADDER_SIMD Header Read(const uint8_t*) { return {}; }
  ADDER_SIMD Group Get(const uint8_t* block, const Header&, int) {
    Group group;
    for (int i = 0; i < kGroupVectors; ++i) {
      group.v[i] = Load(reinterpret_cast<const T*>(block) + i * kLanes);
    }
    return group;
  }
  // The first n < 32 elements, 0 for the others.
  ADDER_SIMD Group GetPartial(const uint8_t* block, int64_t n) {
    Group group;
    for (int i = 0; i < kGroupVectors; ++i) {
      int64_t lanes = n - i * kLanes;
      lanes = lanes < 0 ? 0 : lanes > kLanes ? kLanes : lanes;
      group.v[i] =
          LoadPartial(reinterpret_cast<const T*>(block) + (lanes > 0 ? i * kLanes : 0), lanes);
    }
    return group;
  }
};

template <>
struct Unpack<BlockQ8_0> {
  static constexpr int kElements = 32;
  static constexpr int kBytes = sizeof(BlockQ8_0);
  struct Header {
    F32 d;
  };

  ADDER_SIMD Header Read(const uint8_t* block) { return {LoadScale(block)}; }
  ADDER_SIMD Group Get(const uint8_t* block, const Header& header, int) {
    const auto* q = reinterpret_cast<const int8_t*>(block + 2);
    Group group;
    for (int i = 0; i < kGroupVectors; ++i) {
      group.v[i] = header.d * ToF32(LoadWidened(q + i * kLanes));
    }
    return group;
  }
};

template <>
struct Unpack<BlockQ4_0> {
  static constexpr int kElements = 32;
  static constexpr int kBytes = sizeof(BlockQ4_0);
  struct Header {
    NibbleMap map;
  };

  ADDER_SIMD Header Read(const uint8_t* block) {
    const F32 d = LoadScale(block);
    return {NibbleMap::Make(d, d * -8.0f)};
  }
  ADDER_SIMD Group Get(const uint8_t* block, const Header& header, int) {
    Group group;
    for (int i = 0; i < kGroupVectors / 2; ++i) {
      const I32 bytes = LoadWidened(block + 2 + i * kLanes);
      group.v[i] = NibbleMap::Low(header.map, bytes);
      group.v[i + kGroupVectors / 2] = NibbleMap::High(header.map, bytes);
    }
    return group;
  }
};

template <>
struct Unpack<BlockQ4_K> {
  static constexpr int kElements = 256;
  static constexpr int kBytes = sizeof(BlockQ4_K);
  struct Header {
    float scale[8];
    float min[8];
  };

  ADDER_SIMD Header Read(const uint8_t* block) {
    // The twelve bytes of quantization.h, four sub-blocks at a time.
    uint32_t low[3];
    __builtin_memcpy(low, block + 4, sizeof low);
    const uint32_t packed[4] = {
        low[0] & 0x3f3f3f3fu, (low[2] & 0x0f0f0f0fu) | (low[0] >> 2 & 0x30303030u),
        low[1] & 0x3f3f3f3fu, (low[2] >> 4 & 0x0f0f0f0fu) | (low[1] >> 2 & 0x30303030u)};
    uint8_t bytes[16];
    __builtin_memcpy(bytes, packed, sizeof bytes);
    const F32 d = LoadScale(block);
    const F32 dmin = LoadScale(block + 2);
    float values[16];
    for (int i = 0; i < 16; i += kLanes) {
      const F32 unit = kLanes == 16 ? Select(FirstLanes(8), d, dmin) : i < 8 ? d : dmin;
      Store(unit * ToF32(LoadWidened(bytes + i)), values + i);
    }
    Header header;
    __builtin_memcpy(&header, values, sizeof header);
    return header;
  }
  ADDER_SIMD Group Get(const uint8_t* block, const Header& header, int g) {
    const NibbleMap map = NibbleMap::Make(Set(header.scale[g]), Set(-header.min[g]));
    const uint8_t* q = block + 16 + 32 * (g / 2);
    Group group;
    for (int i = 0; i < kGroupVectors; ++i) {
      const I32 bytes = LoadWidened(q + i * kLanes);
      group.v[i] = g % 2 == 0 ? NibbleMap::Low(map, bytes) : NibbleMap::High(map, bytes);
    }
    return group;
  }
};

template <>
struct Unpack<BlockQ6_K> {
  static constexpr int kElements = 256;
  static constexpr int kBytes = sizeof(BlockQ6_K);
  struct Header {
    float scale[16];
  };

  ADDER_SIMD Header Read(const uint8_t* block) {
    const auto* scales = reinterpret_cast<const int8_t*>(block + 192);
    const F32 d = LoadScale(block + 208);
    Header header;
    for (int i = 0; i < 16; i += kLanes) {
      Store(d * ToF32(LoadWidened(scales + i)), header.scale + i);
    }
    return header;
  }
  ADDER_SIMD Group Get(const uint8_t* block, const Header& header, int g) {
    const int k = g % 4;
    const uint8_t* ql = block + 64 * (g / 4) + 32 * (k % 2);
    const uint8_t* qh = block + 128 + 32 * (g / 4);
    // All 32 at once as bytes, two to a word: what a shift drags in from the neighbour is masked.
    typedef uint16_t Words __attribute__((vector_size(kGroup)));
    Words low;
    Words high;
    __builtin_memcpy(&low, ql, sizeof low);
    __builtin_memcpy(&high, qh, sizeof high);
    low = low >> (k / 2 * 4) & 0x0f0f;
    high = (k == 3 ? high >> 2 : high << (4 - 2 * k)) & 0x3030;
    uint8_t q[kGroup];
    const Words both = low | high;
    __builtin_memcpy(q, &both, sizeof q);
    Group group;
    for (int i = 0; i < kGroupVectors; ++i) {
      group.v[i] =
          Set(header.scale[2 * g + i * kLanes / 16]) * ToF32(LoadWidened(q + i * kLanes) - 32);
    }
    return group;
  }
};

}  // namespace adder::cpu::ADDER_ISA
