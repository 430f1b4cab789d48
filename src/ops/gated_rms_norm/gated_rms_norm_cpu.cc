// gated_rms_norm on the CPU: rows are shared between threads.
#include "adder/backend/cpu/parallel.h"
#include "adder/ops/gated_rms_norm/gated_rms_norm_backends.h"
#include "adder/ops/gated_rms_norm/gated_rms_norm_kernel.h"
#include "adder/ops/row_blocks.h"

namespace adder::cpu {
namespace {

// Each element takes an exponential or two.
constexpr int64_t kGrainElements = kElementsPerThread / 2;

int64_t RowStride(const Tensor& matrix) { return matrix ? matrix.stride(0) : 0; }

}  // namespace

void GatedRmsNorm(const GatedRmsNormInputs& inputs, int64_t group_size, const Tensor& y) {
  const int64_t rows = inputs.x.dim(0);
  const int64_t channels = inputs.x.dim(1);
  if (channels == 0) return;
  ParallelFor(rows, kGrainElements / channels, [&](int64_t begin, int64_t end, int /*thread*/) {
    GatedRmsNormArguments arguments;
    arguments.x = inputs.x.row(begin);
    arguments.x_stride = RowStride(inputs.x);
    arguments.z = inputs.z.row(begin);
    arguments.z_stride = RowStride(inputs.z);
    arguments.dtype = inputs.x.dtype();
    arguments.weight = inputs.weight.data<float>();
    arguments.eps = inputs.eps;
    arguments.norm_before_gate = inputs.norm_before_gate;
    arguments.y = y.row(begin);
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
  const RowBlocks blocks(rows);
  const Tensor dweight = blocks.SumsFor(gradients.dweight);

  ParallelFor(blocks.count(), kGrainElements * blocks.count() / (rows * channels),
              [&](int64_t first_block, int64_t last_block, int /*thread*/) {
                for (int64_t block = first_block; block < last_block; ++block) {
                  const int64_t begin = blocks.begin(block);
                  GatedRmsNormBackwardArguments arguments;
                  arguments.x = inputs.x.row(begin);
                  arguments.x_stride = RowStride(inputs.x);
                  arguments.z = inputs.z.row(begin);
                  arguments.z_stride = RowStride(inputs.z);
                  arguments.dtype = inputs.x.dtype();
                  arguments.weight = inputs.weight.data<float>();
                  arguments.eps = inputs.eps;
                  arguments.norm_before_gate = inputs.norm_before_gate;
                  arguments.dy = dy.row(begin);
                  arguments.dy_dtype = dy.dtype();
                  arguments.dy_stride = RowStride(dy);
                  arguments.dx = gradients.dx.row(begin);
                  arguments.dx_stride = RowStride(gradients.dx);
                  arguments.dz = gradients.dz.row(begin);
                  arguments.dz_stride = RowStride(gradients.dz);
                  arguments.dweight = static_cast<float*>(dweight.row(block));
                  arguments.rows = blocks.begin(block + 1) - begin;
                  arguments.channels = channels;
                  arguments.group_size = group_size;
                  GatedRmsNormBackwardKernel(arguments);
                }
              });
  RowBlocks::Add(dweight, gradients.dweight);
}

}  // namespace adder::cpu
