// The checks behind ArgumentCheck and their messages.
#include "adder/ops/argument_check.h"

#include <fmt/format.h>

#include <algorithm>

#include "adder/core/error.h"

namespace adder {

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

void ArgumentCheck::Fail(std::string_view message) const {
  throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: {}", op_, message));
}

void ThrowNoBackend(std::string_view op, Device device) {
  throw Error(ErrorCode::kUnsupported,
              fmt::format("{}: not implemented on {}", op, ToString(device)));
}

}  // namespace adder
