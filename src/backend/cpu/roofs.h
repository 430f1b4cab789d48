// The ceilings of this machine, measured: what the benchmarks hold against what they achieve.
#pragma once

#include <span>
#include <string_view>

namespace adder::cpu {

enum class Roof {
  kF32Fma,      // FLOP/s of f32 multiply-adds in registers
  kBF16Dot,     // FLOP/s of bf16 dot products in registers
  kExp,         // e^x a second in the first-level cache
  kRead,        // B/s read from memory
  kCopy,        // B/s read plus B/s written, memory to memory
  kF32MatMul,   // FLOP/s of a large f32 matrix product
  kBF16MatMul,  // FLOP/s of a large bf16 matrix product with f32 sums
};

std::span<const Roof> AllRoofs();
// "f32_fma", "bf16_dot", ...
std::string_view RoofName(Roof roof);
// "FLOP/s", "exp/s" or "B/s"
std::string_view RoofUnit(Roof roof);

// The best of many short rounds, over all `threads` threads together, with the active instruction
// set. Takes about `seconds`, and 512 MB for the memory roofs. A multiply-add counts as two
// operations.
double MeasureRoof(Roof roof, int threads, double seconds = 0.5);

}  // namespace adder::cpu
