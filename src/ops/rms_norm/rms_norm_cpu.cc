// rms_norm on the CPU: rows are shared between threads.
#include "adder/backend/cpu/parallel.h"
#include "adder/ops/rms_norm/rms_norm_backends.h"
#include "adder/ops/rms_norm/rms_norm_kernel.h"
#include "adder/ops/row_blocks.h"

namespace adder::cpu {
namespace {

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
  const RowBlocks blocks(rows);
  const Tensor dweight = blocks.SumsFor(gradients.dweight);

  ParallelFor(blocks.count(), kElementsPerThread * blocks.count() / (rows * channels),
              [&](int64_t first_block, int64_t last_block, int /*thread*/) {
                for (int64_t block = first_block; block < last_block; ++block) {
                  const int64_t begin = blocks.begin(block);
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
                  arguments.dweight = FloatRow(dweight, block);
                  arguments.rows = blocks.begin(block + 1) - begin;
                  arguments.channels = channels;
                  RmsNormBackwardKernel(arguments);
                }
              });
  RowBlocks::Add(dweight, gradients.dweight);
}

}  // namespace adder::cpu
