// rms_norm on the CPU: rows are shared between threads.
#include <algorithm>

#include "adder/backend/cpu/parallel.h"
#include "adder/ops/rms_norm/rms_norm_backends.h"
#include "adder/ops/rms_norm/rms_norm_kernel.h"

namespace adder::cpu {
namespace {

// The weight's gradient is a sum over rows. Rows are cut into blocks by their number alone, each
// block sums its own, and the blocks' sums are added in order: the same bits for any number of
// threads.
constexpr int64_t kBlockRows = 16;
constexpr int64_t kMostBlocks = 128;

float* FloatRow(const Tensor& matrix, int64_t row) {
  return matrix ? matrix.data<float>() + row * matrix.stride(0) : nullptr;
}

int64_t RowStride(const Tensor& matrix) { return matrix ? matrix.stride(0) : 0; }

}  // namespace

void RmsNorm(const RmsNormInputs& inputs, const RmsNormOutputs& outputs) {
  const int64_t rows = inputs.x.dim(0);
  const int64_t channels = inputs.x.dim(1);
  if (channels == 0) return;
  ParallelFor(rows, kElementsPerThread / channels, [&](int64_t begin, int64_t end, int /*thread*/) {
    RmsNormArguments arguments;
    arguments.x = inputs.x.row(begin);
    arguments.x_dtype = inputs.x.dtype();
    arguments.x_stride = inputs.x.stride(0);
    arguments.residual = FloatRow(inputs.residual, begin);
    arguments.residual_stride = RowStride(inputs.residual);
    arguments.weight = FloatRow(inputs.weight, 0);
    arguments.eps = inputs.eps;
    arguments.y = outputs.y.row(begin);
    arguments.y_dtype = outputs.y.dtype();
    arguments.y_stride = outputs.y.stride(0);
    arguments.residual_out = FloatRow(outputs.residual_out, begin);
    arguments.residual_out_stride = RowStride(outputs.residual_out);
    arguments.rows = end - begin;
    arguments.channels = channels;
    RmsNormKernel(arguments);
  });
}

void RmsNormBackward(const Tensor& r, const Tensor& weight, float eps, const Tensor& dy,
                     const Tensor& d_residual_out, const RmsNormGradients& gradients) {
  const int64_t rows = r.dim(0);
  const int64_t channels = r.dim(1);
  if (channels == 0 || rows == 0) return;
  const int64_t blocks = std::min(kMostBlocks, (rows + kBlockRows - 1) / kBlockRows);
  Tensor sums;
  if (gradients.dweight) sums = Tensor::Zeros({blocks, channels}, DType::kF32);

  ParallelFor(blocks, kElementsPerThread * blocks / (rows * channels),
              [&](int64_t first_block, int64_t last_block, int /*thread*/) {
                for (int64_t block = first_block; block < last_block; ++block) {
                  const int64_t begin = rows * block / blocks;
                  RmsNormBackwardArguments arguments;
                  arguments.r = FloatRow(r, begin);
                  arguments.r_stride = RowStride(r);
                  arguments.weight = FloatRow(weight, 0);
                  arguments.eps = eps;
                  arguments.dy = dy.row(begin);
                  arguments.dy_dtype = dy.dtype();
                  arguments.dy_stride = RowStride(dy);
                  arguments.d_residual_out = FloatRow(d_residual_out, begin);
                  arguments.d_residual_out_stride = RowStride(d_residual_out);
                  arguments.dr = FloatRow(gradients.dr, begin);
                  arguments.dr_stride = RowStride(gradients.dr);
                  if (gradients.dx) {
                    arguments.dx = gradients.dx.row(begin);
                    arguments.dx_dtype = gradients.dx.dtype();
                    arguments.dx_stride = RowStride(gradients.dx);
                  }
                  arguments.dweight = FloatRow(sums, block);
                  arguments.rows = rows * (block + 1) / blocks - begin;
                  arguments.channels = channels;
                  RmsNormBackwardKernel(arguments);
                }
              });
  if (!gradients.dweight) return;
  ParallelFor(channels, kElementsPerThread / blocks,
              [&](int64_t begin, int64_t end, int /*thread*/) {
                float* dweight = gradients.dweight.data<float>();
                for (int64_t block = 0; block < blocks; ++block) {
                  const float* sum = FloatRow(sums, block);
                  for (int64_t d = begin; d < end; ++d) dweight[d] += sum[d];
                }
              });
}

}  // namespace adder::cpu
