// SVG as text: numbers with at most two decimals, everything from outside escaped.
#include "adder/formats/svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>

#include "adder/core/error.h"

namespace adder {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";
constexpr std::string_view kSansSerif = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif";
constexpr std::string_view kMonospace = "ui-monospace, 'DejaVu Sans Mono', Menlo, monospace";

// Two decimals are a hundredth of a pixel; trailing zeros only make the file larger.
std::string Number(double value) {
  if (!std::isfinite(value)) {
    throw Error(ErrorCode::kInvalidArgument, "an SVG coordinate is not finite");
  }
  std::string text = fmt::format("{:.2f}", value);
  while (text.back() == '0') text.pop_back();
  if (text.back() == '.') text.pop_back();
  return text == "-0" ? "0" : text;
}

// Length of the well-formed UTF-8 character at the beginning of `text` that XML may hold, else 0.
size_t CharacterLength(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(0);
  if (first < 0x80) return first >= 0x20 || first == '\t' || first == '\n' || first == '\r';
  size_t length = 0;
  uint32_t code = 0;
  uint32_t least = 0;
  if ((first & 0xe0) == 0xc0) {
    length = 2, code = first & 0x1f, least = 0x80;
  } else if ((first & 0xf0) == 0xe0) {
    length = 3, code = first & 0x0f, least = 0x800;
  } else if ((first & 0xf8) == 0xf0) {
    length = 4, code = first & 0x07, least = 0x10000;
  } else {
    return 0;
  }
  if (text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
    code = (code << 6) | (byte(i) & 0x3f);
  }
  const bool surrogate = code >= 0xd800 && code <= 0xdfff;
  const bool noncharacter = code == 0xfffe || code == 0xffff;
  return code < least || code > 0x10ffff || surrogate || noncharacter ? 0 : length;
}

int Channel(std::string_view color, size_t index) {
  if (color.size() != 7 || color[0] != '#' ||
      color.find_first_not_of("0123456789abcdefABCDEF", 1) != std::string_view::npos) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("the colour is '{}', expected #rrggbb", color));
  }
  return static_cast<int>(
      std::strtol(std::string(color.substr(1 + 2 * index, 2)).c_str(), nullptr, 16));
}

}  // namespace

std::string EscapeXml(std::string_view text) {
  std::string escaped;
  escaped.reserve(text.size());
  while (!text.empty()) {
    const size_t length = CharacterLength(text);
    if (length == 0) {
      escaped += kReplacement;
    } else if (text[0] == '&') {
      escaped += "&amp;";
    } else if (text[0] == '<') {
      escaped += "&lt;";
    } else if (text[0] == '>') {
      escaped += "&gt;";
    } else if (text[0] == '"') {
      escaped += "&quot;";
    } else {
      escaped += text.substr(0, length);
    }
    text.remove_prefix(std::max<size_t>(1, length));
  }
  return escaped;
}

std::string MixColors(std::string_view from, std::string_view to, double share) {
  const double s = std::clamp(share, 0.0, 1.0);
  const auto mix = [&](size_t channel) {
    const double value =
        Channel(from, channel) + s * (Channel(to, channel) - Channel(from, channel));
    return static_cast<int>(std::lround(value));
  };
  return fmt::format("#{:02x}{:02x}{:02x}", mix(0), mix(1), mix(2));
}

Svg::Svg(double width, double height) : width_(width), height_(height) {
  Rectangle(0.0, 0.0, width, height, {.fill = "#ffffff"});
}

void Svg::Rectangle(double x, double y, double width, double height, const SvgStyle& style) {
  Open("rect");
  Attribute("x", x);
  Attribute("y", y);
  Attribute("width", width);
  Attribute("height", height);
  if (style.corner_radius > 0.0) Attribute("rx", style.corner_radius);
  Close(style);
}

void Svg::Line(SvgPoint from, SvgPoint to, const SvgStyle& style) {
  Open("line");
  Attribute("x1", from.x);
  Attribute("y1", from.y);
  Attribute("x2", to.x);
  Attribute("y2", to.y);
  Close(style);
}

void Svg::Polyline(std::span<const SvgPoint> points, const SvgStyle& style) {
  Open("polyline");
  Points(points);
  Attribute("stroke-linejoin", "round");
  Close(style);
}

void Svg::Circle(SvgPoint centre, double radius, const SvgStyle& style) {
  Open("circle");
  Attribute("cx", centre.x);
  Attribute("cy", centre.y);
  Attribute("r", radius);
  Close(style);
}

void Svg::Text(SvgPoint at, std::string_view words, const SvgTextStyle& style) {
  Open("text");
  Attribute("x", at.x);
  Attribute("y", at.y);
  Attribute("font-size", style.size);
  Attribute("fill", style.fill);
  if (style.anchor != SvgAnchor::kStart) {
    Attribute("text-anchor", style.anchor == SvgAnchor::kMiddle ? "middle" : "end");
  }
  if (style.bold) Attribute("font-weight", "600");
  if (style.monospace) Attribute("font-family", kMonospace);
  if (style.rotation != 0.0) {
    Attribute("transform",
              fmt::format("rotate({} {} {})", Number(style.rotation), Number(at.x), Number(at.y)));
  }
  // Spaces at either end belong to the words.
  body_ += " xml:space=\"preserve\">" + EscapeXml(words) + "</text>\n";
}

std::string Svg::ToString() const {
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" "
      "viewBox=\"0 0 {0} {1}\" font-family=\"{2}\">\n{3}</svg>\n",
      Number(width_), Number(height_), kSansSerif, body_);
}

void Svg::Open(std::string_view element) {
  body_ += '<';
  body_ += element;
}

void Svg::Attribute(std::string_view name, double value) { Attribute(name, Number(value)); }

void Svg::Attribute(std::string_view name, std::string_view value) {
  body_ += fmt::format(" {}=\"{}\"", name, EscapeXml(value));
}

void Svg::Points(std::span<const SvgPoint> points) {
  body_ += " points=\"";
  for (const SvgPoint& point : points) {
    if (body_.back() != '"') body_ += ' ';
    body_ += Number(point.x) + "," + Number(point.y);
  }
  body_ += '"';
}

void Svg::Close(const SvgStyle& style) {
  const size_t name_begin = body_.rfind('<') + 1;
  const std::string element = body_.substr(name_begin, body_.find(' ', name_begin) - name_begin);
  Attribute("fill", style.fill);
  if (style.stroke != "none") {
    Attribute("stroke", style.stroke);
    Attribute("stroke-width", style.stroke_width);
  }
  if (style.opacity != 1.0) Attribute("opacity", style.opacity);
  if (style.tooltip.empty()) {
    body_ += "/>\n";
  } else {
    body_ += fmt::format("><title>{}</title></{}>\n", EscapeXml(style.tooltip), element);
  }
}

}  // namespace adder
