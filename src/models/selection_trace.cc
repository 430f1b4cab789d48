// The definition in plain loops: a trace is for looking at, a prompt long at most.
#include "adder/models/selection_trace.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "adder/backend/cpu/parallel.h"

namespace adder {

void SelectionTrace::Append(const Tensor& dt, const Tensor& dt_bias_any, const Tensor& A_any,
                            double dt_min, double dt_max) {
  const Tensor raw = dt.To(Device{}).To(DType::kF32);
  const Tensor dt_bias = dt_bias_any.To(Device{});
  const Tensor A = A_any.To(Device{});
  const int64_t rows = raw.dim(0);
  const int64_t channels = A.dim(0);
  const int64_t d_state = A.elements() / std::max<int64_t>(1, channels);
  const Tensor steps = Tensor::Empty({rows, channels}, DType::kF32);
  const Tensor decays = Tensor::Empty({rows, channels}, DType::kF32);
  cpu::ParallelFor(rows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t c = 0; c < channels; ++c) {
        const float v = raw.data<float>()[t * raw.stride(0) + c] + dt_bias.data<float>()[c];
        const float softplus = v > 20.0f ? v : std::log1p(std::exp(v));
        const float limited =
            std::clamp(softplus, static_cast<float>(dt_min), static_cast<float>(dt_max));
        float sum = 0;
        for (int64_t n = 0; n < d_state; ++n) {
          sum += std::exp(limited * A.data<float>()[c * d_state + n]);
        }
        steps.data<float>()[t * channels + c] = limited;
        decays.data<float>()[t * channels + c] = sum / static_cast<float>(d_state);
      }
    }
  });
  step.push_back(steps);
  decay.push_back(decays);
}

}  // namespace adder
