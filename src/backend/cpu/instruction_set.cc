#include "adder/backend/cpu/instruction_set.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <string>
#include <vector>

#include "adder/core/error.h"

namespace adder::cpu {
namespace {

#if defined(__x86_64__)
// clang 14's __builtin_cpu_supports does not know this one.
bool SupportsF16c() {
  unsigned int eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

std::vector<InstructionSet> DetectInstructionSets() {
  std::vector<InstructionSet> sets = {InstructionSet::kPortable};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !SupportsF16c()) {
    return sets;
  }
  sets.push_back(InstructionSet::kX86V3);
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512cd") || !__builtin_cpu_supports("avx512dq") ||
      !__builtin_cpu_supports("avx512vl")) {
    return sets;
  }
  sets.push_back(InstructionSet::kX86V4);
  if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni")) {
    sets.push_back(InstructionSet::kX86V4Bf16);
  }
#endif
  return sets;
}

InstructionSet ChooseAtStart() {
  const auto supported = SupportedInstructionSets();
  const char* wanted = std::getenv("ADDER_ISA");
  if (wanted == nullptr || *wanted == '\0') return supported.back();
  for (const InstructionSet set : supported) {
    if (InstructionSetName(set) == wanted) return set;
  }
  for (const InstructionSet set :
       {InstructionSet::kX86V3, InstructionSet::kX86V4, InstructionSet::kX86V4Bf16}) {
    if (InstructionSetName(set) == wanted) {
      throw Error(ErrorCode::kUnsupported,
                  "ADDER_ISA=" + std::string(wanted) + ": this machine lacks these instructions");
    }
  }
  throw Error(
      ErrorCode::kInvalidArgument,
      "ADDER_ISA=" + std::string(wanted) + ": expected portable, x86_v3, x86_v4 or x86_v4_bf16");
}

std::atomic<InstructionSet>& Active() {
  static std::atomic<InstructionSet> active{ChooseAtStart()};
  return active;
}

}  // namespace

std::string_view InstructionSetName(InstructionSet set) {
  switch (set) {
    case InstructionSet::kPortable:
      return "portable";
    case InstructionSet::kX86V3:
      return "x86_v3";
    case InstructionSet::kX86V4:
      return "x86_v4";
    case InstructionSet::kX86V4Bf16:
      return "x86_v4_bf16";
  }
  return "unknown";
}

std::span<const InstructionSet> SupportedInstructionSets() {
  static const std::vector<InstructionSet> sets = DetectInstructionSets();
  return sets;
}

InstructionSet ActiveInstructionSet() { return Active().load(std::memory_order_relaxed); }

void SetActiveInstructionSet(InstructionSet set) {
  const auto supported = SupportedInstructionSets();
  if (std::find(supported.begin(), supported.end(), set) == supported.end()) {
    throw Error(ErrorCode::kUnsupported,
                "this machine lacks the instructions of " + std::string(InstructionSetName(set)));
  }
  Active().store(set);
}

}  // namespace adder::cpu
