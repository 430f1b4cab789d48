// The checks behind ArgumentCheck and their messages.
#include "adder/ops/argument_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>

#include "adder/core/error.h"

namespace adder {
namespace {

// The bytes from a tensor's first element to past its last.
struct Extent {
  uintptr_t begin, end;
};
Extent ExtentOf(const Tensor& tensor) {
  int64_t last = 0;
  for (int i = 0; i < tensor.rank(); ++i) last += (tensor.dim(i) - 1) * tensor.stride(i);
  const auto begin = reinterpret_cast<uintptr_t>(tensor.raw());
  return {begin, begin + static_cast<uintptr_t>(DTypeBytes(tensor.dtype(), last + 1))};
}

int64_t RowBytes(const Tensor& matrix) { return DTypeBytes(matrix.dtype(), matrix.dim(1)); }
int64_t RowStrideBytes(const Tensor& matrix) {
  return DTypeBytes(matrix.dtype(), matrix.stride(0));
}

bool Overlap(const Tensor& a, const Tensor& b) {
  if (!a || !b || a.elements() == 0 || b.elements() == 0) return false;
  const Extent a_extent = ExtentOf(a);
  const Extent b_extent = ExtentOf(b);
  if (a_extent.end <= b_extent.begin || b_extent.end <= a_extent.begin) return false;
  if (a.rank() != 2 || b.rank() != 2) return true;
  // The distance between the rows, which one row alone does not have.
  const int64_t stride = RowStrideBytes(a.dim(0) > 1 ? a : b);
  if ((b.dim(0) > 1 && RowStrideBytes(b) != stride) || (a.dim(0) <= 1 && b.dim(0) <= 1)) {
    return true;
  }
  // Where b's rows begin within a's.
  const auto apart = static_cast<int64_t>(b_extent.begin - a_extent.begin);
  const int64_t shift = (apart % stride + stride) % stride;
  return shift < RowBytes(a) || shift + RowBytes(b) > stride;
}

bool Same(const Tensor& a, const Tensor& b) {
  if (a.raw() != b.raw() || a.dtype() != b.dtype() || a.shape() != b.shape()) return false;
  for (int i = 0; i < a.rank(); ++i) {
    if (a.dim(i) > 1 && a.stride(i) != b.stride(i)) return false;
  }
  return true;
}

}  // namespace

void ArgumentCheck::Apart(const Tensor& output, const char* output_name, const Tensor& input,
                          const char* input_name) const {
  if (Overlap(output, input)) Fail(fmt::format("{} lies on {}", output_name, input_name));
}

void ArgumentCheck::AllApart(std::initializer_list<Named> outputs,
                             std::initializer_list<Named> inputs) const {
  for (auto output = outputs.begin(); output != outputs.end(); ++output) {
    for (const Named& input : inputs) Apart(output->tensor, output->name, input.tensor, input.name);
    for (auto other = outputs.begin(); other != output; ++other) {
      Apart(output->tensor, output->name, other->tensor, other->name);
    }
  }
}

void ArgumentCheck::ApartOrSame(const Tensor& output, const char* output_name, const Tensor& input,
                                const char* input_name) const {
  if (Overlap(output, input) && !Same(output, input)) {
    Fail(fmt::format("{} lies on {}, but not element on element", output_name, input_name));
  }
}

void ArgumentCheck::Dense(const Tensor& tensor, const char* name,
                          std::initializer_list<DType> dtypes, const Shape& shape) const {
  Rows(tensor, name, dtypes, shape);
  if (!tensor.contiguous()) Fail(fmt::format("{} has gaps between its elements", name));
}

void ArgumentCheck::Rows(const Tensor& tensor, const char* name,
                         std::initializer_list<DType> dtypes, const Shape& shape) const {
  const bool dtype_fits = std::find(dtypes.begin(), dtypes.end(), tensor.dtype()) != dtypes.end();
  if (!tensor.defined() || !dtype_fits || tensor.shape() != shape) {
    std::string expected;
    for (const DType dtype : dtypes) {
      if (!expected.empty()) expected += " or ";
      expected += DTypeName(dtype);
    }
    Fail(fmt::format("{} is {}, expected {} {}", name,
                     tensor.defined() ? tensor.ToString() : "not given", expected,
                     shape.ToString()));
  }
  if (tensor.device() != device_) {
    Fail(fmt::format("{} is on {}, expected {}", name, adder::ToString(tensor.device()),
                     adder::ToString(device_)));
  }
  if (tensor.rank() > 0 && tensor.dim(-1) > 1 && tensor.stride(-1) != 1) {
    Fail(fmt::format("{} has gaps between the elements of a row", name));
  }
}

void ArgumentCheck::Rank(const Tensor& tensor, const char* name, int rank) const {
  if (!tensor.defined()) Fail(fmt::format("{} is not given", name));
  if (tensor.rank() != rank) {
    Fail(fmt::format("{} is {}, expected {} dimensions", name, tensor.ToString(), rank));
  }
}

void ArgumentCheck::AlignedRows(std::initializer_list<Named> tensors, int64_t row) const {
  if (device_.type != DeviceType::kCuda) return;
  const int64_t unit = std::gcd<int64_t>(16, 4 * row);
  for (const auto& [tensor, name] : tensors) {
    if (tensor && tensor.elements() > 0 && reinterpret_cast<uintptr_t>(tensor.raw()) % unit != 0) {
      Fail(fmt::format("{} begins at no multiple of {} bytes", name, unit));
    }
  }
}

void ArgumentCheck::Epsilon(float eps) const {
  if (!(eps >= 0) || !std::isfinite(eps)) {
    Fail(fmt::format("eps is {}, expected a number ≥ 0", eps));
  }
}

void ArgumentCheck::Fail(std::string_view message) const {
  throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: {}", op_, message));
}

void ThrowNoBackend(std::string_view op, Device device) {
  throw Error(ErrorCode::kUnsupported,
              fmt::format("{}: not implemented on {}", op, ToString(device)));
}

}  // namespace adder
