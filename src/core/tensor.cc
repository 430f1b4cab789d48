#include "adder/core/tensor.h"

#include <cstring>
#include <vector>

#include "adder/core/error.h"

namespace adder {
namespace {

[[noreturn]] void Invalid(const std::string& message) {
  throw Error(ErrorCode::kInvalidArgument, message);
}

std::array<int64_t, kMaxRank> RowMajorStrides(const Shape& shape) {
  std::array<int64_t, kMaxRank> strides = {};
  int64_t stride = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    strides[static_cast<size_t>(i)] = stride;
    stride *= shape[i];
  }
  return strides;
}

// Calls visit(T{}) with the C++ type of a floating dtype.
template <class Visit>
void VisitFloating(DType dtype, Visit&& visit) {
  switch (dtype) {
    case DType::kF64:
      return visit(double{});
    case DType::kF32:
      return visit(float{});
    case DType::kF16:
      return visit(Half{});
    case DType::kBF16:
      return visit(BFloat16{});
    default:
      Invalid("cannot convert dtype " + std::string(DTypeName(dtype)));
  }
}

template <class From, class To>
To Convert(From value) {
  if constexpr (std::is_same_v<From, To>) {
    return value;
  } else if constexpr (std::is_same_v<From, double> && !std::is_same_v<To, float>) {
    return To(static_cast<float>(value));
  } else {
    return To(static_cast<float>(value));
  }
}

}  // namespace

Tensor Tensor::Empty(const Shape& shape, DType dtype, Device device) {
  Tensor tensor;
  const int64_t bytes = CheckedProduct(shape.elements(), DTypeSize(dtype), "tensor bytes");
  tensor.storage_ = Storage::Allocate(bytes, device);
  tensor.data_ = tensor.storage_->data();
  tensor.shape_ = shape;
  tensor.strides_ = RowMajorStrides(shape);
  tensor.dtype_ = dtype;
  return tensor;
}

Tensor Tensor::Zeros(const Shape& shape, DType dtype, Device device) {
  Tensor tensor = Empty(shape, dtype, device);
  tensor.SetZero();
  return tensor;
}

Tensor Tensor::Wrap(void* data, const Shape& shape, DType dtype,
                    std::shared_ptr<const void> owner) {
  Tensor tensor;
  const int64_t bytes = CheckedProduct(shape.elements(), DTypeSize(dtype), "tensor bytes");
  tensor.storage_ = Storage::Wrap(data, bytes, std::move(owner));
  tensor.data_ = data;
  tensor.shape_ = shape;
  tensor.strides_ = RowMajorStrides(shape);
  tensor.dtype_ = dtype;
  return tensor;
}

Tensor Tensor::FromBytes(const Shape& shape, DType dtype, const void* values, int64_t count) {
  if (count != shape.elements()) {
    Invalid(std::to_string(count) + " values were given for a tensor of shape " + shape.ToString());
  }
  Tensor tensor = Empty(shape, dtype);
  if (count > 0) std::memcpy(tensor.data_, values, static_cast<size_t>(tensor.bytes()));
  return tensor;
}

bool Tensor::contiguous() const {
  int64_t expected = 1;
  for (int i = rank() - 1; i >= 0; --i) {
    if (dim(i) != 1 && stride(i) != expected) return elements() == 0;
    expected *= dim(i);
  }
  return true;
}

void Tensor::CheckDType(DType expected) const {
  if (!defined() || dtype_ != expected) {
    Invalid("a tensor of dtype " + std::string(DTypeName(expected)) + " was expected, got " +
            ToString());
  }
}

Tensor Tensor::Slice(int axis, int64_t begin, int64_t count) const {
  if (axis < 0 || axis >= rank() || begin < 0 || count < 0 || begin > dim(axis) - count) {
    Invalid("slice [" + std::to_string(begin) + ", +" + std::to_string(count) + ") of dimension " +
            std::to_string(axis) + " is outside " + ToString());
  }
  Tensor view = *this;
  std::array<int64_t, kMaxRank> dims = {};
  for (int i = 0; i < rank(); ++i) dims[static_cast<size_t>(i)] = dim(i);
  dims[static_cast<size_t>(axis)] = count;
  view.shape_ = Shape(std::span<const int64_t>(dims.data(), static_cast<size_t>(rank())));
  view.data_ = static_cast<std::byte*>(data_) + begin * stride(axis) * DTypeSize(dtype_);
  return view;
}

Tensor Tensor::Reshape(const Shape& shape) const {
  if (shape.elements() != elements() || !contiguous()) {
    Invalid("cannot view " + ToString() + (contiguous() ? "" : " (not contiguous)") + " as " +
            shape.ToString());
  }
  Tensor view = *this;
  view.shape_ = shape;
  view.strides_ = RowMajorStrides(shape);
  return view;
}

Tensor Tensor::Clone() const {
  Tensor copy = Empty(shape_, dtype_, device());
  copy.CopyFrom(*this);
  return copy;
}

Tensor Tensor::To(DType dtype) const {
  if (dtype == dtype_) return *this;
  Tensor copy = Empty(shape_, dtype, device());
  copy.CopyFrom(*this);
  return copy;
}

void Tensor::CopyFrom(const Tensor& source) const {
  if (source.shape() != shape()) {
    Invalid("cannot copy " + source.ToString() + " to " + ToString());
  }
  if (source.device().type != DeviceType::kCpu || device().type != DeviceType::kCpu) {
    throw Error(ErrorCode::kUnsupported, "this build copies tensors on the CPU only");
  }
  if (elements() == 0) return;
  if (source.dtype() != dtype() && source.contiguous() && contiguous()) {
    VisitFloating(source.dtype(), [&](auto from) {
      VisitFloating(dtype(), [&](auto to) {
        using From = decltype(from);
        using To = decltype(to);
        const From* in = source.data<From>();
        To* out = data<To>();
        const int64_t count = elements();
        for (int64_t i = 0; i < count; ++i) out[i] = Convert<From, To>(in[i]);
      });
    });
    return;
  }
  if (source.dtype() != dtype()) {
    // Rare: strided and converting. Make the source dense and converted, then copy its bytes.
    CopyFrom(source.contiguous() ? source.To(dtype()) : source.Clone().To(dtype()));
    return;
  }
  const int64_t size = DTypeSize(dtype());
  // Both sides are cut into the shorter of their runs, which divides the longer.
  std::vector<int64_t> from_offsets;
  std::vector<int64_t> to_offsets;
  int64_t from_run = 0;
  int64_t to_run = 0;
  ForEachRun(source, [&](int64_t offset, int64_t length) {
    from_offsets.push_back(offset);
    from_run = length;
  });
  ForEachRun(*this, [&](int64_t offset, int64_t length) {
    to_offsets.push_back(offset);
    to_run = length;
  });
  const int64_t run = from_run < to_run ? from_run : to_run;
  const auto* in = static_cast<const std::byte*>(source.raw());
  auto* out = static_cast<std::byte*>(data_);
  for (int64_t i = 0; i < elements(); i += run) {
    const int64_t from = from_offsets[static_cast<size_t>(i / from_run)] + i % from_run;
    const int64_t to = to_offsets[static_cast<size_t>(i / to_run)] + i % to_run;
    std::memcpy(out + to * size, in + from * size, static_cast<size_t>(run * size));
  }
}

void Tensor::SetZero() const {
  if (device().type != DeviceType::kCpu) {
    throw Error(ErrorCode::kUnsupported, "this build clears tensors on the CPU only");
  }
  const int64_t size = DTypeSize(dtype_);
  ForEachRun(*this, [&](int64_t offset, int64_t length) {
    std::memset(static_cast<std::byte*>(data_) + offset * size, 0,
                static_cast<size_t>(length * size));
  });
}

std::string Tensor::ToString() const {
  if (!defined()) return "an undefined tensor";
  return std::string(DTypeName(dtype_)) + " " + shape_.ToString();
}

}  // namespace adder
