// adder bench generate: how fast a model reads a prompt and continues it, beside the time its
// matrix products and its memory traffic alone must take on this machine.
#include <fmt/core.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "adder/backend/cpu/parallel.h"
#include "adder/backend/cpu/roofs.h"
#include "adder/cli/bench.h"
#include "adder/cli/commands.h"
#include "adder/core/random.h"
#include "adder/core/sequence_layout.h"
#include "adder/infer/sampler.h"
#include "adder/models/block_language_model.h"
#include "adder/models/checkpoint.h"

namespace adder {
namespace {

// Of a repetition, for each roof.
constexpr double kRoofSeconds = 0.2;

struct Options {
  std::string directory;
  std::string size;
  std::string dtype = "f32";
  int64_t prompt_length = 512;
  int64_t gen_length = 128;
  int repetitions = 5;
  bool json = false;
};

std::unique_ptr<BlockLanguageModel> MakeModel(const Options& options) {
  const DType dtype = ParseDType(options.dtype);
  if (!options.directory.empty()) return LoadModel(options.directory, dtype);
  auto model = std::make_unique<BlockLanguageModel>(ModelConfig::Published(options.size), dtype);
  InitializeModel(*model, /*seed=*/1);
  return model;
}

// What the model cannot do without, from its dimensions.
struct Work {
  double prefill_flops = 0;  // matrix products over the prompt, the head on its last row only
  double decode_bytes = 0;   // weights read once, state read and written once, for a token
};

Work WorkOf(const BlockLanguageModel& model, const State& state, int64_t prompt_length) {
  const ModelConfig& c = model.config();
  const MatrixFlops flops = MatrixFlopsOfARow(model);
  Work work;
  work.prefill_flops = static_cast<double>(prompt_length) * flops.blocks + flops.head;
  for (const Parameter& p : std::as_const(model).parameters()) {
    // Of an embedding that is not the head too, one row is read.
    const bool lookup =
        p.name == ParameterNames::Of(c.architecture).embedding && !c.tie_word_embeddings;
    if (!lookup) work.decode_bytes += static_cast<double>(p.compute.bytes());
  }
  work.decode_bytes += 2.0 * static_cast<double>(state.bytes());
  return work;
}

struct Measurement {
  double prefill_seconds = 0;
  double decode_seconds = 0;
};

// Reads the prompt, then adds the most likely token gen_length times.
Measurement Generate(const BlockLanguageModel& model, const Tensor& prompt, int64_t gen_length) {
  Measurement m;
  Random random(1);
  State state = model.InitialState(1);
  int32_t token = 0;
  const auto choose = [&](const Tensor& hidden) {
    const Tensor logits = model.Logits(hidden.Rows(hidden.dim(0) - 1, 1));
    token = SampleToken({logits.data<float>(), static_cast<size_t>(logits.elements())},
                        {.temperature = 0}, {}, random);
  };
  m.prefill_seconds = SecondsOf(
      [&] { choose(model.Forward(prompt, SequenceLayout::Single(prompt.dim(0)), &state)); });
  m.decode_seconds = SecondsOf([&] {
    for (int64_t i = 0; i < gen_length; ++i) {
      const Tensor input = Tensor::From<int32_t>({1}, std::span<const int32_t>(&token, 1));
      choose(model.Forward(input, SequenceLayout::Single(1), &state));
    }
  });
  return m;
}

void Run(const Options& options) {
  if (options.directory.empty() == options.size.empty()) {
    throw UsageError("give either --model DIR or --size NAME");
  }
  const std::unique_ptr<BlockLanguageModel> model = MakeModel(options);
  Random random(2);
  std::vector<int32_t> prompt_tokens;
  for (int64_t i = 0; i < options.prompt_length; ++i) {
    prompt_tokens.push_back(
        static_cast<int32_t>(random.NextBelow(static_cast<uint64_t>(model->vocab_size()))));
  }
  const Tensor prompt = Tensor::From<int32_t>({options.prompt_length}, prompt_tokens);
  const Work work = WorkOf(*model, model->InitialState(1), options.prompt_length);
  const bool bf16 = model->compute_dtype() == DType::kBF16;
  const int threads = cpu::ThreadCount();

  Generate(*model, prompt, 4);  // generates code, touches memory
  // Roofs and work in turns, because the machine's speed may change with its other tenants.
  std::vector<double> matmul, fma, read, prefill, decode;
  for (int i = 0; i < options.repetitions; ++i) {
    const auto roof = [&](cpu::Roof f32, cpu::Roof otherwise) {
      return cpu::MeasureRoof(bf16 ? otherwise : f32, threads, kRoofSeconds);
    };
    matmul.push_back(roof(cpu::Roof::kF32MatMul, cpu::Roof::kBF16MatMul));
    fma.push_back(roof(cpu::Roof::kF32Fma, cpu::Roof::kBF16Dot));
    read.push_back(roof(cpu::Roof::kRead, cpu::Roof::kRead));
    const Measurement m = Generate(*model, prompt, options.gen_length);
    prefill.push_back(static_cast<double>(options.prompt_length) / m.prefill_seconds);
    decode.push_back(static_cast<double>(options.gen_length) / m.decode_seconds);
  }
  const double prefill_flops_a_token =
      work.prefill_flops / static_cast<double>(options.prompt_length);
  const double gemm_roof = Median(matmul) / prefill_flops_a_token;
  const double fma_roof = Median(fma) / prefill_flops_a_token;
  const double memory_roof = Median(read) / work.decode_bytes;
  PrintFields({{"model", options.size.empty() ? options.directory : options.size},
               {"dtype", options.dtype},
               {"threads", threads},
               {"prompt_length", options.prompt_length},
               {"gen_length", options.gen_length},
               {"repetitions", options.repetitions},
               {"prefill_tokens_per_s", Median(prefill)},
               {"decode_tokens_per_s", Median(decode)},
               {"prefill_flop", work.prefill_flops},
               {"matmul_flop_per_s", Median(matmul)},
               {"fma_flop_per_s", Median(fma)},
               {"prefill_gemm_roof_tokens_per_s", gemm_roof},
               {"prefill_fma_roof_tokens_per_s", fma_roof},
               {"prefill_share_of_gemm_roof", Median(prefill) / gemm_roof},
               {"prefill_share_of_fma_roof", Median(prefill) / fma_roof},
               {"decode_bytes_per_token", work.decode_bytes},
               {"memory_read_bytes_per_s", Median(read)},
               {"decode_memory_roof_tokens_per_s", memory_roof},
               {"decode_share_of_memory_roof", Median(decode) / memory_roof}},
              options.json);
}

}  // namespace

void AddBenchGenerate(CLI::App& bench) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      bench.add_subcommand("generate", "Reading a prompt and continuing it, one sequence");
  command->add_option("--model", options->directory, "Model directory")->type_name("DIR");
  command
      ->add_option("--size", options->size,
                   "Random weights of a published size: 130m, 370m, 790m, 1.4b, 2.8b")
      ->type_name("NAME");
  AddDTypeOption(*command, options->dtype);
  command->add_option("--prompt-length", options->prompt_length, "Tokens of the prompt")
      ->check(CLI::Range(1, 1 << 24))
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--gen-length", options->gen_length, "Tokens to generate")
      ->check(CLI::Range(1, 1 << 24))
      ->type_name("N")
      ->capture_default_str();
  AddRepetitionsOption(*command, options->repetitions);
  AddJsonOption(*command, options->json);
  command->callback([options] { Run(*options); });
}

}  // namespace adder
