#include "adder/backend/cpu/x86_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <initializer_list>

namespace adder::cpu {
namespace {

constexpr uint64_t Bits(std::initializer_list<int> positions) {
  uint64_t bits = 0;
  for (const int position : positions) bits |= uint64_t{1} << position;
  return bits;
}

constexpr bool HasAll(uint64_t value, uint64_t bits) { return (value & bits) == bits; }

// -march=x86-64-v3, as the x86-64 psABI lists it: v2 (SSE3, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2,
// POPCNT; LAHF), FMA, MOVBE, OSXSAVE, AVX, F16C; BMI1, AVX2, BMI2; LZCNT; XMM and YMM registers.
constexpr uint64_t kV3Leaf1Ecx = Bits({0, 9, 13, 19, 20, 23, 12, 22, 27, 28, 29});
constexpr uint64_t kV3Leaf7Ebx = Bits({3, 5, 8});
constexpr uint64_t kV3Leaf80000001Ecx = Bits({0, 5});
constexpr uint64_t kV3Xcr0 = Bits({1, 2});
// -march=x86-64-v4: AVX-512 F, DQ, CD, BW, VL; mask and ZMM registers.
constexpr uint64_t kV4Leaf7Ebx = Bits({16, 17, 28, 30, 31});
constexpr uint64_t kV4Xcr0 = Bits({5, 6, 7});
// -mavx512vnni -mavx512bf16
constexpr uint64_t kVnniLeaf7Ecx = Bits({11});
constexpr uint64_t kBf16Leaf71Eax = Bits({5});

}  // namespace

#if defined(__x86_64__)
X86Features ReadX86Features() {
  X86Features features;
  unsigned int eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0) features.leaf1_ecx = ecx;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0) {
    features.leaf7_ebx = ebx;
    features.leaf7_ecx = ecx;
    const unsigned int last_subleaf = eax;
    if (last_subleaf >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0) {
      features.leaf7_1_eax = eax;
    }
  }
  if (__get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx) != 0) features.leaf80000001_ecx = ecx;
  if (HasAll(features.leaf1_ecx, Bits({27}))) {  // OSXSAVE: XGETBV may be used
    uint32_t low = 0, high = 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    features.xcr0 = uint64_t{high} << 32 | low;
  }
  return features;
}
#endif

bool Supports(const X86Features& f, InstructionSet set) {
  const bool v3 = HasAll(f.leaf1_ecx, kV3Leaf1Ecx) && HasAll(f.leaf7_ebx, kV3Leaf7Ebx) &&
                  HasAll(f.leaf80000001_ecx, kV3Leaf80000001Ecx) && HasAll(f.xcr0, kV3Xcr0);
  const bool v4 = v3 && HasAll(f.leaf7_ebx, kV4Leaf7Ebx) && HasAll(f.xcr0, kV4Xcr0);
  switch (set) {
    case InstructionSet::kPortable:
      return true;
    case InstructionSet::kX86V3:
      return v3;
    case InstructionSet::kX86V4:
      return v4;
    case InstructionSet::kX86V4Bf16:
      return v4 && HasAll(f.leaf7_ecx, kVnniLeaf7Ecx) && HasAll(f.leaf7_1_eax, kBf16Leaf71Eax);
  }
  return false;
}

}  // namespace adder::cpu
