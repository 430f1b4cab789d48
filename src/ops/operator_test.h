// What the tests of all operators share: random tensors and layouts, comparisons that say where two
// tensors differ most, and the check of a gradient against central differences.
//
// The usual shape of an operator's test:
//   - the reference's gradients against ExpectGradients, in f64;
//   - the CPU's results against the reference's, in ForEveryInstructionSet, where the reference is
//     given the values that the CPU sees: x.To(dtype) to the one, x.To(dtype).To(kF64) to the
//     other.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "adder/backend/cpu/instruction_set.h"
#include "adder/core/error.h"
#include "adder/core/random.h"
#include "adder/core/sequence_layout.h"
#include "adder/core/tensor.h"

namespace adder::test {

// ---- Data ---------------------------------------------------------------------------------------

inline Tensor RandomNormal(Random& random, const Shape& shape, double mean = 0, double stddev = 1) {
  Tensor tensor = Tensor::Empty(shape, DType::kF64);
  FillNormal(tensor, random, mean, stddev);
  return tensor;
}

inline Tensor RandomUniform(Random& random, const Shape& shape, double low, double high) {
  Tensor tensor = Tensor::Empty(shape, DType::kF64);
  FillUniform(tensor, random, low, high);
  return tensor;
}

// The same values, each the nearest that dtype can hold, in f64: what a reference must be given to
// be compared with an implementation that reads dtype. An undefined tensor stays undefined.
inline Tensor RoundedTo(DType dtype, const Tensor& tensor) {
  return tensor.defined() ? tensor.To(dtype).To(DType::kF64) : tensor;
}

// tensor.To(dtype), where an undefined tensor stays undefined.
inline Tensor AsType(DType dtype, const Tensor& tensor) {
  return tensor.defined() ? tensor.To(dtype) : tensor;
}

// A view with the same elements whose rows lie `gap` elements further apart, NaN in between, as a
// view of a wider matrix's columns is. The tensor is [rows, columns] and floating.
inline Tensor WithRowGap(const Tensor& tensor, int64_t gap) {
  const Tensor wide = Tensor::Empty({tensor.dim(0), gap + tensor.dim(1) + gap}, tensor.dtype());
  const Tensor nan = Tensor::Empty(wide.shape(), DType::kF64);
  std::fill_n(nan.data<double>(), nan.elements(), std::numeric_limits<double>::quiet_NaN());
  wide.CopyFrom(nan);
  const Tensor view = wide.Columns(gap, tensor.dim(1));
  view.CopyFrom(tensor);
  return view;
}

// `sequences` sequences, of 0, 1 or any number of rows up to most_rows, odd ones included.
inline SequenceLayout RandomLayout(Random& random, int64_t sequences, int64_t most_rows) {
  std::vector<int64_t> lengths;
  for (int64_t s = 0; s < sequences; ++s) {
    const uint64_t kind = random.NextBelow(6);
    lengths.push_back(
        kind == 0   ? 0
        : kind == 1 ? 1
                    : static_cast<int64_t>(random.NextBelow(static_cast<uint64_t>(most_rows) + 1)));
  }
  return SequenceLayout::FromLengths(lengths);
}

// The layouts every operator on sequences must get right: nothing at all, one row, an empty
// sequence first, between and last, odd lengths, a batch of single rows (decoding).
inline std::vector<SequenceLayout> SequenceLayouts() {
  return {SequenceLayout(),
          SequenceLayout::Single(0),
          SequenceLayout::Single(1),
          SequenceLayout::Single(37),
          SequenceLayout({0, 0, 5, 5, 6, 19, 19}),
          SequenceLayout({0, 3, 131}),
          SequenceLayout::Uniform(5, 1),
          SequenceLayout::Uniform(3, 8)};
}

// ---- Comparisons --------------------------------------------------------------------------------

inline double MaxAbs(const Tensor& tensor) {
  const Tensor values = tensor.To(DType::kF64);
  double most = 0;
  ForEachRun(values, [&](int64_t offset, int64_t length) {
    for (int64_t i = 0; i < length; ++i) {
      most = std::max(most, std::abs(values.data<double>()[offset + i]));
    }
  });
  return most;
}

// The message of the kInvalidArgument that `call` throws; the test fails when it throws none.
template <class Call>
std::string ErrorOf(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  ADD_FAILURE() << "no error was thrown";
  return "";
}

// "[3, 17]": the index of the i-th element in row-major order.
inline std::string IndexToString(const Shape& shape, int64_t i) {
  std::string text = "[";
  int64_t stride = shape.elements();
  for (int axis = 0; axis < shape.rank(); ++axis) {
    stride /= shape[axis];
    if (axis > 0) text += ", ";
    text += std::to_string(i / stride % shape[axis]);
  }
  return text + "]";
}

// Every element of `actual` is finite and within tolerance · max|expected| of `expected`'s: errors
// of sums are of the size of the largest terms, whatever is left of them. Any dtypes.
// Use: EXPECT_TRUE(Near(actual, expected, 1e-5)).
inline testing::AssertionResult Near(const Tensor& actual, const Tensor& expected,
                                     double tolerance) {
  if (!actual.defined() || !expected.defined()) {
    return testing::AssertionFailure() << "a tensor is undefined";
  }
  if (actual.shape() != expected.shape()) {
    return testing::AssertionFailure()
           << "shape " << actual.shape().ToString() << ", expected " << expected.shape().ToString();
  }
  const Tensor a = actual.Clone().To(DType::kF64);
  const Tensor e = expected.Clone().To(DType::kF64);
  const double scale = MaxAbs(expected);
  const double limit = tolerance * scale;
  int64_t worst = -1;
  int64_t failures = 0;
  double worst_error = -1;
  for (int64_t i = 0; i < a.elements(); ++i) {
    double error = std::abs(a.data<double>()[i] - e.data<double>()[i]);
    if (std::isnan(error)) error = std::numeric_limits<double>::infinity();
    failures += error > limit ? 1 : 0;
    if (error > worst_error) {
      worst_error = error;
      worst = i;
    }
  }
  if (failures == 0) return testing::AssertionSuccess();
  return testing::AssertionFailure()
         << failures << " of " << a.elements() << " elements of a " << actual.ToString()
         << " are off; worst at " << IndexToString(a.shape(), worst) << ": "
         << a.data<double>()[worst] << ", expected " << e.data<double>()[worst] << " (error "
         << worst_error << ", allowed " << limit << " = " << tolerance << " of the largest, "
         << scale << ")";
}

// Same shape, dtype and bits.
inline testing::AssertionResult SameBits(const Tensor& actual, const Tensor& expected) {
  if (actual.shape() != expected.shape() || actual.dtype() != expected.dtype()) {
    return testing::AssertionFailure() << actual.ToString() << ", expected " << expected.ToString();
  }
  const Tensor a = actual.Clone();
  const Tensor e = expected.Clone();
  const int64_t size = DTypeSize(a.dtype());
  for (int64_t i = 0; i < a.elements(); ++i) {
    const auto* a_bytes = static_cast<const std::byte*>(a.raw()) + i * size;
    const auto* e_bytes = static_cast<const std::byte*>(e.raw()) + i * size;
    if (std::memcmp(a_bytes, e_bytes, static_cast<size_t>(size)) != 0) {
      return testing::AssertionFailure()
             << "a " << actual.ToString() << " differs first at " << IndexToString(a.shape(), i)
             << " by "
             << (MaxAbs(a) > 0 && IsFloating(a.dtype())
                     ? a.To(DType::kF64).data<double>()[i] - e.To(DType::kF64).data<double>()[i]
                     : 0.0);
    }
  }
  return testing::AssertionSuccess();
}

// ---- Gradients ----------------------------------------------------------------------------------

// Σ weights · values, f64, same shape: turns an operator's output into a scalar loss whose gradient
// with respect to the output is `weights`.
inline double WeightedSum(const Tensor& weights, const Tensor& values) {
  const Tensor w = weights.Clone();
  const Tensor v = values.Clone();
  double sum = 0;
  for (int64_t i = 0; i < w.elements(); ++i) sum += w.data<double>()[i] * v.data<double>()[i];
  return sum;
}

// One input of the function under test: f64, dense, shared with the function, which reads it anew
// on every call, and the gradient claimed for it.
struct CheckedInput {
  std::string name;
  Tensor value;
  Tensor gradient;
};

// Compares each gradient with central differences of `loss`, at up to `samples` random coordinates
// an input. The tolerance is relative to the largest difference quotient seen for that input (1 at
// least); differences in f64 are good for about 1e-8 where the loss is smooth and of size 1 to 100.
inline void ExpectGradients(const std::function<double()>& loss,
                            const std::vector<CheckedInput>& inputs, Random& random,
                            double tolerance = 1e-6, int64_t samples = 24) {
  for (const CheckedInput& input : inputs) {
    ASSERT_EQ(input.gradient.shape(), input.value.shape()) << input.name;
    const int64_t count = input.value.elements();
    double* value = input.value.data<double>();
    const double* gradient = input.gradient.data<double>();
    std::vector<int64_t> where;
    for (int64_t i = 0; i < std::min(count, samples); ++i) {
      where.push_back(count <= samples
                          ? i
                          : static_cast<int64_t>(random.NextBelow(static_cast<uint64_t>(count))));
    }
    std::vector<double> quotients;
    double scale = 1;
    for (const int64_t i : where) {
      const double kept = value[i];
      const double step = 1e-5 * std::max(1.0, std::abs(kept));
      value[i] = kept + step;
      const double above = loss();
      value[i] = kept - step;
      const double below = loss();
      value[i] = kept;
      quotients.push_back((above - below) / (2 * step));
      scale = std::max(scale, std::abs(quotients.back()));
    }
    for (size_t k = 0; k < where.size(); ++k) {
      const int64_t i = where[k];
      EXPECT_NEAR(gradient[i], quotients[k], tolerance * scale)
          << "d loss / d " << input.name << IndexToString(input.value.shape(), i);
    }
  }
}

// ---- Instruction sets ---------------------------------------------------------------------------

// Runs the body with each instruction set of this machine, names it in failures, and restores the
// one that was active.
template <class Body>
void ForEveryInstructionSet(Body&& body) {
  struct Restore {
    cpu::InstructionSet active = cpu::ActiveInstructionSet();
    ~Restore() { cpu::SetActiveInstructionSet(active); }
  } restore;
  for (const cpu::InstructionSet set : cpu::SupportedInstructionSets()) {
    SCOPED_TRACE(std::string(cpu::InstructionSetName(set)));
    cpu::SetActiveInstructionSet(set);
    body();
  }
}

}  // namespace adder::test
