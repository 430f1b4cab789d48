// What an x86-64 processor and its operating system say they can do, and what each instruction set
// needs of it: everything that its compiler flags allow the compiler to use.
#pragma once

#include <cstdint>

#include "adder/backend/cpu/instruction_set.h"

namespace adder::cpu {

// Registers that the instructions CPUID and XGETBV leave, by leaf (and subleaf); 0 for a leaf that
// the processor does not have. Intel's manual, volume 2, "CPUID", numbers their bits.
struct X86Features {
  uint32_t leaf1_ecx = 0;
  uint32_t leaf7_ebx = 0;
  uint32_t leaf7_ecx = 0;
  uint32_t leaf7_1_eax = 0;
  uint32_t leaf80000001_ecx = 0;
  uint64_t xcr0 = 0;  // the registers that the operating system saves
};

// Those of this processor. x86-64 only.
X86Features ReadX86Features();

// Whether code compiled for the set runs with these features.
bool Supports(const X86Features& features, InstructionSet set);

}  // namespace adder::cpu
