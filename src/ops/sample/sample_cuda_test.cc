// sample on a CUDA device draws what the CPU draws.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <span>
#include <vector>

#include "adder/backend/cuda/cuda_test.h"
#include "adder/ops/operator_test.h"
#include "adder/ops/sample/sample.h"

namespace adder {
namespace {

using test::kCuda;
using test::OnCpu;
using SampleCudaTest = test::CudaTest;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <class T>
T OneOf(Random& random, std::initializer_list<T> values) {
  return values.begin()[random.NextBelow(values.size())];
}

// Rows of all kinds, each with options of its own.
struct Problem {
  Problem(Random& random, int64_t rows, int64_t vocab) : recent(static_cast<size_t>(rows)) {
    const Tensor wide = Tensor::Empty({rows, vocab + 3}, DType::kF32);
    FillNormal(wide, random, 0, OneOf(random, {0.7, 3.0}));
    logits = wide.Columns(1, vocab);
    for (int64_t r = 0; r < rows; ++r) {
      const std::span<float> row = Row(r);
      const auto any = [&]() -> float& { return row[random.NextBelow(row.size())]; };
      switch (random.NextBelow(12)) {
        case 0:
          any() = std::nanf("");
          break;
        case 1:
          any() = kInfinity;
          break;
        case 2:
          std::ranges::fill(row, -kInfinity);
          break;
        case 3:
          for (float& logit : row) logit = random.NextBelow(2) == 0 ? 0.0f : -0.0f;
          break;
        case 4:
        case 5:
          for (float& logit : row) logit = random.NextBelow(2) == 0 ? logit : -kInfinity;
          break;
        case 6:
        case 7:
          for (float& logit : row) logit = std::round(2 * logit) / 2;  // many ties
          break;
        default:
          break;
      }
      std::vector<int32_t>& tokens = recent[static_cast<size_t>(r)];
      tokens.resize(random.NextBelow(80));
      for (int32_t& token : tokens) {
        token = static_cast<int32_t>(random.NextBelow(static_cast<uint64_t>(vocab) + 2));
      }
      RowSampling sampling;
      SamplingOptions& options = sampling.options;
      options.temperature = OneOf(random, {0.0, 0.5, 0.8, 1.0, 3.0, 1e-300});
      const int64_t k = OneOf<int64_t>(random, {0, 0, 40, vocab});
      options.top_k = k == 0 ? 0 : static_cast<int64_t>(random.NextBelow(static_cast<uint64_t>(k)));
      options.top_p = OneOf(random, {1.0, 0.95, 0.5, 1e-9, 0.999999, 1.0 - 0x1p-53});
      options.min_p = OneOf(random, {0.0, 0.0, 0.05, 1.0});
      options.repetition_penalty = OneOf(random, {1.0, 1.3, 0.7, 1e300});
      options.repetition_window = static_cast<int64_t>(random.NextBelow(100));
      sampling.recent = tokens;
      sampling.uniform =
          OneOf(random, {0.0, 1.0 - 0x1p-53, random.NextDouble(), random.NextDouble()});
      sampling_of_rows.push_back(sampling);
    }
  }

  std::span<float> Row(int64_t r) const {
    return {static_cast<float*>(logits.row(r)), static_cast<size_t>(logits.dim(1))};
  }

  Tensor logits;
  std::vector<std::vector<int32_t>> recent;
  std::vector<RowSampling> sampling_of_rows;
};

// Whether the CPU draws the token too, or would where rounding had moved a bound a little.
bool IsDrawn(int32_t token, std::span<const float> logits, const RowSampling& sampling) {
  constexpr double kOff = 1e-9;
  for (const double p_off : {0.0, -kOff, kOff}) {
    SamplingOptions options = sampling.options;
    if (options.top_p < 1.0) options.top_p = std::clamp(options.top_p + p_off, 1e-12, 1.0);
    for (const double off : {0.0, -kOff, kOff}) {
      const double uniform = std::clamp(sampling.uniform + off, 0.0, 1.0 - 0x1p-53);
      if (SampleToken(logits, options, sampling.recent, uniform) == token) return true;
    }
  }
  return false;
}

TEST_F(SampleCudaTest, DrawsWhatTheCpuDraws) {
  Random random(1);
  int same = 0;
  int all = 0;
  for (const int64_t vocab : {1, 2, 31, 32, 33, 61, 1023, 1024, 1025, 5000, 32768, 50280, 151936}) {
    for (int i = 0; i < 4; ++i) {
      const Problem problem(random, 40, vocab);
      const Tensor expected = Tensor::Empty({40}, DType::kI32);
      Sample(problem.logits, problem.sampling_of_rows, expected);
      const Tensor there = test::OnCuda(problem.logits);
      const Tensor drawn = Tensor::Zeros({40}, DType::kI32, kCuda);
      Sample(there, problem.sampling_of_rows, drawn);
      const Tensor tokens = OnCpu(drawn);
      const Tensor again = Tensor::Zeros({40}, DType::kI32, kCuda);
      Sample(there, problem.sampling_of_rows, again);
      EXPECT_TRUE(test::SameBits(OnCpu(again), tokens));
      for (int64_t r = 0; r < 40; ++r) {
        const int32_t token = tokens.data<int32_t>()[r];
        const int32_t wanted = expected.data<int32_t>()[r];
        ++all;
        same += token == wanted ? 1 : 0;
        if (token == wanted) continue;
        ASSERT_GE(token, 0) << "row " << r << " of " << vocab << ", not " << wanted;
        ASSERT_GE(wanted, 0) << "row " << r << " of " << vocab << ", not " << token;
        const RowSampling& sampling = problem.sampling_of_rows[static_cast<size_t>(r)];
        EXPECT_TRUE(IsDrawn(token, problem.Row(r), sampling))
            << "row " << r << " of " << vocab << ": " << token << ", not " << wanted;
      }
    }
  }
  EXPECT_GT(same, all - all / 100);
}

TEST_F(SampleCudaTest, NothingToDraw) {
  const Tensor none = Tensor::Empty({0}, DType::kI32, kCuda);
  Sample(Tensor::Empty({0, 5}, DType::kF32, kCuda), {}, none);
  const Tensor tokens = Tensor::Zeros({3}, DType::kI32, kCuda);
  const std::vector<RowSampling> rows(3);
  Sample(Tensor::Empty({3, 0}, DType::kF32, kCuda), rows, tokens);
  const std::vector<int32_t> expected = {-1, -1, -1};
  EXPECT_TRUE(test::SameBits(OnCpu(tokens), Tensor::From<int32_t>({3}, expected)));
}

}  // namespace
}  // namespace adder
