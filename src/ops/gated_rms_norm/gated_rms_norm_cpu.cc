// gated_rms_norm on the CPU: rows are shared between threads.
#include <algorithm>

#include "adder/backend/cpu/parallel.h"
#include "adder/ops/gated_rms_norm/gated_rms_norm_backends.h"
#include "adder/ops/gated_rms_norm/gated_rms_norm_kernel.h"

namespace adder::cpu {
namespace {

// Elements below which another thread costs more than it saves: each takes an exponential or two.
constexpr int64_t kThreadElements = 8192;

// The weight's gradient is a sum over rows. Rows are cut into blocks by their number alone, each
// block sums its own, and the blocks' sums are added in order: the same bits for any number of
// threads.
constexpr int64_t kBlockRows = 16;
constexpr int64_t kMostBlocks = 128;

void* RowPointer(const Tensor& matrix, int64_t row) {
  if (!matrix) return nullptr;
  return static_cast<std::byte*>(matrix.raw()) + row * matrix.stride(0) * DTypeSize(matrix.dtype());
}

int64_t RowStride(const Tensor& matrix) { return matrix ? matrix.stride(0) : 0; }

}  // namespace

void GatedRmsNorm(const GatedRmsNormInputs& inputs, int64_t group_size, const Tensor& y) {
  const int64_t rows = inputs.x.dim(0);
  const int64_t channels = inputs.x.dim(1);
  if (channels == 0) return;
  ParallelFor(rows, kThreadElements / channels, [&](int64_t begin, int64_t end, int /*thread*/) {
    GatedRmsNormArguments arguments;
    arguments.x = RowPointer(inputs.x, begin);
    arguments.x_stride = RowStride(inputs.x);
    arguments.z = RowPointer(inputs.z, begin);
    arguments.z_stride = RowStride(inputs.z);
    arguments.dtype = inputs.x.dtype();
    arguments.weight = inputs.weight.data<float>();
    arguments.eps = inputs.eps;
    arguments.norm_before_gate = inputs.norm_before_gate;
    arguments.y = RowPointer(y, begin);
    arguments.y_dtype = y.dtype();
    arguments.y_stride = RowStride(y);
    arguments.rows = end - begin;
    arguments.channels = channels;
    arguments.group_size = group_size;
    GatedRmsNormKernel(arguments);
  });
}

void GatedRmsNormBackward(const GatedRmsNormInputs& inputs, int64_t group_size, const Tensor& dy,
                          const GatedRmsNormGradients& gradients) {
  const int64_t rows = inputs.x.dim(0);
  const int64_t channels = inputs.x.dim(1);
  if (channels == 0 || rows == 0) return;
  const int64_t blocks = std::min(kMostBlocks, (rows + kBlockRows - 1) / kBlockRows);
  Tensor sums;
  if (gradients.dweight) sums = Tensor::Zeros({blocks, channels}, DType::kF32);

  ParallelFor(blocks, kThreadElements * blocks / (rows * channels),
              [&](int64_t first_block, int64_t last_block, int /*thread*/) {
                for (int64_t block = first_block; block < last_block; ++block) {
                  const int64_t begin = rows * block / blocks;
                  GatedRmsNormBackwardArguments arguments;
                  arguments.x = RowPointer(inputs.x, begin);
                  arguments.x_stride = RowStride(inputs.x);
                  arguments.z = RowPointer(inputs.z, begin);
                  arguments.z_stride = RowStride(inputs.z);
                  arguments.dtype = inputs.x.dtype();
                  arguments.weight = inputs.weight.data<float>();
                  arguments.eps = inputs.eps;
                  arguments.norm_before_gate = inputs.norm_before_gate;
                  arguments.dy = RowPointer(dy, begin);
                  arguments.dy_dtype = dy.dtype();
                  arguments.dy_stride = RowStride(dy);
                  arguments.dx = RowPointer(gradients.dx, begin);
                  arguments.dx_stride = RowStride(gradients.dx);
                  arguments.dz = RowPointer(gradients.dz, begin);
                  arguments.dz_stride = RowStride(gradients.dz);
                  arguments.dweight = static_cast<float*>(RowPointer(sums, block));
                  arguments.rows = rows * (block + 1) / blocks - begin;
                  arguments.channels = channels;
                  arguments.group_size = group_size;
                  GatedRmsNormBackwardKernel(arguments);
                }
              });
  if (!gradients.dweight) return;
  ParallelFor(channels, kThreadElements / blocks, [&](int64_t begin, int64_t end, int /*thread*/) {
    float* dweight = gradients.dweight.data<float>();
    for (int64_t block = 0; block < blocks; ++block) {
      const auto* sum = static_cast<const float*>(RowPointer(sums, block));
      for (int64_t d = begin; d < end; ++d) dweight[d] += sum[d];
    }
  });
}

}  // namespace adder::cpu
