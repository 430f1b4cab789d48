// adder bench context: what a context costs. How fast models read and write on, and what they hold
// in memory, after the same number of tokens: constant for Mamba, growing for a Transformer.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "adder/backend/cpu/parallel.h"
#include "adder/backend/devices.h"
#include "adder/cli/bench.h"
#include "adder/cli/commands.h"
#include "adder/cli/model_options.h"
#include "adder/cli/numbers.h"
#include "adder/core/random.h"
#include "adder/core/sequence_layout.h"
#include "adder/formats/file.h"
#include "adder/formats/line_chart.h"
#include "adder/models/block_language_model.h"

namespace adder {
namespace {

struct Options {
  std::vector<std::string> sizes = {"130m", "pythia-160m"};
  std::vector<int64_t> contexts = {2048, 8192, 32768, 131072};
  std::string dtype = "bf16";
  bool tf32 = false;
  std::string device = "auto";
  int64_t batch = 1;
  int64_t read = 512;
  int64_t generate = 32;
  int repetitions = 3;
  bool json = false;
  std::string speed_plot;
  std::string memory_plot;
};

// The state of sequences that have read `context` tokens each, with room for `more`. What they read
// is made up: numbers of unit variance, which take the time of any others.
State StateAfter(const BlockLanguageModel& model, int64_t batch, int64_t context, int64_t more) {
  Random random(3);
  const double unit = std::sqrt(3.0);
  const State initial = model.InitialState(batch);
  std::vector<State::Entry> entries;
  for (const State::Entry& entry : initial.entries()) {
    const std::span<const int64_t> shape = entry.value.shape().dims();
    std::vector<int64_t> dims(shape.begin(), shape.end());
    if (entry.grows) dims[1] = context + more;
    const Tensor value = Tensor::Empty(Shape(dims), entry.value.dtype());
    FillUniform(value, random, -unit, unit);
    entries.push_back({entry.name, value, entry.grows});
  }
  return {model.fingerprint(), std::vector<int64_t>(static_cast<size_t>(batch), context),
          std::move(entries)};
}

Tensor RandomTokens(Random& random, const BlockLanguageModel& model, int64_t count) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) {
    tokens.push_back(
        static_cast<int32_t>(random.NextBelow(static_cast<uint64_t>(model.vocab_size()))));
  }
  return Tensor::From<int32_t>({count}, tokens);
}

// What one model does after one number of tokens; medians.
struct Measurement {
  double read_tokens_per_s = 0;
  double generate_tokens_per_s = 0;
  int64_t state_bytes = 0;
};

Measurement Measure(const BlockLanguageModel& model, int64_t context, const Options& options) {
  const int64_t batch = options.batch;
  Random random(4);
  State state = StateAfter(model, batch, context, std::max(options.read, options.generate))
                    .To(model.device());
  Measurement result;
  result.state_bytes = state.bytes();
  const auto rewind = [&] {
    for (int64_t& position : state.mutable_positions()) position = context;
  };
  const auto read_on = [&](const Tensor& tokens, const SequenceLayout& layout) {
    const Tensor hidden = model.Forward(tokens, layout, &state);
    for (int64_t s = 0; s < layout.sequences(); ++s) {
      model.Logits(hidden.Rows(layout.end(s) - 1, 1));
    }
  };
  std::vector<double> read;
  std::vector<double> generate;
  // Once more than is counted: the first touches memory and generates code.
  for (int i = 0; i <= options.repetitions; ++i) {
    rewind();
    const Tensor prompt = RandomTokens(random, model, batch * options.read);
    const SequenceLayout prompts = SequenceLayout::Uniform(batch, options.read);
    const double read_seconds = SecondsOf([&] { read_on(prompt, prompts); }, model.device());
    rewind();
    // The tokens' values make no difference to the time, only that each waits for the one before.
    const SequenceLayout rows = SequenceLayout::Uniform(batch, 1);
    const double generate_seconds = SecondsOf(
        [&] {
          for (int64_t k = 0; k < options.generate; ++k) {
            model.Logits(model.Forward(RandomTokens(random, model, batch), rows, &state));
            Synchronize(model.device());
          }
        },
        model.device());
    if (i == 0) continue;
    read.push_back(static_cast<double>(batch * options.read) / read_seconds);
    generate.push_back(static_cast<double>(batch * options.generate) / generate_seconds);
  }
  result.read_tokens_per_s = Median(read);
  result.generate_tokens_per_s = Median(generate);
  return result;
}

void WritePlot(const std::string& path, const Options& options, const std::string& title,
               const std::string& y_label, std::vector<LineChartSeries> series) {
  if (path.empty()) return;
  WriteFileAtomically(path, RenderLineChart({.title = title,
                                             .x_label = "tokens in the context",
                                             .y_label = y_label,
                                             .log_x = options.contexts.size() > 1,
                                             .log_y = true,
                                             .series = std::move(series)}));
}

void Run(Options options) {
  std::sort(options.contexts.begin(), options.contexts.end());
  BenchTable table = {.columns = {"model", "context", "read_tokens_per_s", "generate_tokens_per_s",
                                  "state_mib", "weights_mib", "device"},
                      .rows = {}};
  for (const std::string& size : options.sizes) PublishedConfig(size);
  for (const std::string& plot : {options.speed_plot, options.memory_plot}) {
    if (!plot.empty()) CheckWritable(plot);
  }
  const Device device = ChosenDevice(options.device);
  UseTf32(options.tf32, ParseDType(options.dtype), device);
  std::vector<LineChartSeries> speed;
  std::vector<LineChartSeries> memory;
  constexpr double kMib = 1 << 20;
  for (const std::string& size : options.sizes) {
    BlockLanguageModel model(PublishedConfig(size), ParseDType(options.dtype));
    model.MoveTo(device);
    InitializeModel(model, /*seed=*/1);
    double weights = 0;
    for (const Parameter& p : std::as_const(model).parameters()) {
      weights += static_cast<double>(p.compute.bytes());
    }
    const std::string name = size.find('-') == std::string::npos ? "mamba-" + size : size;
    speed.push_back({.name = name, .points = {}, .color = {}, .markers = true});
    memory.push_back(speed.back());
    for (const int64_t context : options.contexts) {
      const Measurement m = Measure(model, context, options);
      const auto state = static_cast<double>(m.state_bytes);
      table.rows.push_back({name, context, m.read_tokens_per_s, m.generate_tokens_per_s,
                            state / kMib, weights / kMib, ToString(device)});
      speed.back().points.push_back({static_cast<double>(context), m.generate_tokens_per_s});
      memory.back().points.push_back({static_cast<double>(context), state / kMib});
    }
  }
  PrintTable(table, options.json);
  const std::string place = device.type == DeviceType::kCpu
                                ? fmt::format("{} threads", cpu::ThreadCount())
                                : ToString(device);
  const std::string machine = fmt::format("{}, batch {}, {}", options.dtype, options.batch, place);
  WritePlot(options.speed_plot, options, "Generation by length of the context: " + machine,
            "tokens per second", std::move(speed));
  WritePlot(options.memory_plot, options, "Memory of a conversation: " + machine, "MiB",
            std::move(memory));
}

}  // namespace

void AddBenchContext(CLI::App& bench) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = bench.add_subcommand(
      "context", "Models after a context: speed and memory, Mamba beside a Transformer");
  command
      ->add_option("--sizes", options->sizes,
                   "Published sizes, random weights: 130m … 2.8b, mamba2-130m …, pythia-160m …")
      ->delimiter(',')
      ->type_name("NAME,…")
      ->capture_default_str();
  const CLI::Validator positive = WholeNumber(1, int64_t{1} << 24);
  command->add_option("--contexts", options->contexts, "Tokens read before")
      ->delimiter(',')
      ->transform(positive)
      ->type_name("N,…")
      ->capture_default_str();
  AddComputeOptions(*command, options->dtype, options->tf32);
  AddDeviceOption(*command, options->device);
  const auto add = [&](const char* name, int64_t& value, const char* help) {
    command->add_option(name, value, help)
        ->transform(positive)
        ->type_name("N")
        ->capture_default_str();
  };
  add("--batch", options->batch, "Sequences side by side");
  add("--read", options->read, "Further tokens to read, of each sequence");
  add("--generate", options->generate, "Tokens to generate, of each sequence");
  AddRepetitionsOption(*command, options->repetitions);
  command->add_option("--speed-plot", options->speed_plot, "SVG file: tokens/s by context")
      ->type_name("FILE");
  command->add_option("--memory-plot", options->memory_plot, "SVG file: memory by context")
      ->type_name("FILE");
  AddJsonOption(*command, options->json);
  command->callback([options] { Run(*options); });
}

}  // namespace adder
