#include "adder/core/tensor.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "adder/core/device_memory.h"
#include "adder/core/error.h"
#include "adder/core/quantization.h"

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

// The bytes of all elements. Throws kInvalidArgument where they do not fit 63 bits or rows are no
// whole blocks.
int64_t DenseBytes(const Shape& shape, DType dtype) {
  if (!IsQuantized(dtype)) {
    return CheckedProduct(shape.elements(), DTypeSize(dtype), "tensor bytes");
  }
  const int64_t block = DTypeBlockElements(dtype);
  if (shape.rank() == 0 || shape[-1] % block != 0) {
    Invalid("a tensor of " + std::string(DTypeName(dtype)) + " " + shape.ToString() +
            " does not exist: the last dimension must be a multiple of " + std::to_string(block));
  }
  return DTypeBytes(dtype, shape.elements());
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

// The f32 next to `value` that is odd where none equals it: rounded once more, to half the digits
// or fewer, it gives what rounding `value` itself does (Boldo & Melquiond 2008).
float RoundToOdd(double value) {
  const auto nearest = static_cast<float>(value);
  const auto bits = std::bit_cast<uint32_t>(nearest);
  if (std::isnan(value) || static_cast<double>(nearest) == value || (bits & 1) != 0) return nearest;
  const bool away = std::abs(static_cast<double>(nearest)) > std::abs(value);
  return std::bit_cast<float>(away ? bits - 1 : bits + 1);
}

// Rounded to nearest even, once.
template <class From, class To>
To Convert(From value) {
  if constexpr (std::is_same_v<From, To>) {
    return value;
  } else if constexpr (std::is_same_v<From, double> && !std::is_same_v<To, float>) {
    return To(RoundToOdd(value));
  } else {
    return To(static_cast<float>(value));
  }
}

// Converts between dense tensors of which at least one is quantized: by way of f32, in pieces that
// stay in the cache.
void ConvertBlocks(const Tensor& source, const Tensor& target) {
  constexpr int64_t kPiece = 4096;  // elements: a multiple of every block
  const Tensor values = Tensor::Empty({kPiece}, DType::kF32);
  const auto* from = static_cast<const std::byte*>(source.raw());
  auto* to = static_cast<std::byte*>(target.raw());
  for (int64_t begin = 0; begin < source.elements(); begin += kPiece) {
    const int64_t count = std::min(kPiece, source.elements() - begin);
    auto* f32 = values.data<float>();
    const std::byte* in = from + DTypeBytes(source.dtype(), begin);
    std::byte* out = to + DTypeBytes(target.dtype(), begin);
    if (IsQuantized(source.dtype())) {
      Dequantize(source.dtype(), in, count, f32);
    } else {
      VisitFloating(source.dtype(), [&](auto type) {
        using From = decltype(type);
        for (int64_t i = 0; i < count; ++i) {
          f32[i] = Convert<From, float>(reinterpret_cast<const From*>(in)[i]);
        }
      });
    }
    if (IsQuantized(target.dtype())) {
      Quantize(target.dtype(), f32, count, out);
    } else {
      VisitFloating(target.dtype(), [&](auto type) {
        using To = decltype(type);
        for (int64_t i = 0; i < count; ++i) {
          reinterpret_cast<To*>(out)[i] = Convert<float, To>(f32[i]);
        }
      });
    }
  }
}

// The tensor as devices see it: quantized elements as the bytes of their blocks.
std::pair<Shape, DeviceWindow> DeviceView(const Tensor& tensor) {
  DeviceWindow window = {.data = tensor.raw(), .strides = {}, .dtype = tensor.dtype()};
  for (int i = 0; i < tensor.rank(); ++i) {
    window.strides[static_cast<size_t>(i)] = tensor.stride(i);
  }
  if (!IsQuantized(tensor.dtype())) return {tensor.shape(), window};
  std::array<int64_t, kMaxRank> dims = {};
  const int rank = tensor.rank();
  for (int i = 0; i < rank; ++i) {
    dims[static_cast<size_t>(i)] = tensor.dim(i);
    auto& stride = window.strides[static_cast<size_t>(i)];
    stride = i == rank - 1 ? 1 : DTypeBytes(tensor.dtype(), stride);
  }
  dims[static_cast<size_t>(rank - 1)] = DTypeBytes(tensor.dtype(), tensor.dim(rank - 1));
  window.dtype = DType::kU8;
  return {Shape(std::span<const int64_t>(dims.data(), static_cast<size_t>(rank))), window};
}

}  // namespace

Tensor Tensor::Empty(const Shape& shape, DType dtype, Device device) {
  Tensor tensor;
  const int64_t bytes = DenseBytes(shape, dtype);
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
  const int64_t bytes = DenseBytes(shape, dtype);
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

void Tensor::CheckDefined(const char* what) const {
  if (!defined()) Invalid("cannot " + std::string(what) + " an undefined tensor");
}

Tensor Tensor::Slice(int axis, int64_t begin, int64_t count) const {
  if (axis < 0 || axis >= rank() || begin < 0 || count < 0 || begin > dim(axis) - count) {
    Invalid("slice [" + std::to_string(begin) + ", +" + std::to_string(count) + ") of dimension " +
            std::to_string(axis) + " is outside " + ToString());
  }
  if (IsQuantized(dtype_) && axis == rank() - 1 && count != dim(axis)) {
    Invalid("slice [" + std::to_string(begin) + ", +" + std::to_string(count) +
            ") of the last dimension of " + ToString() + " would cut through quantized rows");
  }
  Tensor view = *this;
  std::array<int64_t, kMaxRank> dims = {};
  for (int i = 0; i < rank(); ++i) dims[static_cast<size_t>(i)] = dim(i);
  dims[static_cast<size_t>(axis)] = count;
  view.shape_ = Shape(std::span<const int64_t>(dims.data(), static_cast<size_t>(rank())));
  view.data_ = static_cast<std::byte*>(data_) + DTypeBytes(dtype_, begin * stride(axis));
  return view;
}

Tensor Tensor::Reshape(const Shape& shape) const {
  if (shape.elements() != elements() || !contiguous()) {
    Invalid("cannot view " + ToString() + (contiguous() ? "" : " (not contiguous)") + " as " +
            shape.ToString());
  }
  DenseBytes(shape, dtype_);  // whole blocks in every row
  Tensor view = *this;
  view.shape_ = shape;
  view.strides_ = RowMajorStrides(shape);
  return view;
}

Tensor Tensor::Clone() const {
  CheckDefined("clone");
  Tensor copy = Empty(shape_, dtype_, device());
  copy.CopyFrom(*this);
  return copy;
}

Tensor Tensor::To(DType dtype) const {
  if (dtype == dtype_) return *this;
  CheckDefined("convert");
  Tensor copy = Empty(shape_, dtype, device());
  copy.CopyFrom(*this);
  return copy;
}

Tensor Tensor::To(Device device) const {
  CheckDefined("move");
  if (device == this->device()) return *this;
  Tensor copy = Empty(shape_, dtype_, device);
  copy.CopyFrom(*this);
  return copy;
}

void Tensor::CopyFrom(const Tensor& source) const {
  CheckDefined("copy to");
  source.CheckDefined("copy from");
  if (source.shape() != shape()) {
    Invalid("cannot copy " + source.ToString() + " to " + ToString());
  }
  if (elements() == 0) return;
  if (source.device() != device()) return CopyAcrossDevices(source);
  if (device().type != DeviceType::kCpu) return CopyOnDevice(source);
  if (source.dtype() != dtype() && source.contiguous() && contiguous()) {
    if (IsQuantized(source.dtype()) || IsQuantized(dtype())) return ConvertBlocks(source, *this);
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
    std::memcpy(out + DTypeBytes(dtype(), to), in + DTypeBytes(dtype(), from),
                static_cast<size_t>(DTypeBytes(dtype(), run)));
  }
}

void Tensor::CopyOnDevice(const Tensor& source) const {
  if (source.dtype() != dtype() && !(IsFloating(source.dtype()) && IsFloating(dtype()))) {
    throw Error(ErrorCode::kUnsupported, "cannot convert " + source.ToString() + " to " +
                                             std::string(DTypeName(dtype_)) + " on " +
                                             adder::ToString(device()));
  }
  const auto [shape, to] = DeviceView(*this);
  DeviceMemoryOf(device()).Copy(shape, DeviceView(source).second, to);
}

// Bytes travel dense and in one dtype: what is not is made so, before on the source's side and
// after on this one.
void Tensor::CopyAcrossDevices(const Tensor& source) const {
  const bool from_host = source.device().type == DeviceType::kCpu;
  // The CPU converts between all dtypes.
  const Tensor converted = from_host ? source.To(dtype_) : source;
  const Tensor dense = converted.contiguous() ? converted : converted.Clone();
  if (!contiguous() || dense.dtype() != dtype_) {
    const Tensor arrived = Empty(shape_, dense.dtype(), device());
    arrived.CopyFrom(dense);
    CopyFrom(arrived);
  } else if (from_host) {
    DeviceMemoryOf(device()).CopyFromHost(data_, dense.raw(), bytes());
  } else if (device().type == DeviceType::kCpu) {
    DeviceMemoryOf(source.device()).CopyToHost(data_, dense.raw(), bytes());
  } else {
    CopyFrom(dense.To(Device{}));  // by way of the host
  }
}

void Tensor::SetZero() const {
  CheckDefined("clear");
  if (elements() == 0) return;
  if (device().type != DeviceType::kCpu) {
    const auto [shape, window] = DeviceView(*this);
    DeviceMemoryOf(device()).SetZero(shape, window);
    return;
  }
  ForEachRun(*this, [&](int64_t offset, int64_t length) {
    std::memset(static_cast<std::byte*>(data_) + DTypeBytes(dtype_, offset), 0,
                static_cast<size_t>(DTypeBytes(dtype_, length)));
  });
}

std::string Tensor::ToString() const {
  if (!defined()) return "an undefined tensor";
  return std::string(DTypeName(dtype_)) + " " + shape_.ToString();
}

}  // namespace adder
