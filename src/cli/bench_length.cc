// adder bench length: what the length of a text costs, in memory and time: read in one forward, and
// trained on in one step, whole and in segments.
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "adder/backend/cpu/parallel.h"
#include "adder/backend/devices.h"
#include "adder/cli/bench.h"
#include "adder/cli/commands.h"
#include "adder/cli/model_options.h"
#include "adder/cli/numbers.h"
#include "adder/core/error.h"
#include "adder/core/random.h"
#include "adder/core/sequence_layout.h"
#include "adder/formats/file.h"
#include "adder/formats/line_chart.h"
#include "adder/models/block_language_model.h"
#include "adder/train/train_config.h"
#include "adder/train/trainer.h"

namespace adder {
namespace {

constexpr double kLearningRate = 1e-4;
constexpr double kGib = 1 << 30;
// Up to this length the work is done twice before it counts: the first asks for memory and has the
// libraries choose kernels, the second is recorded. Of longer texts that is no part that counts.
constexpr int64_t kWarmUpLength = 1 << 17;

struct Options {
  std::string size = "130m";
  std::vector<int64_t> lengths = {16384, 32768, 65536, 131072, 262144, 524288, 1048576};
  int64_t segment = 32768;
  std::string dtype = "bf16";
  std::string device = "auto";
  int repetitions = 1;
  bool json = false;
  std::string memory_plot;
};

struct Measurement {
  double tokens_per_s = 0;
  int64_t bytes = 0;  // the most in use
};

// Nothing where the memory does not suffice.
std::optional<Measurement> Measure(const BlockLanguageModel& model, const Options& options,
                                   int64_t length, const std::function<void()>& work) {
  PeakBytes(model.device());
  Measurement result;
  try {
    std::vector<double> seconds;
    for (int i = 0; i < 2 && length <= kWarmUpLength; ++i) work();
    for (int i = 0; i < options.repetitions; ++i) {
      seconds.push_back(SecondsOf(work, model.device()));
    }
    result.tokens_per_s = static_cast<double>(length) / Median(seconds);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kOutOfMemory) throw;
    PeakBytes(model.device());
    return {};
  }
  result.bytes = PeakBytes(model.device());
  return result;
}

// The text's hidden rows, all of them, and the logits after the last.
std::optional<Measurement> Forward(const BlockLanguageModel& model, const Options& options,
                                   int64_t length) {
  Random random(4);
  const Tensor tokens = Tensor::Empty({length}, DType::kI32);
  for (int64_t i = 0; i < length; ++i) {
    tokens.data<int32_t>()[i] =
        static_cast<int32_t>(random.NextBelow(static_cast<uint64_t>(model.vocab_size())));
  }
  const SequenceLayout layout = SequenceLayout::Single(length);
  return Measure(model, options, length, [&] {
    State state;
    model.Logits(model.Forward(tokens, layout, &state).Rows(length - 1, 1));
  });
}

std::optional<Measurement> Step(BlockLanguageModel& model, const Options& options, int64_t length,
                                int64_t segment, Recompute recompute) {
  TrainConfig config;
  config.train.batch = 1;
  config.train.length = length;
  config.train.dtype = model.compute_dtype();
  config.train.segment = segment;
  config.train.recompute = recompute;
  const ByteCorpus text = RandomText(2 * length + 1);
  Trainer trainer(model, text, config);
  return Measure(model, options, length, [&] { trainer.Step(kLearningRate); });
}

void Run(Options options) {
  std::sort(options.lengths.begin(), options.lengths.end());
  if (!options.memory_plot.empty()) CheckWritable(options.memory_plot);
  const Device device = ChosenDevice(options.device);
  BlockLanguageModel model(PublishedConfig(options.size), ParseDType(options.dtype));
  model.MoveTo(device);
  InitializeModel(model, /*seed=*/1);
  const std::string name =
      options.size.find('-') == std::string::npos ? "mamba-" + options.size : options.size;

  BenchTable table = {.columns = {"work", "length", "tokens_per_s", "most_gib", "device"},
                      .rows = {}};
  std::vector<LineChartSeries> series;
  const auto add = [&](const std::string& work, const auto& measure) {
    series.push_back({.name = work, .points = {}, .color = {}, .markers = true});
    bool fits = true;
    for (const int64_t length : options.lengths) {
      // What is longer than what does not fit does not, either.
      const std::optional<Measurement> m = fits ? measure(length) : std::nullopt;
      fits = m.has_value();
      if (!m) {
        table.rows.push_back({work, length, JsonValue(), JsonValue(), ToString(device)});
        continue;
      }
      const double gib = static_cast<double>(m->bytes) / kGib;
      table.rows.push_back({work, length, m->tokens_per_s, gib, ToString(device)});
      series.back().points.push_back({static_cast<double>(length), gib});
    }
  };
  add("one forward", [&](int64_t length) { return Forward(model, options, length); });
  add("step, recompute = block", [&](int64_t length) {
    return Step(model, options, length, /*segment=*/0, Recompute::kBlock);
  });
  add(fmt::format("step, segment = {}", options.segment), [&](int64_t length) {
    return Step(model, options, length, options.segment, Recompute::kNone);
  });
  PrintTable(table, options.json);
  if (options.memory_plot.empty()) return;
  const std::string place = device.type == DeviceType::kCpu
                                ? fmt::format("{} threads", cpu::ThreadCount())
                                : ToString(device);
  WriteFileAtomically(
      options.memory_plot,
      RenderLineChart({.title = fmt::format("Memory by length of the text: {}, {}, {}", name,
                                            options.dtype, place),
                       .x_label = "tokens",
                       .y_label = "GiB",
                       .log_x = options.lengths.size() > 1,
                       .log_y = true,
                       .series = std::move(series)}));
}

}  // namespace

void AddBenchLength(CLI::App& bench) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = bench.add_subcommand(
      "length",
      "Texts by length: memory and speed of one forward, of a training step with "
      "recompute = block, and of one in segments");
  command
      ->add_option("--size", options->size,
                   "A published size, random weights: 130m to 2.8b, mamba2-130m to mamba2-2.7b")
      ->type_name("NAME")
      ->capture_default_str();
  const CLI::Validator positive = WholeNumber(1, int64_t{1} << 24);
  command->add_option("--lengths", options->lengths, "Tokens of the text")
      ->delimiter(',')
      ->transform(positive)
      ->type_name("N,…")
      ->capture_default_str();
  command->add_option("--segment", options->segment, "Tokens of a segment")
      ->transform(positive)
      ->type_name("N")
      ->capture_default_str();
  AddDTypeOption(*command, options->dtype);
  AddDeviceOption(*command, options->device);
  AddRepetitionsOption(*command, options->repetitions);
  command->add_option("--memory-plot", options->memory_plot, "SVG file: memory by length")
      ->type_name("FILE");
  AddJsonOption(*command, options->json);
  command->callback([options] { Run(*options); });
}

}  // namespace adder
