// elementwise on CUDA: memory-bound, 16 bytes a thread where rows allow it.
#include "adder/backend/cuda/numbers.cuh"
#include "adder/backend/cuda/runtime.cuh"
#include "adder/ops/elementwise/elementwise_cuda.h"

namespace adder::cuda {
namespace {

constexpr int kThreads = 256;

unsigned BlocksFor(int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

__device__ int64_t ThreadOfGrid() {
  return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}

// A row holds `vectors` vectors; thread i of the grid adds vector i of all.
template <class T, int kVector>
__global__ void __launch_bounds__(kThreads) AddToKernel(AddToArguments a, int64_t vectors) {
  const int64_t i = ThreadOfGrid();
  if (i >= a.rows * vectors) return;
  const bool small = a.rows * vectors <= 0xffffffff;  // a long division is slow
  const int64_t row =
      small ? static_cast<uint32_t>(i) / static_cast<uint32_t>(vectors) : i / vectors;
  const int64_t column = (i - row * vectors) * kVector;
  T* to = static_cast<T*>(a.target.data) + row * a.target.stride + column;
  const T* from = static_cast<const T*>(a.source.data) + row * a.source.stride + column;
  float sum[kVector], more[kVector];
  Load<kVector>(to, sum);
  Load<kVector>(from, more);
#pragma unroll
  for (int v = 0; v < kVector; ++v) sum[v] += more[v];
  Store<kVector>(sum, to);
}

__global__ void __launch_bounds__(kThreads) AddProductKernel(AddProductArguments a) {
  const int64_t i = ThreadOfGrid();
  if (i < a.elements) a.sum[i] = fmaf(a.a[i], a.b[i], a.sum[i]);
}

__global__ void __launch_bounds__(kThreads) NegativeExpKernel(NegativeExpArguments a) {
  const int64_t i = ThreadOfGrid();
  if (i < a.elements) a.y[i] = -expf(a.x[i]);
}

}  // namespace

void AddTo(const AddToArguments& a) {
  if (a.rows == 0 || a.columns == 0) return;
  const ProfilerRange range("add to");
  Context& context = ContextOf(a.device);
  VisitActivation(a.target.dtype, [&](auto element) {
    using T = decltype(element);
    constexpr int kVector = 16 / sizeof(T);
    const bool aligned = a.columns % kVector == 0 &&
                         AlignedTo(16, a.target.data, a.target.stride, sizeof(T)) &&
                         AlignedTo(16, a.source.data, a.source.stride, sizeof(T));
    if (aligned) {
      const int64_t vectors = a.columns / kVector;
      AddToKernel<T, kVector>
          <<<BlocksFor(a.rows * vectors), kThreads, 0, context.stream()>>>(a, vectors);
    } else {
      AddToKernel<T, 1>
          <<<BlocksFor(a.rows * a.columns), kThreads, 0, context.stream()>>>(a, a.columns);
    }
  });
  CheckLaunch("add to");
}

void AddProduct(const AddProductArguments& a) {
  if (a.elements == 0) return;
  const ProfilerRange range("add product");
  AddProductKernel<<<BlocksFor(a.elements), kThreads, 0, ContextOf(a.device).stream()>>>(a);
  CheckLaunch("add product");
}

void NegativeExp(const NegativeExpArguments& a) {
  if (a.elements == 0) return;
  const ProfilerRange range("negative exp");
  NegativeExpKernel<<<BlocksFor(a.elements), kThreads, 0, ContextOf(a.device).stream()>>>(a);
  CheckLaunch("negative exp");
}

}  // namespace adder::cuda
