// SVG text: well-formed whatever the words, numbers short, order kept.
#include "adder/formats/svg.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "adder/core/error.h"

namespace adder {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(SvgTest, DrawsInOrderWithShortNumbers) {
  Svg svg(200.0, 100.0);
  svg.Rectangle(1.0, 2.5, 10.125, 20.0, {.fill = "#ff0000"});
  svg.Line({0.0, -0.0001}, {200.0, 100.0}, {.stroke = "#000000", .stroke_width = 2.0});
  const std::string text = svg.ToString();
  EXPECT_THAT(
      text, HasSubstr("<rect x=\"1\" y=\"2.5\" width=\"10.12\" height=\"20\" fill=\"#ff0000\"/>"));
  EXPECT_THAT(text, HasSubstr("<line x1=\"0\" y1=\"0\" x2=\"200\" y2=\"100\" fill=\"none\" "
                              "stroke=\"#000000\" stroke-width=\"2\"/>"));
  EXPECT_LT(text.find("<rect"), text.find("<line"));
  EXPECT_THAT(text, HasSubstr("viewBox=\"0 0 200 100\""));
}

TEST(SvgTest, WordsAndTooltipsAreEscaped) {
  Svg svg(10.0, 10.0);
  svg.Text({1.0, 1.0}, "a < b & \"c\" \x01 \xff é");
  svg.Circle({1.0, 1.0}, 2.0, {.fill = "#123456", .tooltip = "</title><script>"});
  const std::string text = svg.ToString();
  EXPECT_THAT(text, HasSubstr("a &lt; b &amp; &quot;c&quot; \xef\xbf\xbd \xef\xbf\xbd é</text>"));
  EXPECT_THAT(text, Not(HasSubstr("<script>")));
  EXPECT_THAT(text, HasSubstr("</title></circle>"));
}

TEST(SvgTest, EscapeReplacesOverlongAndSurrogateCharacters) {
  EXPECT_EQ(EscapeXml("\xc0\xaf"), "\xef\xbf\xbd\xef\xbf\xbd");
  EXPECT_EQ(EscapeXml("\xed\xa0\x80x"), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdx");
  EXPECT_EQ(EscapeXml("\xe2\x82"), "\xef\xbf\xbd\xef\xbf\xbd");
  EXPECT_EQ(EscapeXml("\xf0\x9f\x90\x8d"), "\xf0\x9f\x90\x8d");
}

TEST(SvgTest, RefusesCoordinatesThatAreNoNumbers) {
  Svg svg(10.0, 10.0);
  EXPECT_THROW(svg.Circle({std::numeric_limits<double>::quiet_NaN(), 0.0}, 1.0, {}), Error);
}

TEST(SvgTest, MixesColors) {
  EXPECT_EQ(MixColors("#000000", "#ffffff", 0.5), "#808080");
  EXPECT_EQ(MixColors("#102030", "#ffffff", -3.0), "#102030");
  EXPECT_EQ(MixColors("#102030", "#A0b0C0", 2.0), "#a0b0c0");
  EXPECT_THROW(MixColors("red", "#ffffff", 0.5), Error);
}

}  // namespace
}  // namespace adder
