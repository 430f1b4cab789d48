// adder bench generate: how fast a model reads prompts and continues them, on the CPU beside the
// time its matrix products and its memory traffic alone must take on this machine.
#include <fmt/core.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "adder/backend/cpu/parallel.h"
#include "adder/backend/cpu/roofs.h"
#include "adder/backend/devices.h"
#include "adder/cli/bench.h"
#include "adder/cli/commands.h"
#include "adder/cli/model_options.h"
#include "adder/cli/numbers.h"
#include "adder/core/random.h"
#include "adder/core/sequence_layout.h"
#include "adder/infer/decoder.h"
#include "adder/models/block_language_model.h"
#include "adder/models/checkpoint.h"
#include "adder/models/gguf_checkpoint.h"
#include "adder/ops/most_likely/most_likely.h"
#include "adder/text/tokenizer.h"

namespace adder {
namespace {

// Of a repetition, for each roof.
constexpr double kRoofSeconds = 0.2;

struct Options {
  std::string model;
  std::string size;
  std::string dtype = "f32";
  bool tf32 = false;
  std::string device = "auto";
  std::string quantize;
  int64_t batch = 1;
  int64_t prompt_length = 512;
  int64_t gen_length = 128;
  int repetitions = 5;
  bool json = false;
};

std::unique_ptr<BlockLanguageModel> MakeModel(const Options& options) {
  const DType dtype = ParseDType(options.dtype);
  const Device device = ChosenDevice(options.device);
  UseTf32(options.tf32, dtype, device);
  std::unique_ptr<BlockLanguageModel> model;
  if (options.size.empty()) {
    model = LoadModel(options.model, dtype, device);
  } else {
    model = std::make_unique<BlockLanguageModel>(PublishedConfig(options.size), dtype);
    model->MoveTo(device);
    InitializeModel(*model, /*seed=*/1);
  }
  if (!options.quantize.empty()) QuantizeModel(*model, ParseDType(options.quantize));
  return model;
}

// The dtype that most of the weights are read in.
DType WeightDType(const BlockLanguageModel& model) {
  std::map<DType, int64_t> elements;
  for (const Parameter& p : model.parameters()) {
    if (!p.full_precision) elements[p.compute.dtype()] += p.compute.elements();
  }
  const auto less = [](const auto& a, const auto& b) { return a.second < b.second; };
  return std::max_element(elements.begin(), elements.end(), less)->first;
}

// What the model cannot do without, from its dimensions.
struct Work {
  double prefill_flops = 0;  // matrix products over the prompts, the head on their last rows only
  // A step in the middle of the generation: weights read once, states of fixed size read and
  // written once, those that grow read once.
  double decode_bytes = 0;
};

Work WorkOf(const BlockLanguageModel& model, const Options& options) {
  const ModelConfig& c = model.config();
  const MatrixFlops flops = MatrixFlopsOfARow(model);
  Work work;
  work.prefill_flops = static_cast<double>(options.batch) *
                       (static_cast<double>(options.prompt_length) * flops.blocks + flops.head);
  for (const Parameter& p : model.parameters()) {
    // Of an embedding that is not the head too, one row is read.
    const bool lookup =
        p.name == ParameterNames::Of(c.architecture).embedding && !c.tie_word_embeddings;
    if (!lookup) work.decode_bytes += static_cast<double>(p.compute.bytes());
  }
  const State state = model.InitialState(options.batch);
  work.decode_bytes += 2.0 * static_cast<double>(state.bytes());  // without rows of what grows
  const double rows =
      static_cast<double>(options.batch) *
      (static_cast<double>(options.prompt_length) + static_cast<double>(options.gen_length) / 2);
  for (const State::Entry& entry : state.entries()) {
    if (!entry.grows) continue;
    const std::span<const int64_t> row = entry.value.shape().dims().subspan(2);
    const int64_t elements =
        std::accumulate(row.begin(), row.end(), int64_t{1}, std::multiplies<>());
    work.decode_bytes += rows * static_cast<double>(DTypeBytes(entry.value.dtype(), elements));
  }
  return work;
}

struct Measurement {
  double prefill_seconds = 0;
  double decode_seconds = 0;
  int64_t repeated_steps = 0;  // of a recording
};

// Reads the prompts [batch, length] together, then adds the most likely token to each gen_length
// times.
Measurement Generate(const BlockLanguageModel& model, const Tensor& prompts, int64_t gen_length) {
  const int64_t batch = prompts.dim(0);
  State state = model.InitialState(batch);
  const Tensor tokens = Tensor::Empty({batch}, DType::kI32, model.device());
  Measurement m;
  m.prefill_seconds = SecondsOf(
      [&] {
        const int64_t length = prompts.dim(1);
        const Tensor hidden = model.Forward(prompts.Reshape({batch * length}),
                                            SequenceLayout::Uniform(batch, length), &state);
        // The last row of each, one after the other.
        const int64_t width = hidden.dim(1);
        const Tensor last =
            hidden.Reshape({batch, length * width}).Columns((length - 1) * width, width);
        MostLikely(model.Logits(last), tokens);
      },
      model.device());
  Decoder decoder(model);
  m.decode_seconds = SecondsOf(
      [&] {
        for (int64_t i = 0; i < gen_length; ++i) MostLikely(decoder.Step(tokens, &state), tokens);
      },
      model.device());
  m.repeated_steps = decoder.repeated_steps();
  return m;
}

void Run(const Options& options) {
  if (options.model.empty() == options.size.empty()) {
    throw UsageError("give either --model PATH or --size NAME");
  }
  const std::unique_ptr<BlockLanguageModel> model = MakeModel(options);
  Random random(2);
  const Tensor prompts = Tensor::Empty({options.batch, options.prompt_length}, DType::kI32);
  for (int64_t i = 0; i < prompts.elements(); ++i) {
    prompts.data<int32_t>()[i] =
        static_cast<int32_t>(random.NextBelow(static_cast<uint64_t>(model->vocab_size())));
  }
  const double prompt_tokens = static_cast<double>(prompts.elements());
  const double steps = static_cast<double>(options.gen_length);
  const double batch = static_cast<double>(options.batch);
  const Work work = WorkOf(*model, options);
  const bool bf16 = model->compute_dtype() == DType::kBF16;
  const int threads = cpu::ThreadCount();
  const Device device = model->device();
  const bool on_cpu = device.type == DeviceType::kCpu;

  Generate(*model, prompts, 4);  // generates code, touches memory
  // Roofs and work in turns, because the machine's speed may change with its other tenants.
  std::vector<double> matmul, fma, read, prefill, decode;
  int64_t repeated_steps = 0;
  for (int i = 0; i < options.repetitions; ++i) {
    const auto roof = [&](cpu::Roof f32, cpu::Roof otherwise) {
      return cpu::MeasureRoof(bf16 ? otherwise : f32, threads, kRoofSeconds);
    };
    if (on_cpu) {
      matmul.push_back(roof(cpu::Roof::kF32MatMul, cpu::Roof::kBF16MatMul));
      fma.push_back(roof(cpu::Roof::kF32Fma, cpu::Roof::kBF16Dot));
      read.push_back(roof(cpu::Roof::kRead, cpu::Roof::kRead));
    }
    const Measurement m = Generate(*model, prompts, options.gen_length);
    prefill.push_back(prompt_tokens / m.prefill_seconds);
    decode.push_back(batch * steps / m.decode_seconds);
    repeated_steps = m.repeated_steps;
  }
  std::vector<JsonValue::Member> fields = {
      {"model", options.size.empty() ? ToUtf8(options.model) : options.size},
      {"dtype", options.dtype},
      {"weights", DTypeName(WeightDType(*model))}};
  const auto add = [&](std::vector<JsonValue::Member> more) {
    fields.insert(fields.end(), more.begin(), more.end());
  };
  add(DeviceFields(device));
  add({{"batch", options.batch},
       {"prompt_length", options.prompt_length},
       {"gen_length", options.gen_length},
       {"repetitions", options.repetitions},
       {"prefill_tokens_per_s", Median(prefill)},
       {"decode_tokens_per_s", Median(decode)},
       {"prefill_flop", work.prefill_flops}});
  if (on_cpu) {
    const double prefill_flops_a_token = work.prefill_flops / prompt_tokens;
    const double gemm_roof = Median(matmul) / prefill_flops_a_token;
    const double fma_roof = Median(fma) / prefill_flops_a_token;
    const double memory_roof = batch * Median(read) / work.decode_bytes;
    add({{"matmul_flop_per_s", Median(matmul)},
         {"fma_flop_per_s", Median(fma)},
         {"prefill_gemm_roof_tokens_per_s", gemm_roof},
         {"prefill_fma_roof_tokens_per_s", fma_roof},
         {"prefill_share_of_gemm_roof", Median(prefill) / gemm_roof},
         {"prefill_share_of_fma_roof", Median(prefill) / fma_roof},
         {"decode_bytes_per_step", work.decode_bytes},
         {"memory_read_bytes_per_s", Median(read)},
         {"decode_memory_roof_tokens_per_s", memory_roof},
         {"decode_share_of_memory_roof", Median(decode) / memory_roof}});
  } else {
    add({{"repeated_steps", repeated_steps},
         {"decode_bytes_per_step", work.decode_bytes},
         {"decode_bytes_per_s", Median(decode) / batch * work.decode_bytes},
         {"peak_device_bytes", PeakDeviceBytes(device)}});
  }
  PrintFields(fields, options.json);
}

}  // namespace

void AddBenchGenerate(CLI::App& bench) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      bench.add_subcommand("generate", "Reading prompts and continuing them, one or many together");
  command->add_option("--model", options->model, "Model directory or GGUF file")->type_name("PATH");
  command
      ->add_option("--size", options->size,
                   "Random weights of a published size: 130m to 2.8b (Mamba), mamba2-130m to "
                   "mamba2-2.7b, pythia-70m to pythia-2.8b")
      ->type_name("NAME");
  AddComputeOptions(*command, options->dtype, options->tf32);
  AddDeviceOption(*command, options->device);
  command
      ->add_option("--quantize", options->quantize,
                   "Quantize the weights first, as adder convert does")
      ->check(CLI::IsMember({"q8_0", "q4_0", "q4_k", "q6_k"}))
      ->type_name("TYPE");
  command->add_option("--batch", options->batch, "Prompts, read and continued together")
      ->transform(WholeNumber(1, 1 << 12))
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--prompt-length", options->prompt_length, "Tokens of each prompt")
      ->transform(WholeNumber(1, 1 << 24))
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--gen-length", options->gen_length, "Tokens to generate for each prompt")
      ->transform(WholeNumber(1, 1 << 24))
      ->type_name("N")
      ->capture_default_str();
  AddRepetitionsOption(*command, options->repetitions);
  AddJsonOption(*command, options->json);
  command->callback([options] { Run(*options); });
}

}  // namespace adder
