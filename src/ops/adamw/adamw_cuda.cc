// adamw on a CUDA device: hands the tensors to the module.
#include <cmath>
#include <vector>

#include "adder/backend/cuda/module.h"
#include "adder/ops/adamw/adamw_backends.h"
#include "adder/ops/cuda_operators.h"

namespace adder::cuda {
namespace {

std::vector<FloatSpan> SpansOf(std::span<const Tensor> tensors) {
  std::vector<FloatSpan> spans;
  spans.reserve(tensors.size());
  for (const Tensor& tensor : tensors) {
    spans.push_back({tensor.data<float>(), tensor.elements(), 0});
  }
  return spans;
}

FloatSpansArguments Arguments(std::span<const Tensor> tensors,
                              const std::vector<FloatSpan>& spans) {
  return {tensors.front().device().index, spans.data(), static_cast<int64_t>(spans.size())};
}

std::vector<AdamWTensor> TensorsOf(std::span<const AdamWTensors> all) {
  std::vector<AdamWTensor> tensors;
  tensors.reserve(all.size());
  for (const AdamWTensors& t : all) {
    AdamWTensor tensor = {};
    tensor.gradient = t.gradient.data<float>();
    tensor.weight = t.weight.data<float>();
    tensor.m = t.m.data<float>();
    tensor.v = t.v.data<float>();
    tensor.compute_weight = t.compute_weight.raw();
    tensor.elements = t.weight.elements();
    tensor.lr_scale = t.lr_scale;
    tensor.weight_decay = t.weight_decay;
    tensor.compute_dtype = t.compute_weight ? t.compute_weight.dtype() : DType::kBF16;
    tensors.push_back(tensor);
  }
  return tensors;
}

AdamWArguments Arguments(Device device, const AdamWOptions& options,
                         const std::vector<AdamWTensor>& tensors) {
  return {.device = device.index,
          .tensors = tensors.data(),
          .count = static_cast<int64_t>(tensors.size()),
          .beta1 = static_cast<float>(options.beta1),
          .one_minus_beta1 = static_cast<float>(1 - options.beta1),
          .beta2 = static_cast<float>(options.beta2),
          .one_minus_beta2 = static_cast<float>(1 - options.beta2),
          .eps = static_cast<float>(options.eps)};
}

}  // namespace

void AdamWAll(const AdamWOptions& options, std::span<const AdamWTensors> all) {
  if (all.empty()) return;
  const std::vector<AdamWTensor> tensors = TensorsOf(all);
  const auto step = static_cast<double>(options.step);
  GetModule().operators().adamw(
      Arguments(all.front().weight.device(), options, tensors),
      {.lr = options.lr,
       .first_correction = 1 / (1 - std::pow(options.beta1, step)),
       .second_correction = static_cast<float>(1 / (1 - std::pow(options.beta2, step))),
       .gradient_scale = static_cast<float>(options.gradient_scale),
       .applied = true});
}

void ClippedAdamW(const AdamWOptions& options, double clip, const Tensor& losses,
                  std::span<const AdamWTensors> all, const Tensor& scalars, const Tensor& result) {
  const std::vector<AdamWTensor> tensors = TensorsOf(all);
  const double* const values = scalars.data<double>();
  GetModule().operators().clipped_adamw(
      {.adamw = Arguments(losses.device(), options, tensors),
       .clip = clip,
       .losses = losses.data<float>(),
       .rows = losses.elements(),
       .lr = values + AdamWScalar::kRate,
       .first_correction = values + AdamWScalar::kFirstCorrection,
       .second_correction = values + AdamWScalar::kSecondCorrection,
       .result = result.data<double>()});
}

double GradientNorm(std::span<const Tensor> gradients) {
  if (gradients.empty()) return 0;
  const std::vector<FloatSpan> spans = SpansOf(gradients);
  return std::sqrt(GetModule().operators().sum_of_squares(Arguments(gradients, spans)));
}

void SetZeroAll(std::span<const Tensor> tensors) {
  if (tensors.empty()) return;
  const std::vector<FloatSpan> spans = SpansOf(tensors);
  GetModule().operators().set_zero(Arguments(tensors, spans));
}

void RoundAll(std::span<const RoundedCopy> copies) {
  if (copies.empty()) return;
  std::vector<RoundedSpan> spans;
  spans.reserve(copies.size());
  for (const auto& [from, to] : copies) {
    RoundedSpan span = {};
    span.from = from.data<float>();
    span.to = to.raw();
    span.elements = from.elements();
    span.dtype = to.dtype();
    spans.push_back(span);
  }
  GetModule().operators().round(
      {copies.front().from.device().index, spans.data(), static_cast<int64_t>(spans.size())});
}

}  // namespace adder::cuda
