// Everything that decides a training run, read from TOML. Reference with every key:
// docs/training.md.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adder/core/dtype.h"
#include "adder/data/batch_sampler.h"
#include "adder/models/language_model.h"
#include "adder/models/model_config.h"

namespace adder {

enum class ScheduleKind { kCosine, kConstant, kWsd };

struct TrainConfig {
  struct Model {
    // A published size whose dimensions the keys below override; empty: none.
    std::string size;
    // A model directory to begin from instead of random weights; its dimensions then count.
    std::string checkpoint;
    // The vocabulary is the tokenizer's.
    ModelConfig dimensions = {.d_model = 256, .n_layer = 8};
  } model;

  struct Data {
    std::vector<std::string> train;  // files, folders, patterns
    std::vector<std::string> valid;
    double valid_fraction = 0.0;  // held back from the end of the training text; 0: nothing
    Packing packing = Packing::kWindows;
    std::string separator;  // ends a document; empty: every file is one
    std::string tokenizer;  // a tokenizer.json or its directory; empty: tokens are bytes
    std::string tokens;     // folder of tokenized text; empty: "tokens" beside the run's folder
  } data;

  struct Train {
    // The budget: exactly one is not 0.
    int64_t steps = 0;
    int64_t tokens = 0;
    double minutes = 0.0;
    int64_t batch = 8;
    int64_t length = 1024;
    int64_t gradient_accumulation = 1;
    DType dtype = DType::kF32;  // of the operators; master weights are f32
    bool tf32 = false;          // see AllowTf32
    int64_t seed = 0;
    Recompute recompute = Recompute::kNone;
    int64_t segment = 0;  // rows of a batch on the tape at a time (SegmentedBackward); 0: all
    bool truncated_backpropagation = false;
    std::string device = "auto";  // see ParseDevice
    int64_t threads = 0;          // 0: all cores
  } train;

  struct Optimizer {
    double lr = 1e-3;
    double beta1 = 0.9;
    double beta2 = 0.95;
    double eps = 1e-8;
    double weight_decay = 0.1;
    double clip = 1.0;  // 0: none
  } optimizer;

  struct Schedule {
    ScheduleKind kind = ScheduleKind::kCosine;
    double warmup = 0.05;  // below 1: a share of the run; otherwise steps
    double decay = 0.2;    // wsd: the share of the run that decays, at its end
    double min_lr = 1e-5;
  } schedule;

  struct Evaluation {
    int64_t every = 0;  // steps; 0: only at the end
    int64_t bytes = 0;  // of the validation text's beginning; 0: all
  } eval;

  struct Checkpoint {
    int64_t every_steps = 0;      // 0: not by steps
    double every_minutes = 10.0;  // 0: not by time
    int64_t keep = 2;
  } checkpoint;

  struct Output {
    std::string run;  // the run's folder; empty: runs/ and the config file's name
    int64_t metrics_every = 1;
    bool tensorboard = true;
  } output;

  // Tokens read in one step.
  int64_t tokens_per_step() const {
    return train.batch * train.length * train.gradient_accumulation;
  }
};

// Reads a config from TOML text; `source` is what messages call it. `overrides` are "section.key=
// value" with a TOML value, or plain text without backslashes where a string is expected; one that
// sets a budget (train.steps, .tokens, .minutes) replaces the config's. Throws kCorrupt, or
// kInvalidArgument where an override is to blame, with one line that names source and line, the
// key, what is there and what was expected: for text that is no TOML, an unknown key, a wrong type,
// a value out of range or out of sense.
TrainConfig ParseTrainConfig(std::string_view toml, std::string_view source,
                             std::span<const std::string> overrides = {});
// The same from a file. Throws kNotFound, kIo too.
TrainConfig ReadTrainConfig(const std::filesystem::path& path,
                            std::span<const std::string> overrides = {});

// All keys with their values, as TOML that reads back the same.
std::string TrainConfigToToml(const TrainConfig& config);

// One key as the reference lists it.
struct TrainConfigKey {
  std::string name;           // "train.batch"
  std::string default_value;  // as TOML
  std::string expected;       // "a whole number from 1 to 65536"
  std::string meaning;
};
std::vector<TrainConfigKey> TrainConfigKeys();

}  // namespace adder
