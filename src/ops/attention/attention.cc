// attention: argument checks, and the choice of the backend by the device.
#include "adder/ops/attention/attention.h"

#include <fmt/format.h>

#include <cmath>

#include "adder/ops/argument_check.h"
#include "adder/ops/attention/attention_backends.h"

namespace adder {
namespace {

constexpr const char* kOp = "attention";
constexpr const char* kBackwardOp = "attention backward";

std::vector<KeyRange> CheckKeyRanges(const ArgumentCheck& check, const AttentionInputs& inputs) {
  const SequenceLayout& layout = inputs.layout;
  const int64_t key_rows = inputs.keys.dim(0);
  if (inputs.key_ranges.empty()) {
    if (key_rows != layout.rows()) {
      check.Fail(fmt::format("the layout has {} rows, keys has {}", layout.rows(), key_rows));
    }
    std::vector<KeyRange> ranges;
    for (int64_t s = 0; s < layout.sequences(); ++s) {
      ranges.push_back({layout.begin(s), layout.length(s)});
    }
    return ranges;
  }
  if (static_cast<int64_t>(inputs.key_ranges.size()) != layout.sequences()) {
    check.Fail(fmt::format("there are {} key ranges, expected one for each of {} sequences",
                           inputs.key_ranges.size(), layout.sequences()));
  }
  int64_t end = 0;
  for (int64_t s = 0; s < layout.sequences(); ++s) {
    const KeyRange& range = inputs.key_ranges[static_cast<size_t>(s)];
    if (range.begin < end || range.count < 0 || range.count > key_rows - range.begin) {
      check.Fail(
          fmt::format("the keys of sequence {} are {} from row {} on, expected rows from {} to {}",
                      s, range.count, range.begin, end, key_rows));
    }
    if (range.count < layout.length(s)) {
      check.Fail(fmt::format("sequence {} has {} rows and {} keys, expected as many keys or more",
                             s, layout.length(s), range.count));
    }
    end = range.begin + range.count;
  }
  return inputs.key_ranges;
}

// The ranges by the lengths, where the host knows these.
void TakeLengths(const ArgumentCheck& check, const AttentionInputs& inputs,
                 std::vector<KeyRange>* ranges) {
  const SequenceLayout& layout = inputs.layout;
  check.Dense(inputs.lengths, "lengths", {DType::kI64}, {layout.sequences()});
  for (int64_t s = 0; s < layout.sequences(); ++s) {
    if (layout.length(s) != 1) {
      check.Fail(
          fmt::format("sequence {} has {} rows, with lengths 1 is expected", s, layout.length(s)));
    }
    if (inputs.lengths.device().type != DeviceType::kCpu) continue;
    const int64_t length = inputs.lengths.data<int64_t>()[s];
    KeyRange& range = (*ranges)[static_cast<size_t>(s)];
    if (length < 0 || length >= range.count) {
      check.Fail(fmt::format("sequence {} has {} keys before its row, its range has {}", s, length,
                             range.count));
    }
    range.count = length + 1;
  }
}

AttentionShape CheckInputs(const ArgumentCheck& check, const AttentionInputs& inputs,
                           std::initializer_list<DType> activations) {
  check.Rank(inputs.q, "q", 2);
  check.Rank(inputs.keys, "keys", 2);
  if (inputs.heads < 1 || inputs.kv_heads < 1 || inputs.heads % inputs.kv_heads != 0) {
    check.Fail(
        fmt::format("there are {} heads and {} key and value heads, expected the latter to "
                    "divide the former",
                    inputs.heads, inputs.kv_heads));
  }
  if (inputs.q.dim(1) == 0 || inputs.q.dim(1) % inputs.heads != 0) {
    check.Fail(fmt::format("q is {}, expected a multiple of the {} heads as columns",
                           inputs.q.ToString(), inputs.heads));
  }
  if (inputs.q.dim(0) != inputs.layout.rows()) {
    check.Fail(
        fmt::format("the layout has {} rows, q has {}", inputs.layout.rows(), inputs.q.dim(0)));
  }
  if (!std::isfinite(inputs.scale)) check.Fail(fmt::format("scale is {}", inputs.scale));
  AttentionShape shape{.rows = inputs.q.dim(0),
                       .sequences = inputs.layout.sequences(),
                       .heads = inputs.heads,
                       .kv_heads = inputs.kv_heads,
                       .d_head = inputs.q.dim(1) / inputs.heads,
                       .key_ranges = {}};
  const Shape keys = {inputs.keys.dim(0), shape.kv_heads * shape.d_head};
  check.Rows(inputs.q, "q", activations, inputs.q.shape());
  check.Rows(inputs.keys, "keys", activations, keys);
  check.Rows(inputs.values, "values", {inputs.keys.dtype()}, keys);
  shape.key_ranges = CheckKeyRanges(check, inputs);
  if (inputs.lengths) TakeLengths(check, inputs, &shape.key_ranges);
  return shape;
}

}  // namespace

AttentionShape CheckAttention(const AttentionInputs& inputs, const AttentionOutputs& outputs,
                              std::initializer_list<DType> activations, DType statistics) {
  const ArgumentCheck check(kOp, inputs.q.device());
  const AttentionShape shape = CheckInputs(check, inputs, activations);
  check.Rows(outputs.y, "y", {inputs.q.dtype()}, inputs.q.shape());
  check.OptionalDense(outputs.log_sum_exp, "log_sum_exp", {statistics}, {shape.rows, shape.heads});
  check.AllApart({{outputs.y, "y"}, {outputs.log_sum_exp, "log_sum_exp"}},
                 {{inputs.q, "q"},
                  {inputs.keys, "keys"},
                  {inputs.values, "values"},
                  {inputs.lengths, "lengths"}});
  return shape;
}

AttentionShape CheckAttentionBackward(const AttentionInputs& inputs, const Tensor& dy,
                                      const AttentionGradients& gradients,
                                      std::initializer_list<DType> activations) {
  const ArgumentCheck check(kBackwardOp, inputs.q.device());
  check.That(!inputs.lengths, "there is none with lengths");
  const AttentionShape shape = CheckInputs(check, inputs, activations);
  check.Rows(dy, "dy", {inputs.q.dtype()}, inputs.q.shape());
  check.OptionalRows(gradients.dq, "dq", {inputs.q.dtype()}, inputs.q.shape());
  check.OptionalRows(gradients.dkeys, "dkeys", {inputs.keys.dtype()}, inputs.keys.shape());
  check.OptionalRows(gradients.dvalues, "dvalues", {inputs.keys.dtype()}, inputs.keys.shape());
  check.AllApart({{gradients.dq, "dq"}, {gradients.dkeys, "dkeys"}, {gradients.dvalues, "dvalues"}},
                 {{inputs.q, "q"}, {inputs.keys, "keys"}, {inputs.values, "values"}, {dy, "dy"}});
  return shape;
}

void Attention(const AttentionInputs& inputs, const AttentionOutputs& outputs) {
  const AttentionShape shape =
      CheckAttention(inputs, outputs, {DType::kF32, DType::kBF16, DType::kF16}, DType::kF32);
  if (inputs.q.device().type == DeviceType::kCuda) return cuda::Attention(shape, inputs, outputs);
  cpu::Attention(shape, inputs, outputs);
}

void AttentionBackward(const AttentionInputs& inputs, const AttentionOutputs& outputs,
                       const Tensor& dy, const AttentionGradients& gradients) {
  const AttentionShape shape =
      CheckAttentionBackward(inputs, dy, gradients, {DType::kF32, DType::kBF16, DType::kF16});
  const ArgumentCheck check(kBackwardOp, inputs.q.device());
  check.Rows(outputs.y, "y", {inputs.q.dtype()}, inputs.q.shape());
  check.Dense(outputs.log_sum_exp, "log_sum_exp", {DType::kF32}, {shape.rows, shape.heads});
  for (const auto& [gradient, name] : std::initializer_list<ArgumentCheck::Named>{
           {gradients.dq, "dq"}, {gradients.dkeys, "dkeys"}, {gradients.dvalues, "dvalues"}}) {
    check.Apart(gradient, name, outputs.y, "y");
    check.Apart(gradient, name, outputs.log_sum_exp, "log_sum_exp");
  }
  if (inputs.q.device().type == DeviceType::kCuda) {
    return cuda::AttentionBackward(shape, inputs, outputs, dy, gradients);
  }
  cpu::AttentionBackward(shape, inputs, outputs, dy, gradients);
}

}  // namespace adder
