// Boost.JSON reads the grammar; this file builds the values, so that duplicate keys are seen and
// every number is rounded correctly (Boost 1.81's own doubles are not).
#include "adder/formats/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/parse_options.hpp>
#include <charconv>
#include <cmath>
#include <iterator>
#include <optional>

#include "adder/formats/file.h"

namespace adder {
namespace {

constexpr size_t kMessageTextLimit = 80;

bool KeyLess(const JsonValue::Member& a, const JsonValue::Member& b) { return a.key < b.key; }

// Sorts; returns a key that occurs twice.
std::optional<std::string> SortMembers(JsonValue::Object* members) {
  std::sort(members->begin(), members->end(), KeyLess);
  const auto twin = std::adjacent_find(
      members->begin(), members->end(),
      [](const JsonValue::Member& a, const JsonValue::Member& b) { return a.key == b.key; });
  if (twin == members->end()) return std::nullopt;
  return twin->key;
}

// basic_parser's events, in the order of the text. Finished values wait on a stack until their
// array or object ends and takes them.
class Builder {
 public:
  // Names of Boost's. NOLINTBEGIN(readability-identifier-naming)
  static constexpr size_t max_array_size = static_cast<size_t>(-1);
  static constexpr size_t max_object_size = static_cast<size_t>(-1);
  static constexpr size_t max_string_size = static_cast<size_t>(-1);
  static constexpr size_t max_key_size = static_cast<size_t>(-1);
  // NOLINTEND(readability-identifier-naming)

  using ErrorRef = boost::json::error_code&;
  using Text = boost::json::string_view;

  bool on_document_begin(ErrorRef) { return true; }
  bool on_document_end(ErrorRef) { return true; }
  bool on_object_begin(ErrorRef) { return true; }
  bool on_array_begin(ErrorRef) { return true; }
  bool on_comment_part(Text, ErrorRef) { return true; }
  bool on_comment(Text, ErrorRef) { return true; }

  bool on_object_end(size_t count, ErrorRef error) {
    JsonValue::Object members(count);
    for (size_t i = 0; i < count; ++i) {
      members[i].key = std::move(keys_[keys_.size() - count + i]);
      members[i].value = std::move(values_[values_.size() - count + i]);
    }
    keys_.resize(keys_.size() - count);
    values_.resize(values_.size() - count);
    if (const auto twin = SortMembers(&members)) {
      return Refuse("the key " + JsonQuote(*twin, kMessageTextLimit) + " occurs twice", error);
    }
    values_.emplace_back(std::move(members));
    return true;
  }
  bool on_array_end(size_t count, ErrorRef) {
    const auto first = values_.end() - static_cast<ptrdiff_t>(count);
    JsonValue::Array elements(std::make_move_iterator(first),
                              std::make_move_iterator(values_.end()));
    values_.resize(values_.size() - count);
    values_.emplace_back(std::move(elements));
    return true;
  }
  bool on_key_part(Text part, size_t, ErrorRef) {
    text_.append(part.data(), part.size());
    return true;
  }
  bool on_key(Text part, size_t, ErrorRef) {
    text_.append(part.data(), part.size());
    keys_.push_back(std::exchange(text_, {}));
    return true;
  }
  bool on_string_part(Text part, size_t, ErrorRef) {
    text_.append(part.data(), part.size());
    return true;
  }
  bool on_string(Text part, size_t, ErrorRef) {
    text_.append(part.data(), part.size());
    values_.emplace_back(std::exchange(text_, {}));
    return true;
  }
  bool on_number_part(Text part, ErrorRef) {
    text_.append(part.data(), part.size());
    return true;
  }
  bool on_int64(int64_t value, Text, ErrorRef) {
    text_.clear();
    values_.emplace_back(value);
    return true;
  }
  bool on_uint64(uint64_t, Text part, ErrorRef error) { return on_double(0.0, part, error); }
  bool on_double(double approximate, Text part, ErrorRef error) {
    text_.append(part.data(), part.size());
    const std::string number = std::exchange(text_, {});
    double value = 0.0;
    const auto result = std::from_chars(number.data(), number.data() + number.size(), value);
    if (result.ec == std::errc::result_out_of_range) {
      // Too near zero: zero. Too large: no double.
      if (std::abs(approximate) > 1.0) {
        return Refuse("the number " + JsonQuote(number, kMessageTextLimit) + " is out of range",
                      error);
      }
    }
    values_.emplace_back(value);
    return true;
  }
  bool on_bool(bool value, ErrorRef) {
    values_.emplace_back(value);
    return true;
  }
  bool on_null(ErrorRef) {
    values_.emplace_back();
    return true;
  }

  const std::string& refusal() const { return refusal_; }
  JsonValue TakeValue() { return std::move(values_.back()); }

 private:
  bool Refuse(std::string reason, ErrorRef error) {
    refusal_ = std::move(reason);
    error = boost::json::error::syntax;
    return false;
  }

  std::vector<JsonValue> values_;
  std::vector<std::string> keys_;
  std::string text_;  // the parts of an unfinished key, string or number
  std::string refusal_;
};

std::string Position(std::string_view text, size_t offset, std::string_view source) {
  const std::string_view before = text.substr(0, std::min(offset, text.size()));
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const size_t line_start = before.rfind('\n') + 1;  // npos + 1 is 0
  return fmt::format("{}:{}:{}", source, line, before.size() - line_start + 1);
}

// What stands in a field, for messages.
std::string Describe(const JsonValue* value) {
  if (value == nullptr) return "missing";
  if (value->AsArray() != nullptr) return "an array";
  if (value->AsObject() != nullptr) return "an object";
  if (const std::string* text = value->AsString()) return JsonQuote(*text, kMessageTextLimit);
  return value->ToText();
}

std::string IntegerRange(int64_t min, int64_t max) {
  const bool from = min != std::numeric_limits<int64_t>::min();
  const bool to = max != std::numeric_limits<int64_t>::max();
  if (from && to) return fmt::format("an integer from {} to {}", min, max);
  if (from && min == 1) return "a positive integer";
  if (from) return fmt::format("an integer of at least {}", min);
  if (to) return fmt::format("an integer of at most {}", max);
  return "an integer";
}

std::string NumberRange(double min, double max) {
  const bool from = min != std::numeric_limits<double>::lowest();
  const bool to = max != std::numeric_limits<double>::max();
  if (from && to) return fmt::format("a number from {} to {}", min, max);
  if (from) return fmt::format("a number of at least {}", min);
  if (to) return fmt::format("a number of at most {}", max);
  return "a number";
}

}  // namespace

JsonValue::JsonValue(Object members) {
  if (const auto twin = SortMembers(&members)) {
    throw Error(ErrorCode::kInvalidArgument, "the JSON key " + JsonQuote(*twin) + " occurs twice");
  }
  value_ = std::move(members);
}

JsonValue JsonValue::Parse(std::string_view text, std::string_view source) {
  boost::json::basic_parser<Builder> parser(boost::json::parse_options{});
  boost::json::error_code error;
  const size_t used = parser.write_some(false, text.data(), text.size(), error);
  if (!error && used < text.size()) error = boost::json::error::extra_data;
  if (error) {
    const std::string& refusal = parser.handler().refusal();
    throw Error(ErrorCode::kCorrupt,
                fmt::format("{}: not valid JSON: {}", Position(text, used, source),
                            refusal.empty() ? error.message() : refusal));
  }
  return parser.handler().TakeValue();
}

bool JsonValue::AsDouble(double* value) const {
  if (const double* number = std::get_if<double>(&value_)) {
    *value = *number;
    return true;
  }
  if (const int64_t* number = AsInt()) {
    *value = static_cast<double>(*number);
    return true;
  }
  return false;
}

const JsonValue* JsonValue::Find(std::string_view key) const {
  const Object* object = AsObject();
  if (object == nullptr) return nullptr;
  const auto found =
      std::lower_bound(object->begin(), object->end(), key,
                       [](const Member& member, std::string_view k) { return member.key < k; });
  return found != object->end() && found->key == key ? &found->value : nullptr;
}

std::string JsonValue::ToText(int indent) const {
  std::string text;
  AppendText(indent, 0, &text);
  return text;
}

void JsonValue::AppendText(int indent, int depth, std::string* text) const {
  const auto new_line = [&](int level) {
    if (indent > 0)
      text->append("\n").append(static_cast<size_t>(indent) * static_cast<size_t>(level), ' ');
  };
  if (const bool* truth = AsBool()) {
    *text += *truth ? "true" : "false";
  } else if (const int64_t* integer = AsInt()) {
    *text += std::to_string(*integer);
  } else if (const double* number = std::get_if<double>(&value_)) {
    if (!std::isfinite(*number)) {
      throw Error(ErrorCode::kInvalidArgument, fmt::format("JSON has no number {}", *number));
    }
    std::string digits = fmt::format("{}", *number);  // the shortest that reads back the same
    if (digits.find_first_of(".e") == std::string::npos) digits += ".0";
    *text += digits;
  } else if (const std::string* string = AsString()) {
    *text += JsonQuote(*string);
  } else if (const Array* array = AsArray()) {
    *text += '[';
    for (size_t i = 0; i < array->size(); ++i) {
      if (i > 0) *text += ',';
      new_line(depth + 1);
      (*array)[i].AppendText(indent, depth + 1, text);
    }
    if (!array->empty()) new_line(depth);
    *text += ']';
  } else if (const Object* object = AsObject()) {
    *text += '{';
    for (size_t i = 0; i < object->size(); ++i) {
      if (i > 0) *text += ',';
      new_line(depth + 1);
      *text += JsonQuote((*object)[i].key);
      *text += indent > 0 ? ": " : ":";
      (*object)[i].value.AppendText(indent, depth + 1, text);
    }
    if (!object->empty()) new_line(depth);
    *text += '}';
  } else {
    *text += "null";
  }
}

std::string JsonQuote(std::string_view text, size_t limit) {
  const bool cut = limit > 0 && text.size() > limit;
  if (cut) {
    // Not inside a UTF-8 character.
    while (limit > 0 && (static_cast<unsigned char>(text[limit]) & 0xc0) == 0x80) --limit;
    text = text.substr(0, limit);
  }
  std::string quoted = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (c == '\n') {
      quoted += "\\n";
    } else if (c == '\t') {
      quoted += "\\t";
    } else if (byte < 0x20 || byte == 0x7f) {
      quoted += fmt::format("\\u{:04x}", byte);
    } else {
      quoted += c;
    }
  }
  return quoted + (cut ? "…\"" : "\"");
}

JsonObject::JsonObject(std::shared_ptr<const JsonValue> root, std::string source)
    : root_(std::move(root)), object_(root_.get()), source_(std::move(source)) {}

JsonObject JsonObject::Read(const std::filesystem::path& path) {
  return Parse(ReadFile(path), path.string());
}

JsonObject JsonObject::Parse(std::string_view text, std::string source) {
  auto root = std::make_shared<const JsonValue>(JsonValue::Parse(text, source));
  if (root->AsObject() == nullptr) {
    throw Error(ErrorCode::kCorrupt,
                source + ": the file is " + Describe(root.get()) + ", expected a JSON object");
  }
  return JsonObject(std::move(root), std::move(source));
}

const JsonValue* JsonObject::Field(std::string_view key) const {
  const JsonValue* value = object_->Find(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

bool JsonObject::Has(std::string_view key) const { return Field(key) != nullptr; }

int64_t JsonObject::Int(std::string_view key, int64_t min, int64_t max) const {
  const JsonValue* value = Field(key);
  const int64_t* number = value == nullptr ? nullptr : value->AsInt();
  if (number == nullptr || *number < min || *number > max) Fail(key, IntegerRange(min, max));
  return *number;
}

int64_t JsonObject::IntOr(std::string_view key, int64_t fallback, int64_t min, int64_t max) const {
  return Has(key) ? Int(key, min, max) : fallback;
}

double JsonObject::Double(std::string_view key, double min, double max) const {
  const JsonValue* value = Field(key);
  double number = 0.0;
  if (value == nullptr || !value->AsDouble(&number) || number < min || number > max) {
    Fail(key, NumberRange(min, max));
  }
  return number;
}

double JsonObject::DoubleOr(std::string_view key, double fallback, double min, double max) const {
  return Has(key) ? Double(key, min, max) : fallback;
}

bool JsonObject::Bool(std::string_view key) const {
  const JsonValue* value = Field(key);
  if (value == nullptr || value->AsBool() == nullptr) Fail(key, "true or false");
  return *value->AsBool();
}

bool JsonObject::BoolOr(std::string_view key, bool fallback) const {
  return Has(key) ? Bool(key) : fallback;
}

const std::string& JsonObject::String(std::string_view key) const {
  const JsonValue* value = Field(key);
  if (value == nullptr || value->AsString() == nullptr) Fail(key, "a string");
  return *value->AsString();
}

std::string JsonObject::StringOr(std::string_view key, std::string fallback) const {
  if (Has(key)) return String(key);
  return fallback;
}

const JsonValue::Array& JsonObject::Array(std::string_view key) const {
  const JsonValue* value = Field(key);
  if (value == nullptr || value->AsArray() == nullptr) Fail(key, "an array");
  return *value->AsArray();
}

JsonObject JsonObject::Object(std::string_view key) const {
  const JsonValue* value = Field(key);
  if (value == nullptr || value->AsObject() == nullptr) Fail(key, "an object");
  JsonObject inner = *this;
  inner.object_ = value;
  inner.prefix_ = prefix_ + std::string(key) + ".";
  return inner;
}

std::vector<JsonObject> JsonObject::Objects(std::string_view key) const {
  const JsonValue::Array& elements = Array(key);
  std::vector<JsonObject> objects(elements.size(), *this);
  for (size_t i = 0; i < elements.size(); ++i) {
    const std::string name = fmt::format("{}[{}]", key, i);
    if (elements[i].AsObject() == nullptr) {
      throw Error(ErrorCode::kCorrupt,
                  fmt::format("{}: field {} is {}, expected an object", source_,
                              JsonQuote(prefix_ + name), Describe(&elements[i])));
    }
    objects[i].object_ = &elements[i];
    objects[i].prefix_ = prefix_ + name + ".";
  }
  return objects;
}

void JsonObject::Fail(std::string_view key, std::string_view expected, ErrorCode code) const {
  throw Error(code,
              fmt::format("{}: field {} is {}, expected {}", source_,
                          JsonQuote(prefix_ + std::string(key)), Describe(Field(key)), expected));
}

}  // namespace adder
