// JSON files as values, and typed access to their fields with errors that name file, field, what
// stands there and what was expected. Parsing is strict (RFC 8259, UTF-8) and refuses duplicate
// keys.
#pragma once

#include <concepts>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "adder/core/error.h"

namespace adder {

// One JSON value. Integers that do not fit 63 bits are doubles, as in JavaScript.
class JsonValue {
 public:
  struct Member;
  using Array = std::vector<JsonValue>;
  using Object = std::vector<Member>;  // sorted by key, every key once

  // Any of JSON's types is a JsonValue without a word. NOLINTBEGIN(google-explicit-constructor)
  JsonValue();  // null
  template <std::same_as<bool> T>
  JsonValue(T value);
  template <std::integral T>
  requires(!std::same_as<T, bool>) JsonValue(T value);
  JsonValue(double value);
  JsonValue(std::string value);
  JsonValue(std::string_view value);
  JsonValue(const char* value);
  JsonValue(Array value);
  // Sorts the members. Throws kInvalidArgument for a key given twice.
  JsonValue(Object members);
  // NOLINTEND(google-explicit-constructor)

  // Strict parsing of a whole text, nested at most 32 deep. Throws kCorrupt, beginning with
  // "source:line:column: ".
  static JsonValue Parse(std::string_view text, std::string_view source);

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  // The value when it has that type, else null. AsDouble accepts integers too.
  const bool* AsBool() const { return std::get_if<bool>(&value_); }
  const int64_t* AsInt() const { return std::get_if<int64_t>(&value_); }
  const std::string* AsString() const { return std::get_if<std::string>(&value_); }
  const Array* AsArray() const { return std::get_if<Array>(&value_); }
  const Object* AsObject() const { return std::get_if<Object>(&value_); }
  bool AsDouble(double* value) const;
  // The member of an object, or null when this is no object or has no such key.
  const JsonValue* Find(std::string_view key) const;

  // JSON text on one line; with indent ≥ 1, one member or element per line, as Hugging Face writes
  // its files. Doubles are written with the fewest digits that read back the same.
  // Throws kInvalidArgument for a NaN or infinity.
  std::string ToText(int indent = 0) const;

  friend bool operator==(const JsonValue&, const JsonValue&) = default;

 private:
  void AppendText(int indent, int depth, std::string* text) const;

  std::variant<std::monostate, bool, int64_t, double, std::string, Array, Object> value_;
};

struct JsonValue::Member {
  std::string key;
  JsonValue value;

  friend bool operator==(const Member&, const Member&) = default;
};

// Here and not above, since a constructor's body needs Member to be complete.
inline JsonValue::JsonValue() = default;
template <std::same_as<bool> T>
JsonValue::JsonValue(T value) : value_(value) {}
template <std::integral T>
requires(!std::same_as<T, bool>) JsonValue::JsonValue(T value)
    : value_(static_cast<int64_t>(value)) {}
inline JsonValue::JsonValue(double value) : value_(value) {}
inline JsonValue::JsonValue(std::string value) : value_(std::move(value)) {}
inline JsonValue::JsonValue(std::string_view value) : value_(std::string(value)) {}
inline JsonValue::JsonValue(const char* value) : value_(std::string(value)) {}
inline JsonValue::JsonValue(Array value) : value_(std::move(value)) {}

// "text" in JSON's quotes and escapes. For messages: control characters cannot reach a terminal,
// and text past `limit` bytes is cut to "…" (0: no limit).
std::string JsonQuote(std::string_view text, size_t limit = 0);

// The fields of an object in a JSON file. A field that is null counts as absent. Int, Double, Bool,
// String, Array and Object throw kCorrupt when the field is absent, has another type or lies
// outside the given range:
//   config.json: field "d_model" is "abc", expected a positive integer
// the ...Or forms return `fallback` for an absent field and are as strict about a present one.
class JsonObject {
 public:
  // Throws kNotFound, kIo; kCorrupt when the file is no JSON object.
  static JsonObject Read(const std::filesystem::path& path);
  // `source` is what messages call the text.
  static JsonObject Parse(std::string_view text, std::string source);

  const std::string& source() const { return source_; }
  const JsonValue& value() const { return *object_; }
  bool Has(std::string_view key) const;

  int64_t Int(std::string_view key, int64_t min = std::numeric_limits<int64_t>::min(),
              int64_t max = std::numeric_limits<int64_t>::max()) const;
  int64_t IntOr(std::string_view key, int64_t fallback,
                int64_t min = std::numeric_limits<int64_t>::min(),
                int64_t max = std::numeric_limits<int64_t>::max()) const;
  int64_t PositiveInt(std::string_view key) const { return Int(key, 1); }
  // Finite; in [min, max].
  double Double(std::string_view key, double min = std::numeric_limits<double>::lowest(),
                double max = std::numeric_limits<double>::max()) const;
  double DoubleOr(std::string_view key, double fallback,
                  double min = std::numeric_limits<double>::lowest(),
                  double max = std::numeric_limits<double>::max()) const;
  bool Bool(std::string_view key) const;
  bool BoolOr(std::string_view key, bool fallback) const;
  const std::string& String(std::string_view key) const;
  std::string StringOr(std::string_view key, std::string fallback) const;
  const JsonValue::Array& Array(std::string_view key) const;
  JsonObject Object(std::string_view key) const;
  // An array's elements, all of them objects; messages call their fields key[0].field.
  std::vector<JsonObject> Objects(std::string_view key) const;

  // Throws the message above for a check of the caller's own.
  [[noreturn]] void Fail(std::string_view key, std::string_view expected,
                         ErrorCode code = ErrorCode::kCorrupt) const;

 private:
  JsonObject(std::shared_ptr<const JsonValue> root, std::string source);

  // The field, or null when absent.
  const JsonValue* Field(std::string_view key) const;

  std::shared_ptr<const JsonValue> root_;
  const JsonValue* object_;
  std::string source_;
  std::string prefix_;  // "outer." in a nested object, "outer[2]." in an array's
};

}  // namespace adder
