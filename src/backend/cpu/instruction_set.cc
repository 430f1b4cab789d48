#include "adder/backend/cpu/instruction_set.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <string>
#include <vector>

#include "adder/backend/cpu/x86_features.h"
#include "adder/core/error.h"

namespace adder::cpu {
namespace {

std::vector<InstructionSet> DetectInstructionSets() {
  std::vector<InstructionSet> sets = {InstructionSet::kPortable};
#if defined(__x86_64__)
  const X86Features features = ReadX86Features();
  for (const InstructionSet set :
       {InstructionSet::kX86V3, InstructionSet::kX86V4, InstructionSet::kX86V4Bf16}) {
    if (!Supports(features, set)) break;
    sets.push_back(set);
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
