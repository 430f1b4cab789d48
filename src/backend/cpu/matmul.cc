// MatMul through oneDNN's matmul primitive. oneDNN caches primitives itself, safely for threads and
// keyed by everything that matters, thread count included: asking again costs two microseconds.
#include "adder/backend/cpu/matmul.h"

#include <fmt/format.h>

#include <algorithm>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>

#include "adder/backend/cpu/instruction_set.h"
#include "adder/backend/cpu/parallel.h"
#include "adder/backend/cpu/vector_math.h"
#include "adder/core/error.h"

namespace adder::cpu {
namespace {

using dnnl::memory;

// Rows, columns and depth of the blocks that are converted to f32: 4 MB each, in the last-level
// cache, and deep enough that converting costs little beside multiplying.
constexpr int64_t kBlock = 1024;

const dnnl::engine& Engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

memory::data_type DnnlType(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return memory::data_type::f32;
    case DType::kBF16:
      return memory::data_type::bf16;
    default:
      return memory::data_type::f16;
  }
}

// The tensor as the [rows, columns] operand that it is once transposed.
memory::desc Describe(const Tensor& tensor, bool transpose) {
  // The stride of a single row means nothing; oneDNN is particular about it.
  const int64_t stride = tensor.dim(0) > 1 ? tensor.stride(0) : tensor.dim(1);
  if (transpose) {
    return {{tensor.dim(1), tensor.dim(0)}, DnnlType(tensor.dtype()), memory::dims{1, stride}};
  }
  return {{tensor.dim(0), tensor.dim(1)}, DnnlType(tensor.dtype()), memory::dims{stride, 1}};
}

void MultiplyDirectly(const Tensor& A, const Tensor& B, const Tensor& bias, const Tensor& C,
                      const MatMulOptions& options) {
  const OpenMpThreads threads;
  try {
    const memory::desc a = Describe(A, options.transpose_A);
    const memory::desc b = Describe(B, options.transpose_B);
    const memory::desc c = Describe(C, false);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (options.accumulate) {
      dnnl::post_ops sum;
      sum.append_sum(1.0f);
      attributes.set_post_ops(sum);
    }
    const memory::desc bias_desc =
        bias ? memory::desc({1, C.dim(1)}, memory::data_type::f32, memory::dims{C.dim(1), 1})
             : memory::desc();
    const dnnl::matmul::primitive_desc description(
        bias ? dnnl::matmul::desc(a, b, bias_desc, c) : dnnl::matmul::desc(a, b, c), attributes,
        Engine());
    const auto scratch_bytes = static_cast<int64_t>(description.scratchpad_desc().get_size());
    const Tensor scratch = Tensor::Empty({std::max<int64_t>(1, scratch_bytes)}, DType::kU8);
    std::unordered_map<int, memory> arguments = {
        {DNNL_ARG_SRC, memory(a, Engine(), A.raw())},
        {DNNL_ARG_WEIGHTS, memory(b, Engine(), B.raw())},
        {DNNL_ARG_DST, memory(c, Engine(), C.raw())},
        {DNNL_ARG_SCRATCHPAD, memory(description.scratchpad_desc(), Engine(), scratch.raw())}};
    if (bias) arguments.emplace(DNNL_ARG_BIAS, memory(bias_desc, Engine(), bias.raw()));
    dnnl::stream stream(Engine());
    dnnl::matmul(description).execute(stream, arguments);
    stream.wait();
  } catch (const dnnl::error& error) {
    const bool memory_ran_out = error.status == dnnl_out_of_memory;
    throw Error(memory_ran_out ? ErrorCode::kOutOfMemory : ErrorCode::kUnsupported,
                fmt::format("matrix product {} x {}: oneDNN: {}", A.ToString(), B.ToString(),
                            error.what()));
  }
}

// Whether oneDNN multiplies bf16 on this machine (from AVX-512 on), and may: where a lesser
// instruction set than the machine's was chosen, products go the way they would on such a machine.
bool MultipliesBFloat16() {
  const InstructionSet active = ActiveInstructionSet();
  if (active < InstructionSet::kX86V4 && active != SupportedInstructionSets().back()) return false;
  static const bool does = [] {
    try {
      const memory::desc square({16, 16}, memory::data_type::bf16, memory::dims{16, 1});
      const memory::desc sums({16, 16}, memory::data_type::f32, memory::dims{16, 1});
      const dnnl::matmul::primitive_desc product(dnnl::matmul::desc(square, square, sums),
                                                 Engine());
      return static_cast<bool>(product);
    } catch (const dnnl::error&) {
      return false;
    }
  }();
  return does;
}

bool MultipliesDirectly(DType a, DType b, DType c) {
  if (a == DType::kF32 && b == DType::kF32) return c == DType::kF32;
  return a == DType::kBF16 && b == DType::kBF16 && c != DType::kF16 && MultipliesBFloat16();
}

void Convert(const Tensor& from, const Tensor& to) {
  // About as much work as waking a thread is worth.
  const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, from.dim(1)));
  ParallelFor(from.dim(0), grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      VectorConvert({from.row(row), from.dtype(), to.row(row), to.dtype(), from.dim(1)});
    }
  });
}

// Rows [row, row + rows) and columns [column, column + columns) of the operand that `tensor` is
// once transposed, as f32, as it is stored.
Tensor BlockInF32(const Tensor& tensor, bool transpose, int64_t row, int64_t rows, int64_t column,
                  int64_t columns) {
  const Tensor block = transpose ? tensor.Rows(column, columns).Columns(row, rows)
                                 : tensor.Rows(row, rows).Columns(column, columns);
  if (block.dtype() == DType::kF32) return block;
  const Tensor converted = Tensor::Empty(block.shape(), DType::kF32);
  Convert(block, converted);
  return converted;
}

void MultiplyInBlocks(const Tensor& A, const Tensor& B, const Tensor& bias, const Tensor& C,
                      const MatMulOptions& options) {
  const int64_t M = C.dim(0);
  const int64_t N = C.dim(1);
  const int64_t K = A.dim(options.transpose_A ? 0 : 1);
  for (int64_t n = 0; n < N; n += kBlock) {
    const int64_t columns = std::min(kBlock, N - n);
    for (int64_t m = 0; m < M; m += kBlock) {
      const int64_t rows = std::min(kBlock, M - m);
      const Tensor target = C.Rows(m, rows).Columns(n, columns);
      const bool in_place = C.dtype() == DType::kF32;
      const Tensor sums = in_place ? target : Tensor::Empty(target.shape(), DType::kF32);
      if (!in_place && options.accumulate) Convert(target, sums);
      for (int64_t k = 0; k < K; k += kBlock) {
        const int64_t depth = std::min(kBlock, K - k);
        MatMulOptions block_options = options;
        block_options.accumulate = options.accumulate || k > 0;
        MultiplyDirectly(BlockInF32(A, options.transpose_A, m, rows, k, depth),
                         BlockInF32(B, options.transpose_B, k, depth, n, columns),
                         bias && k == 0 ? bias.Slice(0, n, columns) : Tensor(), sums,
                         block_options);
      }
      if (!in_place) Convert(sums, target);
    }
  }
}

// C = bias or C += bias: a product of no terms.
void AddBias(const Tensor& bias, const Tensor& C, bool accumulate) {
  if (!accumulate) C.SetZero();
  if (!bias) return;
  const Tensor sums = C.To(DType::kF32);
  for (int64_t row = 0; row < C.dim(0); ++row) {
    float* values = sums.data<float>() + row * sums.stride(0);
    for (int64_t column = 0; column < C.dim(1); ++column) {
      values[column] += bias.data<float>()[column];
    }
  }
  if (C.dtype() != DType::kF32) C.CopyFrom(sums);
}

bool IsOperand(const Tensor& tensor) {
  const bool float_type = tensor.dtype() == DType::kF32 || tensor.dtype() == DType::kBF16 ||
                          tensor.dtype() == DType::kF16;
  return tensor.defined() && float_type && tensor.rank() == 2 &&
         (tensor.dim(1) <= 1 || tensor.stride(1) == 1);
}

}  // namespace

void MatMul(const Tensor& A, const Tensor& B, const Tensor& bias, const Tensor& C,
            const MatMulOptions& options) {
  const bool operands = IsOperand(A) && IsOperand(B) && IsOperand(C);
  const auto rows = [](const Tensor& t, bool transpose) { return t.dim(transpose ? 1 : 0); };
  const auto columns = [](const Tensor& t, bool transpose) { return t.dim(transpose ? 0 : 1); };
  if (!operands || columns(A, options.transpose_A) != rows(B, options.transpose_B) ||
      C.dim(0) != rows(A, options.transpose_A) || C.dim(1) != columns(B, options.transpose_B) ||
      (bias &&
       (bias.dtype() != DType::kF32 || bias.shape() != Shape{C.dim(1)} || !bias.contiguous()))) {
    const auto describe = [](const Tensor& t) { return t ? t.ToString() : "nothing"; };
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("matrix product: {}{} x {}{} + {} does not give {}", describe(A),
                            options.transpose_A ? " transposed" : "", describe(B),
                            options.transpose_B ? " transposed" : "", describe(bias), describe(C)));
  }
  if (C.elements() == 0) return;
  if (A.elements() == 0) {
    AddBias(bias, C, options.accumulate);
  } else if (MultipliesDirectly(A.dtype(), B.dtype(), C.dtype())) {
    MultiplyDirectly(A, B, bias, C, options);
  } else {
    MultiplyInBlocks(A, B, bias, C, options);
  }
}

}  // namespace adder::cpu
