// Measures the roofs: short rounds of a kernel on every thread, the best counts, because whatever
// else runs on the machine can only make a round slower.
#include "adder/backend/cpu/roofs.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <vector>

#include "adder/backend/cpu/matmul.h"
#include "adder/backend/cpu/parallel.h"
#include "adder/backend/cpu/roofs_kernel.h"
#include "adder/backend/cpu/vector_math.h"
#include "adder/core/tensor.h"

namespace adder::cpu {
namespace {

constexpr int kLeastRounds = 3;
constexpr int64_t kMemoryFloats = int64_t{64} << 20;  // 256 MB: past every cache
constexpr int64_t kCachedFloats = 2048;               // 8 KB
constexpr int64_t kMatMulSize = 1024;

// Sets the team's size for the time of a measurement.
class ThreadsScope {
 public:
  explicit ThreadsScope(int threads) : before_(ThreadCount()) { SetThreadCount(threads); }
  ~ThreadsScope() { SetThreadCount(before_); }
  ThreadsScope(const ThreadsScope&) = delete;
  ThreadsScope& operator=(const ThreadsScope&) = delete;

 private:
  int before_;
};

// round() does some work and returns how much. The best rate, after one round to warm up.
double BestRate(double seconds, const std::function<double()>& round) {
  using Clock = std::chrono::steady_clock;
  round();
  double best = 0;
  const Clock::time_point start = Clock::now();
  double elapsed = 0;
  for (int i = 0; i < kLeastRounds || elapsed < seconds; ++i) {
    const Clock::time_point before = Clock::now();
    const double work = round();
    const Clock::time_point after = Clock::now();
    best = std::max(best, work / std::chrono::duration<double>(after - before).count());
    elapsed = std::chrono::duration<double>(after - start).count();
  }
  return best;
}

double MeasureArithmetic(bool bf16, int threads, double seconds) {
  constexpr int64_t kSteps = 400'000;
  std::vector<double> operations(static_cast<size_t>(threads));
  std::vector<float> sinks(operations.size());
  return BestRate(seconds, [&] {
    ParallelFor(threads, 1, [&](int64_t begin, int64_t, int) {
      double done = 0;
      float sink = 0;
      ArithmeticRoofKernel({.bf16 = bf16, .steps = kSteps, .operations = &done, .sink = &sink});
      operations[static_cast<size_t>(begin)] = done;
      sinks[static_cast<size_t>(begin)] = sink;
    });
    double sum = 0;
    for (const double done : operations) sum += done;
    return sum;
  });
}

double MeasureExp(int threads, double seconds) {
  constexpr int64_t kRepetitions = 2000;
  const Tensor x = Tensor::Empty({threads, kCachedFloats}, DType::kF32);
  for (int64_t i = 0; i < x.elements(); ++i) {
    x.data<float>()[i] = -10.0f + static_cast<float>(i % kCachedFloats) * 0.01f;
  }
  const Tensor y = Tensor::Empty(x.shape(), DType::kF32);
  return BestRate(seconds, [&] {
    ParallelFor(threads, 1, [&](int64_t begin, int64_t, int) {
      for (int64_t i = 0; i < kRepetitions; ++i) {
        VectorMath({.function = VectorFunction::kExp,
                    .x = x.data<float>() + begin * kCachedFloats,
                    .y = y.data<float>() + begin * kCachedFloats,
                    .count = kCachedFloats});
      }
    });
    return static_cast<double>(threads * kRepetitions * kCachedFloats);
  });
}

double MeasureRead(int threads, double seconds) {
  const Tensor x = Tensor::Zeros({kMemoryFloats}, DType::kF32);
  std::vector<float> sinks(static_cast<size_t>(threads));
  return BestRate(seconds, [&] {
    ParallelFor(kMemoryFloats, 1, [&](int64_t begin, int64_t end, int thread) {
      ReadRoofKernel({.x = x.data<float>() + begin,
                      .count = end - begin,
                      .sink = &sinks[static_cast<size_t>(thread)]});
    });
    return static_cast<double>(x.bytes());
  });
}

double MeasureCopy(double seconds) {
  constexpr int64_t kLine = kStorageAlignment / sizeof(float);
  const Tensor x = Tensor::Zeros({kMemoryFloats}, DType::kF32);
  const Tensor y = Tensor::Zeros({kMemoryFloats}, DType::kF32);
  return BestRate(seconds, [&] {
    ParallelFor(kMemoryFloats / kLine, 1, [&](int64_t begin, int64_t end, int) {
      CopyRoofKernel({.x = x.data<float>() + begin * kLine,
                      .y = y.data<float>() + begin * kLine,
                      .count = (end - begin) * kLine});
    });
    return static_cast<double>(x.bytes() + y.bytes());
  });
}

double MeasureMatMul(DType dtype, double seconds) {
  const Tensor A = Tensor::Zeros({kMatMulSize, kMatMulSize}, dtype);
  const Tensor B = Tensor::Zeros({kMatMulSize, kMatMulSize}, dtype);
  const Tensor C = Tensor::Empty({kMatMulSize, kMatMulSize}, DType::kF32);
  return BestRate(seconds, [&] {
    MatMul(A, B, Tensor(), C, {.transpose_B = true});
    return 2.0 * kMatMulSize * kMatMulSize * kMatMulSize;
  });
}

}  // namespace

std::span<const Roof> AllRoofs() {
  static constexpr std::array kAll = {Roof::kF32Fma,    Roof::kBF16Dot, Roof::kExp,
                                      Roof::kRead,      Roof::kCopy,    Roof::kF32MatMul,
                                      Roof::kBF16MatMul};
  return kAll;
}

std::string_view RoofName(Roof roof) {
  switch (roof) {
    case Roof::kF32Fma:
      return "f32_fma";
    case Roof::kBF16Dot:
      return "bf16_dot";
    case Roof::kExp:
      return "exp";
    case Roof::kRead:
      return "memory_read";
    case Roof::kCopy:
      return "memory_copy";
    case Roof::kF32MatMul:
      return "f32_matmul";
    case Roof::kBF16MatMul:
      return "bf16_matmul";
  }
  return "unknown";
}

std::string_view RoofUnit(Roof roof) {
  switch (roof) {
    case Roof::kExp:
      return "exp/s";
    case Roof::kRead:
    case Roof::kCopy:
      return "B/s";
    default:
      return "FLOP/s";
  }
}

double MeasureRoof(Roof roof, int threads, double seconds) {
  const ThreadsScope scope(threads);
  switch (roof) {
    case Roof::kF32Fma:
      return MeasureArithmetic(false, threads, seconds);
    case Roof::kBF16Dot:
      return MeasureArithmetic(true, threads, seconds);
    case Roof::kExp:
      return MeasureExp(threads, seconds);
    case Roof::kRead:
      return MeasureRead(threads, seconds);
    case Roof::kCopy:
      return MeasureCopy(seconds);
    case Roof::kF32MatMul:
      return MeasureMatMul(DType::kF32, seconds);
    case Roof::kBF16MatMul:
      return MeasureMatMul(DType::kBF16, seconds);
  }
  return 0;
}

}  // namespace adder::cpu
