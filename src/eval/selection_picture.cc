// Lays the picture out from top to bottom: title, legends, then for each stretch of text the two
// heat maps with the text between them.
#include "adder/eval/selection_picture.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "adder/core/error.h"
#include "adder/formats/svg.h"

namespace adder {
namespace {

constexpr size_t kColumns = 96;  // tokens in one stretch
constexpr double kCell = 13.0;   // width of a column
constexpr double kMargin = 28.0;
constexpr double kLayerLabels = 34.0;
constexpr double kRowValues = 44.0;
constexpr double kPanelLabels = 18.0;
constexpr double kOverlap = 0.4;  // cells overlap a little: no hairlines between neighbours
constexpr std::string_view kInk = "#24292f";
constexpr std::string_view kFaint = "#6e7781";

// A scale of colours: from low through the middle to high.
struct Ramp {
  std::string low;
  std::string middle;
  std::string high;

  std::string At(double share) const {
    return share < 0.5 ? MixColors(low, middle, 2.0 * share)
                       : MixColors(middle, high, 2.0 * share - 1.0);
  }
};

// What one heat map shows. Layers differ more from each other than their tokens do, so colours
// compare a token with its own layer; the layer's own value is written beside its row.
struct Map {
  std::vector<double> typical;                // per layer, the geometric mean over the tokens
  std::vector<std::vector<double>> relative;  // value / typical, per layer and token
  double span = 1.0;                          // colours reach from 1 / span to span
  Ramp ramp;

  std::string Color(size_t layer, size_t token) const {
    return ramp.At(0.5 + 0.5 * std::log(relative[layer][token]) / std::log(span));
  }
};

// values: positive, finite.
Map MakeMap(std::vector<std::vector<double>> values, Ramp ramp) {
  Map map;
  map.ramp = std::move(ramp);
  std::vector<double> distances;
  for (std::vector<double>& row : values) {
    double sum = 0.0;
    for (const double value : row) sum += std::log(value);
    map.typical.push_back(std::exp(sum / static_cast<double>(row.size())));
    for (double& value : row) {
      value /= map.typical.back();
      distances.push_back(std::abs(std::log(value)));
    }
  }
  map.relative = std::move(values);
  const auto at = distances.begin() +
                  static_cast<std::ptrdiff_t>(0.98 * static_cast<double>(distances.size() - 1));
  std::nth_element(distances.begin(), at, distances.end());
  map.span = std::exp(std::max(*at, 1e-3));
  return map;
}

std::string Number(double value) {
  return value != 0.0 && value < 1e-3 ? fmt::format("{:.1e}", value) : fmt::format("{:.3g}", value);
}

// After how many tokens of such a decay half of the memory is left.
double HalfLife(double decay) {
  return std::log(0.5) / std::log(std::clamp(decay, 1e-12, 1.0 - 1e-12));
}

std::vector<std::vector<double>> HalfLives(std::vector<std::vector<double>> decay) {
  for (std::vector<double>& row : decay) {
    for (double& value : row) value = HalfLife(value);
  }
  return decay;
}

void DrawLegend(Svg& svg, double x, double y, std::string_view title, std::string_view low,
                std::string_view high, const Map& map) {
  constexpr int kSteps = 48;
  constexpr double kWidth = 250.0;
  svg.Text({x, y}, title, {.size = 13.0, .fill = std::string(kInk), .bold = true});
  for (int i = 0; i < kSteps; ++i) {
    svg.Rectangle(x + kWidth * i / kSteps, y + 9.0, kWidth / kSteps + kOverlap, 11.0,
                  {.fill = map.ramp.At((i + 0.5) / kSteps)});
  }
  const SvgTextStyle small{.size = 10.5, .fill = std::string(kFaint)};
  SvgTextStyle middle = small;
  middle.anchor = SvgAnchor::kMiddle;
  SvgTextStyle end = small;
  end.anchor = SvgAnchor::kEnd;
  svg.Text({x, y + 33.0}, fmt::format("× {:.3g}", 1.0 / map.span), small);
  svg.Text({x + kWidth / 2, y + 33.0}, "its layer's mean", middle);
  svg.Text({x + kWidth, y + 33.0}, fmt::format("× {:.3g}", map.span), end);
  svg.Text({x, y + 47.0}, low, small);
  svg.Text({x + kWidth, y + 47.0}, high, end);
}

class Picture {
 public:
  Picture(const SelectionSummary& summary, const std::vector<std::string>& labels,
          std::string_view title)
      : summary_(summary),
        labels_(labels),
        title_(title),
        layers_(summary.step.size()),
        tokens_(labels.size()),
        row_height_(layers_ <= 12   ? 15.0
                    : layers_ <= 32 ? 9.0
                                    : 5.0),
        step_(MakeMap(summary.step, {"#4575b4", "#f7f7f7", "#b2182b"})),
        life_(MakeMap(HalfLives(summary.decay), {"#8c510a", "#f7f7f7", "#01665e"})) {
    size_t longest = 1;
    for (const std::string& label : labels) longest = std::max(longest, Characters(label));
    upright_ = longest > 2;
    label_height_ =
        upright_ ? 8.0 + 7.5 * static_cast<double>(std::min<size_t>(longest, 16)) : 22.0;
  }

  std::string Draw() {
    const double map = row_height_ * static_cast<double>(layers_);
    const double stretch = 2.0 * (kPanelLabels + map) + label_height_ + 26.0;
    const size_t stretches = (tokens_ + kColumns - 1) / kColumns;
    const double columns = static_cast<double>(std::min(tokens_, kColumns));
    constexpr double kHeader = 142.0;
    const double width = std::max(2 * kMargin + kLayerLabels + kCell * columns + kRowValues, 660.0);
    Svg svg(width, kHeader + stretch * static_cast<double>(stretches));

    svg.Text({kMargin, 38.0}, title_, {.size = 18.0, .fill = std::string(kInk), .bold = true});
    svg.Text({kMargin, 58.0},
             "Every layer decides for every token how much of it to write down, and how much of "
             "what it knew to keep.",
             {.size = 12.0, .fill = std::string(kFaint)});
    DrawLegend(svg, kMargin + kLayerLabels, 86.0, "Step Δ", "passes it by", "writes it down",
               step_);
    DrawLegend(svg, kMargin + kLayerLabels + 310.0, 86.0, "Half-life of the memory, from exp(ΔA)",
               "forgets sooner", "keeps longer", life_);
    for (size_t i = 0; i < stretches; ++i) {
      const size_t begin = i * kColumns;
      const size_t end = std::min(tokens_, begin + kColumns);
      double y = kHeader + stretch * static_cast<double>(i);
      DrawMap(svg, y + kPanelLabels, begin, end, "step", "Δ", step_);
      y += kPanelLabels + map;
      DrawLabels(svg, y, begin, end);
      y += label_height_;
      DrawMap(svg, y + kPanelLabels, begin, end, "memory", "tokens", life_);
    }
    return svg.ToString();
  }

 private:
  static size_t Characters(std::string_view text) {
    return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
      return (static_cast<unsigned char>(c) & 0xC0) != 0x80;  // not a later byte of a character
    }));
  }

  double X(size_t column) const {
    return kMargin + kLayerLabels + kCell * static_cast<double>(column);
  }

  void DrawMap(Svg& svg, double y, size_t begin, size_t end, std::string_view name,
               std::string_view unit, const Map& map) const {
    const SvgTextStyle faint{.size = 10.0, .fill = std::string(kFaint)};
    SvgTextStyle right = faint;
    right.anchor = SvgAnchor::kEnd;
    svg.Text({X(0), y - 5.0}, name, {.size = 11.0, .fill = std::string(kInk), .bold = true});
    svg.Text({X(end - begin), y - 5.0}, fmt::format("tokens {} – {}", begin + 1, end), right);
    svg.Text({X(end - begin) + 8.0, y - 5.0}, unit, faint);
    // As many rows get their numbers as fit without touching.
    const auto every = static_cast<size_t>(std::ceil(11.0 / row_height_));
    for (size_t layer = 0; layer < layers_; ++layer) {
      const double top = y + row_height_ * static_cast<double>(layer);
      if (layer % every == 0) {
        const double baseline = top + row_height_ / 2 + 3.5;
        svg.Text({X(0) - 6.0, baseline}, std::to_string(layer), right);
        svg.Text({X(end - begin) + 8.0, baseline}, Number(map.typical[layer]), faint);
      }
      for (size_t token = begin; token < end; ++token) {
        const double decay = summary_.decay[layer][token];
        svg.Rectangle(X(token - begin), top, kCell + (token + 1 < end ? kOverlap : 0.0),
                      row_height_ + (layer + 1 < layers_ ? kOverlap : 0.0),
                      {.fill = map.Color(layer, token),
                       .tooltip = fmt::format(
                           "layer {}, token {} {}: step {}, decay {} (half-life {:.2g} tokens)",
                           layer, token + 1, labels_[token], Number(summary_.step[layer][token]),
                           Number(decay), HalfLife(decay))});
      }
    }
    svg.Rectangle(X(0), y, X(end - begin) - X(0), row_height_ * static_cast<double>(layers_),
                  {.stroke = "#d0d7de"});
  }

  void DrawLabels(Svg& svg, double y, size_t begin, size_t end) const {
    for (size_t token = begin; token < end; ++token) {
      const double centre = X(token - begin) + kCell / 2;
      SvgTextStyle style{.size = 12.0, .fill = std::string(kInk), .monospace = true};
      if (upright_) {
        style.rotation = 90.0;
        svg.Text({centre - 4.0, y + 5.0}, labels_[token], style);
      } else {
        if (Characters(labels_[token]) > 1) style.size = 8.0;
        style.anchor = SvgAnchor::kMiddle;
        svg.Text({centre, y + 15.0}, labels_[token], style);
      }
    }
  }

  const SelectionSummary& summary_;
  const std::vector<std::string>& labels_;
  std::string_view title_;
  size_t layers_;
  size_t tokens_;
  double row_height_;
  Map step_;
  Map life_;
  bool upright_ = false;
  double label_height_ = 0.0;
};

// Signs for what leaves no mark on paper.
std::string Visible(std::string_view text) {
  std::string visible;
  for (const char c : text) {
    switch (c) {
      case ' ':
        visible += "␣";
        break;
      case '\n':
        visible += "⏎";
        break;
      case '\t':
        visible += "⇥";
        break;
      default:
        if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') {
          visible += fmt::format("{:02x}", static_cast<unsigned char>(c));
        } else {
          visible += c;
        }
    }
  }
  return visible;
}

}  // namespace

SelectionSummary SummarizeSelection(const SelectionTrace& trace) {
  SelectionSummary summary;
  const auto summarize = [](const Tensor& values, bool geometric) {
    const int64_t channels = values.dim(1);
    std::vector<double> means;
    for (int64_t row = 0; row < values.dim(0); ++row) {
      const float* value = values.data<float>() + row * values.stride(0);
      double sum = 0.0;
      for (int64_t channel = 0; channel < channels; ++channel) {
        const auto v = static_cast<double>(value[channel]);
        // A step that underflowed to 0 has no logarithm.
        sum += geometric ? std::log(std::max(v, 1e-38)) : v;
      }
      const double mean = sum / static_cast<double>(channels);
      means.push_back(geometric ? std::exp(mean) : mean);
    }
    return means;
  };
  for (const Tensor& step : trace.step) summary.step.push_back(summarize(step, true));
  for (const Tensor& decay : trace.decay) summary.decay.push_back(summarize(decay, false));
  return summary;
}

std::vector<std::string> TokenLabels(const Tokenizer& tokenizer, std::span<const int32_t> tokens) {
  std::vector<std::string> labels(tokens.size());
  for (size_t i = 0; i < tokens.size();) {
    // As many tokens as it takes to complete what this one begins.
    Utf8Stream utf8;
    std::string bytes;
    std::string text;
    size_t end = i;
    while (end < tokens.size()) {
      bytes += tokenizer.Bytes(tokens[end]);
      text += utf8.Push(tokenizer.Bytes(tokens[end++]));
      if (utf8.pending().empty()) break;
    }
    text += utf8.Finish();
    if (text != bytes) {
      // No text (a lone byte, or a character cut off): this token as it is.
      for (const char c : tokenizer.Bytes(tokens[i])) {
        labels[i] += fmt::format("{:02x}", static_cast<unsigned char>(c));
      }
      ++i;
      continue;
    }
    labels[i] = Visible(text);
    for (size_t later = i + 1; later < end; ++later) labels[later] = "·";
    i = end;
  }
  return labels;
}

std::string DrawSelection(const SelectionSummary& summary, const std::vector<std::string>& labels,
                          std::string_view title) {
  bool agree =
      !labels.empty() && !summary.step.empty() && summary.step.size() == summary.decay.size();
  for (const auto* values : {&summary.step, &summary.decay}) {
    for (const auto& row : *values) agree = agree && row.size() == labels.size();
  }
  for (const auto& row : summary.step) {
    for (const double step : row) agree = agree && step > 0.0 && std::isfinite(step);
  }
  for (const auto& row : summary.decay) {
    for (const double decay : row) agree = agree && decay >= 0.0 && decay <= 1.0 + 1e-6;
  }
  if (!agree) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("a picture of {} tokens needs a positive step and a decay of 0 to 1 for "
                    "each in every layer, and at least one token and layer",
                    labels.size()));
  }
  return Picture(summary, labels, title).Draw();
}

}  // namespace adder
