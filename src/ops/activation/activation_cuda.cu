// activation on CUDA: each thread computes 16 bytes of a row. The function is looked at on the
// device, where it is the same for all threads: these kernels wait for memory.
#include <algorithm>

#include "adder/backend/cuda/launch.cuh"
#include "adder/backend/cuda/numbers.cuh"
#include "adder/ops/activation/activation_cuda.h"

namespace adder::cuda {
namespace {

using cpu::ElementwiseFunction;

constexpr int kThreads = 256;

// Φ(x), the normal distribution, and φ(x), its density: the CPU's approximation. The lower tail is
// the density times a polynomial in 1 / (1 + 0.4·|x|/√2), to relative 1.3e-8; the upper one is what
// is left of 1.
struct Normal {
  float distribution, density;
};
__device__ Normal NormalOf(float x) {
  const float size = fabsf(x);
  const float t = Reciprocal(fmaf(size, 0.28284273f, 1.0f));
  float p = fmaf(t, -0x1.aa6c0ep-7f, 0x1.6e3dd2p-4f);
  p = fmaf(t, p, -0x1.d11b7ap-3f);
  p = fmaf(t, p, 0x1.f47182p-3f);
  p = fmaf(t, p, -0x1.e3d4acp-4f);
  p = fmaf(t, p, 0x1.f92ecep-4f);
  p = fmaf(t, p, 0x1.1b377cp-4f);
  p = fmaf(t, p, 0x1.b47578p-4f);
  p = fmaf(t, p, 0x1.cd22a8p-4f);
  p = fmaf(t, p, 0x1.ce39e0p-4f);
  const float e = Exp2(size * size * (-0.5f * kLog2E));
  const float tail = e * t * p;
  return {x < 0 ? tail : 1.0f - tail, e * 0.398942280f};
}

// (1 + tanh(u)) / 2 is sigmoid(2u).
constexpr float kTwoRootTwoOverPi = 1.59576912f;
__device__ float TanhSigmoid(float x) {
  return Sigmoid(x * fmaf(x * x, 0.044715f * kTwoRootTwoOverPi, kTwoRootTwoOverPi));
}
__device__ float GeluTanhSlope(float x) {
  const float sigmoid = TanhSigmoid(x);
  const float slope = fmaf(x * x, 3 * 0.044715f * kTwoRootTwoOverPi, kTwoRootTwoOverPi);
  // Far out x · slope is infinite where the factor is 0.
  return sigmoid + (fabsf(x) < 16.0f ? x * slope * sigmoid * (1.0f - sigmoid) : 0.0f * x);
}

__device__ float SiluSlope(float x, float sigmoid) {
  return sigmoid * fmaf(x, 1.0f - sigmoid, 1.0f);
}

struct Results {
  float first, second;
};
__device__ Results Evaluate(ElementwiseFunction function, float a, float b, float c) {
  switch (function) {
    case ElementwiseFunction::kGelu:
      return {a * NormalOf(a).distribution, 0};
    case ElementwiseFunction::kGeluTanh:
      return {a * TanhSigmoid(a), 0};
    case ElementwiseFunction::kSilu:
      return {a * Sigmoid(a), 0};
    case ElementwiseFunction::kGeluBackward: {
      const Normal normal = NormalOf(a);
      return {b * fmaf(a, normal.density, normal.distribution), 0};
    }
    case ElementwiseFunction::kGeluTanhBackward:
      return {b * GeluTanhSlope(a), 0};
    case ElementwiseFunction::kSiluBackward:
      return {b * SiluSlope(a, Sigmoid(a)), 0};
    case ElementwiseFunction::kSwiGlu:
      return {a * Sigmoid(a) * b, 0};
    case ElementwiseFunction::kSwiGluBackward: {
      const float sigmoid = Sigmoid(a);
      return {c * b * SiluSlope(a, sigmoid), c * (a * sigmoid)};
    }
    case ElementwiseFunction::kAdd:
      return {a + b, 0};
  }
  return {};
}

// A row holds `vectors` vectors; thread i of the grid takes vector i of all.
template <class T, int kVector>
__global__ void __launch_bounds__(kThreads)
    ElementwiseKernel(ElementwiseArguments a, int64_t vectors) {
  LetNextKernelBegin();
  WaitForKernelsBefore();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= a.rows * vectors) return;
  const bool small = a.rows * vectors <= 0xffffffff;  // a long division is slow
  const int64_t row =
      small ? static_cast<uint32_t>(i) / static_cast<uint32_t>(vectors) : i / vectors;
  const int64_t column = (i - row * vectors) * kVector;
  float in[3][kVector] = {};
#pragma unroll
  for (int k = 0; k < 3; ++k) {
    if (a.in[k].data == nullptr) continue;
    Load<kVector>(static_cast<const T*>(a.in[k].data) + row * a.in[k].stride + column, in[k]);
  }
  float out[2][kVector];
#pragma unroll
  for (int v = 0; v < kVector; ++v) {
    const Results results = Evaluate(a.function, in[0][v], in[1][v], in[2][v]);
    out[0][v] = results.first;
    out[1][v] = results.second;
  }
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    if (a.out[k].data == nullptr) continue;
    Store<kVector>(out[k], static_cast<T*>(a.out[k].data) + row * a.out[k].stride + column);
  }
}

}  // namespace

void Elementwise(const ElementwiseArguments& arguments) {
  if (arguments.rows == 0 || arguments.columns == 0) return;
  const ProfilerRange range("activation");
  Context& context = ContextOf(arguments.device);
  ElementwiseArguments a = arguments;
  // Matrices without gaps are one long row.
  bool dense = true;
  const auto each = [&](auto&& visit) {
    for (Rows& rows : a.in) visit(rows);
    for (Rows& rows : a.out) visit(rows);
  };
  each([&](const Rows& rows) {
    dense = dense && (rows.data == nullptr || rows.stride == a.columns);
  });
  if (dense) {
    a.columns *= a.rows;
    a.rows = 1;
    each([&](Rows& rows) { rows.stride = a.columns; });
  }
  VisitActivation(a.in[0].dtype, [&](auto element) {
    using T = decltype(element);
    constexpr int kVector = 16 / sizeof(T);
    bool aligned = a.columns % kVector == 0;
    each([&](const Rows& rows) {
      // The only row's stride is no matter.
      aligned = aligned && AlignedTo(16, rows.data, a.rows == 1 ? 0 : rows.stride, sizeof(T));
    });
    const int64_t vectors = aligned ? a.columns / kVector : a.columns;
    const auto blocks = static_cast<unsigned>((a.rows * vectors + kThreads - 1) / kThreads);
    LaunchOverlapped(context, {.name = "activation", .grid = blocks, .block = kThreads},
                     aligned ? ElementwiseKernel<T, kVector> : ElementwiseKernel<T, 1>, a, vectors);
  });
}

}  // namespace adder::cuda
