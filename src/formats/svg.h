// A picture as SVG text: shapes and words placed in pixels from the upper left corner, drawn in the
// order they are added.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace adder {

struct SvgPoint {
  double x = 0.0;
  double y = 0.0;
};

// Colours are CSS colours ("#1f77b4", "none"). Defaults draw nothing but what is asked for.
struct SvgStyle {
  std::string fill = "none";
  std::string stroke = "none";
  double stroke_width = 1.0;
  double opacity = 1.0;
  double corner_radius = 0.0;  // of rectangles
  std::string tooltip = {};    // what a viewer shows under the pointer
};

enum class SvgAnchor { kStart, kMiddle, kEnd };

struct SvgTextStyle {
  double size = 12.0;
  std::string fill = "#24292f";
  SvgAnchor anchor = SvgAnchor::kStart;  // which end of the words lies at the given point
  bool bold = false;
  bool monospace = false;
  double rotation = 0.0;  // degrees clockwise around the given point
};

class Svg {
 public:
  // An empty picture on white.
  Svg(double width, double height);

  void Rectangle(double x, double y, double width, double height, const SvgStyle& style);
  void Line(SvgPoint from, SvgPoint to, const SvgStyle& style);
  void Polyline(std::span<const SvgPoint> points, const SvgStyle& style);
  void Circle(SvgPoint centre, double radius, const SvgStyle& style);
  // One line of words; `at` lies on the baseline. Bytes that are no UTF-8 and characters that XML
  // forbids are shown as U+FFFD.
  void Text(SvgPoint at, std::string_view words, const SvgTextStyle& style = {});

  // The whole document.
  std::string ToString() const;

 private:
  void Open(std::string_view element);
  void Attribute(std::string_view name, double value);
  void Attribute(std::string_view name, std::string_view value);
  void Points(std::span<const SvgPoint> points);
  void Close(const SvgStyle& style);

  double width_;
  double height_;
  std::string body_;
};

// `text` as XML character data: markup escaped, what XML cannot hold replaced by U+FFFD.
std::string EscapeXml(std::string_view text);

// A colour between two colours in "#rrggbb", share 0 … 1 (values outside are clamped).
std::string MixColors(std::string_view from, std::string_view to, double share);

}  // namespace adder
