// Recorded attention, and the memory of its keys and values.
#include <utility>
#include <vector>

#include "adder/autograd/functions.h"
#include "adder/autograd/recording.h"
#include "adder/ops/attention/attention.h"
#include "adder/ops/attention/key_value_cache.h"

namespace adder {
namespace {

using recording::CheckRank;
using recording::Records;

// The memory with the rows appended, in place of the old one.
void Append(Tape* tape, const Variable& rows, const SequenceLayout& layout,
            const AttentionMemory& attention_memory, Variable* memory, MemoryUpdate update) {
  const std::span<const int64_t> lengths = attention_memory.lengths;
  if (tape != nullptr && update == MemoryUpdate::kOverwrite) {
    throw Error(ErrorCode::kInvalidArgument,
                "memory cannot be overwritten while a tape records: the backward needs it");
  }
  const Device device = rows.value().device();
  Variable old = *memory;
  if (!old.defined()) {
    old = Variable(
        Tensor::Empty({layout.sequences(), 0, rows.value().dim(1)}, rows.value().dtype(), device));
  }
  CheckRank(old, 3, "attention: the memory");
  const Tensor& from = old.value();
  const int64_t capacity = GrownCapacity(lengths, layout, from.dim(1));
  Tensor cache = from;
  if (update == MemoryUpdate::kReplace || capacity > from.dim(1)) {
    cache = Tensor::Empty({from.dim(0), capacity, from.dim(2)}, from.dtype(), device);
    CopyFilledRows(from, lengths, cache);
  }
  if (attention_memory.device_lengths) {
    AppendToCache(rows.value(), attention_memory.device_lengths, cache);
  } else {
    AppendToCache(rows.value(), layout, lengths, cache);
  }
  const bool records = Records(tape, rows, old);
  *memory = Variable(cache, records);
  if (!records) return;
  tape->Record([layout, lengths = std::vector<int64_t>(lengths.begin(), lengths.end()),
                d_rows = rows.gradient(), d_old = old.gradient(), d_new = memory->gradient()] {
    const Tensor seed = d_new.value();
    if (!seed.defined()) return;
    const Contribution to_rows(d_rows);
    const Contribution to_old(d_old);
    AppendToCacheBackward(seed, layout, lengths, to_rows.target());
    if (to_old.target()) CopyFilledRows(seed, lengths, to_old.target());
    to_rows.Add();
    to_old.Add();
  });
}

// Attention to keys and values that are matrices of rows.
Variable Attend(Tape* tape, const AttentionInputs& inputs, const Variable& q, const Variable& keys,
                const Variable& values) {
  const bool records = Records(tape, q, keys, values);
  AttentionOutputs outputs{
      .y = Tensor::Empty(inputs.q.shape(), inputs.q.dtype(), inputs.q.device()), .log_sum_exp = {}};
  if (records) {
    outputs.log_sum_exp =
        Tensor::Empty({inputs.q.dim(0), inputs.heads}, DType::kF32, inputs.q.device());
  }
  Attention(inputs, outputs);
  Variable result(outputs.y, records);
  if (!records) return result;
  tape->Record([inputs, outputs, dq = q.gradient(), dkeys = keys.gradient(),
                dvalues = values.gradient(), dy = result.gradient()] {
    const Tensor seed = dy.value();
    if (!seed.defined()) return;
    const Contribution to_q(dq);
    const Contribution to_keys(dkeys);
    const Contribution to_values(dvalues);
    const auto rows = [](const Tensor& target) {
      return target.defined() && target.rank() == 3 ? CacheRows(target) : target;
    };
    AttentionBackward(inputs, outputs, seed,
                      {.dq = to_q.target(),
                       .dkeys = rows(to_keys.target()),
                       .dvalues = rows(to_values.target())});
    for (const Contribution* each : {&to_q, &to_keys, &to_values}) each->Add();
  });
  return result;
}

}  // namespace

Variable Attention(Tape* tape, const Variable& q, const Variable& k, const Variable& v,
                   const SequenceLayout& layout, int64_t heads, int64_t kv_heads, double scale,
                   const AttentionMemory* memory, MemoryUpdate update) {
  CheckRank(q, 2, "attention: q");
  CheckRank(k, 2, "attention: k");
  CheckRank(v, 2, "attention: v");
  AttentionInputs inputs{.q = q.value(),
                         .keys = k.value(),
                         .values = v.value(),
                         .layout = layout,
                         .key_ranges = {},
                         .lengths = {},
                         .heads = heads,
                         .kv_heads = kv_heads,
                         .scale = scale};
  if (memory == nullptr) return Attend(tape, inputs, q, k, v);

  if (memory->device_lengths && tape != nullptr) {
    throw Error(ErrorCode::kInvalidArgument, "attention: lengths on the device cannot be recorded");
  }
  Append(tape, k, layout, *memory, memory->keys, update);
  Append(tape, v, layout, *memory, memory->values, update);
  const Tensor& keys = memory->keys->value();
  inputs.key_ranges = CacheRanges(keys, layout, memory->lengths);
  if (memory->device_lengths) {
    inputs.lengths = memory->device_lengths;
    for (KeyRange& range : inputs.key_ranges) range.count = keys.dim(1);
  }
  inputs.keys = CacheRows(keys);
  inputs.values = CacheRows(memory->values->value());
  return Attend(tape, inputs, q, *memory->keys, *memory->values);
}

}  // namespace adder
