// The matrix product against plain loops: every transposition, dtype and option, rows that lie
// apart, sizes of zero and one, several threads at once.
#include "adder/backend/cpu/matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <thread>
#include <vector>

#include "adder/backend/cpu/instruction_set.h"
#include "adder/backend/cpu/parallel.h"
#include "adder/core/error.h"
#include "adder/core/random.h"

namespace adder::cpu {
namespace {

// A [rows, columns] view into a wider matrix of random values, which `dtype` holds exactly.
Tensor RandomMatrix(Random& random, int64_t rows, int64_t columns, DType dtype, int64_t gap) {
  const Tensor wide = Tensor::Empty({rows, columns + gap}, DType::kF32);
  FillNormal(wide, random, 0, 1);
  return wide.To(dtype).Clone().Columns(0, columns);
}

double At(const Tensor& matrix, bool transpose, int64_t row, int64_t column) {
  if (transpose) std::swap(row, column);
  const int64_t i = row * matrix.stride(0) + column;
  switch (matrix.dtype()) {
    case DType::kF32:
      return matrix.data<float>()[i];
    case DType::kBF16:
      return static_cast<double>(static_cast<float>(matrix.data<BFloat16>()[i]));
    default:
      return static_cast<double>(static_cast<float>(matrix.data<Half>()[i]));
  }
}

struct Case {
  int64_t M, N, K;
  DType a, b, c;
  MatMulOptions options;
  bool bias;
  int64_t gap;
};

void Check(Random& random, const Case& t) {
  const auto& [M, N, K, a_type, b_type, c_type, options, with_bias, gap] = t;
  const Tensor A = options.transpose_A ? RandomMatrix(random, K, M, a_type, gap)
                                       : RandomMatrix(random, M, K, a_type, gap);
  const Tensor B = options.transpose_B ? RandomMatrix(random, N, K, b_type, gap)
                                       : RandomMatrix(random, K, N, b_type, gap);
  const Tensor C = RandomMatrix(random, M, N, c_type, gap);
  const Tensor before = C.Clone();
  const Tensor bias =
      with_bias ? RandomMatrix(random, 1, N, DType::kF32, 0).Reshape({N}) : Tensor();
  MatMul(A, B, bias, C, options);
  // The result's rounding, and that of f32 sums of K ≤ 70 products of size 1, in any order.
  const double rounding = c_type == DType::kBF16  ? 1.0 / 256
                          : c_type == DType::kF16 ? 1.0 / 2048
                                                  : 0.0;
  for (int64_t m = 0; m < M; ++m) {
    for (int64_t n = 0; n < N; ++n) {
      double expected = options.accumulate ? At(before, false, m, n) : 0;
      if (bias) expected += bias.data<float>()[n];
      for (int64_t k = 0; k < K; ++k) {
        expected += At(A, options.transpose_A, m, k) * At(B, options.transpose_B, k, n);
      }
      ASSERT_NEAR(At(C, false, m, n), expected, rounding * std::abs(expected) + 2e-5)
          << "at " << m << ", " << n << ": " << A.ToString() << " transposed "
          << options.transpose_A << " x " << B.ToString() << " transposed " << options.transpose_B
          << " bias " << with_bias << " accumulate " << options.accumulate << " -> " << C.ToString()
          << " gap " << gap;
    }
  }
}

TEST(MatMulTest, AgreesWithLoops) {
  Random random(1);
  constexpr DType kTypes[][3] = {
      {DType::kF32, DType::kF32, DType::kF32},   {DType::kBF16, DType::kBF16, DType::kBF16},
      {DType::kBF16, DType::kBF16, DType::kF32}, {DType::kF16, DType::kF16, DType::kF16},
      {DType::kF16, DType::kF16, DType::kF32},   {DType::kF32, DType::kBF16, DType::kBF16},
      {DType::kBF16, DType::kF32, DType::kF32},  {DType::kF32, DType::kF32, DType::kF16}};
  for (const auto& [M, N, K] : {std::tuple<int64_t, int64_t, int64_t>{1, 1, 1},
                                {5, 1, 7},
                                {1, 9, 4},
                                {33, 17, 70},
                                {16, 64, 3}}) {
    for (const auto& types : kTypes) {
      // Each shape is compiled anew by oneDNN: all options for one, every fifth for the others.
      for (int bits = 0; bits < 32; bits += M == 33 ? 1 : 5) {
        const MatMulOptions options = {.transpose_A = (bits & 1) != 0,
                                       .transpose_B = (bits & 2) != 0,
                                       .accumulate = (bits & 4) != 0};
        Check(random, {M, N, K, types[0], types[1], types[2], options, (bits & 8) != 0,
                       (bits & 16) != 0 ? 3 : 0});
        if (HasFatalFailure()) return;
      }
    }
  }
}

// The way that a machine of each instruction set takes: without AVX-512 bf16 goes in f32 blocks.
TEST(MatMulTest, AgreesWithLoopsOnEveryInstructionSet) {
  struct Restore {
    InstructionSet active = ActiveInstructionSet();
    ~Restore() { SetActiveInstructionSet(active); }
  } restore;
  Random random(4);
  for (const InstructionSet set : SupportedInstructionSets()) {
    SCOPED_TRACE(InstructionSetName(set));
    SetActiveInstructionSet(set);
    for (const DType result : {DType::kBF16, DType::kF32}) {
      for (const bool accumulate : {false, true}) {
        Check(random, {19,
                       33,
                       50,
                       DType::kBF16,
                       DType::kBF16,
                       result,
                       {.transpose_B = true, .accumulate = accumulate},
                       true,
                       3});
      }
    }
  }
}

TEST(MatMulTest, EmptySizes) {
  Random random(2);
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const bool accumulate : {false, true}) {
      for (const bool bias : {false, true}) {
        const MatMulOptions options = {.accumulate = accumulate};
        Check(random, {3, 4, 0, type, type, type, options, bias, 2});
        Check(random, {0, 4, 5, type, type, type, options, bias, 0});
        Check(random, {3, 0, 5, type, type, type, options, bias, 0});
      }
    }
  }
}

// Within a parallel region and from threads of their own, as a server may.
TEST(MatMulTest, RunsFromSeveralThreadsAtOnce) {
  Random random(3);
  const Tensor A = RandomMatrix(random, 40, 50, DType::kF32, 0);
  const Tensor B = RandomMatrix(random, 50, 60, DType::kF32, 0);
  const Tensor expected = Tensor::Empty({40, 60}, DType::kF32);
  MatMul(A, B, Tensor(), expected, {});
  const auto differs = [&] {
    const Tensor C = Tensor::Empty({40, 60}, DType::kF32);
    MatMul(A, B, Tensor(), C, {});
    for (int64_t i = 0; i < C.elements(); ++i) {
      if (std::abs(C.data<float>()[i] - expected.data<float>()[i]) > 1e-5f) return 1;
    }
    return 0;
  };
  std::vector<int> failures(4, -1);
  ParallelFor(4, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) failures[static_cast<size_t>(i)] = differs();
  });
  EXPECT_EQ(failures, std::vector<int>(4, 0));
  failures.assign(4, -1);
  std::vector<std::thread> threads;
  threads.reserve(failures.size());
  for (int& failure : failures) threads.emplace_back([&failure, &differs] { failure = differs(); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, std::vector<int>(4, 0));
}

TEST(MatMulTest, RefusesMatricesThatDisagree) {
  const auto zeros = [](const Shape& shape) { return Tensor::Zeros(shape, DType::kF32); };
  EXPECT_NO_THROW(MatMul(zeros({2, 3}), zeros({3, 4}), zeros({4}), zeros({2, 4}), {}));
  EXPECT_THROW(MatMul(zeros({2, 3}), zeros({4, 3}), {}, zeros({2, 4}), {}), Error);
  EXPECT_THROW(MatMul(zeros({3, 2}), zeros({3, 4}), {}, zeros({2, 4}), {}), Error);
  EXPECT_THROW(MatMul(zeros({2, 3}), zeros({3, 4}), {}, zeros({2, 5}), {}), Error);
  EXPECT_THROW(MatMul(zeros({2, 3}), zeros({3, 4}), zeros({3}), zeros({2, 4}), {}), Error);
  EXPECT_THROW(MatMul(zeros({2, 3}), zeros({3, 4}).To(DType::kF64), {}, zeros({2, 4}), {}), Error);
  EXPECT_THROW(MatMul({}, zeros({3, 4}), {}, zeros({2, 4}), {}), Error);
  EXPECT_THROW(MatMul(zeros({6}), zeros({3, 4}), {}, zeros({2, 4}), {}), Error);
}

}  // namespace
}  // namespace adder::cpu
