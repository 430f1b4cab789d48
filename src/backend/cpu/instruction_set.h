// Which instruction set the CPU kernels use, and how a kernel that is compiled once per
// instruction set is declared and called.
//
// A file named *_kernel.cc is compiled once for each InstructionSet, with that set's compiler flags
// and with ADDER_ISA defined as its namespace (portable, x86_v3, ...). It includes its own
// *_kernel.h, simd.h or what is built on it, and plain C headers, and calls nothing else: these
// bring headers of the standard library along, but an inline function or template of it that is
// instantiated there could be merged by the linker with the copy other files use, and run AVX-512
// on a machine that has none. (A test looks for such symbols.)
#pragma once

#include <span>
#include <string_view>

namespace adder::cpu {

enum class InstructionSet {
  kPortable,   // the compiler's baseline: SSE2 on x86-64, NEON on aarch64
  kX86V3,      // AVX2, FMA, F16C
  kX86V4,      // AVX-512 F, BW, CD, DQ, VL
  kX86V4Bf16,  // and AVX-512 BF16 and VNNI
};

// "portable", "x86_v3", "x86_v4", "x86_v4_bf16"
std::string_view InstructionSetName(InstructionSet set);
// What this machine can run, least capable first. Never empty.
std::span<const InstructionSet> SupportedInstructionSets();
// The set kernels run with: the most capable one, or what the environment variable ADDER_ISA names.
// Throws kInvalidArgument for a name unknown, kUnsupported for one this machine lacks.
InstructionSet ActiveInstructionSet();
// Chooses another set from now on (tests compare all of them). Throws kUnsupported for one this
// machine lacks.
void SetActiveInstructionSet(InstructionSet set);

}  // namespace adder::cpu

// ADDER_CPU_KERNEL(Name, Arguments) declares the kernel `void Name(const Arguments&)` in each
// instruction set's namespace, and adder::cpu::Name, which calls the active one.
#if defined(__x86_64__)
#define ADDER_CPU_KERNEL(Name, Arguments)        \
  namespace adder::cpu {                         \
  namespace portable {                           \
  void Name(const Arguments& arguments);         \
  }                                              \
  namespace x86_v3 {                             \
  void Name(const Arguments& arguments);         \
  }                                              \
  namespace x86_v4 {                             \
  void Name(const Arguments& arguments);         \
  }                                              \
  namespace x86_v4_bf16 {                        \
  void Name(const Arguments& arguments);         \
  }                                              \
  inline void Name(const Arguments& arguments) { \
    switch (ActiveInstructionSet()) {            \
      case InstructionSet::kPortable:            \
        return portable::Name(arguments);        \
      case InstructionSet::kX86V3:               \
        return x86_v3::Name(arguments);          \
      case InstructionSet::kX86V4:               \
        return x86_v4::Name(arguments);          \
      case InstructionSet::kX86V4Bf16:           \
        return x86_v4_bf16::Name(arguments);     \
    }                                            \
  }                                              \
  }
#else
#define ADDER_CPU_KERNEL(Name, Arguments)                                            \
  namespace adder::cpu {                                                             \
  namespace portable {                                                               \
  void Name(const Arguments& arguments);                                             \
  }                                                                                  \
  inline void Name(const Arguments& arguments) { return portable::Name(arguments); } \
  }
#endif
