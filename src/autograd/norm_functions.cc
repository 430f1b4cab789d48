// The recorded norms.
#include "adder/autograd/functions.h"
#include "adder/autograd/recording.h"
#include "adder/ops/gated_rms_norm/gated_rms_norm.h"
#include "adder/ops/layer_norm/layer_norm.h"
#include "adder/ops/rms_norm/rms_norm.h"

namespace adder {
namespace {

using recording::CheckRank;
using recording::Compute;
using recording::Grad;
using recording::Records;

// A norm of r = x + residual, given by its operator: forward(y, residual_out) and
// backward(r, dy, d_residual_out, dr, dx), each of whose last three may be undefined. Where r is x,
// which then needs no copy, dr is x's gradient.
template <class Forward, class Backward>
Variable NormOfSum(Tape* tape, bool records, const Variable& x, const Variable& residual,
                   DType y_dtype, Variable* sum, const Forward& forward, const Backward& backward) {
  const Tensor y = Tensor::Empty(x.value().shape(), y_dtype, x.value().device());
  Variable result(y, records);
  if (!residual.defined() && x.value().dtype() == DType::kF32) {
    forward(y, Tensor());
    if (records) {
      tape->Record([r = x.value(), backward, dx = x.gradient(), dy = result.gradient()] {
        const Tensor seed = dy.value();
        if (!seed.defined()) return;
        if (!dx.wanted()) return backward(r, seed, Tensor(), Tensor(), Tensor());
        // What later consumers of x collected is the gradient of r that arrives beside dy.
        dx.Collect([&](const Tensor& target, bool accumulate) {
          backward(r, seed, accumulate ? target : Tensor(), target, Tensor());
        });
      });
    }
    if (sum != nullptr) *sum = x;
    return result;
  }

  Tensor residual_out;
  if (records || sum != nullptr) {
    residual_out = Tensor::Empty(x.value().shape(), DType::kF32, x.value().device());
  }
  forward(y, residual_out);
  const Variable r(residual_out, records && residual_out.defined());
  if (records) {
    tape->Record([r = r.value(), backward, dx = x.gradient(), d_residual = residual.gradient(),
                  dy = result.gradient(), dr = r.gradient()] {
      Tensor seed = dy.value();
      const Tensor sum_seed = dr.value();
      if (!seed.defined() && !sum_seed.defined()) return;
      if (!seed.defined()) seed = Tensor::Zeros(r.shape(), DType::kF32, r.device());
      const Contribution to_x(dx);
      const Contribution to_residual(d_residual);
      backward(r, seed, sum_seed, to_residual.target(), to_x.target());
      to_x.Add();
      to_residual.Add();
    });
  }
  if (sum != nullptr) *sum = r;
  return result;
}

Variable RmsNorm(Tape* tape, const Variable& x, const Variable& residual, const Parameter* weight,
                 double eps, DType y_dtype, Variable* sum) {
  CheckRank(x, 2, "rms_norm: x");
  const RmsNormInputs inputs{.x = x.value(),
                             .residual = residual.value(),
                             .weight = Compute(weight),
                             .eps = static_cast<float>(eps)};
  return NormOfSum(
      tape, Records(tape, x, residual, weight), x, residual, y_dtype, sum,
      [&](const Tensor& y, const Tensor& residual_out) {
        RmsNorm(inputs, {y, residual_out});
      },
      [weight = inputs.weight, eps = inputs.eps, dweight = Grad(weight)](
          const Tensor& r, const Tensor& dy, const Tensor& d_residual_out, const Tensor& dr,
          const Tensor& dx) {
        RmsNormBackward(r, weight, eps, dy, d_residual_out,
                        {.dr = dr, .dx = dx, .dweight = dweight});
      });
}

}  // namespace

Variable RmsNorm(Tape* tape, const Variable& x, const Variable& residual, const Parameter& weight,
                 double eps, DType y_dtype, Variable* sum) {
  return RmsNorm(tape, x, residual, &weight, eps, y_dtype, sum);
}

Variable RmsNorm(Tape* tape, const Variable& x, double eps, DType y_dtype) {
  return RmsNorm(tape, x, Variable(), nullptr, eps, y_dtype, nullptr);
}

Variable LayerNorm(Tape* tape, const Variable& x, const Variable& residual, const Parameter& weight,
                   const Parameter* bias, double eps, DType y_dtype, Variable* sum) {
  CheckRank(x, 2, "layer_norm: x");
  const LayerNormInputs inputs{.x = x.value(),
                               .residual = residual.value(),
                               .weight = weight.compute,
                               .bias = Compute(bias),
                               .eps = static_cast<float>(eps)};
  return NormOfSum(
      tape, Records(tape, x, residual, weight, bias), x, residual, y_dtype, sum,
      [&](const Tensor& y, const Tensor& residual_out) {
        LayerNorm(inputs, {y, residual_out});
      },
      [weight = inputs.weight, eps = inputs.eps, dweight = weight.grad, dbias = Grad(bias)](
          const Tensor& r, const Tensor& dy, const Tensor& d_residual_out, const Tensor& dr,
          const Tensor& dx) {
        LayerNormBackward(r, weight, eps, dy, d_residual_out,
                          {.dr = dr, .dx = dx, .dweight = dweight, .dbias = dbias});
      });
}

Variable GatedRmsNorm(Tape* tape, const Variable& x, const Variable& z, const Parameter& weight,
                      double eps, int64_t group_size, bool norm_before_gate) {
  CheckRank(x, 2, "gated_rms_norm: x");
  const GatedRmsNormInputs inputs{.x = x.value(),
                                  .z = z.value(),
                                  .weight = weight.compute,
                                  .eps = static_cast<float>(eps),
                                  .group_size = group_size,
                                  .norm_before_gate = norm_before_gate};
  const Tensor y = Tensor::Empty(x.value().shape(), x.value().dtype(), x.value().device());
  GatedRmsNorm(inputs, y);
  const bool records = Records(tape, x, z, weight);
  Variable result(y, records);
  if (!records) return result;
  tape->Record([inputs, dx = x.gradient(), dz = z.gradient(), dweight = weight.grad,
                dy = result.gradient()] {
    const Tensor seed = dy.value();
    if (!seed.defined()) return;
    const Contribution to_x(dx);
    const Contribution to_z(dz);
    GatedRmsNormBackward(inputs, seed,
                         {.dx = to_x.target(), .dz = to_z.target(), .dweight = dweight});
    to_x.Add();
    to_z.Add();
  });
  return result;
}

}  // namespace adder
