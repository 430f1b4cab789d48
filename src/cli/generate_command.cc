// adder generate: text from a prompt, a batch of prompts, or a saved conversation.
#include <fmt/core.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adder/cli/commands.h"
#include "adder/cli/model_options.h"
#include "adder/cli/numbers.h"
#include "adder/cli/standard_output.h"
#include "adder/formats/file.h"
#include "adder/formats/json.h"
#include "adder/infer/generator.h"
#include "adder/infer/prompts.h"
#include "adder/infer/session.h"
#include "adder/text/tokenizer.h"

namespace adder {
namespace {

struct Options {
  ModelOptions model;
  std::optional<std::string> prompt;
  std::optional<std::string> prompt_file;
  std::optional<std::string> prompts_file;
  int64_t batch = 16;
  std::optional<int64_t> seed;
  GenerationOptions generation;
  bool json = false;
  std::string state_in;
  std::string state_out;
};

std::string ReadStandardInput() {
  std::string text;
  char buffer[1 << 16];
  while (const size_t count = std::fread(buffer, 1, sizeof(buffer), stdin)) {
    text.append(buffer, count);
  }
  if (std::ferror(stdin)) throw Error(ErrorCode::kIo, "standard input: cannot be read");
  return text;
}

// One generation as it goes on: its text is printed at once or kept.
struct Output {
  std::string text;
  std::vector<int32_t> tokens;
};

JsonValue Describe(const Generated& generated, const Output& output, double seconds) {
  JsonValue::Array tokens;
  for (const int32_t token : output.tokens) tokens.emplace_back(token);
  const auto count = static_cast<double>(generated.generated_tokens);
  return JsonValue::Object{
      {"text", output.text},
      {"tokens", std::move(tokens)},
      {"prompt_tokens", generated.prompt_tokens},
      {"generated_tokens", generated.generated_tokens},
      {"finish", FinishReasonName(generated.reason)},
      {"seed", static_cast<int64_t>(generated.session.seed)},
      {"seconds", seconds},
      {"tokens_per_s", seconds > 0.0 ? count / seconds : 0.0},
  };
}

class GenerateCommand {
 public:
  explicit GenerateCommand(const Options& options)
      : options_(options),
        tokenizer_(Tokenizer::Load(options.model.directory)),
        model_(options.model.Load()),
        seed_(options.seed ? static_cast<uint64_t>(*options.seed) : std::random_device{}()) {
    generation_ = options.generation;
    generation_.eos_tokens = model_->config().EndTokens();
  }

  // A conversation to begin with: a new one, or the saved one.
  Session Begin() const {
    if (options_.state_in.empty()) return Session::Begin(*model_, seed_);
    Session session = ReadSession(options_.state_in, *model_);
    // The same seed goes on with the random numbers where they stand; another begins anew, and so
    // does a plain state, which has no random numbers of its own.
    const bool plain = session.recent.empty();
    if (plain || (options_.seed && session.seed != seed_)) session.Reseed(seed_);
    return session;
  }

  // Adds the prompt's tokens, in a new conversation behind those that a text begins with. A model
  // predicts from at least one token: a new conversation without a prompt begins with the model's
  // begin token, or with a newline where it has none. Returns what is to be printed first: bytes
  // that a saved conversation held back are what they are where words of somebody else follow.
  std::string Append(Session& session, const std::string& prompt) const {
    std::string held;
    if (!prompt.empty()) {
      held = ToUtf8(session.unshown);
      session.unshown.clear();
    }
    const bool begins = options_.state_in.empty();
    std::vector<int32_t> tokens = tokenizer_->EncodePart(prompt, begins);
    if (begins) {
      const std::span<const int32_t> prefix = tokenizer_->prefix_tokens();
      tokens.insert(tokens.begin(), prefix.begin(), prefix.end());
    }
    if (tokens.empty() && session.pending.empty()) {
      const int64_t bos = model_->config().bos_token_id;
      tokens = bos >= 0 ? std::vector{static_cast<int32_t>(bos)} : tokenizer_->Encode("\n");
    }
    session.Append(tokens);
    return held;
  }

  void RunOne(const std::string& prompt) {
    const auto begin = std::chrono::steady_clock::now();
    Session session = Begin();
    Output output;
    Emit(Append(session, prompt), output);

    const std::atomic<bool>& interrupted = CatchInterrupts();
    Generator generator(*model_, *tokenizer_);
    generator.Add(std::move(session), generation_);
    std::vector<Generated> done;
    while (done.empty()) {
      if (interrupted) {
        done = generator.Finish();
        break;
      }
      done = generator.Step([&](const TokenEvent& event) {
        if (options_.json) output.tokens.push_back(event.token);
        Emit(event.text, output);
      });
    }
    const Generated& generated = done.front();
    // A text that goes on later keeps its last, uncertain bytes for then.
    if (options_.state_out.empty()) {
      Emit(generated.FinalText(), output);
    } else {
      WriteSession(options_.state_out, generated.session);
    }
    if (options_.json) {
      WriteStandardOutput(Describe(generated, output, SecondsSince(begin)).ToText() + "\n");
    } else {
      EndTerminalLine();
    }
    if (interrupted) {
      throw Error(ErrorCode::kCancelled,
                  options_.state_out.empty()
                      ? "interrupted"
                      : fmt::format("interrupted; go on with --state-in {}", options_.state_out));
    }
  }

  // Prompts join as others end; results are printed in the order of the prompts.
  void RunMany(const std::vector<std::string>& prompts) {
    const auto begin = std::chrono::steady_clock::now();
    const Session first = Begin();
    const std::atomic<bool>& interrupted = CatchInterrupts();
    Generator generator(*model_, *tokenizer_);
    std::map<int64_t, Output> outputs;  // by the generator's numbers: those of the prompts
    std::map<int64_t, Generated> finished;
    int64_t printed = 0;
    size_t next = 0;
    while (!interrupted && (next < prompts.size() || generator.active() > 0)) {
      while (next < prompts.size() && generator.active() < options_.batch) {
        Session session = first;
        session.Reseed(first.seed, next);
        std::string held = Append(session, prompts[next++]);
        outputs[generator.Add(std::move(session), generation_)].text = std::move(held);
      }
      std::vector<Generated> done = generator.Step([&](const TokenEvent& event) {
        Output& output = outputs[event.id];
        output.text += event.text;
        if (options_.json) output.tokens.push_back(event.token);
      });
      for (Generated& generated : done) {
        generated.session.state = State();  // not needed, and large, should it wait for others
        finished.emplace(generated.id, std::move(generated));
      }
      for (auto it = finished.find(printed); it != finished.end(); it = finished.find(printed)) {
        Print(it->second, outputs[printed], SecondsSince(begin));
        finished.erase(it);
        outputs.erase(printed);
        ++printed;
      }
    }
    if (interrupted) {
      throw Error(ErrorCode::kCancelled,
                  fmt::format("interrupted after {} of {} prompts", printed, prompts.size()));
    }
  }

 private:
  static double SecondsSince(std::chrono::steady_clock::time_point begin) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

  void Emit(std::string_view text, Output& output) const {
    if (options_.json) {
      output.text += text;
    } else {
      WriteStandardOutput(text);
    }
  }

  void Print(const Generated& generated, Output& output, double seconds) const {
    output.text += generated.FinalText();
    if (options_.json) {
      WriteStandardOutput(Describe(generated, output, seconds).ToText() + "\n");
    } else {
      WriteStandardOutput(fmt::format("==> {} <==\n{}\n", generated.id + 1, output.text));
    }
  }

  const Options& options_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<BlockLanguageModel> model_;
  uint64_t seed_;
  GenerationOptions generation_;
};

void CheckOptions(const CLI::App& command, const Options& options) {
  const bool has_prompt = options.prompt || options.prompt_file || options.prompts_file;
  if (!has_prompt && options.state_in.empty()) {
    throw UsageError(
        "nothing to begin with: give --prompt, --prompt-file, --prompts-file or --state-in");
  }
  if (options.prompts_file && !options.state_out.empty()) {
    throw UsageError("--state-out saves one conversation, --prompts-file has many");
  }
  if (!options.prompts_file && command.count("--batch") > 0) {
    throw UsageError("--batch goes with --prompts-file");
  }
  if (options.generation.sampling.temperature == 0.0) {
    for (const char* filter : {"--top-k", "--top-p", "--min-p"}) {
      if (command.count(filter) > 0) {
        throw UsageError(fmt::format(
            "--temperature 0 takes the most likely token: {} would change nothing", filter));
      }
    }
  }
  FromCommandLine([&] {
    CheckSamplingOptions(options.generation.sampling);
    StopMatcher(options.generation.stop);
  });
}

void Run(const CLI::App& command, const Options& options) {
  CheckOptions(command, options);
  if (options.prompts_file) {
    const std::vector<std::string> prompts =
        ParsePrompts(ReadFile(*options.prompts_file), options.prompts_file->ends_with(".jsonl"),
                     *options.prompts_file);
    GenerateCommand(options).RunMany(prompts);
    return;
  }
  if (!options.state_out.empty()) CheckWritable(options.state_out);
  std::string prompt;
  if (options.prompt) prompt = *options.prompt == "-" ? ReadStandardInput() : *options.prompt;
  if (options.prompt_file) prompt = ReadFile(*options.prompt_file);
  GenerateCommand(options).RunOne(prompt);
}

}  // namespace

void AddGenerateCommand(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("generate", "Write on from a prompt");
  options->model.AddTo(*command);

  auto* prompt = command->add_option("--prompt", options->prompt,
                                     "Text to go on from; - reads standard input");
  auto* prompt_file = command->add_option("--prompt-file", options->prompt_file,
                                          "File with the text, taken as it is");
  auto* prompts_file =
      command->add_option("--prompts-file", options->prompts_file,
                          "File with many prompts: one per line, or .jsonl with a string or "
                          "{\"prompt\": …} per line");
  prompt->type_name("TEXT")->excludes(prompt_file)->excludes(prompts_file);
  prompt_file->type_name("FILE")->excludes(prompts_file);
  prompts_file->type_name("FILE");
  command->add_option("--batch", options->batch, "Prompts of --prompts-file to run at once")
      ->transform(WholeNumber(1, 4096))
      ->type_name("N")
      ->capture_default_str();

  GenerationOptions& generation = options->generation;
  SamplingOptions& sampling = generation.sampling;
  command->add_option("--max-tokens", generation.max_tokens, "Tokens to generate at most")
      ->transform(WholeNumber(0))
      ->type_name("N")
      ->capture_default_str();
  // The words as they were given: CLI11's own vectors would read {} as an empty one.
  command
      ->add_option(
          "--stop",
          [options](const std::vector<std::string>& words) {
            options->generation.stop = words;
            return true;
          },
          "Text that ends the output and is not printed; may be given many times")
      ->expected(1, std::numeric_limits<int>::max())
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false)
      ->type_name("TEXT");
  command
      ->add_option("--temperature", sampling.temperature,
                   "Below 1 bolder choices of likely tokens, above 1 more surprise; 0: greedy")
      ->type_name("X")
      ->capture_default_str();
  command->add_option("--top-k", sampling.top_k, "Only the K most likely tokens; 0: all")
      ->transform(WholeNumber(0))
      ->type_name("K")
      ->capture_default_str();
  command
      ->add_option("--top-p", sampling.top_p,
                   "Only the most likely tokens that make up this probability; 1: all")
      ->type_name("P")
      ->capture_default_str();
  command
      ->add_option("--min-p", sampling.min_p,
                   "Only tokens with this share of the most likely one's probability; 0: all")
      ->type_name("P")
      ->capture_default_str();
  command
      ->add_option("--repetition-penalty", sampling.repetition_penalty,
                   "Above 1: recent tokens become less likely")
      ->type_name("X")
      ->capture_default_str();
  command
      ->add_option("--repetition-window", sampling.repetition_window,
                   "How many of the last tokens count as recent")
      ->transform(WholeNumber(0))
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--seed", options->seed, "Of the random numbers (default: another each time)")
      ->transform(WholeNumber(0))
      ->type_name("N");

  command->add_option("--state-out", options->state_out, "Save the conversation to a file")
      ->type_name("FILE");
  command->add_option("--state-in", options->state_in, "Go on with a saved conversation")
      ->type_name("FILE");
  command->add_flag("--json", options->json, "Print the result as JSON, one line per prompt");
  command->footer(
      "A conversation saved with --state-out goes on exactly: with the same options, the output\n"
      "of the two runs one after the other is that of one run. The random numbers go on where "
      "they\n"
      "stood, unless --seed gives another seed or --prompts-file many prompts, each with its own.\n"
      "Bytes that may begin a stop string or are part of a character are saved with the\n"
      "conversation and printed when it goes on.\n"
      "Without any prompt (--prompt '') a new text begins with the model's begin token, or with a\n"
      "newline, which is not printed.");
  command->callback([options, command] { Run(*command, *options); });
}

}  // namespace adder
