// attention on the CPU: the forward is shared between threads by blocks of rows and key heads, a
// single row by spans of its keys; the backward by sequences and key heads.
#include <algorithm>
#include <vector>

#include "adder/backend/cpu/parallel.h"
#include "adder/ops/attention/attention_backends.h"
#include "adder/ops/attention/attention_kernel.h"

namespace adder::cpu {
namespace {

AttentionRows Rows(const Tensor& matrix) {
  return matrix ? AttentionRows{matrix.raw(), matrix.stride(0)} : AttentionRows{};
}

AttentionProblem Describe(const AttentionShape& shape, const AttentionInputs& inputs,
                          const AttentionOutputs& outputs) {
  AttentionProblem problem;
  problem.activation = inputs.q.dtype();
  problem.key = inputs.keys.dtype();
  problem.heads = shape.heads;
  problem.kv_heads = shape.kv_heads;
  problem.d_head = shape.d_head;
  problem.scale = static_cast<float>(inputs.scale);
  problem.q = Rows(inputs.q);
  problem.keys = Rows(inputs.keys);
  problem.values = Rows(inputs.values);
  problem.y = Rows(outputs.y);
  if (outputs.log_sum_exp) problem.log_sum_exp = outputs.log_sum_exp.data<float>();
  return problem;
}

// A kernel call and about how long it takes: multiplications.
template <class Arguments>
struct Task {
  Arguments arguments;
  double cost;
};

// Runs the tasks in order, shared between threads so that each has about the same cost.
template <class Arguments, class Run>
void RunTasks(const std::vector<Task<Arguments>>& tasks, const Run& run) {
  // Multiplications below which another thread costs more than it saves.
  constexpr double kThreadCost = 200000;
  double total = 0;
  for (const Task<Arguments>& task : tasks) total += task.cost;
  const auto parts = static_cast<int64_t>(
      std::clamp(total / kThreadCost, 1.0, static_cast<double>(ThreadCount())));
  ParallelFor(parts, 1, [&](int64_t begin, int64_t end, int /*thread*/) {
    std::vector<Task<Arguments>> mine;
    double before = 0;
    for (const Task<Arguments>& task : tasks) {
      // The part that holds the task's middle.
      const double middle = (before + task.cost / 2) / total * static_cast<double>(parts);
      const auto part = std::min(parts - 1, static_cast<int64_t>(middle));
      if (part >= begin && part < end) mine.push_back(task);
      before += task.cost;
    }
    run(mine);
  });
}

Tensor Scratch(int64_t floats) {
  return Tensor::Empty({std::max<int64_t>(1, floats)}, DType::kF32);
}

// Sequences of more than one row.
void RunBlocks(const AttentionProblem& problem, const AttentionShape& shape,
               const SequenceLayout& layout) {
  const int64_t group = shape.heads / shape.kv_heads;
  const int64_t block_rows = std::max<int64_t>(1, kAttentionTileRows / group);
  std::vector<Task<AttentionForwardArguments>> tasks;
  for (int64_t s = 0; s < shape.sequences; ++s) {
    if (layout.length(s) <= 1) continue;
    const KeyRange& keys = shape.key_ranges[static_cast<size_t>(s)];
    for (int64_t kv_head = 0; kv_head < shape.kv_heads; ++kv_head) {
      for (int64_t row = layout.begin(s); row < layout.end(s); row += block_rows) {
        AttentionForwardArguments arguments;
        arguments.problem = &problem;
        arguments.row = row;
        arguments.rows = std::min(block_rows, layout.end(s) - row);
        arguments.kv_head = kv_head;
        arguments.first_key = keys.begin;
        arguments.visible = keys.count - (layout.end(s) - row) + 1;
        const int64_t mean_keys = arguments.visible + arguments.rows / 2;
        const auto scores =
            static_cast<double>(arguments.rows * group) * static_cast<double>(mean_keys);
        tasks.push_back({arguments, 2 * scores * static_cast<double>(shape.d_head)});
      }
    }
  }
  RunTasks(tasks, [&](std::vector<Task<AttentionForwardArguments>>& mine) {
    if (mine.empty()) return;
    const Tensor scratch = Scratch(AttentionForwardScratch(block_rows, group, shape.d_head));
    for (Task<AttentionForwardArguments>& task : mine) {
      task.arguments.scratch = scratch.data<float>();
      AttentionForward(task.arguments);
    }
  });
}

// Sequences of one row.
void RunSpans(const AttentionProblem& problem, const AttentionShape& shape,
              const SequenceLayout& layout) {
  struct Row {
    int64_t row;
    int64_t first_span;
    int64_t spans;
  };
  std::vector<Row> rows;
  std::vector<Task<AttentionSpanArguments>> tasks;
  for (int64_t s = 0; s < shape.sequences; ++s) {
    if (layout.length(s) != 1) continue;
    const KeyRange& keys = shape.key_ranges[static_cast<size_t>(s)];
    rows.push_back({layout.begin(s), static_cast<int64_t>(tasks.size()), 0});
    for (int64_t first = 0; first < keys.count; first += kAttentionSpanKeys) {
      AttentionSpanArguments arguments;
      arguments.problem = &problem;
      arguments.row = layout.begin(s);
      arguments.first_key = keys.begin + first;
      arguments.keys = std::min(kAttentionSpanKeys, keys.count - first);
      tasks.push_back({arguments, static_cast<double>(2 * arguments.keys * shape.heads) *
                                      static_cast<double>(shape.d_head)});
      ++rows.back().spans;
    }
  }
  if (rows.empty()) return;
  const int64_t partial = AttentionPartial(shape.heads, shape.d_head);
  const Tensor partials = Scratch(
      CheckedProduct(static_cast<int64_t>(tasks.size()), partial, "attention: partial sums"));
  for (size_t i = 0; i < tasks.size(); ++i) {
    tasks[i].arguments.partial = partials.data<float>() + static_cast<int64_t>(i) * partial;
  }
  RunTasks(tasks, [&](std::vector<Task<AttentionSpanArguments>>& mine) {
    const Tensor scratch = Scratch(AttentionSpanScratch(shape.heads, shape.d_head));
    for (Task<AttentionSpanArguments>& task : mine) {
      task.arguments.scratch = scratch.data<float>();
      AttentionSpan(task.arguments);
    }
  });
  ParallelFor(static_cast<int64_t>(rows.size()), 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const Row& row = rows[static_cast<size_t>(i)];
      AttentionMergeArguments arguments;
      arguments.problem = &problem;
      arguments.row = row.row;
      arguments.partials = partials.data<float>() + row.first_span * partial;
      arguments.spans = row.spans;
      AttentionMerge(arguments);
    }
  });
}

}  // namespace

void Attention(const AttentionShape& shape, const AttentionInputs& inputs,
               const AttentionOutputs& outputs) {
  if (shape.rows == 0) return;
  const AttentionProblem problem = Describe(shape, inputs, outputs);
  RunBlocks(problem, shape, inputs.layout);
  RunSpans(problem, shape, inputs.layout);
}

void AttentionBackward(const AttentionShape& shape, const AttentionInputs& inputs,
                       const AttentionOutputs& outputs, const Tensor& dy,
                       const AttentionGradients& gradients) {
  const AttentionProblem problem = Describe(shape, inputs, outputs);
  std::vector<Task<AttentionBackwardArguments>> tasks;
  int64_t covered = 0;
  for (int64_t s = 0; s < shape.sequences; ++s) {
    const KeyRange& keys = shape.key_ranges[static_cast<size_t>(s)];
    const int64_t rows = inputs.layout.length(s);
    if (rows == 0) continue;
    covered += keys.count;
    for (int64_t kv_head = 0; kv_head < shape.kv_heads; ++kv_head) {
      AttentionBackwardArguments arguments;
      arguments.problem = &problem;
      arguments.dy = Rows(dy);
      arguments.dq = Rows(gradients.dq);
      arguments.dkeys = Rows(gradients.dkeys);
      arguments.dvalues = Rows(gradients.dvalues);
      arguments.row = inputs.layout.begin(s);
      arguments.rows = rows;
      arguments.kv_head = kv_head;
      arguments.first_key = keys.begin;
      arguments.keys = keys.count;
      const int64_t queries = rows * shape.heads / shape.kv_heads;
      const int64_t mean_keys = keys.count - rows / 2;
      const auto scores = static_cast<double>(queries) * static_cast<double>(mean_keys);
      tasks.push_back({arguments, 5 * scores * static_cast<double>(shape.d_head)});
    }
  }
  if (covered < inputs.keys.dim(0)) {
    for (const Tensor* gradient : {&gradients.dkeys, &gradients.dvalues}) {
      if (*gradient) gradient->SetZero();
    }
  }
  RunTasks(tasks, [&](std::vector<Task<AttentionBackwardArguments>>& mine) {
    int64_t floats = 0;
    for (const Task<AttentionBackwardArguments>& task : mine) {
      floats = std::max(
          floats, AttentionBackwardScratch(task.arguments.rows, task.arguments.keys, shape.d_head));
    }
    const Tensor scratch = Scratch(floats);
    for (Task<AttentionBackwardArguments>& task : mine) {
      task.arguments.scratch = scratch.data<float>();
      AttentionBackwardTile(task.arguments);
    }
  });
}

}  // namespace adder::cpu
