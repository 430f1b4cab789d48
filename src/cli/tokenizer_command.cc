// adder tokenizer: making tokenizers.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "adder/cli/commands.h"
#include "adder/cli/numbers.h"
#include "adder/cli/progress.h"
#include "adder/data/byte_corpus.h"
#include "adder/formats/file.h"
#include "adder/text/bpe_trainer.h"
#include "adder/text/text_cut.h"
#include "adder/text/tokenizer.h"

namespace adder {
namespace {

struct Options {
  BpeTrainingOptions training;
  std::vector<std::string> special;
  std::string output;
  std::vector<std::string> files;
};

constexpr size_t kPartBytes = size_t{1} << 22;

// Half of the bar is for reading, half for learning.
class TrainCommand {
 public:
  explicit TrainCommand(const Options& options) : options_(options) {}

  void Run() {
    BpeTrainingOptions training = options_.training;
    if (!options_.special.empty()) training.special_tokens = options_.special;
    FromCommandLine([&] { CheckBpeTrainingOptions(training); });
    const std::filesystem::path output = options_.output;
    std::filesystem::create_directories(output);
    CheckWritable(output / "tokenizer.json");
    training.cancel = &CatchInterrupts();
    training.progress = [this](int64_t merges, int64_t total) {
      const double share = static_cast<double>(merges) / static_cast<double>(total);
      Draw(0.5 + 0.5 * share, fmt::format("{} of {} merges", Grouped(merges), Grouped(total)));
    };
    BpeTrainer trainer;
    Read(trainer, *training.cancel);
    const Vocabulary vocabulary = trainer.Train(training);
    const auto tokenizer = Tokenizer::FromVocabulary(vocabulary, "the trained tokenizer");
    tokenizer->Save(output);
    progress_.Clear();
    progress_.Print(fmt::format(
        "{} tokens, {} merges from {} different words in {}; {}", Grouped(tokenizer->vocab_size()),
        Grouped(static_cast<int64_t>(vocabulary.merges.size())), Grouped(trainer.different_words()),
        FormatSeconds(Seconds()), (output / "tokenizer.json").string()));
  }

 private:
  void Read(BpeTrainer& trainer, const std::atomic<bool>& cancel) {
    std::vector<std::shared_ptr<const MappedFile>> files;
    int64_t total = 0;
    for (const std::filesystem::path& path : ExpandFilePatterns(options_.files)) {
      files.push_back(MappedFile::Open(path));
      total += static_cast<int64_t>(files.back()->text().size());
    }
    int64_t done = 0;
    for (const auto& file : files) {
      std::string_view text = file->text();
      while (!text.empty()) {
        if (cancel.load()) {
          throw Error(ErrorCode::kCancelled,
                      fmt::format("stopped after {} of {}", HumanBytes(done), HumanBytes(total)));
        }
        const size_t length = LengthBeforeWord(text, kPartBytes);
        trainer.Add(text.substr(0, length));
        text.remove_prefix(length);
        done += static_cast<int64_t>(length);
        Draw(0.5 * static_cast<double>(done) / static_cast<double>(std::max<int64_t>(1, total)),
             fmt::format("{} of {} read", HumanBytes(done), HumanBytes(total)));
      }
    }
  }

  double Seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }
  void Draw(double share, const std::string& field) {
    if (progress_.Due()) progress_.Draw(share, {field}, -1.0);
  }

  const Options& options_;
  Progress progress_{"training the tokenizer"};
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

}  // namespace

void AddTokenizerCommand(CLI::App& app) {
  CLI::App* command = app.add_subcommand("tokenizer", "Make a tokenizer");
  command->require_subcommand(0, 1);
  command->callback([command] {
    if (command->get_subcommands().empty()) {
      throw UsageError("tokenizer needs the name of a job: train (see adder tokenizer --help)");
    }
  });

  const auto options = std::make_shared<Options>();
  CLI::App* train = command->add_subcommand("train", "Learn a byte-level BPE from text");
  train->add_option("--vocab-size", options->training.vocab_size, "Tokens of the vocabulary")
      ->required()
      ->transform(WholeNumber(1))
      ->type_name("N");
  train->add_option("--output", options->output, "Where tokenizer.json is written")
      ->required()
      ->type_name("DIR");
  train
      ->add_option("--special", options->special,
                   "A special token, instead of <|endoftext|>; may be given several times, and the "
                   "first one begins and ends texts")
      ->allow_extra_args(false)
      ->type_name("TEXT");
  train
      ->add_option("--min-count", options->training.min_count,
                   "A pair met less often becomes no token")
      ->transform(WholeNumber(1))
      ->capture_default_str()
      ->type_name("N");
  train->add_option("files", options->files, "Text: files, folders, patterns")
      ->required()
      ->type_name("FILE");
  train->footer(
      "Text is brought into NFC and cut into words as for GPT-NeoX. The same text gives the same\n"
      "tokenizer, which Hugging Face's tokenizers open.");
  train->callback([options] { TrainCommand(*options).Run(); });
}

}  // namespace adder
