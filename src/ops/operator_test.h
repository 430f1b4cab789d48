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

// What the gaps of WithRowGap hold at element i of the wide matrix: a signalling NaN, which any
// arithmetic turns into a quiet one, and not the same one everywhere, so that what was computed or
// copied over it is seen.
inline uint64_t GapBits(DType dtype, int64_t i, int64_t gap) {
  const uint64_t payload = 1 + static_cast<uint64_t>(i + 7 * gap) % 31;
  switch (dtype) {
    case DType::kF64:
      return uint64_t{0x7ff0} << 48 | payload;
    case DType::kF32:
      return uint64_t{0x7f800000} | payload;
    case DType::kF16:
      return uint64_t{0x7c00} | payload;
    default:
      return uint64_t{0x7f80} | payload;
  }
}

// A view with the same elements whose rows lie 2 · `gap` elements further apart, NaN in between, as
// a view of a wider matrix's columns is. The tensor is [rows, columns] and floating.
inline Tensor WithRowGap(const Tensor& tensor, int64_t gap) {
  const Tensor wide = Tensor::Empty({tensor.dim(0), gap + tensor.dim(1) + gap}, tensor.dtype());
  const int64_t size = DTypeSize(wide.dtype());
  for (int64_t i = 0; i < wide.elements(); ++i) {
    const uint64_t bits = GapBits(wide.dtype(), i, gap);
    std::memcpy(static_cast<std::byte*>(wide.raw()) + i * size, &bits, static_cast<size_t>(size));
  }
  const Tensor view = wide.Columns(gap, tensor.dim(1));
  view.CopyFrom(tensor);
  return view;
}

// The gaps of a view that WithRowGap made are as they were: nothing wrote past the ends of its
// rows. Use: EXPECT_TRUE(GapsUntouched(y)).
inline testing::AssertionResult GapsUntouched(const Tensor& view) {
  const int64_t width = view.stride(0);
  const int64_t columns = view.dim(1);
  const int64_t gap = (width - columns) / 2;
  if (gap == 0 || columns + 2 * gap != width) {
    return testing::AssertionFailure() << "a " << view.ToString() << " is not from WithRowGap";
  }
  const int64_t size = DTypeSize(view.dtype());
  const auto* wide = static_cast<const std::byte*>(view.raw()) - gap * size;
  for (int64_t i = 0; i < view.dim(0) * width; ++i) {
    if (i % width >= gap && i % width < gap + columns) continue;
    const uint64_t bits = GapBits(view.dtype(), i, gap);
    if (std::memcmp(wide + i * size, &bits, static_cast<size_t>(size)) != 0) {
      return testing::AssertionFailure() << "a " << view.ToString() << " was written outside: row "
                                         << i / width << ", column " << i % width - gap;
    }
  }
  return testing::AssertionSuccess();
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

// Every element of `actual` is finite and within tolerance · scale of `expected`'s, where the scale
// is that of the element's part of the tensor: part_of(i) is the number of element i's, the i-th in
// row-major order, and its scale the largest |expected| in it.
template <class PartOf>
testing::AssertionResult NearByParts(const Tensor& actual, const Tensor& expected, double tolerance,
                                     const PartOf& part_of) {
  if (!actual.defined() || !expected.defined()) {
    return testing::AssertionFailure() << "a tensor is undefined";
  }
  if (actual.shape() != expected.shape()) {
    return testing::AssertionFailure()
           << "shape " << actual.shape().ToString() << ", expected " << expected.shape().ToString();
  }
  const Tensor a = actual.Clone().To(DType::kF64);
  const Tensor e = expected.Clone().To(DType::kF64);
  std::vector<double> scales;
  for (int64_t i = 0; i < e.elements(); ++i) {
    const auto part = static_cast<size_t>(part_of(i));
    if (part >= scales.size()) scales.resize(part + 1);
    scales[part] = std::max(scales[part], std::abs(e.data<double>()[i]));
  }
  int64_t worst = -1;
  int64_t failures = 0;
  double worst_error = -1;
  double worst_excess = -1;
  for (int64_t i = 0; i < a.elements(); ++i) {
    double error = std::abs(a.data<double>()[i] - e.data<double>()[i]);
    if (std::isnan(error)) error = std::numeric_limits<double>::infinity();
    const double limit = tolerance * scales[static_cast<size_t>(part_of(i))];
    if (!(error > limit)) continue;
    ++failures;
    const double excess = error / std::max(limit, std::numeric_limits<double>::min());
    if (excess > worst_excess) {
      worst_excess = excess;
      worst_error = error;
      worst = i;
    }
  }
  if (failures == 0) return testing::AssertionSuccess();
  const double scale = scales[static_cast<size_t>(part_of(worst))];
  return testing::AssertionFailure()
         << failures << " of " << a.elements() << " elements of a " << actual.ToString()
         << " are off; worst at " << IndexToString(a.shape(), worst) << ": "
         << a.data<double>()[worst] << ", expected " << e.data<double>()[worst] << " (error "
         << worst_error << ", allowed " << tolerance * scale << " = " << tolerance
         << " of the largest, " << scale << ")";
}

// The scale is that of the whole tensor: errors of sums are of the size of the largest terms,
// whatever is left of them. Any dtypes. Use: EXPECT_TRUE(Near(actual, expected, 1e-5)).
inline testing::AssertionResult Near(const Tensor& actual, const Tensor& expected,
                                     double tolerance) {
  return NearByParts(actual, expected, tolerance, [](int64_t) { return int64_t{0}; });
}

// The scale is that of the entry of dimension `axis`: of a channel, where a large one must not hide
// a small one's errors. For tensors with enough other entries that the largest is typical.
inline testing::AssertionResult NearAlong(int axis, const Tensor& actual, const Tensor& expected,
                                          double tolerance) {
  int64_t inner = 1;
  for (int i = axis + 1; i < expected.rank(); ++i) inner *= expected.dim(i);
  const int64_t entries = expected.dim(axis);
  return NearByParts(actual, expected, tolerance, [=](int64_t i) { return i / inner % entries; });
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
