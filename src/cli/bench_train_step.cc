// adder bench train-step: one step of training a model, all of it: forward, loss, backward,
// clipping, AdamW.
#include <fmt/format.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "adder/backend/cpu/parallel.h"
#include "adder/backend/cpu/roofs.h"
#include "adder/backend/devices.h"
#include "adder/cli/bench.h"
#include "adder/cli/model_options.h"
#include "adder/cli/numbers.h"
#include "adder/data/byte_corpus.h"
#include "adder/models/block_language_model.h"
#include "adder/train/train_config.h"
#include "adder/train/trainer.h"

namespace adder {
namespace {

constexpr double kRoofSeconds = 0.2;
constexpr double kLearningRate = 1e-4;

struct Options {
  ModelConfig config = {.vocab_size = 256, .d_model = 256, .n_layer = 14};
  std::string size;
  int64_t length = 1024;
  int64_t batch = 1;
  std::string dtype = "f32";
  bool tf32 = false;
  std::string device = "auto";
  std::string recompute = "none";
  int64_t segment = 0;
  int repetitions = 7;
  bool json = false;
};

TrainConfig ConfigOf(const Options& options) {
  TrainConfig config;
  config.train.batch = options.batch;
  config.train.length = options.length;
  config.train.dtype = ParseDType(options.dtype);
  config.train.recompute = options.recompute == "none"   ? Recompute::kNone
                           : options.recompute == "scan" ? Recompute::kScan
                                                         : Recompute::kBlock;
  config.train.segment = options.segment;
  return config;
}

void Run(const Options& options) {
  const TrainConfig config = ConfigOf(options);
  const int64_t rows = config.tokens_per_step();
  const Device device = ChosenDevice(options.device);
  UseTf32(options.tf32, config.train.dtype, device);
  const bool on_cpu = device.type == DeviceType::kCpu;
  BlockLanguageModel model(options.size.empty() ? options.config : PublishedConfig(options.size),
                           config.train.dtype);
  model.MoveTo(device);
  InitializeModel(model, /*seed=*/1);
  const ByteCorpus text = RandomText(4 * rows + 1);
  Trainer trainer(model, text, config);
  // On a CUDA device steps are recorded at the second one, and the first repetition is prepared.
  for (int i = 0; i < (on_cpu ? 1 : 4); ++i) trainer.Step(kLearningRate);
  // Two products of the forward's size in the backward.
  const MatrixFlops row = MatrixFlopsOfARow(model);
  const double flops = static_cast<double>(rows) * 3 * (row.blocks + row.head);
  int64_t parameters = 0;
  for (const Shape& shape : model.parameter_shapes()) parameters += shape.elements();
  const int threads = cpu::ThreadCount();
  const cpu::Roof roof = options.dtype == "bf16" ? cpu::Roof::kBF16MatMul : cpu::Roof::kF32MatMul;
  std::vector<double> matmul, seconds;
  for (int i = 0; i < options.repetitions; ++i) {
    if (on_cpu) matmul.push_back(cpu::MeasureRoof(roof, threads, kRoofSeconds));
    seconds.push_back(SecondsOf([&] { trainer.Step(kLearningRate); }, device));
  }
  const double step = Median(seconds);
  std::vector<JsonValue::Member> fields = {{"parameters", parameters}, {"dtype", options.dtype}};
  const auto add = [&](std::vector<JsonValue::Member> more) {
    fields.insert(fields.end(), more.begin(), more.end());
  };
  add(DeviceFields(device));
  add({{"length", options.length},
       {"batch", options.batch},
       {"recompute", options.recompute},
       {"segment", options.segment},
       {"repetitions", options.repetitions},
       {"ms_per_step", step * 1e3},
       {"tokens_per_s", static_cast<double>(rows) / step},
       {"matmul_flop", flops}});
  if (on_cpu) {
    add({{"matmul_flop_per_s", Median(matmul)},
         {"share_of_gemm_roof", flops / Median(matmul) / step}});
  } else {
    add({{"achieved_matmul_flop_per_s", flops / step},
         {"peak_device_bytes", PeakDeviceBytes(device)}});
  }
  PrintFields(fields, options.json);
}

}  // namespace

void AddBenchTrainStep(CLI::App& bench) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = bench.add_subcommand(
      "train-step", "One training step of a byte-level model (default: about 6 M parameters)");
  const auto add = [&](const char* name, int64_t& value, const char* help, int64_t most) {
    command->add_option(name, value, help)
        ->transform(WholeNumber(1, most))
        ->type_name("N")
        ->capture_default_str();
  };
  add("--d-model", options->config.d_model, "Width of the residual stream", 1 << 16);
  add("--n-layer", options->config.n_layer, "Blocks", 1 << 12);
  add("--d-state", options->config.d_state, "States of a channel", 1 << 12);
  add("--length", options->length, "Bytes of a sequence", 1 << 24);
  add("--batch", options->batch, "Sequences", 1 << 16);
  command
      ->add_option("--size", options->size,
                   "A published size instead: 130m to 2.8b, mamba2-130m to mamba2-2.7b, pythia-70m "
                   "to pythia-2.8b")
      ->type_name("NAME");
  AddDTypeOption(*command, options->dtype);
  AddTf32Option(*command, options->tf32);
  AddDeviceOption(*command, options->device);
  command
      ->add_option("--recompute", options->recompute,
                   "What the backward computes once more: none, scan or block")
      ->check(CLI::IsMember({"none", "scan", "block"}))
      ->type_name("WHAT")
      ->capture_default_str();
  command
      ->add_option("--segment", options->segment,
                   "Bytes of the batch in memory at a time, in exact segments of time; 0: all")
      ->transform(WholeNumber(0, int64_t{1} << 30))
      ->type_name("N")
      ->capture_default_str();
  AddRepetitionsOption(*command, options->repetitions);
  AddJsonOption(*command, options->json);
  command->callback([options] { Run(*options); });
}

}  // namespace adder
