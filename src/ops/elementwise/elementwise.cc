// elementwise: argument checks, the CPU's loops, and the choice of the backend by the device. The
// loops are their own definition: there is no reference beside them.
#include "adder/ops/elementwise/elementwise.h"

#include <cmath>
#include <type_traits>

#include "adder/backend/cpu/parallel.h"
#include "adder/ops/argument_check.h"
#include "adder/ops/elementwise/elementwise_backends.h"

namespace adder {
namespace {

template <class T>
void AddElements(const Tensor& target, const Tensor& source) {
  // The source is dense; the target's runs tell where each part of it belongs.
  int64_t done = 0;
  ForEachRun(target, [&](int64_t offset, int64_t length) {
    T* to = target.data<T>() + offset;
    const T* from = source.data<T>() + done;
    done += length;
    cpu::ParallelFor(length, cpu::kElementsPerThread, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        if constexpr (std::is_floating_point_v<T>) {
          to[i] += from[i];
        } else {
          to[i] = T(static_cast<float>(to[i]) + static_cast<float>(from[i]));
        }
      }
    });
  });
}

void CheckFloats(const ArgumentCheck& check, const Tensor& tensor, const char* name,
                 const Shape& shape) {
  check.Dense(tensor, name, {DType::kF32}, shape);
}

}  // namespace

void AddTo(const Tensor& target, const Tensor& source) {
  constexpr const char* kOp = "add to";
  const ArgumentCheck check(kOp, target.device());
  check.Rank(target, "target", target.rank());  // given
  if (!IsFloating(target.dtype())) {
    check.Fail("the target is " + target.ToString() + ", expected a floating dtype");
  }
  check.Dense(source, "source", {target.dtype()}, target.shape());
  check.Apart(target, "target", source, "source");
  if (target.device().type == DeviceType::kCuda) {
    if (target.dtype() == DType::kF64) ThrowNoBackend("add to of f64", target.device());
    return cuda::AddTo(target, source);
  }
  switch (target.dtype()) {
    case DType::kF64:
      return AddElements<double>(target, source);
    case DType::kF16:
      return AddElements<Half>(target, source);
    case DType::kBF16:
      return AddElements<BFloat16>(target, source);
    default:
      return AddElements<float>(target, source);
  }
}

void AddProduct(const Tensor& sum, const Tensor& a, const Tensor& b) {
  const ArgumentCheck check("add product", sum.device());
  check.Rank(sum, "sum", sum.rank());  // given
  CheckFloats(check, sum, "sum", sum.shape());
  CheckFloats(check, a, "a", sum.shape());
  CheckFloats(check, b, "b", sum.shape());
  if (sum.device().type == DeviceType::kCuda) return cuda::AddProduct(sum, a, b);
  float* to = sum.data<float>();
  const float* left = a.data<float>();
  const float* right = b.data<float>();
  cpu::ParallelFor(sum.elements(), cpu::kElementsPerThread, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) to[i] += left[i] * right[i];
  });
}

void NegativeExp(const Tensor& x, const Tensor& y) {
  const ArgumentCheck check("negative exp", x.device());
  check.Rank(x, "x", x.rank());  // given
  CheckFloats(check, x, "x", x.shape());
  CheckFloats(check, y, "y", x.shape());
  if (x.device().type == DeviceType::kCuda) return cuda::NegativeExp(x, y);
  const float* from = x.data<float>();
  float* to = y.data<float>();
  cpu::ParallelFor(x.elements(), cpu::kElementsPerThread / 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) to[i] = -std::exp(from[i]);
  });
}

}  // namespace adder
