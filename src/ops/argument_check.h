// What every operator checks of its tensor arguments before it touches them, so that all operators
// complain alike: "rms_norm: weight is f32 [64], expected f32 [768]".
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "adder/core/tensor.h"

namespace adder {

class ArgumentCheck {
 public:
  // `op`: the operator's name, which begins each message. `device`: where all tensors must be.
  ArgumentCheck(std::string_view op, Device device) : op_(op), device_(device) {}

  // `tensor` is given, on the device, of one of the dtypes and of this shape, and its elements lie
  // without gaps. Throws kInvalidArgument otherwise.
  void Dense(const Tensor& tensor, const char* name, std::initializer_list<DType> dtypes,
             const Shape& shape) const;
  // The same, but only the last dimension must be dense: rows may be further apart.
  void Rows(const Tensor& tensor, const char* name, std::initializer_list<DType> dtypes,
            const Shape& shape) const;
  // Dense and Rows for tensors that need not be given.
  void OptionalDense(const Tensor& tensor, const char* name, std::initializer_list<DType> dtypes,
                     const Shape& shape) const {
    if (tensor) Dense(tensor, name, dtypes, shape);
  }
  void OptionalRows(const Tensor& tensor, const char* name, std::initializer_list<DType> dtypes,
                    const Shape& shape) const {
    if (tensor) Rows(tensor, name, dtypes, shape);
  }
  // No element of one lies in the memory of the other; either need not be given. Of matrices with
  // equal distances between rows, columns may interleave, as views of one wider matrix do; where
  // the distances differ, memory between the rows counts as theirs.
  void Apart(const Tensor& output, const char* output_name, const Tensor& input,
             const char* input_name) const;
  struct Named {
    const Tensor& tensor;
    const char* name;
  };
  // Each output is apart from each input and from each other output.
  void AllApart(std::initializer_list<Named> outputs, std::initializer_list<Named> inputs) const;
  // They are apart, or lie exactly on each other: each element on the one of the same index.
  void ApartOrSame(const Tensor& output, const char* output_name, const Tensor& input,
                   const char* input_name) const;
  // `tensor` is given and has this many dimensions: what must hold before its sizes are read.
  void Rank(const Tensor& tensor, const char* name, int rank) const;
  // On a CUDA device, whose kernels read vectors: tensors of rows of `row` f32, given or not, begin
  // at a multiple of 16 bytes, or of 8 or 4 where their rows' bytes are no more than that.
  void AlignedRows(std::initializer_list<Named> tensors, int64_t row) const;
  // A norm's eps is finite and not negative.
  void Epsilon(float eps) const;
  // Throws kInvalidArgument "op: message" unless `holds`.
  void That(bool holds, std::string_view message) const {
    if (!holds) Fail(message);
  }
  [[noreturn]] void Fail(std::string_view message) const;

 private:
  std::string op_;
  Device device_;
};

// For the end of an operator's dispatch: throws kUnsupported "op: not implemented on cuda:0".
[[noreturn]] void ThrowNoBackend(std::string_view op, Device device);

}  // namespace adder
