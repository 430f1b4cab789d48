// The operators' forward calls, and the closures that call their backwards.
#include "adder/autograd/functions.h"

#include <utility>

#include "adder/autograd/recording.h"
#include "adder/ops/elementwise/elementwise.h"
#include "adder/ops/embedding/embedding.h"
#include "adder/ops/linear/linear.h"
#include "adder/ops/selective_scan/selective_scan.h"
#include "adder/ops/softmax_cross_entropy/softmax_cross_entropy.h"

namespace adder {
namespace {

using recording::CheckRank;
using recording::Compute;
using recording::Grad;
using recording::GradientOf;
using recording::NewMemory;
using recording::Records;
using recording::Value;

// [D, 1, width] as [D, width].
Tensor ConvKernel(const Tensor& weight) {
  if (!weight.defined() || weight.rank() != 3 || weight.dim(1) != 1) return weight;
  return weight.Reshape({weight.dim(0), weight.dim(2)});
}

}  // namespace

Variable Linear(Tape* tape, const Variable& x, const Parameter& weight, const Parameter* bias,
                const std::function<Tensor()>& x_again) {
  CheckRank(x, 2, "linear: x");
  const Tensor& W = weight.compute;
  const Tensor y = Tensor::Empty({x.value().dim(0), W.dim(0)}, x.value().dtype(), W.device());
  Linear(x.value(), W, Compute(bias), y);
  if (!Records(tape, x, weight, bias)) return Variable(y);

  Variable result(y, true);
  tape->Record([kept = x_again ? Tensor() : x.value(), x_again, W, dx = x.gradient(),
                dW = weight.grad, dbias = Grad(bias), dy = result.gradient()] {
    const Tensor seed = dy.value();
    if (!seed.defined()) return;
    const Tensor input = x_again ? x_again() : kept;
    LinearGradients gradients{.dx = {}, .accumulate_dx = false, .dW = dW, .dbias = dbias};
    if (!dx.wanted()) return LinearBackward(input, W, seed, gradients);
    dx.Collect([&](const Tensor& target, bool accumulate) {
      gradients.dx = target;
      gradients.accumulate_dx = accumulate;
      LinearBackward(input, W, seed, gradients);
    });
  });
  return result;
}

Variable CausalConv1d(Tape* tape, const Variable& x, const Parameter& weight, const Parameter* bias,
                      const SequenceLayout& layout, ConvActivation activation, Variable* window,
                      MemoryUpdate update) {
  CheckRank(x, 2, "causal_conv1d: x");
  const CausalConv1dInputs inputs{.x = x.value(),
                                  .weight = ConvKernel(weight.compute),
                                  .bias = Compute(bias),
                                  .initial_window = Value(window),
                                  .layout = layout,
                                  .activation = activation};
  const int64_t D = inputs.x.dim(1);
  const CausalConv1dOutputs outputs{
      .y = Tensor::Empty({inputs.x.dim(0), D}, inputs.x.dtype(), inputs.x.device()),
      .final_window =
          NewMemory(tape, window, update, {layout.sequences(), inputs.weight.dim(1) - 1, D},
                    inputs.x.device())};
  CausalConv1d(inputs, outputs);
  const bool records = Records(tape, x, weight, bias, window);
  Variable result(outputs.y, records);
  const Gradient d_initial = GradientOf(window);
  if (window != nullptr) *window = Variable(outputs.final_window, records);
  if (!records) return result;

  tape->Record([inputs, dx = x.gradient(), dweight = ConvKernel(weight.grad), dbias = Grad(bias),
                d_initial, dy = result.gradient(), d_final = GradientOf(window)] {
    Tensor seed = dy.value();
    const Tensor final_seed = d_final.value();
    if (!seed.defined() && !final_seed.defined()) return;
    if (!seed.defined())
      seed = Tensor::Zeros(inputs.x.shape(), inputs.x.dtype(), inputs.x.device());
    const Contribution to_x(dx);
    const Contribution to_window(d_initial);
    CausalConv1dBackward(inputs, seed, final_seed,
                         {.dx = to_x.target(),
                          .dweight = dweight,
                          .dbias = dbias,
                          .d_initial_window = to_window.target()});
    to_x.Add();
    to_window.Add();
  });
  return result;
}

Variable SelectiveScan(Tape* tape, const SelectiveScanVariables& variables,
                       const SelectiveScanParameters& parameters, const SequenceLayout& layout,
                       int64_t groups, Variable* h, MemoryUpdate update) {
  CheckRank(variables.x, 2, "selective_scan: x");
  const SelectiveScanInputs inputs{.x = variables.x.value(),
                                   .dt = variables.dt.value(),
                                   .A = Compute(parameters.A_log),
                                   .B = variables.B.value(),
                                   .C = variables.C.value(),
                                   .D = Compute(parameters.D),
                                   .dt_bias = Compute(parameters.dt_bias),
                                   .z = variables.z.value(),
                                   .interval = {},
                                   .h0 = Value(h),
                                   .layout = layout,
                                   .groups = groups};
  const bool records = Records(tape, variables.x, variables.dt, variables.B, variables.C,
                               variables.z, parameters.A_log, parameters.D, parameters.dt_bias, h);
  const int64_t D = inputs.A.dim(0);
  const int64_t N = inputs.A.dim(1);
  SelectiveScanOutputs outputs{
      .y = Tensor::Empty(inputs.x.shape(), inputs.x.dtype(), inputs.x.device()),
      .hT = NewMemory(tape, h, update, {layout.sequences(), D, N}, inputs.x.device()),
      .chunk_states = {}};
  if (records)
    outputs.chunk_states =
        Tensor::Empty({ScanChunks(layout), D, N}, DType::kF32, inputs.x.device());
  SelectiveScan(inputs, outputs);
  Variable result(outputs.y, records);
  const Gradient dh0 = GradientOf(h);
  if (h != nullptr) *h = Variable(outputs.hT, records);
  if (!records) return result;

  tape->Record(
      [inputs, chunk_states = outputs.chunk_states, dx = variables.x.gradient(),
       ddt = variables.dt.gradient(), dB = variables.B.gradient(), dC = variables.C.gradient(),
       dz = variables.z.gradient(), dA_log = Grad(parameters.A_log), dD = Grad(parameters.D),
       d_dt_bias = Grad(parameters.dt_bias), dh0, dy = result.gradient(), dhT = GradientOf(h)] {
        Tensor seed = dy.value();
        const Tensor state_seed = dhT.value();
        if (!seed.defined() && !state_seed.defined()) return;
        if (!seed.defined())
          seed = Tensor::Zeros(inputs.x.shape(), inputs.x.dtype(), inputs.x.device());
        const Contribution to_x(dx);
        const Contribution to_dt(ddt);
        const Contribution to_B(dB);
        const Contribution to_C(dC);
        const Contribution to_z(dz);
        const Contribution to_h0(dh0);
        Tensor dA;
        if (dA_log.defined()) dA = Tensor::Zeros(inputs.A.shape(), DType::kF32, inputs.A.device());
        SelectiveScanBackward(inputs, chunk_states, seed, state_seed,
                              {.dx = to_x.target(),
                               .ddt = to_dt.target(),
                               .dA = dA,
                               .dB = to_B.target(),
                               .dC = to_C.target(),
                               .dD = dD,
                               .d_dt_bias = d_dt_bias,
                               .dz = to_z.target(),
                               .d_interval = {},
                               .dh0 = to_h0.target()});
        for (const Contribution* each : {&to_x, &to_dt, &to_B, &to_C, &to_z, &to_h0}) each->Add();
        if (dA.defined()) AddProduct(dA_log, dA, inputs.A);
      });
  return result;
}

Variable Embedding(Tape* tape, const Tensor& tokens, const Parameter& weight, DType y_dtype) {
  const Tensor& W = weight.compute;
  const Tensor y = Tensor::Empty({tokens.elements(), W.dim(1)}, y_dtype, W.device());
  Embedding(tokens, W, y);
  if (!Records(tape, weight)) return Variable(y);
  Variable result(y, true);
  tape->Record([tokens, dW = weight.grad, dy = result.gradient()] {
    const Tensor seed = dy.value();
    if (seed.defined()) EmbeddingBackward(tokens, seed, dW);
  });
  return result;
}

Variable SoftmaxCrossEntropy(Tape* tape, const Variable& hidden, const Parameter& weight,
                             const Tensor& targets) {
  CheckRank(hidden, 2, "softmax_cross_entropy: hidden");
  const SoftmaxCrossEntropyInputs inputs{
      .hidden = hidden.value(), .W = weight.compute, .bias = {}, .targets = targets};
  const bool records = Records(tape, hidden, weight);
  const Tensor loss = Tensor::Empty({hidden.value().dim(0)}, DType::kF32, hidden.value().device());
  SoftmaxCrossEntropy(inputs, loss);
  Variable result(loss, records);
  if (!records) return result;
  tape->Record(
      [inputs, d_hidden = hidden.gradient(), dW = weight.grad, d_loss = result.gradient()] {
        const Tensor seed = d_loss.value();
        if (!seed.defined()) return;
        const Contribution to_hidden(d_hidden);
        SoftmaxCrossEntropyBackward(
            inputs, seed, {.d_hidden = to_hidden.target(), .dW = dW, .dbias = {}, .loss = {}});
        to_hidden.Add();
      });
  return result;
}

Tensor SoftmaxCrossEntropyWithGradients(const Variable& hidden, const Parameter& weight,
                                        const Tensor& targets, const Tensor& d_loss) {
  CheckRank(hidden, 2, "softmax_cross_entropy: hidden");
  const SoftmaxCrossEntropyInputs inputs{
      .hidden = hidden.value(), .W = weight.compute, .bias = {}, .targets = targets};
  const Tensor loss = Tensor::Empty({hidden.value().dim(0)}, DType::kF32, hidden.value().device());
  const Contribution to_hidden(hidden.gradient());
  SoftmaxCrossEntropyBackward(
      inputs, d_loss,
      {.d_hidden = to_hidden.target(), .dW = weight.grad, .dbias = {}, .loss = loss});
  to_hidden.Add();
  return loss;
}

}  // namespace adder
