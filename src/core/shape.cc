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
  for (size_t i = 0; i < dims.size(); ++i) {
    dims_[i] = dims[i];
    elements_ = CheckedProduct(elements_, dims[i], "shape");
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
