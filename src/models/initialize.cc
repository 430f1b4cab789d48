// The initial values of a Mamba's parameters: those of the authors' code, which are PyTorch's
// defaults for linear layers and convolutions, and the paper's for the rest.
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string_view>

#include "adder/backend/cpu/parallel.h"
#include "adder/core/random.h"
#include "adder/models/block_language_model.h"

namespace adder {
namespace {

// Draws of 32 bits that one element takes: a double is two, a normal two doubles.
constexpr uint64_t kDrawsPerUniform = 2;
constexpr uint64_t kDrawsPerNormal = 4;

class Initializer {
 public:
  explicit Initializer(uint64_t seed) : seed_(seed) {}

  void Uniform(const Parameter& p, double bound) const {
    Fill(p, kDrawsPerUniform,
         [=](const Tensor& part, Random& random) { FillUniform(part, random, -bound, bound); });
  }
  void Normal(const Parameter& p, double stddev) const {
    Fill(p, kDrawsPerNormal,
         [=](const Tensor& part, Random& random) { FillNormal(part, random, 0, stddev); });
  }
  static void Constant(const Parameter& p, float value) {
    std::fill_n(p.value.data<float>(), p.value.elements(), value);
  }

  // S4D-Real: A[d,n] = -(n + 1).
  static void StateDecay(const Parameter& p) {
    const int64_t N = p.value.dim(1);
    for (int64_t i = 0; i < p.value.elements(); ++i) {
      p.value.data<float>()[i] = static_cast<float>(std::log(static_cast<double>(i % N + 1)));
    }
  }

  // Mamba-2's A, one for each head: -A uniform in [1, 16].
  void HeadDecay(const Parameter& p) const {
    Fill(p, kDrawsPerUniform, [](const Tensor& part, Random& random) {
      for (int64_t i = 0; i < part.elements(); ++i) {
        part.data<float>()[i] = static_cast<float>(std::log(1.0 + 15.0 * random.NextDouble()));
      }
    });
  }

  // A step drawn log-uniformly from [dt_min, dt_max], not below the floor, through the inverse of
  // softplus.
  void StepBias(const Parameter& p, const ModelConfig& c) const {
    const double low = std::log(c.dt_min);
    const double high = std::log(c.dt_max);
    Fill(p, kDrawsPerUniform, [&](const Tensor& part, Random& random) {
      for (int64_t i = 0; i < part.elements(); ++i) {
        const double dt =
            std::max(std::exp(low + (high - low) * random.NextDouble()), c.dt_init_floor);
        part.data<float>()[i] = static_cast<float>(dt + std::log(-std::expm1(-dt)));
      }
    });
  }

 private:
  // Fills parts of the parameter in parallel, each from its own place in the parameter's stream.
  void Fill(const Parameter& p, uint64_t draws_per_element,
            const std::function<void(const Tensor& part, Random& random)>& fill) const {
    constexpr int64_t kGrain = int64_t{1} << 14;
    const uint64_t stream = XXH64(p.name.data(), p.name.size(), 0);
    const Tensor flat = p.value.Reshape({p.value.elements()});
    cpu::ParallelFor(flat.elements(), kGrain, [&](int64_t begin, int64_t end, int) {
      Random random(seed_, stream, static_cast<uint64_t>(begin) * draws_per_element);
      fill(flat.Rows(begin, end - begin), random);
    });
  }

  uint64_t seed_;
};

}  // namespace

void InitializeModel(BlockLanguageModel& model, uint64_t seed) {
  const ModelConfig& c = model.config();
  const Initializer initializer(seed);
  const std::span<Parameter> parameters = model.parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    Parameter& p = parameters[i];
    p.compute = Tensor();
    p.compute_is_copy = false;
    p.value = Tensor::Empty(model.parameter_shapes()[i], DType::kF32);
    const auto is = [&p](std::string_view ending) { return p.name.ends_with(ending); };
    const bool vector = p.value.rank() == 1;
    // kaiming_uniform(a = √5): uniform within ±1/√fan_in.
    const auto fan_in_bound = [](int64_t fan_in) {
      return 1.0 / std::sqrt(static_cast<double>(fan_in));
    };
    if (p.name.find("embed") != std::string::npos && !is("embed_out.weight")) {
      initializer.Normal(p, c.initializer_range);
    } else if (is("A_log")) {
      if (vector) {
        initializer.HeadDecay(p);
      } else {
        Initializer::StateDecay(p);
      }
    } else if (is("mixer.D") || (vector && is(".weight"))) {  // the norms' weights
      Initializer::Constant(p, 1);
    } else if (is("conv1d.weight") || is("conv1d.bias")) {
      const Tensor& kernels = is("bias") ? parameters[i - 1].value : p.value;
      initializer.Uniform(p, fan_in_bound(kernels.dim(2)));
    } else if (is("dt_proj.bias") || is("mixer.dt_bias")) {
      initializer.StepBias(p, c);
    } else if (vector) {
      Initializer::Constant(p, 0);
    } else if (c.is_transformer()) {
      initializer.Normal(p, c.initializer_range);
    } else if (is("out_proj.weight") || is("fc2.weight")) {
      // The residual branches' sum over all layers keeps the variance of one.
      const int64_t branches = c.n_layer * (c.d_intermediate > 0 ? 2 : 1);
      const double scale = c.rescale_prenorm_residual ? fan_in_bound(branches) : 1.0;
      initializer.Uniform(p, fan_in_bound(p.value.dim(1)) * scale);
    } else {
      // in_proj, x_proj, lm_head, and dt_proj, whose ±dt_rank^-½ is the same rule.
      initializer.Uniform(p, fan_in_bound(p.value.dim(1)));
    }
  }
  model.ParametersChanged();
}

}  // namespace adder
