// ssd on the CPU: sequences and heads are shared between threads; rows of a sequence follow each
// other. A head's results do not depend on how heads are shared out, but sums over heads (of dB, dC
// and d_interval) would: in the backward heads are cut into parts by their number alone.
#include <algorithm>
#include <vector>

#include "adder/backend/cpu/parallel.h"
#include "adder/backend/cpu/vector_math.h"
#include "adder/ops/ssd/ssd_backends.h"
#include "adder/ops/ssd/ssd_kernel.h"

namespace adder::cpu {
namespace {

static_assert(kSsdTileRows == kSsdChunkRows);

// Parts that a group's heads have in the backward at most.
constexpr int64_t kMostBackwardParts = 4;

SsdRows Rows(const Tensor& matrix) {
  return matrix ? SsdRows{matrix.raw(), matrix.stride(0)} : SsdRows{};
}
template <class T = float>
T* Data(const Tensor& tensor) {
  return tensor ? tensor.data<T>() : nullptr;
}
Tensor Scratch(int64_t floats) {
  return Tensor::Empty({std::max<int64_t>(1, floats)}, DType::kF32);
}

SsdProblem Describe(const SsdShape& shape, const SsdInputs& inputs) {
  SsdProblem problem;
  problem.activation = inputs.x.dtype();
  problem.heads = shape.heads;
  problem.head_dim = shape.head_dim;
  problem.groups = shape.groups;
  problem.states = shape.states;
  problem.x = Rows(inputs.x);
  problem.dt = Rows(inputs.dt);
  problem.B = Rows(inputs.B);
  problem.C = Rows(inputs.C);
  problem.A = Data(inputs.A);
  problem.D = Data(inputs.D);
  problem.dt_bias = Data(inputs.dt_bias);
  problem.interval = Data(inputs.interval);
  problem.dt_min = static_cast<float>(inputs.dt_min);
  problem.dt_max = static_cast<float>(inputs.dt_max);
  return problem;
}

// Every sequence, and the heads of every group in `parts` parts.
std::vector<SsdPart> Parts(const SsdShape& shape, const SequenceLayout& layout, int64_t parts) {
  const int64_t group_heads = shape.heads / shape.groups;
  parts = std::clamp<int64_t>(parts, 1, std::max<int64_t>(1, group_heads));
  std::vector<SsdPart> result;
  int64_t chunk = 0;
  for (int64_t s = 0; s < shape.sequences; ++s) {
    for (int64_t group = 0; group < shape.groups; ++group) {
      for (int64_t part = 0; part < parts; ++part) {
        result.push_back({.row = layout.begin(s),
                          .rows = layout.length(s),
                          .sequence = s,
                          .chunk = chunk,
                          .group = group,
                          .head_begin = group * group_heads + group_heads * part / parts,
                          .head_end = group * group_heads + group_heads * (part + 1) / parts});
      }
    }
    chunk += (layout.length(s) + kSsdChunkRows - 1) / kSsdChunkRows;
  }
  return result;
}

// Runs the parts, shared between threads so that each has about as many rows and heads.
template <class Run>
void RunParts(const SsdShape& shape, const std::vector<SsdPart>& parts, const Run& run) {
  // Updates of states below which another thread costs more than it saves.
  constexpr double kThreadCost = 50000;
  const auto cost = [&](const SsdPart& part) {
    return static_cast<double>((part.rows + 1) * (part.head_end - part.head_begin)) *
           static_cast<double>(shape.head_dim * shape.states);
  };
  double total = 0;
  for (const SsdPart& part : parts) total += cost(part);
  const auto shares = static_cast<int64_t>(
      std::clamp(total / kThreadCost, 1.0, static_cast<double>(ThreadCount())));
  ParallelFor(shares, 1, [&](int64_t begin, int64_t end, int /*thread*/) {
    double before = 0;
    for (const SsdPart& part : parts) {
      // The share that holds the part's middle.
      const double middle = (before + cost(part) / 2) / total * static_cast<double>(shares);
      const auto share = std::min(shares - 1, static_cast<int64_t>(middle));
      if (share >= begin && share < end && part.head_begin < part.head_end) run(part);
      before += cost(part);
    }
  });
}

// total[i] += Σ_s sums[s, i]
void AddSums(const Tensor& sums, const Tensor& total) {
  if (!total) return;
  for (int64_t head = 0; head < total.elements(); ++head) {
    double sum = 0;
    for (int64_t s = 0; s < sums.dim(0); ++s) {
      sum += sums.data<double>()[s * sums.dim(1) + head];
    }
    total.data<float>()[head] += static_cast<float>(sum);
  }
}

// to = Σ_part sums[part], [rows, columns] each.
void AddParts(const Tensor& sums, const Tensor& to) {
  if (!to || to.elements() == 0) return;
  const int64_t rows = to.dim(0);
  const int64_t columns = to.dim(1);
  constexpr int64_t kThreadElements = 16384;
  ParallelFor(rows, std::max<int64_t>(1, kThreadElements / columns),
              [&](int64_t begin, int64_t end, int /*thread*/) {
                for (int64_t row = begin; row < end; ++row) {
                  float* total = sums.data<float>() + row * columns;
                  for (int64_t part = 1; part < sums.dim(0); ++part) {
                    const float* each = total + part * rows * columns;
                    for (int64_t i = 0; i < columns; ++i) total[i] += each[i];
                  }
                  VectorConvert({total, DType::kF32,
                                 static_cast<std::byte*>(to.raw()) +
                                     row * to.stride(0) * DTypeSize(to.dtype()),
                                 to.dtype(), columns});
                }
              });
}

}  // namespace

void Ssd(const SsdShape& shape, const SsdInputs& inputs, const SsdOutputs& outputs) {
  if (shape.heads == 0 || shape.sequences == 0) return;
  const SsdProblem problem = Describe(shape, inputs);
  const int64_t threads = ThreadCount();
  const int64_t tasks = shape.sequences * shape.groups;
  const std::vector<SsdPart> parts = Parts(shape, inputs.layout, (threads + tasks - 1) / tasks);
  RunParts(shape, parts, [&](const SsdPart& part) {
    if (part.rows == 1 && !outputs.chunk_states) {
      const Tensor scratch = Scratch(SsdStepScratch(shape.states));
      SsdStepArguments arguments;
      arguments.problem = &problem;
      arguments.part = part;
      arguments.y = Rows(outputs.y);
      arguments.h0 = Data(inputs.h0);
      arguments.hT = Data(outputs.hT);
      arguments.scratch = scratch.data<float>();
      return SsdStep(arguments);
    }
    const Tensor scratch =
        Scratch(SsdForwardScratch(part.head_end - part.head_begin, shape.head_dim, shape.states));
    SsdForwardArguments arguments;
    arguments.problem = &problem;
    arguments.part = part;
    arguments.y = Rows(outputs.y);
    arguments.h0 = Data(inputs.h0);
    arguments.hT = Data(outputs.hT);
    arguments.chunk_states = Data(outputs.chunk_states);
    arguments.scratch = scratch.data<float>();
    SsdForward(arguments);
  });
}

void SsdBackward(const SsdShape& shape, const SsdInputs& inputs, const Tensor& chunk_states,
                 const Tensor& dy, const Tensor& dhT, const SsdGradients& gradients) {
  if (shape.heads == 0 || shape.sequences == 0) {
    for (const Tensor& sum : {gradients.dB, gradients.dC, gradients.d_interval}) {
      if (sum) sum.SetZero();
    }
    return;
  }
  const SsdProblem problem = Describe(shape, inputs);
  const int64_t group_heads = shape.heads / shape.groups;
  const int64_t group_parts = std::min(kMostBackwardParts, group_heads);
  const std::vector<SsdPart> parts = Parts(shape, inputs.layout, group_parts);
  const Tensor dB = Tensor::Empty({group_parts, shape.rows, shape.projection()}, DType::kF32);
  const Tensor dC = Tensor::Empty(dB.shape(), DType::kF32);
  const int64_t sequence_parts = shape.groups * group_parts;
  const Tensor d_interval =
      Tensor::Zeros({gradients.d_interval ? sequence_parts : 0, shape.rows, 1}, DType::kF32);
  const Tensor dA = Tensor::Zeros({shape.sequences, shape.heads}, DType::kF64);
  const Tensor dD = Tensor::Zeros(dA.shape(), DType::kF64);
  const Tensor d_dt_bias = Tensor::Zeros(dA.shape(), DType::kF64);
  RunParts(shape, parts, [&](const SsdPart& part) {
    const Tensor scratch =
        Scratch(SsdBackwardScratch(part.head_end - part.head_begin, shape.head_dim, shape.states));
    const int64_t sequence_part = (&part - parts.data()) % sequence_parts;
    const int64_t number = sequence_part % group_parts;
    SsdBackwardArguments arguments;
    arguments.problem = &problem;
    arguments.part = part;
    arguments.chunk_states = Data(chunk_states);
    arguments.dy = Rows(dy);
    arguments.dhT = Data(dhT);
    arguments.dx = Rows(gradients.dx);
    arguments.ddt = Rows(gradients.ddt);
    arguments.dh0 = Data(gradients.dh0);
    arguments.dB = dB.data<float>() + number * shape.rows * shape.projection();
    arguments.dC = dC.data<float>() + number * shape.rows * shape.projection();
    if (gradients.d_interval) {
      arguments.d_interval = d_interval.data<float>() + sequence_part * shape.rows;
    }
    arguments.dA = dA.data<double>() + part.sequence * shape.heads;
    arguments.dD = dD.data<double>() + part.sequence * shape.heads;
    arguments.d_dt_bias = d_dt_bias.data<double>() + part.sequence * shape.heads;
    arguments.scratch = scratch.data<float>();
    SsdBackwardPart(arguments);
  });
  AddParts(dB, gradients.dB);
  AddParts(dC, gradients.dC);
  if (gradients.d_interval) AddParts(d_interval, gradients.d_interval.Reshape({shape.rows, 1}));
  AddSums(dA, gradients.dA);
  AddSums(dD, gradients.dD);
  AddSums(d_dt_bias, gradients.d_dt_bias);
}

}  // namespace adder::cpu
