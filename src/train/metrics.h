// The numbers of a run, one JSON object a line (metrics.jsonl).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "adder/formats/append_file.h"

namespace adder {

struct StepMetrics {
  int64_t step = 0;            // 1 after the first
  int64_t tokens = 0;          // tokens read so far
  double loss = 0.0;           // nats per token
  double bits_per_byte = 0.0;  // loss / ln 2
  double lr = 0.0;
  double gradient_norm = 0.0;  // before clipping
  double tokens_per_second = 0.0;
  double elapsed = 0.0;  // seconds of training, all parts of a resumed run together
};

struct EvaluationMetrics {
  int64_t step = 0;
  int64_t bytes = 0;  // of the validation text read
  double bits_per_byte = 0.0;
  double elapsed = 0.0;
};

// {"step":…,"tokens":…,"loss":…, …} and {"step":…,"valid_bytes":…,"valid_bits_per_byte":…, …},
// losses, rates and norms with the fewest digits that read back the same.
std::string ToJsonLine(const StepMetrics& metrics);
std::string ToJsonLine(const EvaluationMetrics& metrics);

using Metrics = std::variant<StepMetrics, EvaluationMetrics>;

// Where a checkpoint stands in the course of a run: after this step, and before or after the
// evaluation that follows it.
struct RunPosition {
  int64_t step = 0;
  bool evaluated = false;

  bool Covers(const Metrics& metrics) const;
};

// The lines from the text's beginning, up to the first that is damaged, cut short or not covered by
// `last`. `kept_bytes` gets their length.
std::vector<Metrics> ParseMetrics(std::string_view text, RunPosition last, size_t* kept_bytes);

class MetricsFile {
 public:
  // Opens or creates the file. Lines beyond `last`, and a line cut short by a crash, are cut off: a
  // run that goes on from a checkpoint writes them again. What stays is in history(). Throws kIo.
  MetricsFile(const std::filesystem::path& path, RunPosition last);

  // Throws kIo.
  void Write(const Metrics& metrics);

  const std::vector<Metrics>& history() const { return history_; }

 private:
  std::vector<Metrics> history_;
  std::unique_ptr<AppendFile> file_;
};

// The curves of training and validation in bits per byte over tokens read, as SVG.
std::string RenderLossCurve(const std::vector<Metrics>& history, const std::string& title);

}  // namespace adder
