#include "adder/core/shape.h"

#include "adder/core/error.h"

namespace adder {

int64_t CheckedProduct(int64_t a, int64_t b, const char* what) {
  int64_t product = 0;
  if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &product)) {
    throw Error(ErrorCode::kInvalidArgument, std::string(what) + ": " + std::to_string(a) + " × " +
                                                 std::to_string(b) + " is not a valid size");
  }
  return product;
}

Shape::Shape(std::span<const int64_t> dims) {
  if (dims.size() > kMaxRank) {
    throw Error(ErrorCode::kInvalidArgument, "a shape has " + std::to_string(dims.size()) +
                                                 " dimensions, at most " +
                                                 std::to_string(kMaxRank) + " are supported");
  }
  rank_ = static_cast<int>(dims.size());
  constexpr int64_t kMaxElementBytes = 8;
  int64_t extent = kMaxElementBytes;
  for (size_t i = 0; i < dims.size(); ++i) {
    // Strides ignore that a size is 0, so the check does too.
    extent = CheckedProduct(extent, dims[i] == 0 ? 1 : dims[i], "shape");
    dims_[i] = dims[i];
    elements_ *= dims[i];  // at most the extent
  }
}

std::string Shape::ToString() const {
  std::string text = "[";
  for (int i = 0; i < rank_; ++i) {
    if (i > 0) text += ", ";
    text += std::to_string((*this)[i]);
  }
  return text + "]";
}

}  // namespace adder
