// A tensor: a typed, strided window on shared storage. A Tensor is a handle, copied in O(1); the
// copy sees the same elements. Clone() copies the elements.
//
// The last dimension of a tensor of a quantized dtype holds whole blocks and is never sliced; all
// else works as for other dtypes. Strides count elements there, too.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "adder/core/device.h"
#include "adder/core/dtype.h"
#include "adder/core/shape.h"
#include "adder/core/storage.h"

namespace adder {

class Tensor {
 public:
  // "Not given": optional operator arguments are default-constructed tensors.
  Tensor() = default;

  // Row-major, uninitialised / zero. Throw kOutOfMemory, kUnsupported (device), kInvalidArgument
  // for a last dimension that is no multiple of a quantized dtype's block.
  static Tensor Empty(const Shape& shape, DType dtype, Device device = {});
  static Tensor Zeros(const Shape& shape, DType dtype, Device device = {});
  // Row-major elements in foreign host memory, kept alive by `owner`. The caller vouches that
  // `data` holds shape.elements() elements, suitably aligned.
  static Tensor Wrap(void* data, const Shape& shape, DType dtype,
                     std::shared_ptr<const void> owner = nullptr);
  // A row-major copy of host values.
  template <class T>
  static Tensor From(const Shape& shape, std::span<const T> values) {
    return FromBytes(shape, kDTypeOf<T>, values.data(), static_cast<int64_t>(values.size()));
  }

  bool defined() const { return storage_ != nullptr; }
  explicit operator bool() const { return defined(); }

  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  // Size / element stride of dimension i; a negative i counts from the last.
  int64_t dim(int i) const { return shape_[i]; }
  int64_t stride(int i) const { return strides_[static_cast<size_t>(i < 0 ? i + rank() : i)]; }
  int64_t elements() const { return shape_.elements(); }
  // Bytes of the elements, were they dense.
  int64_t bytes() const { return DTypeBytes(dtype_, elements()); }
  DType dtype() const { return dtype_; }
  Device device() const { return storage_ ? storage_->device() : Device{}; }
  // Row-major without gaps.
  bool contiguous() const;

  // First element. data<T>() throws kInvalidArgument unless T is the tensor's type.
  void* raw() const { return data_; }
  template <class T>
  T* data() const {
    CheckDType(kDTypeOf<T>);
    return static_cast<T*>(data_);
  }
  // First element of entry i of the first dimension, which is not checked; null where the tensor is
  // not defined.
  void* row(int64_t i) const {
    if (!defined()) return nullptr;
    return static_cast<std::byte*>(data_) + i * DTypeBytes(dtype_, stride(0));
  }

  // Views: no element is copied. Throw kInvalidArgument when out of range.
  // `count` entries of dimension `axis`, from `begin`.
  Tensor Slice(int axis, int64_t begin, int64_t count) const;
  // Slice of the first / of the last dimension.
  Tensor Rows(int64_t begin, int64_t count) const { return Slice(0, begin, count); }
  Tensor Columns(int64_t begin, int64_t count) const { return Slice(rank() - 1, begin, count); }
  // The same elements under another shape; the tensor must be contiguous.
  Tensor Reshape(const Shape& shape) const;

  // Copies. Clone and To return contiguous tensors, on the same device but for To(device).
  // Conversions round to nearest even, once. Throw kInvalidArgument for a tensor that is not
  // defined.
  Tensor Clone() const;
  Tensor To(DType dtype) const;    // converts; the same dtype returns the tensor itself, not a copy
  Tensor To(Device device) const;  // the same device returns the tensor itself, not a copy
  // Copies `source` (same shape, any device; dtype converted: floating, quantized or equal) over
  // this tensor's elements. Quantizing throws kNumeric for values that have none (quantization.h).
  void CopyFrom(const Tensor& source) const;
  // Sets every byte of every element to zero.
  void SetZero() const;

  // "f32 [1536, 16]"
  std::string ToString() const;

 private:
  static Tensor FromBytes(const Shape& shape, DType dtype, const void* values, int64_t count);
  void CheckDType(DType expected) const;
  void CheckDefined(const char* what) const;
  void CopyOnDevice(const Tensor& source) const;
  void CopyAcrossDevices(const Tensor& source) const;

  std::shared_ptr<Storage> storage_;
  void* data_ = nullptr;
  Shape shape_;
  std::array<int64_t, kMaxRank> strides_ = {};
  DType dtype_ = DType::kF32;
};

// Calls visit(offset, length) for each maximal contiguous run of the tensor, in row-major order:
// `offset` elements from the first, `length` elements long.
template <class Visit>
void ForEachRun(const Tensor& tensor, Visit&& visit) {
  if (tensor.elements() == 0) return;
  // Trailing dimensions that lie densely form the run.
  int outer = tensor.rank();
  int64_t run = 1;
  while (outer > 0 && (tensor.dim(outer - 1) == 1 || tensor.stride(outer - 1) == run)) {
    run *= tensor.dim(outer - 1);
    --outer;
  }
  std::array<int64_t, kMaxRank> index = {};
  while (true) {
    int64_t offset = 0;
    for (int i = 0; i < outer; ++i) offset += index[static_cast<size_t>(i)] * tensor.stride(i);
    visit(offset, run);
    int axis = outer - 1;
    for (; axis >= 0; --axis) {
      if (++index[static_cast<size_t>(axis)] < tensor.dim(axis)) break;
      index[static_cast<size_t>(axis)] = 0;
    }
    if (axis < 0) return;
  }
}

}  // namespace adder
