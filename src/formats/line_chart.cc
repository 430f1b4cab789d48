// Scales, ticks and the drawing of a line chart.
#include "adder/formats/line_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string_view>

#include "adder/core/error.h"

namespace adder {
namespace {

constexpr std::array<std::string_view, 6> kPalette = {"#2563eb", "#ea580c", "#059669",
                                                      "#9333ea", "#dc2626", "#0891b2"};
constexpr std::string_view kInk = "#24292f";
constexpr std::string_view kFaded = "#6b7280";
constexpr std::string_view kGrid = "#e5e7eb";
constexpr double kLeft = 68.0;
constexpr double kRight = 24.0;
constexpr double kTop = 52.0;
constexpr double kBottom = 56.0;

// One axis: values to pixels.
struct Scale {
  double low;
  double high;
  double pixel_low;
  double pixel_high;
  bool logarithmic;

  double Unit(double value) const { return logarithmic ? std::log10(value) : value; }
  double Pixel(double value) const {
    const double share = (Unit(value) - Unit(low)) / (Unit(high) - Unit(low));
    return pixel_low + share * (pixel_high - pixel_low);
  }
  bool Holds(double value) const { return std::isfinite(value) && (!logarithmic || value > 0.0); }
};

// 1, 2 or 5 times a power of ten, not below `value`.
double RoundStep(double value) {
  const double power = std::pow(10.0, std::floor(std::log10(value)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= value * (1.0 - 1e-9)) return factor * power;
  }
  return 10.0 * power;
}

std::vector<double> LinearTicks(double low, double high, int count) {
  const double step = RoundStep((high - low) / std::max(1, count));
  std::vector<double> ticks;
  const double first = std::ceil(low / step - 1e-9);
  for (double i = first; i * step <= high + 1e-9 * step; i += 1.0) ticks.push_back(i * step);
  return ticks;
}

// "1500", "0.25", "20k", "1.5M": as short as the steps between the ticks allow.
std::string TickLabel(double value, double step) {
  const double size = std::max(std::abs(value), std::abs(step));
  double unit = 1.0;
  std::string_view suffix = "";
  if (size >= 1e9) {
    unit = 1e9, suffix = "G";
  } else if (size >= 1e6) {
    unit = 1e6, suffix = "M";
  } else if (size >= 1e4) {
    unit = 1e3, suffix = "k";
  }
  if (value == 0.0) return "0";
  std::string text = fmt::format("{:.6g}", value / unit);
  return text + std::string(suffix);
}

// The range of all series along one axis, widened a little so that lines do not touch the frame.
template <class Coordinate>
Scale FitScale(const LineChart& chart, Coordinate&& coordinate, bool logarithmic, double margin,
               double pixel_low, double pixel_high) {
  Scale scale = {std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(),
                 pixel_low, pixel_high, logarithmic};
  for (const LineChartSeries& series : chart.series) {
    for (const SvgPoint& point : series.points) {
      const double value = coordinate(point);
      if (!scale.Holds(value)) continue;
      scale.low = std::min(scale.low, value);
      scale.high = std::max(scale.high, value);
    }
  }
  if (scale.low > scale.high) scale.low = logarithmic ? 1.0 : 0.0, scale.high = scale.low + 1.0;
  if (logarithmic) {
    double ratio = std::pow(scale.high / scale.low, margin);
    if (ratio < 1.0 + 1e-6) ratio = margin > 0.0 || scale.low == scale.high ? 1.05 : 1.0;
    scale.low /= ratio;
    scale.high *= ratio;
  } else {
    double pad = (scale.high - scale.low) * margin;
    // A single value still needs a range that doubles can tell apart.
    if (scale.high - scale.low <= 1e-9 * std::max(std::abs(scale.low), std::abs(scale.high))) {
      pad = std::max(0.5, 0.05 * std::abs(scale.high));
    }
    scale.low -= pad;
    scale.high += pad;
  }
  return scale;
}

// The pixels of a series, at most a few per pixel column.
std::vector<SvgPoint> Trace(const LineChartSeries& series, const Scale& x, const Scale& y) {
  std::vector<SvgPoint> pixels;
  for (const SvgPoint& point : series.points) {
    if (x.Holds(point.x) && y.Holds(point.y)) {
      pixels.push_back({x.Pixel(point.x), y.Pixel(point.y)});
    }
  }
  const auto columns = static_cast<size_t>(std::max(1.0, x.pixel_high - x.pixel_low));
  if (pixels.size() <= 2 * columns) return pixels;
  std::vector<SvgPoint> thinned;
  for (size_t begin = 0; begin < pixels.size();) {
    size_t end = begin;
    size_t least = begin;
    size_t greatest = begin;
    while (end < pixels.size() && std::floor(pixels[end].x) == std::floor(pixels[begin].x)) {
      if (pixels[end].y < pixels[least].y) least = end;
      if (pixels[end].y > pixels[greatest].y) greatest = end;
      ++end;
    }
    thinned.push_back(pixels[std::min(least, greatest)]);
    if (least != greatest) thinned.push_back(pixels[std::max(least, greatest)]);
    begin = end;
  }
  return thinned;
}

// Pixels of the traces inside a box, counted every few pixels along them.
int64_t PointsInside(const std::vector<std::vector<SvgPoint>>& traces, SvgPoint low,
                     SvgPoint high) {
  constexpr double kEvery = 4.0;
  int64_t count = 0;
  for (const std::vector<SvgPoint>& trace : traces) {
    for (size_t i = 0; i < trace.size(); ++i) {
      const SvgPoint from = trace[i];
      const SvgPoint to = trace[std::min(i + 1, trace.size() - 1)];
      const int steps = 1 + static_cast<int>(std::hypot(to.x - from.x, to.y - from.y) / kEvery);
      for (int k = 0; k < steps; ++k) {
        const double x = from.x + (to.x - from.x) * k / steps;
        const double y = from.y + (to.y - from.y) * k / steps;
        if (x >= low.x && x <= high.x && y >= low.y && y <= high.y) ++count;
      }
    }
  }
  return count;
}

// In the corner where it hides the least of the traces.
void DrawLegend(Svg& svg, const LineChart& chart, const std::vector<std::string>& colors,
                const std::vector<std::vector<SvgPoint>>& traces) {
  // Widths of words are estimated: a viewer's font is not known here.
  constexpr double kCharacterWidth = 7.3;
  constexpr double kRow = 19.0;
  size_t rows = 0;
  size_t longest = 0;
  for (const LineChartSeries& series : chart.series) {
    if (series.name.empty()) continue;
    ++rows;
    longest = std::max(longest, series.name.size());
  }
  if (rows == 0) return;
  const double box_width = 48.0 + kCharacterWidth * static_cast<double>(longest);
  const double box_height = 10.0 + kRow * static_cast<double>(rows);
  const double right_left = chart.width - kRight - box_width - 10.0;
  const double lower_top = chart.height - kBottom - box_height - 10.0;
  SvgPoint corner;
  int64_t least = -1;
  for (const SvgPoint each :
       {SvgPoint{right_left, kTop + 10.0}, SvgPoint{kLeft + 10.0, kTop + 10.0},
        SvgPoint{right_left, lower_top}, SvgPoint{kLeft + 10.0, lower_top}}) {
    const int64_t hidden = PointsInside(traces, each, {each.x + box_width, each.y + box_height});
    if (least >= 0 && hidden >= least) continue;
    least = hidden;
    corner = each;
  }
  const double left = corner.x;
  double y = corner.y;
  svg.Rectangle(
      left, y, box_width, box_height,
      {.fill = "#ffffff", .stroke = std::string(kGrid), .opacity = 0.9, .corner_radius = 4.0});
  for (size_t i = 0; i < chart.series.size(); ++i) {
    if (chart.series[i].name.empty()) continue;
    y += kRow;
    svg.Line({left + 10.0, y - 5.0}, {left + 32.0, y - 5.0},
             {.stroke = colors[i],
              .stroke_width = chart.series[i].faint ? 1.5 : 2.5,
              .opacity = chart.series[i].faint ? 0.4 : 1.0});
    svg.Text({left + 40.0, y - 1.0}, chart.series[i].name, {.fill = std::string(kInk)});
  }
}

}  // namespace

std::vector<double> AxisTicks(double low, double high, int count, bool logarithmic) {
  if (!std::isfinite(low) || !std::isfinite(high) || low >= high || (logarithmic && low <= 0.0)) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("an axis from {} to {} has no ticks", low, high));
  }
  // Within one decade, or nearly, round linear steps read better than 1, 2, 5.
  if (!logarithmic || high / low < 8.0) return LinearTicks(low, high, count);
  const double decades = std::log10(high / low);
  std::vector<double> factors = {1.0};
  if (decades * 3.0 <= 1.5 * count) factors = {1.0, 2.0, 5.0};
  const double stride = std::max(1.0, std::ceil(decades / std::max(1, count)));
  std::vector<double> ticks;
  for (double power = std::floor(std::log10(low)); power <= std::log10(high); power += stride) {
    for (const double factor : factors) {
      const double tick = factor * std::pow(10.0, power);
      if (tick >= low * (1.0 - 1e-9) && tick <= high * (1.0 + 1e-9)) ticks.push_back(tick);
    }
  }
  return ticks;
}

std::string RenderLineChart(const LineChart& chart) {
  Svg svg(chart.width, chart.height);
  const double bottom = chart.height - kBottom;
  const double right = chart.width - kRight;
  const Scale x = FitScale(
      chart, [](const SvgPoint& p) { return p.x; }, chart.log_x, 0.0, kLeft, right);
  const Scale y = FitScale(
      chart, [](const SvgPoint& p) { return p.y; }, chart.log_y, 0.05, bottom, kTop);

  svg.Text({kLeft, 28.0}, chart.title, {.size = 17.0, .fill = std::string(kInk), .bold = true});
  const std::vector<double> x_ticks = AxisTicks(x.low, x.high, 8, x.logarithmic);
  const std::vector<double> y_ticks = AxisTicks(y.low, y.high, 7, y.logarithmic);
  const auto step = [](const std::vector<double>& ticks) {
    return ticks.size() < 2 ? 0.0 : ticks[1] - ticks[0];
  };
  for (const double tick : y_ticks) {
    svg.Line({kLeft, y.Pixel(tick)}, {right, y.Pixel(tick)}, {.stroke = std::string(kGrid)});
    svg.Text({kLeft - 8.0, y.Pixel(tick) + 4.0}, TickLabel(tick, step(y_ticks)),
             {.fill = std::string(kFaded), .anchor = SvgAnchor::kEnd});
  }
  for (const double tick : x_ticks) {
    svg.Line({x.Pixel(tick), bottom}, {x.Pixel(tick), bottom + 5.0},
             {.stroke = std::string(kFaded)});
    svg.Text({x.Pixel(tick), bottom + 19.0}, TickLabel(tick, step(x_ticks)),
             {.fill = std::string(kFaded), .anchor = SvgAnchor::kMiddle});
  }
  svg.Line({kLeft, bottom}, {right, bottom}, {.stroke = std::string(kFaded)});
  svg.Text({(kLeft + right) / 2.0, chart.height - 12.0}, chart.x_label,
           {.size = 13.0, .fill = std::string(kInk), .anchor = SvgAnchor::kMiddle});
  svg.Text(
      {18.0, (kTop + bottom) / 2.0}, chart.y_label,
      {.size = 13.0, .fill = std::string(kInk), .anchor = SvgAnchor::kMiddle, .rotation = -90.0});

  std::vector<std::string> colors;
  for (size_t i = 0; i < chart.series.size(); ++i) {
    colors.push_back(chart.series[i].color.empty() ? std::string(kPalette[i % kPalette.size()])
                                                   : chart.series[i].color);
  }
  std::vector<std::vector<SvgPoint>> traces;
  for (size_t i = 0; i < chart.series.size(); ++i) {
    const LineChartSeries& series = chart.series[i];
    traces.push_back(Trace(series, x, y));
    const std::vector<SvgPoint>& trace = traces.back();
    if (trace.size() > 1) {
      svg.Polyline(trace, {.stroke = colors[i],
                           .stroke_width = series.faint ? 1.0 : 2.0,
                           .opacity = series.faint ? 0.35 : 1.0});
    }
    if (series.markers || trace.size() == 1) {
      for (const SvgPoint& point : trace) svg.Circle(point, 3.0, {.fill = colors[i]});
    }
  }
  DrawLegend(svg, chart, colors, traces);
  return svg.ToString();
}

}  // namespace adder
