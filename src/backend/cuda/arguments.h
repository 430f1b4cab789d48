// How libadder hands tensors to the CUDA module's operators: pointers and strides, checked already.
#pragma once

#include <cstdint>

#include "adder/core/tensor.h"

namespace adder::cuda {

// A matrix of rows with dense columns; null: not given.
struct Rows {
  void* data = nullptr;
  int64_t stride = 0;  // elements from a row to the next
  DType dtype = DType::kF32;
};

inline Rows RowsOf(const Tensor& tensor) {
  if (!tensor) return {};
  return {tensor.raw(), tensor.rank() > 1 ? tensor.stride(0) : tensor.elements(), tensor.dtype()};
}

// A dense f32 tensor; null: not given.
inline float* FloatsOf(const Tensor& tensor) { return tensor ? tensor.data<float>() : nullptr; }

}  // namespace adder::cuda
