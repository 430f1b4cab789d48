// A line chart as SVG: titled axes with round tick marks, a legend, linear or logarithmic scales.
#pragma once

#include <string>
#include <vector>

#include "adder/formats/svg.h"

namespace adder {

struct LineChartSeries {
  std::string name;              // in the legend
  std::vector<SvgPoint> points;  // by ascending x; those that are not finite (or, on a logarithmic
                                 // axis, not positive) are left out
  std::string color;             // "#rrggbb"; empty: the next of the chart's palette
  bool faint = false;            // a thin, pale line: the noisy values behind a smooth one
  bool markers = false;          // a dot at every point
};

struct LineChart {
  std::string title;
  std::string x_label;
  std::string y_label;
  bool log_x = false;
  bool log_y = false;
  std::vector<LineChartSeries> series;
  double width = 860.0;
  double height = 480.0;
};

// The chart as an SVG document. A series with more points than pixels keeps the least and the
// greatest of every pixel column, so that the size of the picture is bounded.
std::string RenderLineChart(const LineChart& chart);

// Round values inside [low, high], about `count` of them: multiples of 1, 2 or 5 times a power of
// ten; on a logarithmic axis such multiples of each power of ten. low < high, both finite (and
// positive when logarithmic).
std::vector<double> AxisTicks(double low, double high, int count, bool logarithmic);

}  // namespace adder
