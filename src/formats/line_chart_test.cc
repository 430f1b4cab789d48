// Ticks are round and inside their axis; charts hold every series, whatever its values.
#include "adder/formats/line_chart.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "adder/core/error.h"

namespace adder {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(AxisTicksTest, LinearTicksAreRoundAndInside) {
  EXPECT_THAT(AxisTicks(0.0, 100.0, 5, false), ElementsAre(0.0, 20.0, 40.0, 60.0, 80.0, 100.0));
  EXPECT_THAT(AxisTicks(-0.3, 0.31, 6, false),
              ElementsAre(DoubleNear(-0.2, 1e-12), DoubleNear(0.0, 1e-12), DoubleNear(0.2, 1e-12)));
  for (const double low : {0.0, 1.7, -3e6, 4e-9}) {
    for (const double width : {1e-6, 0.37, 12.0, 8.1e8}) {
      const auto ticks = AxisTicks(low, low + width, 8, false);
      EXPECT_GE(ticks.size(), 3u) << low << " " << width;
      EXPECT_LE(ticks.size(), 10u) << low << " " << width;
      EXPECT_GE(ticks.front(), low - 1e-8 * width);
      EXPECT_LE(ticks.back(), low + width * (1 + 1e-8));
    }
  }
}

TEST(AxisTicksTest, LogarithmicTicksFollowTheDecades) {
  EXPECT_THAT(AxisTicks(1.0, 100.0, 7, true), ElementsAre(1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0));
  EXPECT_THAT(AxisTicks(2.0, 8.0, 6, true), ElementsAre(2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0));
  EXPECT_LE(AxisTicks(1e-30, 1e30, 8, true).size(), 9u);
  EXPECT_THROW(AxisTicks(0.0, 1.0, 5, true), Error);
  EXPECT_THROW(AxisTicks(1.0, 1.0, 5, false), Error);
}

TEST(LineChartTest, DrawsSeriesLegendAndLabels) {
  LineChart chart;
  chart.title = "loss <of> a run";
  chart.x_label = "step";
  chart.y_label = "bits per byte";
  chart.log_y = true;
  chart.series = {{"training", {{0, 8}, {1, 4}, {2, 2}}, "", true, false},
                  {"validation", {{2, 2.5}}, "#123456", false, true}};
  const std::string svg = RenderLineChart(chart);
  EXPECT_THAT(svg, HasSubstr("loss &lt;of&gt; a run"));
  EXPECT_THAT(svg, HasSubstr("<polyline"));
  EXPECT_THAT(svg, HasSubstr("#123456"));
  EXPECT_THAT(svg, HasSubstr(">validation</text>"));
}

// The legend leaves the corner that a curve runs through.
TEST(LineChartTest, TheLegendHidesNoCurve) {
  const auto legend_left = [](std::vector<SvgPoint> points) {
    LineChart chart;
    chart.series = {{"name", std::move(points), "", false, false}};
    const std::string svg = RenderLineChart(chart);
    const size_t text = svg.rfind("<text", svg.find(">name</text>"));
    return std::stod(svg.substr(svg.find("x=\"", text) + 3));
  };
  EXPECT_GT(legend_left({{0, 1}, {1, 0}}), 430.0);
  EXPECT_LT(legend_left({{0, 0}, {1, 1}}), 430.0);
}

TEST(LineChartTest, SurvivesEmptySingleConstantAndNonFiniteSeries) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  for (const bool logarithmic : {false, true}) {
    LineChart chart;
    chart.log_x = chart.log_y = logarithmic;
    EXPECT_THAT(RenderLineChart(chart), Not(HasSubstr("nan")));
    chart.series = {{"a", {{3, 3}}, "", false, false}};
    EXPECT_THAT(RenderLineChart(chart), HasSubstr("<circle"));
    chart.series = {{"a", {{1, 5}, {2, 5}, {3, nan}, {4, infinity}, {0, -1}}, "", false, false}};
    const std::string svg = RenderLineChart(chart);
    EXPECT_THAT(svg, HasSubstr("<polyline"));
    EXPECT_THAT(svg, Not(HasSubstr("inf")));
  }
}

TEST(LineChartTest, ManyPointsKeepTheirExtremes) {
  LineChart chart;
  chart.series = {{"a", {}, "", false, false}};
  for (int i = 0; i < 200000; ++i) {
    chart.series[0].points.push_back({double(i), i == 77777 ? 100.0 : std::sin(i)});
  }
  const std::string svg = RenderLineChart(chart);
  EXPECT_LT(svg.size(), 60000u);
  // The spike is the chart's highest point: 5 % of the range of values below the frame's top, which
  // is 52 + 372 · 0.05 / 1.1.
  EXPECT_NE(svg.find(",68.91"), std::string::npos);
}

}  // namespace
}  // namespace adder
