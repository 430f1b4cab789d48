// Instruction sets: what each needs of the processor, and how ADDER_ISA chooses one.
#include "adder/backend/cpu/instruction_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <tuple>
#include <vector>

#include "adder/backend/cpu/x86_features.h"
#include "adder/core/error.h"

namespace adder::cpu {
namespace {

using testing::HasSubstr;

constexpr InstructionSet kAllSets[] = {InstructionSet::kPortable, InstructionSet::kX86V3,
                                       InstructionSet::kX86V4, InstructionSet::kX86V4Bf16};

// The sets that these features support; each supports all before it.
int SupportedSets(const X86Features& features) {
  int count = 0;
  bool all = true;
  for (const InstructionSet set : kAllSets) {
    const bool supports = Supports(features, set);
    EXPECT_LE(supports, all) << InstructionSetName(set);
    all = supports;
    count += supports ? 1 : 0;
  }
  return count;
}

TEST(X86FeaturesTest, EverythingThatTheCompilerMayUseIsAskedFor) {
  const X86Features all = {~0u, ~0u, ~0u, ~0u, ~0u, ~uint64_t{0}};
  ASSERT_EQ(SupportedSets(all), 4);
  ASSERT_EQ(SupportedSets({}), 1);
  // Without the feature, only so many sets are left. Bits as in Intel's and AMD's manuals.
  using Leaf = uint32_t X86Features::*;
  const std::vector<std::tuple<const char*, Leaf, int, int>> features = {
      {"SSE3", &X86Features::leaf1_ecx, 0, 1},
      {"SSSE3", &X86Features::leaf1_ecx, 9, 1},
      {"FMA", &X86Features::leaf1_ecx, 12, 1},
      {"CMPXCHG16B", &X86Features::leaf1_ecx, 13, 1},
      {"SSE4.1", &X86Features::leaf1_ecx, 19, 1},
      {"SSE4.2", &X86Features::leaf1_ecx, 20, 1},
      {"MOVBE", &X86Features::leaf1_ecx, 22, 1},
      {"POPCNT", &X86Features::leaf1_ecx, 23, 1},
      {"OSXSAVE", &X86Features::leaf1_ecx, 27, 1},
      {"AVX", &X86Features::leaf1_ecx, 28, 1},
      {"F16C", &X86Features::leaf1_ecx, 29, 1},
      {"BMI1", &X86Features::leaf7_ebx, 3, 1},
      {"AVX2", &X86Features::leaf7_ebx, 5, 1},
      {"BMI2", &X86Features::leaf7_ebx, 8, 1},
      {"LAHF", &X86Features::leaf80000001_ecx, 0, 1},
      {"LZCNT", &X86Features::leaf80000001_ecx, 5, 1},
      {"AVX512F", &X86Features::leaf7_ebx, 16, 2},
      {"AVX512DQ", &X86Features::leaf7_ebx, 17, 2},
      {"AVX512CD", &X86Features::leaf7_ebx, 28, 2},
      {"AVX512BW", &X86Features::leaf7_ebx, 30, 2},
      {"AVX512VL", &X86Features::leaf7_ebx, 31, 2},
      {"AVX512_VNNI", &X86Features::leaf7_ecx, 11, 3},
      {"AVX512_BF16", &X86Features::leaf7_1_eax, 5, 3}};
  for (const auto& [name, leaf, bit, left] : features) {
    X86Features without = all;
    without.*leaf &= ~(1u << bit);
    EXPECT_EQ(SupportedSets(without), left) << "without " << name;
  }
  // Registers that the operating system does not save.
  for (const auto& [bit, left] : {std::pair(1, 1), {2, 1}, {5, 2}, {6, 2}, {7, 2}}) {
    X86Features without = all;
    without.xcr0 &= ~(uint64_t{1} << bit);
    EXPECT_EQ(SupportedSets(without), left) << "without register state " << bit;
  }
}

#if defined(__x86_64__)
TEST(X86FeaturesTest, AgreeWithTheCompilersOwnDetection) {
  const X86Features features = ReadX86Features();
  EXPECT_LE(Supports(features, InstructionSet::kX86V3),
            static_cast<bool>(__builtin_cpu_supports("avx2")));
  EXPECT_LE(Supports(features, InstructionSet::kX86V4),
            static_cast<bool>(__builtin_cpu_supports("avx512vl")));
  EXPECT_LE(Supports(features, InstructionSet::kX86V4Bf16),
            static_cast<bool>(__builtin_cpu_supports("avx512bf16")));
#if !defined(__clang__)
  EXPECT_EQ(Supports(features, InstructionSet::kX86V3),
            static_cast<bool>(__builtin_cpu_supports("x86-64-v3")));
  EXPECT_EQ(Supports(features, InstructionSet::kX86V4),
            static_cast<bool>(__builtin_cpu_supports("x86-64-v4")));
#endif
}
#endif

// ---- The choice ---------------------------------------------------------------------------------

// The set is chosen once a process, so each case is a process of its own. Prints the chosen set's
// name, or the error.
[[noreturn]] void PrintActive(const std::string& environment) {
  setenv("ADDER_ISA", environment.c_str(), 1);
  int status = 0;
  try {
    std::fputs(std::string(InstructionSetName(ActiveInstructionSet())).c_str(), stderr);
  } catch (const Error& error) {
    std::fputs((std::string(ErrorCodeName(error.code())) + ": " + error.what()).c_str(), stderr);
    status = 1;
  }
  std::exit(status);
}

class InstructionSetTest : public testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
  void TearDown() override { SetActiveInstructionSet(SupportedInstructionSets().back()); }
};

TEST_F(InstructionSetTest, TheBestIsTheDefault) {
  const std::string best(InstructionSetName(SupportedInstructionSets().back()));
  EXPECT_EXIT(PrintActive(""), testing::ExitedWithCode(0), testing::StrEq(best));
}

TEST_F(InstructionSetTest, TheEnvironmentChoosesAnyThatTheMachineHas) {
  EXPECT_EQ(SupportedInstructionSets().front(), InstructionSet::kPortable);
  for (const InstructionSet set : kAllSets) {
    const std::string name(InstructionSetName(set));
    const auto supported = SupportedInstructionSets();
    if (std::find(supported.begin(), supported.end(), set) != supported.end()) {
      EXPECT_EXIT(PrintActive(name), testing::ExitedWithCode(0), testing::StrEq(name));
    } else {
      EXPECT_EXIT(PrintActive(name), testing::ExitedWithCode(1),
                  testing::StrEq("unsupported: ADDER_ISA=" + name +
                                 ": this machine lacks these instructions"));
    }
  }
}

TEST_F(InstructionSetTest, TheEnvironmentMustNameASet) {
  for (const char* wrong : {"avx2", "X86_V3", "x86_v", "portable "}) {
    EXPECT_EXIT(PrintActive(wrong), testing::ExitedWithCode(1),
                AllOf(HasSubstr("invalid_argument: ADDER_ISA=" + std::string(wrong)),
                      HasSubstr("expected portable, x86_v3, x86_v4 or x86_v4_bf16")));
  }
}

TEST_F(InstructionSetTest, TheProgramMayChooseAnother) {
  for (const InstructionSet set : SupportedInstructionSets()) {
    SetActiveInstructionSet(set);
    EXPECT_EQ(ActiveInstructionSet(), set);
  }
  const InstructionSet active = ActiveInstructionSet();
  for (const InstructionSet set : kAllSets) {
    const auto supported = SupportedInstructionSets();
    if (std::find(supported.begin(), supported.end(), set) != supported.end()) continue;
    try {
      SetActiveInstructionSet(set);
      ADD_FAILURE() << InstructionSetName(set) << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    }
    EXPECT_EQ(ActiveInstructionSet(), active);
  }
}

}  // namespace
}  // namespace adder::cpu
