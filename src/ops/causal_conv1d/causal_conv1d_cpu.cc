// causal_conv1d on the CPU: how the work is cut into segments and shared between threads.
#include <algorithm>
#include <vector>

#include "adder/backend/cpu/parallel.h"
#include "adder/ops/causal_conv1d/causal_conv1d_backends.h"
#include "adder/ops/causal_conv1d/causal_conv1d_kernel.h"

namespace adder::cpu {
namespace {

std::vector<ConvSegment> CutIntoSegments(const SequenceLayout& layout) {
  std::vector<ConvSegment> segments;
  segments.reserve(static_cast<size_t>(layout.sequences() + layout.rows() / kConvSegmentRows));
  for (int64_t s = 0; s < layout.sequences(); ++s) {
    const int64_t length = layout.length(s);
    int64_t position = 0;
    do {
      const int64_t rows = std::min(kConvSegmentRows, length - position);
      segments.push_back({s, layout.begin(s) + position, rows, position, length});
      position += rows;
    } while (position < length);
  }
  return segments;
}

ConvMatrix<void*> Matrix(const Tensor& tensor) {
  if (!tensor) return {};
  return {tensor.raw(), tensor.stride(0)};
}

ConvMatrix<const void*> ConstMatrix(const Tensor& tensor) {
  return {tensor.raw(), tensor.stride(0)};
}

ConvWindow<float*> Window(const Tensor& tensor) {
  if (!tensor) return {};
  return {tensor.data<float>(), tensor.stride(0), tensor.stride(1)};
}

ConvWindow<const float*> ConstWindow(const Tensor& tensor) {
  if (!tensor) return {};
  return {tensor.data<float>(), tensor.stride(0), tensor.stride(1)};
}

// [width, channels], as vectors over channels read it.
Tensor TransposedWeight(const Tensor& weight) {
  const Tensor transposed = Tensor::Empty({weight.dim(1), weight.dim(0)}, DType::kF32);
  ConvTransposeWeightKernel(
      {weight.data<float>(), transposed.data<float>(), weight.dim(0), weight.dim(1)});
  return transposed;
}

}  // namespace

void CausalConv1d(const CausalConv1dInputs& inputs, const CausalConv1dOutputs& outputs) {
  const std::vector<ConvSegment> segments = CutIntoSegments(inputs.layout);
  const Tensor weight = TransposedWeight(inputs.weight);
  CausalConv1dArguments shared;
  shared.dtype = inputs.x.dtype();
  shared.x = ConstMatrix(inputs.x);
  shared.y = Matrix(outputs.y);
  shared.weight = weight.data<float>();
  shared.weight_stride = weight.stride(0);
  shared.bias = inputs.bias ? inputs.bias.data<float>() : nullptr;
  shared.channels = inputs.x.dim(1);
  shared.width = inputs.weight.dim(1);
  shared.silu = inputs.activation == ConvActivation::kSilu;
  shared.initial_window = ConstWindow(inputs.initial_window);
  shared.final_window = Window(outputs.final_window);

  const auto count = static_cast<int64_t>(segments.size());
  const int64_t elements = std::max<int64_t>(1, inputs.x.elements());
  ParallelFor(count, count * kElementsPerThread / elements,
              [&](int64_t begin, int64_t end, int /*thread*/) {
                CausalConv1dArguments arguments = shared;
                arguments.segments = segments.data() + begin;
                arguments.segment_count = end - begin;
                CausalConv1dKernel(arguments);
              });
}

// Each thread takes channels and walks all rows of them, so that every sum over rows has the same
// order for any number of threads.
void CausalConv1dBackward(const CausalConv1dInputs& inputs, const Tensor& dy,
                          const Tensor& d_final_window, const CausalConv1dGradients& gradients) {
  const std::vector<ConvSegment> segments = CutIntoSegments(inputs.layout);
  const int64_t channels = inputs.x.dim(1);
  const int64_t width = inputs.weight.dim(1);
  const Tensor weight = TransposedWeight(inputs.weight);
  const Tensor scratch = Tensor::Empty({2 * width, channels}, DType::kF32);
  scratch.SetZero();
  float* dweight = scratch.data<float>();
  float* dbias = dweight + width * channels;

  CausalConv1dBackwardArguments shared;
  shared.dtype = inputs.x.dtype();
  shared.x = ConstMatrix(inputs.x);
  shared.dy = ConstMatrix(dy);
  shared.dx = Matrix(gradients.dx);
  shared.weight = weight.data<float>();
  shared.weight_stride = weight.stride(0);
  shared.bias = inputs.bias ? inputs.bias.data<float>() : nullptr;
  shared.width = width;
  shared.silu = inputs.activation == ConvActivation::kSilu;
  shared.initial_window = ConstWindow(inputs.initial_window);
  shared.d_final_window = ConstWindow(d_final_window);
  shared.d_initial_window = Window(gradients.d_initial_window);
  shared.segments = segments.data();
  shared.segment_count = static_cast<int64_t>(segments.size());
  shared.dweight = dweight;
  shared.dbias = dbias;
  shared.pending = dbias + channels;
  shared.scratch_stride = channels;

  const int64_t blocks = (channels + kCacheLineFloats - 1) / kCacheLineFloats;
  const int64_t block_elements = kCacheLineFloats * std::max<int64_t>(1, inputs.x.dim(0));
  ParallelFor(blocks, kElementsPerThread / block_elements,
              [&](int64_t begin, int64_t end, int /*thread*/) {
                CausalConv1dBackwardArguments arguments = shared;
                arguments.channel_begin = begin * kCacheLineFloats;
                arguments.channel_end = std::min(channels, end * kCacheLineFloats);
                CausalConv1dBackwardKernel(arguments);
                for (int64_t d = arguments.channel_begin; d < arguments.channel_end; ++d) {
                  if (gradients.dbias) gradients.dbias.data<float>()[d] += dbias[d];
                  if (!gradients.dweight) continue;
                  for (int64_t k = 0; k < width; ++k) {
                    gradients.dweight.data<float>()[d * width + k] += dweight[k * channels + d];
                  }
                }
              });
}

}  // namespace adder::cpu
