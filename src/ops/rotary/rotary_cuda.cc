// rotary on a CUDA device: hands the tensors to the module.
#include <numbers>
#include <vector>

#include "adder/backend/cuda/module.h"
#include "adder/ops/cuda_operators.h"
#include "adder/ops/rotary/rotary_backends.h"

namespace adder::cuda {

void Rotary(const Tensor& x, const RotaryEmbedding& embedding, bool inverse, const Tensor& y) {
  std::vector<double> frequencies;
  for (int64_t i = 0; i < embedding.rotary_dim / 2; ++i) {
    frequencies.push_back(RotaryFrequency(embedding, i) * 2 / std::numbers::pi);
  }
  GetModule().operators().rotary({.device = x.device().index,
                                  .rows = x.dim(0),
                                  .heads = x.dim(1) / embedding.d_head,
                                  .d_head = embedding.d_head,
                                  .x = RowsOf(x),
                                  .y = RowsOf(y),
                                  .positions = embedding.positions.data<int64_t>(),
                                  .frequencies = frequencies.data(),
                                  .pairs = embedding.rotary_dim / 2,
                                  .interleaved = embedding.interleaved,
                                  .direction = inverse ? -1.0f : 1.0f});
}

}  // namespace adder::cuda
