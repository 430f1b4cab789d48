// adder bench train-step: one step of training a byte-level model, all of it: forward, loss,
// backward, clipping, AdamW.
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "adder/backend/cpu/parallel.h"
#include "adder/backend/cpu/roofs.h"
#include "adder/cli/bench.h"
#include "adder/core/error.h"
#include "adder/core/random.h"
#include "adder/data/byte_corpus.h"
#include "adder/models/block_language_model.h"
#include "adder/train/train_config.h"
#include "adder/train/trainer.h"

namespace adder {
namespace {

namespace fs = std::filesystem;

constexpr double kRoofSeconds = 0.2;
constexpr double kLearningRate = 1e-4;

struct Options {
  ModelConfig config = {.vocab_size = 256, .d_model = 256, .n_layer = 14};
  int64_t length = 1024;
  int64_t batch = 1;
  std::string dtype = "f32";
  bool recompute = false;
  int repetitions = 7;
  bool json = false;
};

// Random bytes to train on, as a file in memory.
ByteCorpus RandomText(int64_t bytes) {
  Random random(2);
  std::string text;
  for (int64_t i = 0; i < bytes; ++i) text += static_cast<char>(random.NextBelow(256));
  const int file = memfd_create("text", MFD_CLOEXEC);
  const bool written =
      file >= 0 && write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  if (!written) throw Error(ErrorCode::kIo, "a file in memory cannot be written");
  const fs::path path = fmt::format("/proc/self/fd/{}", file);
  ByteCorpus corpus = ByteCorpus::Open(std::span(&path, 1));
  close(file);
  return corpus;
}

TrainConfig ConfigOf(const Options& options) {
  TrainConfig config;
  config.train.batch = options.batch;
  config.train.length = options.length;
  config.train.dtype = ParseDType(options.dtype);
  config.train.recompute = options.recompute;
  return config;
}

void Run(const Options& options) {
  const TrainConfig config = ConfigOf(options);
  const int64_t rows = config.tokens_per_step();
  BlockLanguageModel model(options.config, config.train.dtype);
  InitializeModel(model, /*seed=*/1);
  const ByteCorpus text = RandomText(4 * rows + 1);
  Trainer trainer(model, text, config);
  trainer.Step(kLearningRate);
  // Two products of the forward's size in the backward, and the head's logits a second time.
  const MatrixFlops row = MatrixFlopsOfARow(model);
  const double flops = static_cast<double>(rows) * (3 * row.blocks + 4 * row.head);
  int64_t parameters = 0;
  for (const Shape& shape : model.parameter_shapes()) parameters += shape.elements();
  const int threads = cpu::ThreadCount();
  const cpu::Roof roof = options.dtype == "bf16" ? cpu::Roof::kBF16MatMul : cpu::Roof::kF32MatMul;
  std::vector<double> matmul, seconds;
  for (int i = 0; i < options.repetitions; ++i) {
    matmul.push_back(cpu::MeasureRoof(roof, threads, kRoofSeconds));
    seconds.push_back(SecondsOf([&] { trainer.Step(kLearningRate); }));
  }
  const double step = Median(seconds);
  PrintFields({{"parameters", parameters},
               {"dtype", options.dtype},
               {"threads", threads},
               {"length", options.length},
               {"batch", options.batch},
               {"recompute", options.recompute},
               {"repetitions", options.repetitions},
               {"ms_per_step", step * 1e3},
               {"tokens_per_s", static_cast<double>(rows) / step},
               {"matmul_flop", flops},
               {"matmul_flop_per_s", Median(matmul)},
               {"share_of_gemm_roof", flops / Median(matmul) / step}},
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
