// adamw: one step of Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2).
//
//     g = gradient · gradient_scale
//     m = beta1·m + (1 - beta1)·g            v = beta2·v + (1 - beta2)·g²
//     w = w - lr·(weight_decay·w + (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps))
#pragma once

#include <cstdint>
#include <span>

#include "adder/core/tensor.h"

namespace adder {

struct AdamWOptions {
  double lr = 1e-3;  // this step's rate
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
  double gradient_scale = 1.0;  // clipping, loss scale, 1 / accumulated batches
  int64_t step = 1;             // 1 for the first
};

// All tensors dense, of one shape, f32 (the reference: f64). weight, m and v are updated in place;
// `compute_weight` (bf16 or f16, or not given) gets a rounded copy of the new weight in the same
// pass. The five must not share memory, which is checked. A finite g past ±2⁶³ counts as that, so
// that its square does not overflow and poison v for good (the reference has no such limit); a NaN
// or infinite g makes its weight NaN. Throws kInvalidArgument when shapes or dtypes disagree,
// kUnsupported for a device without this operator.
void AdamW(const AdamWOptions& options, const Tensor& gradient, const Tensor& weight,
           const Tensor& m, const Tensor& v, const Tensor& compute_weight);

// One tensor of a step over many; as AdamW takes them.
struct AdamWTensors {
  Tensor gradient, weight, m, v;
  Tensor compute_weight;  // may be undefined
  double lr_scale = 1;    // its rate is options.lr · lr_scale
  double weight_decay = 0;
};
// The same step for all of them, in one pass over all: each with its own rate and decay
// (options.weight_decay is not read). All are on one device.
void AdamWAll(const AdamWOptions& options, std::span<const AdamWTensors> tensors);

// All that follows the backward in a training step, with no number that the host would have to wait
// for or to give: what a device can repeat as recorded work (see Module::Record).
//
//     result = {Σ losses, norm}, norm as GradientNorm has it; both in double, in an order that
//              depends on the sizes only
//     AdamWAll, with gradient_scale = clip / norm where norm > clip > 0, and 1 elsewhere
//
// Nothing but the result changes where one of its numbers is not finite, or where a kernel met
// before this one what it could not compute with (see Module::Synchronize). losses: f32 [rows],
// dense. scalars: f64 [4], as AdamWScalars makes them, which stand for options.lr and .step;
// options.gradient_scale is not read either. result: f64 [2]. All tensors are on one device.
void ClippedAdamW(const AdamWOptions& options, double clip, const Tensor& losses,
                  std::span<const AdamWTensors> tensors, const Tensor& scalars,
                  const Tensor& result);
// What differs from step to step, in host memory: lr, step, 1 / (1 - beta1^step) and
// 1 / (1 - beta2^step). Throws kInvalidArgument for options that are not usable.
Tensor AdamWScalars(const AdamWOptions& options);

// sqrt(Σ over all gradients' squares), accumulated in double, in an order that depends on the sizes
// only. f32 (the reference: f64), dense, all on one device.
double GradientNorm(std::span<const Tensor> gradients);

// Zero to all elements of all tensors: dense, f32, on one device. What clears gradients.
void SetZeroAll(std::span<const Tensor> tensors);

// Each `to` becomes its `from`, rounded to nearest even: dense tensors of one shape, f32 and bf16
// or f16, all on one device. What refreshes the weights that are computed with.
struct RoundedCopy {
  Tensor from, to;
};
void RoundAll(std::span<const RoundedCopy> copies);

namespace reference {
void AdamW(const AdamWOptions& options, const Tensor& gradient, const Tensor& weight,
           const Tensor& m, const Tensor& v, const Tensor& compute_weight);
double GradientNorm(std::span<const Tensor> gradients);
}  // namespace reference

}  // namespace adder
