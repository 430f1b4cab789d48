// activation on raw pointers: the kernel compiled once per CPU instruction set.
#pragma once

#include <cstdint>

#include "adder/backend/cpu/instruction_set.h"
#include "adder/core/dtype.h"

namespace adder::cpu {

enum class ElementwiseFunction {
  // in: x; out: y
  kGelu,
  kGeluTanh,
  kSilu,
  // in: x, dy; out: dx
  kGeluBackward,
  kGeluTanhBackward,
  kSiluBackward,
  // in: gate, up; out: y
  kSwiGlu,
  // in: gate, up, dy; out: dgate, dup
  kSwiGluBackward,
  // in: a, b; out: y
  kAdd,
};

// A [rows, columns] matrix of the call's dtype; null: not given.
struct ElementwiseMatrix {
  void* data = nullptr;
  int64_t stride = 0;  // elements from a row to the next
};

struct ElementwiseArguments {
  ElementwiseFunction function = ElementwiseFunction::kAdd;
  DType dtype = DType::kF32;
  ElementwiseMatrix in[3];
  ElementwiseMatrix out[2];
  int64_t rows = 0;
  int64_t columns = 0;
};

}  // namespace adder::cpu

ADDER_CPU_KERNEL(ElementwiseKernel, ElementwiseArguments)
