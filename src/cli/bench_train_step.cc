// adder bench train-step: one step of training a byte-level model, all of it: forward, loss,
// backward, clipping, AdamW.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "adder/autograd/tape.h"
#include "adder/backend/cpu/parallel.h"
#include "adder/backend/cpu/roofs.h"
#include "adder/cli/bench.h"
#include "adder/core/error.h"
#include "adder/core/random.h"
#include "adder/core/sequence_layout.h"
#include "adder/models/block_language_model.h"
#include "adder/ops/adamw/adamw.h"

namespace adder {
namespace {

constexpr double kRoofSeconds = 0.2;
constexpr double kGradientClip = 1.0;

struct Options {
  ModelConfig config = {.vocab_size = 256, .d_model = 256, .n_layer = 14};
  int64_t length = 1024;
  int64_t batch = 1;
  std::string dtype = "f32";
  bool recompute = false;
  int repetitions = 7;
  bool json = false;
};

// A model, its optimizer's memory and one batch of random bytes.
class Training {
 public:
  explicit Training(const Options& options)
      : model_(options.config, ParseDType(options.dtype)),
        layout_(SequenceLayout::Uniform(options.batch, options.length)),
        recompute_(options.recompute) {
    InitializeModel(model_, /*seed=*/1);
    model_.PrepareTraining();
    for (const Parameter& p : model_.parameters()) {
      m_.push_back(Tensor::Zeros(p.value.shape(), DType::kF32));
      v_.push_back(Tensor::Zeros(p.value.shape(), DType::kF32));
    }
    Random random(2);
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i <= layout_.rows(); ++i) {
      tokens.push_back(static_cast<int32_t>(random.NextBelow(256)));
    }
    const Tensor all = Tensor::From<int32_t>({layout_.rows() + 1}, tokens);
    tokens_ = all.Rows(0, layout_.rows());
    targets_ = all.Rows(1, layout_.rows());
  }

  void Step() {
    model_.ZeroGradients();
    Tape tape;
    const Variable hidden = model_.Hidden(&tape, tokens_, layout_, nullptr, recompute_);
    const Variable loss = model_.Loss(&tape, hidden, targets_);
    loss.CollectGradOverwriting([&](const Tensor& target) {
      const std::vector<float> weights(static_cast<size_t>(layout_.rows()),
                                       1.0f / static_cast<float>(layout_.rows()));
      target.CopyFrom(Tensor::From<float>(target.shape(), weights));
    });
    tape.Backward();
    std::vector<Tensor> gradients;
    for (const Parameter& p : model_.parameters()) gradients.push_back(p.grad);
    const double norm = GradientNorm(gradients);
    ++step_;
    const std::span<Parameter> parameters = model_.parameters();
    for (size_t i = 0; i < parameters.size(); ++i) {
      const Parameter& p = parameters[i];
      AdamW({.lr = 1e-4,
             .weight_decay = p.weight_decay ? 0.1 : 0.0,
             .gradient_scale = norm > kGradientClip ? kGradientClip / norm : 1.0,
             .step = step_},
            p.grad, p.value, m_[i], v_[i], Tensor());
    }
    model_.ParametersChanged();
  }

  int64_t rows() const { return layout_.rows(); }
  int64_t parameter_count() const {
    int64_t count = 0;
    for (const Shape& shape : model_.parameter_shapes()) count += shape.elements();
    return count;
  }
  // Multiply-adds of the matrix products: two of the forward's size in the backward, and the head's
  // logits a second time.
  double flops() const {
    const ModelConfig& c = model_.config();
    const int64_t projections = c.d_model * 2 * c.d_inner +
                                c.d_inner * (c.dt_rank + 2 * c.d_state) + c.dt_rank * c.d_inner +
                                c.d_inner * c.d_model;
    return 2.0 * static_cast<double>(rows()) *
           static_cast<double>(3 * c.n_layer * projections + 4 * c.vocab_size * c.d_model);
  }

 private:
  BlockLanguageModel model_;
  SequenceLayout layout_;
  bool recompute_;
  std::vector<Tensor> m_, v_;
  Tensor tokens_, targets_;
  int64_t step_ = 0;
};

void Run(const Options& options) {
  Training training(options);
  training.Step();
  const int threads = cpu::ThreadCount();
  const cpu::Roof roof = options.dtype == "bf16" ? cpu::Roof::kBF16MatMul : cpu::Roof::kF32MatMul;
  std::vector<double> matmul, seconds;
  for (int i = 0; i < options.repetitions; ++i) {
    matmul.push_back(cpu::MeasureRoof(roof, threads, kRoofSeconds));
    seconds.push_back(SecondsOf([&] { training.Step(); }));
  }
  const double step = Median(seconds);
  PrintFields({{"parameters", training.parameter_count()},
               {"dtype", options.dtype},
               {"threads", threads},
               {"length", options.length},
               {"batch", options.batch},
               {"recompute", options.recompute},
               {"repetitions", options.repetitions},
               {"ms_per_step", step * 1e3},
               {"tokens_per_s", static_cast<double>(training.rows()) / step},
               {"matmul_flop", training.flops()},
               {"matmul_flop_per_s", Median(matmul)},
               {"share_of_gemm_roof", training.flops() / Median(matmul) / step}},
              options.json);
}

}  // namespace

void AddBenchTrainStep(CLI::App& bench) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = bench.add_subcommand(
      "train-step", "One training step of a byte-level model (default: about 6 M parameters)");
  const auto add = [&](const char* name, int64_t& value, const char* help, int64_t most) {
    command->add_option(name, value, help)
        ->check(CLI::Range(int64_t{1}, most))
        ->type_name("N")
        ->capture_default_str();
  };
  add("--d-model", options->config.d_model, "Width of the residual stream", 1 << 16);
  add("--n-layer", options->config.n_layer, "Blocks", 1 << 12);
  add("--d-state", options->config.d_state, "States of a channel", 1 << 12);
  add("--length", options->length, "Bytes of a sequence", 1 << 24);
  add("--batch", options->batch, "Sequences", 1 << 16);
  AddDTypeOption(*command, options->dtype);
  command->add_flag("--recompute", options->recompute,
                    "Recompute the blocks' activations in the backward");
  AddRepetitionsOption(*command, options->repetitions);
  AddJsonOption(*command, options->json);
  command->callback([options] { Run(*options); });
}

}  // namespace adder
