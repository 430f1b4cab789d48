// What a model's selective layers did with each token: how strongly they wrote it into their
// memory, and how much of the older memory they kept (see `adder selection`).
#pragma once

#include <limits>
#include <vector>

#include "adder/core/tensor.h"

namespace adder {

struct SelectionTrace {
  // Per layer with a selective SSM, f32 [rows, d_inner] (Mamba-2: [rows, heads]): the step
  // dt' = softplus(dt + dt_bias), limited.
  std::vector<Tensor> step;
  // Of the same shapes: the mean over the states of the decay exp(dt'·A).
  std::vector<Tensor> decay;

  // Appends a layer, from any device into host memory. dt: [rows, channels] of any activation
  // dtype; dt_bias: f32 [channels]; A: f32 [channels, d_state], or [channels] where all states of a
  // channel share it.
  void Append(const Tensor& dt, const Tensor& dt_bias, const Tensor& A, double dt_min = 0,
              double dt_max = std::numeric_limits<double>::infinity());
};

}  // namespace adder
