// adamw on the CPU: elements are shared between threads.
#include <algorithm>
#include <cmath>
#include <vector>

#include "adder/backend/cpu/parallel.h"
#include "adder/ops/adamw/adamw_backends.h"
#include "adder/ops/adamw/adamw_kernel.h"

namespace adder::cpu {
namespace {

// Threads take whole blocks of elements, so that none shares a cache line with another.
constexpr int64_t kElementBlock = 64;
// Elements summed by one call of the norm's kernel; the calls' sums are added in order.
constexpr int64_t kNormBlock = 32768;

}  // namespace

void AdamW(const AdamWOptions& options, const Tensor& gradient, const Tensor& weight,
           const Tensor& m, const Tensor& v, const Tensor& compute_weight) {
  const auto step = static_cast<double>(options.step);
  AdamWArguments shared;
  shared.gradient_scale = static_cast<float>(options.gradient_scale);
  shared.beta1 = static_cast<float>(options.beta1);
  shared.one_minus_beta1 = static_cast<float>(1 - options.beta1);
  shared.beta2 = static_cast<float>(options.beta2);
  shared.one_minus_beta2 = static_cast<float>(1 - options.beta2);
  shared.decay = static_cast<float>(options.lr * options.weight_decay);
  shared.rate = static_cast<float>(options.lr / (1 - std::pow(options.beta1, step)));
  shared.second_correction = static_cast<float>(1 / (1 - std::pow(options.beta2, step)));
  shared.eps = static_cast<float>(options.eps);

  const int64_t elements = weight.elements();
  const int64_t blocks = (elements + kElementBlock - 1) / kElementBlock;
  ParallelFor(blocks, kElementsPerThread / kElementBlock,
              [&](int64_t first_block, int64_t last_block, int /*thread*/) {
                const int64_t begin = first_block * kElementBlock;
                AdamWArguments arguments = shared;
                arguments.gradient = gradient.data<float>() + begin;
                arguments.weight = weight.data<float>() + begin;
                arguments.m = m.data<float>() + begin;
                arguments.v = v.data<float>() + begin;
                if (compute_weight) {
                  arguments.compute_dtype = compute_weight.dtype();
                  arguments.compute_weight = static_cast<std::byte*>(compute_weight.raw()) +
                                             begin * DTypeSize(compute_weight.dtype());
                }
                arguments.elements = std::min(elements, last_block * kElementBlock) - begin;
                AdamWKernel(arguments);
              });
}

double GradientNorm(std::span<const Tensor> gradients) {
  double total = 0;
  std::vector<double> sums;
  for (const Tensor& gradient : gradients) {
    const float* values = gradient.data<float>();
    const int64_t elements = gradient.elements();
    const int64_t blocks = (elements + kNormBlock - 1) / kNormBlock;
    sums.resize(static_cast<size_t>(blocks));
    ParallelFor(blocks, 1, [&](int64_t first_block, int64_t last_block, int /*thread*/) {
      for (int64_t block = first_block; block < last_block; ++block) {
        const int64_t begin = block * kNormBlock;
        SumOfSquaresKernel({values + begin, std::min(kNormBlock, elements - begin),
                            &sums[static_cast<size_t>(block)]});
      }
    });
    for (const double sum : sums) total += sum;
  }
  return std::sqrt(total);
}

void ClippedAdamW(const AdamWOptions& options, double clip, const Tensor& losses,
                  std::span<const AdamWTensors> tensors, const Tensor& scalars,
                  const Tensor& result) {
  double nats = 0;
  for (int64_t i = 0; i < losses.elements(); ++i) {
    nats += static_cast<double>(losses.data<float>()[i]);
  }
  std::vector<Tensor> gradients;
  gradients.reserve(tensors.size());
  for (const AdamWTensors& t : tensors) gradients.push_back(t.gradient);
  const double norm = cpu::GradientNorm(gradients);
  result.data<double>()[0] = nats;
  result.data<double>()[1] = norm;
  if (!std::isfinite(nats) || !std::isfinite(norm)) return;
  AdamWOptions step = options;
  step.lr = scalars.data<double>()[AdamWScalar::kRate];
  step.step = static_cast<int64_t>(scalars.data<double>()[AdamWScalar::kStep]);
  step.gradient_scale = clip > 0 && norm > clip ? clip / norm : 1;
  for (const AdamWTensors& t : tensors) {
    cpu::AdamW(OptionsOf(step, t), t.gradient, t.weight, t.m, t.v, t.compute_weight);
  }
}

}  // namespace adder::cpu
