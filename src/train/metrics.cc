// Metrics as JSON lines and as a chart.
#include "adder/train/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <string_view>

#include "adder/core/error.h"
#include "adder/formats/file.h"
#include "adder/formats/json.h"
#include "adder/formats/line_chart.h"

namespace adder {
namespace {

std::optional<Metrics> ParseLine(std::string_view line) {
  try {
    const JsonObject object = JsonObject::Parse(line, "metrics");
    if (object.Has("valid_bits_per_byte")) {
      EvaluationMetrics metrics;
      metrics.step = object.Int("step");
      metrics.bytes = object.Int("valid_bytes");
      metrics.bits_per_byte = object.Double("valid_bits_per_byte");
      metrics.elapsed = object.Double("elapsed");
      return metrics;
    }
    StepMetrics metrics;
    metrics.step = object.Int("step");
    metrics.tokens = object.Int("tokens");
    metrics.loss = object.Double("loss");
    metrics.bits_per_byte = object.Double("bits_per_byte");
    metrics.lr = object.Double("lr");
    metrics.gradient_norm = object.Double("gradient_norm");
    metrics.tokens_per_second = object.Double("tokens_per_second");
    metrics.elapsed = object.Double("elapsed");
    return metrics;
  } catch (const Error&) {
    return std::nullopt;
  }
}

// The mean of the values up to each point: of the last fiftieth of the run, and of fewer at its
// beginning, where the curve is steep.
std::vector<SvgPoint> Smooth(const std::vector<SvgPoint>& points) {
  std::vector<double> sums = {0.0};
  for (const SvgPoint& point : points) sums.push_back(sums.back() + point.y);
  std::vector<SvgPoint> smooth;
  for (size_t i = 0; i < points.size(); ++i) {
    const size_t window = 1 + std::min(points.size() / 50, i / 8);
    const double sum = sums[i + 1] - sums[i + 1 - window];
    smooth.push_back({points[i].x, sum / static_cast<double>(window)});
  }
  return smooth;
}

}  // namespace

std::string ToJsonLine(const StepMetrics& metrics) {
  return fmt::format(
      "{{\"step\":{},\"tokens\":{},\"loss\":{},\"bits_per_byte\":{},\"lr\":{},"
      "\"gradient_norm\":{},\"tokens_per_second\":{:.1f},\"elapsed\":{:.3f}}}\n",
      metrics.step, metrics.tokens, metrics.loss, metrics.bits_per_byte, metrics.lr,
      metrics.gradient_norm, metrics.tokens_per_second, metrics.elapsed);
}

std::string ToJsonLine(const EvaluationMetrics& metrics) {
  return fmt::format(
      "{{\"step\":{},\"valid_bytes\":{},\"valid_bits_per_byte\":{},\"elapsed\":{:.3f}}}\n",
      metrics.step, metrics.bytes, metrics.bits_per_byte, metrics.elapsed);
}

bool RunPosition::Covers(const Metrics& metrics) const {
  if (const auto* evaluation = std::get_if<EvaluationMetrics>(&metrics)) {
    return evaluation->step < step || (evaluation->step == step && evaluated);
  }
  return std::get<StepMetrics>(metrics).step <= step;
}

std::vector<Metrics> ParseMetrics(std::string_view text, RunPosition last, size_t* kept_bytes) {
  std::vector<Metrics> history;
  *kept_bytes = 0;
  for (size_t end = text.find('\n'); end != std::string_view::npos; end = text.find('\n')) {
    const auto metrics = ParseLine(text.substr(0, end));
    if (!metrics || !last.Covers(*metrics)) break;
    history.push_back(*metrics);
    *kept_bytes += end + 1;
    text.remove_prefix(end + 1);
  }
  return history;
}

MetricsFile::MetricsFile(const std::filesystem::path& path, RunPosition last) {
  size_t keep = 0;
  if (std::filesystem::exists(path)) {
    history_ = ParseMetrics(MappedFile::Open(path)->text(), last, &keep);
  }
  file_ = std::make_unique<AppendFile>(path, keep);
}

void MetricsFile::Write(const Metrics& metrics) {
  file_->Append(std::visit([](const auto& m) { return ToJsonLine(m); }, metrics));
  history_.push_back(metrics);
}

std::string RenderLossCurve(const std::vector<Metrics>& history, const std::string& title) {
  std::vector<SvgPoint> training;
  std::vector<SvgPoint> validation;
  double tokens = 0.0;
  for (const Metrics& metrics : history) {
    if (const auto* step = std::get_if<StepMetrics>(&metrics)) {
      tokens = static_cast<double>(step->tokens);
      training.push_back({tokens, step->bits_per_byte});
    } else {
      validation.push_back({tokens, std::get<EvaluationMetrics>(metrics).bits_per_byte});
    }
  }
  LineChart chart;
  chart.title = title;
  chart.x_label = "tokens read";
  chart.y_label = "bits per byte";
  // Most is learned early: a linear axis would spend its height on the first steps.
  chart.log_y = true;
  LineChartSeries every_step;
  every_step.points = training;
  every_step.color = "#2563eb";
  every_step.faint = true;
  LineChartSeries mean;
  mean.name = "training";
  mean.points = Smooth(training);
  mean.color = "#2563eb";
  LineChartSeries valid;
  valid.name = validation.empty() ? "" : fmt::format("validation ({:.3f})", validation.back().y);
  valid.points = validation;
  valid.color = "#ea580c";
  valid.markers = validation.size() <= 40;
  chart.series = {every_step, mean, valid};
  return RenderLineChart(chart);
}

}  // namespace adder
