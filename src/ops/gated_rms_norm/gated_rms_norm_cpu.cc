// gated_rms_norm on the CPU: rows are shared between threads.
#include <algorithm>

#include "adder/backend/cpu/parallel.h"
#include "adder/ops/gated_rms_norm/gated_rms_norm_backends.h"
#include "adder/ops/gated_rms_norm/gated_rms_norm_kernel.h"

namespace adder::cpu {
namespace {

// Each element takes an exponential or two.
constexpr int64_t kGrainElements = kElementsPerThread / 2;

// The weight's gradient is a sum over rows. Rows are cut into blocks by their number alone, each
// block sums its own, and the blocks' sums are added in order: the same bits for any number of
// threads.
constexpr int64_t kBlockRows = 16;
constexpr int64_t kMostBlocks = 128;

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
  const int64_t blocks = std::min(kMostBlocks, (rows + kBlockRows - 1) / kBlockRows);
  Tensor sums;
  if (gradients.dweight) sums = Tensor::Zeros({blocks, channels}, DType::kF32);

  ParallelFor(blocks, kGrainElements * blocks / (rows * channels),
              [&](int64_t first_block, int64_t last_block, int /*thread*/) {
                for (int64_t block = first_block; block < last_block; ++block) {
                  const int64_t begin = rows * block / blocks;
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
                  arguments.dweight = static_cast<float*>(sums.row(block));
                  arguments.rows = rows * (block + 1) / blocks - begin;
                  arguments.channels = channels;
                  arguments.group_size = group_size;
                  GatedRmsNormBackwardKernel(arguments);
                }
              });
  if (!gradients.dweight) return;
  ParallelFor(channels, kGrainElements / blocks, [&](int64_t begin, int64_t end, int /*thread*/) {
    float* dweight = gradients.dweight.data<float>();
    for (int64_t block = 0; block < blocks; ++block) {
      const auto* sum = static_cast<const float*>(sums.row(block));
      for (int64_t d = begin; d < end; ++d) dweight[d] += sum[d];
    }
  });
}

}  // namespace adder::cpu
