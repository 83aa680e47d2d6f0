// A strict JSON value: objects keep their order, integers stay integers, duplicate keys are errors.
//
// Parsing refuses (DataLoss, with byte offset): invalid UTF-8, duplicate keys, depth > 64, trailing bytes.
// Integers beyond int64 are kept as uint64 where they fit, else as double. JSON has no NaN and no infinity:
// Dump spells them as the strings "NaN", "Infinity", "-Infinity".
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace spikefold {

class Json {
 public:
  using Array = std::vector<Json>;
  using Member = std::pair<std::string, Json>;
  using Object = std::vector<Member>;

  Json() = default;  // null
  Json(bool v) : value_(v) {}
  Json(int v) : value_(static_cast<int64_t>(v)) {}
  Json(int64_t v) : value_(v) {}
  Json(uint64_t v);
  Json(double v) : value_(v) {}
  Json(const char* v) : value_(std::string(v)) {}
  Json(std::string v) : value_(std::move(v)) {}
  Json(absl::string_view v) : value_(std::string(v)) {}
  Json(Array v) : value_(std::move(v)) {}
  Json(Object v) : value_(std::move(v)) {}
  static Json MakeObject() { return Json(Object{}); }
  static Json MakeArray() { return Json(Array{}); }

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  bool is_bool() const { return std::holds_alternative<bool>(value_); }
  bool is_int() const { return std::holds_alternative<int64_t>(value_); }
  bool is_uint() const {
    return std::holds_alternative<uint64_t>(value_);
  }  // only values above int64's range
  bool is_double() const { return std::holds_alternative<double>(value_); }
  bool is_number() const { return is_int() || is_uint() || is_double(); }
  bool is_string() const { return std::holds_alternative<std::string>(value_); }
  bool is_array() const { return std::holds_alternative<Array>(value_); }
  bool is_object() const { return std::holds_alternative<Object>(value_); }

  // Unchecked access: the caller has tested the type.
  bool bool_value() const { return std::get<bool>(value_); }
  int64_t int_value() const { return std::get<int64_t>(value_); }
  uint64_t uint_value() const { return std::get<uint64_t>(value_); }
  double number_value() const;  // any number kind as double
  const std::string& string_value() const { return std::get<std::string>(value_); }
  const Array& array() const { return std::get<Array>(value_); }
  Array& array() { return std::get<Array>(value_); }
  const Object& object() const { return std::get<Object>(value_); }
  Object& object() { return std::get<Object>(value_); }

  // Object lookup; nullptr when this is no object or has no such key.
  const Json* Find(absl::string_view key) const;
  // Sets or appends a member, turning null into an object. Returns *this for chaining.
  Json& Set(absl::string_view key, Json value);
  void Erase(absl::string_view key);  // of an object; nothing if there is no such member
  void Append(Json value);            // turns null into an array

  // Checked access for documents from outside. `where` names the document in the error:
  // DataLoss "<where>: \"<key>\" is missing" / "... is a string; expected an integer".
  absl::StatusOr<int64_t> GetInt(absl::string_view key, absl::string_view where) const;
  absl::StatusOr<double> GetDouble(absl::string_view key, absl::string_view where) const;
  absl::StatusOr<std::string> GetString(absl::string_view key, absl::string_view where) const;
  absl::StatusOr<bool> GetBool(absl::string_view key, absl::string_view where) const;

  // indent 0: one line, no spaces. indent > 0: pretty; arrays of scalars stay on one line.
  // Doubles are written in the shortest form that reads back equal.
  std::string Dump(int indent = 0) const;

 private:
  std::variant<std::monostate, bool, int64_t, uint64_t, double, std::string, Array, Object> value_;
};

struct JsonLimits {
  int max_depth = 64;
  uint64_t max_bytes = 1ull << 30;
  uint64_t max_values = 1ull << 24;  // a value costs about 40 bytes, many times its text
};
absl::StatusOr<Json> ParseJson(absl::string_view text, absl::string_view where,
                               const JsonLimits& limits = {});
// Escapes control characters, NUL and ANSI sequences so that a name from a file can be printed; at most
// max_bytes long.
std::string Printable(absl::string_view text, size_t max_bytes = 200);

}  // namespace spikefold
