// Dimensions of a tensor: up to six 64-bit sizes, stored inline.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

namespace adder {

inline constexpr int kMaxRank = 6;

// a · b, or a kInvalidArgument error naming `what` when the product does not fit 63 bits or a
// factor is negative. Every byte count that depends on outside input is formed with it.
int64_t CheckedProduct(int64_t a, int64_t b, const char* what);

class Shape {
 public:
  Shape() = default;  // a scalar: rank 0, one element
  Shape(std::initializer_list<int64_t> dims)
      : Shape(std::span<const int64_t>(dims.begin(), dims.size())) {}
  // Throws kInvalidArgument for a negative size, more than kMaxRank sizes, or sizes so large that a
  // stride in bytes would not fit 63 bits (even where another size is 0).
  explicit Shape(std::span<const int64_t> dims);

  int rank() const { return rank_; }
  // Size of dimension i; a negative i counts from the last.
  int64_t operator[](int i) const { return dims_[static_cast<size_t>(i < 0 ? i + rank_ : i)]; }
  // Product of all sizes.
  int64_t elements() const { return elements_; }
  std::span<const int64_t> dims() const { return {dims_.data(), static_cast<size_t>(rank_)}; }
  // "[1536, 16]"
  std::string ToString() const;

  friend bool operator==(const Shape& a, const Shape& b) {
    return a.rank_ == b.rank_ && a.dims_ == b.dims_;
  }

 private:
  std::array<int64_t, kMaxRank> dims_ = {};
  int rank_ = 0;
  int64_t elements_ = 1;
};

}  // namespace adder
