// The loop of a training run.
#include "adder/train/training_run.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <numbers>
#include <string_view>
#include <utility>
#include <vector>

#include "adder/backend/cpu/parallel.h"
#include "adder/backend/devices.h"
#include "adder/core/error.h"
#include "adder/core/log.h"
#include "adder/data/byte_corpus.h"
#include "adder/data/token_corpus.h"
#include "adder/eval/bits_per_byte.h"
#include "adder/formats/append_file.h"
#include "adder/formats/file.h"
#include "adder/formats/json.h"
#include "adder/formats/safetensors.h"
#include "adder/formats/tensorboard.h"
#include "adder/models/block_language_model.h"
#include "adder/models/checkpoint.h"
#include "adder/text/tokenizer.h"
#include "adder/train/finite.h"
#include "adder/train/learning_rate.h"
#include "adder/train/pace.h"
#include "adder/train/run_folder.h"
#include "adder/train/trainer.h"

namespace adder {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::string_view kTrainerFile = "trainer.json";
constexpr int64_t kTrainerVersion = 1;
constexpr const char* kValidationTag = "valid/bits_per_byte";

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Without a slash at its end, which would leave no name.
fs::path AbsolutePath(const fs::path& path) {
  const fs::path absolute = fs::absolute(path).lexically_normal();
  return absolute.has_filename() ? absolute : absolute.parent_path();
}

// A run begun anywhere can go on from anywhere.
std::vector<std::string> AbsolutePatterns(std::vector<std::string> patterns) {
  for (std::string& pattern : patterns) {
    pattern = fs::absolute(pattern).lexically_normal().string();
  }
  return patterns;
}

// The text, and what is read of it.
struct Corpora {
  ByteCorpus train;
  std::optional<ByteCorpus> valid;
  std::unique_ptr<Tokenizer> tokenizer = std::make_unique<ByteTokenizer>();
  std::optional<TokenCorpus> tokens = std::nullopt;  // of `train`; none: its bytes

  const TrainingCorpus& training() const {
    if (tokens) return *tokens;
    return train;
  }
  double bytes_per_token() const {
    return static_cast<double>(train.bytes()) / static_cast<double>(training().tokens());
  }
};

Corpora OpenCorpora(const TrainConfig::Data& data, const std::atomic<bool>* stop) {
  ByteCorpus train = ByteCorpus::Open(ExpandFilePatterns(data.train), data.separator, stop);
  if (data.valid_fraction > 0.0) {
    auto [before, tail] = train.SplitTail(data.valid_fraction);
    return {.train = std::move(before), .valid = std::move(tail)};
  }
  if (data.valid.empty()) return {.train = std::move(train), .valid = std::nullopt};
  return {.train = std::move(train),
          .valid = ByteCorpus::Open(ExpandFilePatterns(data.valid), data.separator, stop)};
}

// What the tokens of a text depend on, beside the rules of this program.
uint64_t TokensKey(const TrainConfig::Data& data, const Corpora& corpora) {
  std::vector<uint64_t> parts = {corpora.tokenizer->fingerprint(), corpora.train.Fingerprint()};
  for (const fs::path& file : ExpandFilePatterns(data.train)) {
    parts.push_back(fs::file_size(file));
    parts.push_back(static_cast<uint64_t>(fs::last_write_time(file).time_since_epoch().count()));
  }
  return XXH64(parts.data(), parts.size() * sizeof(uint64_t), 0);
}

// The tokens that an earlier run left, or anew. Text or tokenizer that changed have another name.
TokenCorpus OpenTokens(const TrainConfig::Data& data, const Corpora& corpora,
                       const TrainingObserver& observer, const std::atomic<bool>* stop) {
  const uint64_t key = TokensKey(data, corpora);
  const fs::path path = fs::path(data.tokens) / fmt::format("{:016x}.tokens", key);
  if (fs::exists(path)) {
    try {
      TokenCorpus tokens = TokenCorpus::Open(path);
      if (tokens.key() == key) return tokens;
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kCorrupt) throw;
      Log(LogLevel::kWarning, fmt::format("{}; the text is tokenized anew", error.what()));
    }
  }
  std::error_code ignored;  // the file's own error names the folder that is not there
  fs::create_directories(path.parent_path(), ignored);
  TokenCorpus::Build(path, key, corpora.train, *corpora.tokenizer,
                     {.progress = observer.on_tokenizing, .cancel = stop});
  return TokenCorpus::Open(path);
}

// The parameters to begin with: of a checkpoint of this run, of the model to begin from, or random.
std::unique_ptr<BlockLanguageModel> MakeModel(const TrainConfig& config, const fs::path& checkpoint,
                                              const Tokenizer& tokenizer, Device device) {
  const fs::path source = !checkpoint.empty() ? checkpoint : fs::path(config.model.checkpoint);
  std::unique_ptr<BlockLanguageModel> model;
  if (!source.empty()) {
    model = LoadModel(source, config.train.dtype, device);
  } else {
    ModelConfig dimensions = config.model.dimensions;
    dimensions.Resolve();
    model = std::make_unique<BlockLanguageModel>(dimensions, config.train.dtype);
    model->MoveTo(device);
    InitializeModel(*model, static_cast<uint64_t>(config.train.seed));
  }
  const bool bytes = config.data.tokenizer.empty();
  if (bytes ? model->vocab_size() != 256 : model->vocab_size() < tokenizer.vocab_size()) {
    throw Error(ErrorCode::kInvalidArgument,
                bytes ? fmt::format("{}: the model has {} tokens, expected the 256 bytes; "
                                    "data.tokenizer names another tokenizer",
                                    source.string(), model->vocab_size())
                      : fmt::format("{}: the model has {} tokens, expected at least the {} of {}",
                                    source.string(), model->vocab_size(), tokenizer.vocab_size(),
                                    config.data.tokenizer));
  }
  return model;
}

// Loads the tokenizer, and makes the new model's vocabulary its own.
void UseTokenizer(TrainConfig& config, Corpora& corpora) {
  // So that the head's matrix product has no crumbs.
  constexpr int64_t kVocabularyMultiple = 8;
  config.data.tokenizer = AbsolutePath(config.data.tokenizer).string();
  const fs::path run = config.output.run;
  config.data.tokens = AbsolutePath(config.data.tokens.empty() ? run.parent_path() / "tokens"
                                                               : fs::path(config.data.tokens))
                           .string();
  corpora.tokenizer = Tokenizer::Load(config.data.tokenizer);
  ModelConfig& dimensions = config.model.dimensions;
  dimensions.vocab_size = (corpora.tokenizer->vocab_size() + kVocabularyMultiple - 1) /
                          kVocabularyMultiple * kVocabularyMultiple;
  const auto prefix = corpora.tokenizer->prefix_tokens();
  const auto suffix = corpora.tokenizer->suffix_tokens();
  dimensions.bos_token_id = prefix.empty() ? -1 : prefix.front();
  dimensions.eos_token_id = suffix.empty() ? -1 : suffix.back();
}

// Whether going on from the checkpoint begins with numbers.
bool HasFiniteWeights(const fs::path& checkpoint) {
  try {
    const SafetensorsFile weights = SafetensorsFile::Open(checkpoint / "model.safetensors");
    return std::all_of(weights.tensors().begin(), weights.tensors().end(),
                       [](const auto& named) { return AllFinite(named.second); });
  } catch (const Error&) {
    return false;
  }
}

// Whether the event belongs to the run as far as it has come at `last`.
bool IsCovered(RunPosition last, const TensorBoardEvent& event) {
  if (event.scalars.empty()) return true;  // the file's version
  if (event.scalars.front().tag == kValidationTag) {
    return last.Covers(EvaluationMetrics{.step = event.step});
  }
  return last.Covers(StepMetrics{.step = event.step});
}

int64_t CountParameters(const LanguageModel& model) {
  int64_t count = 0;
  for (const Parameter& parameter : model.parameters()) count += parameter.value.elements();
  return count;
}

class Run {
 public:
  // `checkpoint`: what `model` was loaded from and `trainer` goes on from, or an empty path.
  Run(const TrainConfig& config, Corpora& corpora, RunFolder& folder, fs::path checkpoint,
      BlockLanguageModel& model, Trainer& trainer, const TrainingObserver& observer,
      const std::atomic<bool>* stop)
      : config_(config),
        corpora_(corpora),
        folder_(folder),
        observer_(observer),
        stop_(stop),
        checkpoint_(std::move(checkpoint)),
        model_(model),
        trainer_(trainer) {
    if (corpora_.valid) {
      valid_bytes_ = corpora_.valid->bytes();
      if (config_.eval.bytes > 0) valid_bytes_ = std::min(valid_bytes_, config_.eval.bytes);
    }
    if (!checkpoint_.empty()) Restore();
    WriteFileAtomically(folder_.config(), TrainConfigToToml(config_));
    const RunPosition position = {trainer_.steps(), evaluated_};
    metrics_ = std::make_unique<MetricsFile>(folder_.metrics(), position);
    for (const Metrics& metrics : metrics_->history()) {
      if (const auto* evaluation = std::get_if<EvaluationMetrics>(&metrics)) Note(*evaluation);
    }
    if (config_.output.tensorboard) {
      tensorboard_ = std::make_unique<TensorBoardWriter>(
          folder_.path(),
          [&](const TensorBoardEvent& event) { return IsCovered(position, event); });
    }
    if (config_.train.minutes > 0.0) {
      BeginPaceByTime();
    } else {
      // What was estimated for a budget of time holds no longer, should the run go on by time
      // again.
      fs::remove(folder_.pace());
      const int64_t per_step = config_.tokens_per_step();
      pace_ = Pace::Steps(config_.train.steps > 0
                              ? config_.train.steps
                              : std::max<int64_t>(1, config_.train.tokens / per_step));
    }
  }

  TrainingOutcome Finish() {
    began_ = last_checkpoint_ = Clock::now();
    if (observer_.on_start) {
      observer_.on_start({CountParameters(model_), corpora_.train.bytes(),
                          corpora_.training().tokens(), valid_bytes_, trainer_.steps(), checkpoint_,
                          model_.device()});
    }
    const bool complete = Loop();
    TrainingOutcome outcome;
    // The checkpoint first: a disk without room for the model as well loses no step.
    if (saved_step_ != trainer_.steps() || saved_evaluated_ != evaluated_) Save();
    if (complete && (valid_bytes_ == 0 || !fs::exists(folder_.model()))) WriteModel();
    WriteCurve();
    outcome.stopped = !complete;
    outcome.steps = trainer_.steps();
    outcome.tokens = trainer_.tokens();
    outcome.elapsed = Elapsed();
    outcome.last_evaluation = last_evaluation_;
    outcome.best_evaluation = best_evaluation_;
    outcome.checkpoint = checkpoint_;
    if (complete) outcome.model = folder_.model();
    return outcome;
  }

 private:
  bool Stopped() const { return stop_ != nullptr && stop_->load(); }
  double Elapsed() const { return elapsed_before_ + SecondsSince(began_); }

  // Trains to the end of the run: true; or until stopped: false.
  bool Loop() {
    if (EvaluationDue() && !evaluated_ && !Evaluate()) return false;
    while (true) {
      const double elapsed = Elapsed();
      if (const PaceDecision* decision = pace_->Observe(trainer_.steps(), elapsed)) {
        pace_file_->Append(ToJsonLine(*decision));
      }
      if (pace_->Done(trainer_.steps())) break;
      if (Stopped()) return false;
      Step();
      if (EvaluationDue() && !Evaluate()) return false;
      if (CheckpointDue()) Save();
    }
    // So that a repetition of the run's end takes as many steps, whatever time it takes.
    if (const PaceDecision* end = pace_->End(trainer_.steps(), Elapsed())) {
      pace_file_->Append(ToJsonLine(*end));
    }
    return evaluated_ || Evaluate();
  }

  void Step() {
    const int64_t step = trainer_.steps();
    const StepSpan span = pace_->At(step);
    const double lr = LearningRate(config_.schedule, config_.optimizer.lr, step, span);
    const int64_t tokens_before = trainer_.tokens();
    const auto began = Clock::now();
    Trainer::StepResult result;
    try {
      result = trainer_.Step(lr);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kNumeric) throw;
      FailNumeric(fmt::format("{}; the step was not applied", error.what()), step + 1);
    }
    const double seconds = SecondsSince(began);
    evaluated_ = false;
    line_seconds_ += seconds;
    line_tokens_ += trainer_.tokens() - tokens_before;
    // Recent steps count most, so that the estimate follows the machine.
    step_seconds_ = step_seconds_ == 0.0 ? seconds : 0.95 * step_seconds_ + 0.05 * seconds;

    StepMetrics metrics;
    metrics.step = trainer_.steps();
    metrics.tokens = trainer_.tokens();
    metrics.loss = result.loss;
    metrics.bits_per_byte = result.loss / std::numbers::ln2 / corpora_.bytes_per_token();
    metrics.lr = lr;
    metrics.gradient_norm = result.gradient_norm;
    metrics.tokens_per_second = static_cast<double>(line_tokens_) / std::max(1e-9, line_seconds_);
    metrics.elapsed = Elapsed();
    if (trainer_.steps() % config_.output.metrics_every == 0) {
      metrics_->Write(metrics);
      WriteEvent(metrics.step,
                 {{"train/loss", static_cast<float>(metrics.loss)},
                  {"train/bits_per_byte", static_cast<float>(metrics.bits_per_byte)},
                  {"train/lr", static_cast<float>(lr)},
                  {"train/gradient_norm", static_cast<float>(metrics.gradient_norm)},
                  {"train/tokens_per_second", static_cast<float>(metrics.tokens_per_second)}});
      line_seconds_ = 0.0;
      line_tokens_ = 0;
    }
    if (observer_.on_step) {
      TrainingProgress progress;
      progress.metrics = metrics;
      progress.share = span.end;
      progress.total_steps = pace_->TotalSteps(step);
      progress.seconds_left =
          config_.train.minutes > 0.0
              ? std::max(0.0, 60.0 * config_.train.minutes - metrics.elapsed)
              : step_seconds_ * static_cast<double>(progress.total_steps - metrics.step);
      observer_.on_step(progress);
    }
  }

  bool EvaluationDue() const {
    return valid_bytes_ > 0 && config_.eval.every > 0 && trainer_.steps() > 0 &&
           trainer_.steps() % config_.eval.every == 0;
  }

  // Measures the validation text's beginning; the best model so far becomes the result. False when
  // stopped before the end: then nothing was measured.
  bool Evaluate() {
    if (valid_bytes_ == 0) return true;
    EvaluationMetrics metrics;
    metrics.step = trainer_.steps();
    double nats = 0.0;
    BitsPerByteOptions options;
    options.chunk_rows = UsualRows(model_.device());
    options.cancel = stop_;
    options.progress = [&](int64_t bytes, int64_t) {
      if (observer_.on_evaluating) observer_.on_evaluating(metrics.bytes + bytes, valid_bytes_);
    };
    try {
      for (int64_t i = 0; metrics.bytes < valid_bytes_; ++i) {
        const std::string_view text = corpora_.valid->document(i).substr(
            0, static_cast<size_t>(valid_bytes_ - metrics.bytes));
        nats += MeasureBitsPerByte(model_, *corpora_.tokenizer, text, options).nats;
        metrics.bytes += static_cast<int64_t>(text.size());
      }
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kCancelled) return false;
      if (error.code() != ErrorCode::kNumeric) throw;
      FailNumeric(fmt::format("evaluating after step {}: {}", metrics.step, error.what()),
                  metrics.step);
    }
    metrics.bits_per_byte = nats / std::numbers::ln2 / static_cast<double>(metrics.bytes);
    metrics.elapsed = Elapsed();
    // The model before the line that says so: a run that goes on from a line need not look again.
    if (!best_evaluation_ || metrics.bits_per_byte < best_evaluation_->bits_per_byte) WriteModel();
    Note(metrics);
    evaluated_ = true;
    metrics_->Write(metrics);
    WriteEvent(metrics.step, {{kValidationTag, static_cast<float>(metrics.bits_per_byte)}});
    WriteCurve();
    if (observer_.on_evaluation) observer_.on_evaluation(metrics);
    return true;
  }

  void Note(const EvaluationMetrics& metrics) {
    last_evaluation_ = metrics;
    if (!best_evaluation_ || metrics.bits_per_byte < best_evaluation_->bits_per_byte) {
      best_evaluation_ = metrics;
    }
  }

  void WriteEvent(int64_t step, std::vector<TensorBoardScalar> scalars) {
    if (!tensorboard_) return;
    const double now =
        std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    tensorboard_->Write({now, step, std::move(scalars)});
  }

  void WriteCurve() const {
    WriteFileAtomically(
        folder_.loss_curve(),
        RenderLossCurve(
            metrics_->history(),
            fmt::format("{}: {} parameters", fs::path(config_.output.run).filename().string(),
                        CountParameters(model_))));
  }

  void WriteModel() const {
    RequireFinite();
    WriteDirectoryAtomically(folder_.model(), [&](const fs::path& directory) {
      SaveModel(model_, directory, DType::kF32);
      corpora_.tokenizer->Save(directory);
    });
  }

  bool CheckpointDue() const {
    const auto& options = config_.checkpoint;
    if (saved_step_ == trainer_.steps()) return false;
    return (options.every_steps > 0 && trainer_.steps() % options.every_steps == 0) ||
           (options.every_minutes > 0.0 &&
            SecondsSince(last_checkpoint_) >= 60.0 * options.every_minutes);
  }

  // What was learned went wrong at `step`: throws with `what` and where to go on from.
  [[noreturn]] void FailNumeric(const std::string& what, int64_t step) const {
    std::string good = "There is no good checkpoint";
    const auto checkpoints = folder_.Checkpoints();
    for (auto it = checkpoints.rbegin(); it != checkpoints.rend(); ++it) {
      if (it->first < step && HasFiniteWeights(it->second)) {
        good = "The last good checkpoint is " + it->second.string();
        break;
      }
    }
    throw Error(ErrorCode::kNumeric,
                fmt::format("{}. {}; a smaller optimizer.lr may help", what, good));
  }

  // Nothing that is not a number is saved.
  void RequireFinite() const {
    if (trainer_.Finite()) return;
    FailNumeric(fmt::format("weights or optimizer are not finite after step {}", trainer_.steps()),
                trainer_.steps());
  }

  // Reads the estimates of an earlier part of the run and writes those that count.
  void BeginPaceByTime() {
    const fs::path path = folder_.pace();
    std::vector<PaceDecision> recorded;
    if (fs::exists(path)) recorded = ParsePace(ReadFile(path), path.string());
    pace_ = Pace::Seconds(60.0 * config_.train.minutes, std::move(recorded), trainer_.steps(),
                          elapsed_before_);
    std::string text;
    for (const PaceDecision& decision : pace_->decisions()) text += ToJsonLine(decision);
    WriteFileAtomically(path, text);
    pace_file_ = std::make_unique<AppendFile>(path, text.size());
  }

  void Save() {
    RequireFinite();
    JsonValue::Object record = {{"version", kTrainerVersion},
                                {"step", trainer_.steps()},
                                {"tokens", trainer_.tokens()},
                                {"elapsed", Elapsed()},
                                {"text", fmt::format("{:016x}", corpora_.training().Fingerprint())},
                                {"evaluated", evaluated_}};
    const std::string text = JsonValue(std::move(record)).ToText(2) + "\n";
    checkpoint_ = folder_.WriteCheckpoint(trainer_.steps(), config_.checkpoint.keep,
                                          [&](const fs::path& directory) {
                                            SaveModel(model_, directory, DType::kF32);
                                            corpora_.tokenizer->Save(directory);
                                            trainer_.Save(directory);
                                            WriteFileAtomically(directory / kTrainerFile, text);
                                          });
    saved_step_ = trainer_.steps();
    saved_evaluated_ = evaluated_;
    last_checkpoint_ = Clock::now();
  }

  void Restore() {
    const JsonObject record = JsonObject::Read(checkpoint_ / kTrainerFile);
    if (record.Int("version") != kTrainerVersion) {
      record.Fail("version", fmt::format("{}", kTrainerVersion), ErrorCode::kUnsupported);
    }
    trainer_.Load(checkpoint_, record.Int("step", 0), record.Int("tokens", 0));
    elapsed_before_ = record.Double("elapsed", 0.0);
    evaluated_ = record.Bool("evaluated");
    saved_evaluated_ = evaluated_;
    saved_step_ = trainer_.steps();
    if (record.String("text") != fmt::format("{:016x}", corpora_.training().Fingerprint())) {
      Log(LogLevel::kWarning,
          "the training text is not the one this run began with: what follows is another run than "
          "the uninterrupted one");
    }
  }

  const TrainConfig& config_;
  Corpora& corpora_;
  RunFolder& folder_;
  const TrainingObserver& observer_;
  const std::atomic<bool>* stop_;
  fs::path checkpoint_;  // the newest
  BlockLanguageModel& model_;
  Trainer& trainer_;
  std::unique_ptr<MetricsFile> metrics_;
  std::unique_ptr<TensorBoardWriter> tensorboard_;
  std::optional<Pace> pace_;
  std::unique_ptr<AppendFile> pace_file_;

  int64_t valid_bytes_ = 0;
  bool evaluated_ = false;  // the model as it is now
  int64_t saved_step_ = -1;
  bool saved_evaluated_ = false;
  std::optional<EvaluationMetrics> last_evaluation_;
  std::optional<EvaluationMetrics> best_evaluation_;
  double elapsed_before_ = 0.0;
  Clock::time_point began_;
  Clock::time_point last_checkpoint_;
  double step_seconds_ = 0.0;
  double line_seconds_ = 0.0;  // since the last line of metrics
  int64_t line_tokens_ = 0;
};

// Whether a run can begin, or go on, in the folder; nothing is written.
void CheckFolder(const fs::path& path, bool resume) {
  const bool holds_run = fs::exists(path / "config.toml");
  if (resume && !holds_run) {
    throw Error(ErrorCode::kNotFound,
                fmt::format("{}: no run to go on with (config.toml is missing)", path.string()));
  }
  if (resume) return;
  if (holds_run) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: the folder holds a run already; go on with it by --resume, or "
                            "choose another folder",
                            path.string()));
  }
  // Without its config, what an earlier run made is not gone on with; nor is it written over.
  for (const char* name : {"checkpoints", "metrics.jsonl", "model"}) {
    const fs::path left = path / name;
    if (fs::is_directory(left) ? !fs::is_empty(left) : fs::exists(left)) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{}: the folder holds {} of a run without its config.toml; choose "
                              "another folder",
                              path.string(), name));
    }
  }
  // What lies nearest: the folder, or the one that it would be made in.
  fs::path folder = path;
  fs::path name = "config.toml";
  std::error_code unknown;  // then CheckWritable says why
  while (!fs::exists(folder, unknown) && folder.has_relative_path()) {
    name = folder.filename();
    folder = folder.parent_path();
  }
  CheckWritable(folder / name);
}

}  // namespace

TrainingOutcome RunTraining(const TrainConfig& given, const fs::path& path, bool resume,
                            const TrainingObserver& observer, const std::atomic<bool>* stop) {
  TrainConfig config = given;
  if (config.train.threads > 0) cpu::SetThreadCount(static_cast<int>(config.train.threads));
  // What the run depends on is written down, so that it can go on the same.
  config.train.threads = cpu::ThreadCount();
  const Device device = ParseDevice(config.train.device);
  config.train.device = ToString(device);
  AllowTf32(device, config.train.tf32);
  config.output.run = AbsolutePath(path).string();
  config.data.train = AbsolutePatterns(config.data.train);
  config.data.valid = AbsolutePatterns(config.data.valid);
  if (!config.model.checkpoint.empty()) {
    config.model.checkpoint = AbsolutePath(config.model.checkpoint).string();
  }
  // Folder, text and dimensions are checked before anything is written.
  CheckFolder(config.output.run, resume);
  Corpora corpora = OpenCorpora(config.data, stop);
  if (!config.data.tokenizer.empty()) UseTokenizer(config, corpora);
  if (config.model.checkpoint.empty()) config.model.dimensions.Resolve();
  // A start that fails leaves no folder behind: what can be wrong with model and trainer comes
  // before it. A run that goes on has its folder, and is read under its lock.
  std::optional<RunFolder> folder;
  fs::path checkpoint;
  if (resume) {
    folder.emplace(path);
    checkpoint = folder->LatestCheckpoint();
  }
  const std::unique_ptr<BlockLanguageModel> model =
      MakeModel(config, checkpoint, *corpora.tokenizer, device);
  const bool bytes = dynamic_cast<const ByteTokenizer*>(corpora.tokenizer.get()) != nullptr;
  if (!bytes) corpora.tokens = OpenTokens(config.data, corpora, observer, stop);
  Trainer trainer(*model, corpora.training(), config);
  if (!resume) folder.emplace(path);
  Run run(config, corpora, *folder, std::move(checkpoint), *model, trainer, observer, stop);
  return run.Finish();
}

}  // namespace adder
