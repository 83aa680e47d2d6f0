#include "formats/base/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "absl/strings/str_cat.h"
#include "formats/base/utf8.h"

namespace spikefold {
namespace {

const char* KindName(const Json& v) {
  if (v.is_null()) return "null";
  if (v.is_bool()) return "a boolean";
  if (v.is_double()) return "a number with a fraction or exponent";
  if (v.is_number()) return "an integer";
  if (v.is_string()) return "a string";
  return v.is_array() ? "an array" : "an object";
}

absl::Status Missing(absl::string_view key, absl::string_view where) {
  return absl::DataLossError(absl::StrCat(where, ": \"", Printable(key), "\" is missing"));
}
absl::Status WrongKind(absl::string_view key, absl::string_view where, const Json& v,
                       absl::string_view expected) {
  return absl::DataLossError(
      absl::StrCat(where, ": \"", Printable(key), "\" is ", KindName(v), "; expected ", expected));
}

// Builds a Json from parser events. nlohmann's own tree would keep the last of two equal keys.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  Builder(absl::string_view where, const JsonLimits& limits) : where_(where), limits_(limits) {}

  bool null() override { return Add(Json()); }
  bool boolean(bool v) override { return Add(Json(v)); }
  bool number_integer(number_integer_t v) override { return Add(Json(static_cast<int64_t>(v))); }
  bool number_unsigned(number_unsigned_t v) override { return Add(Json(static_cast<uint64_t>(v))); }
  bool number_float(number_float_t v, const string_t&) override { return Add(Json(static_cast<double>(v))); }
  bool string(string_t& v) override { return Add(Json(std::move(v))); }
  bool binary(binary_t&) override { return Fail("binary value"); }
  bool start_object(std::size_t) override { return Open(Json::MakeObject()); }
  bool end_object() override { return Close(); }
  bool start_array(std::size_t) override { return Open(Json::MakeArray()); }
  bool end_array() override { return Close(); }
  bool key(string_t& v) override {
    if (!open_.back().keys.insert(v).second) {
      return Fail(absl::StrCat("duplicate key \"", Printable(v), "\""));
    }
    open_.back().key = std::move(v);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& e) override {
    absl::string_view text = e.what();
    // "[json.exception...] parse error at line 1, column 2: ..." -> the part that says what is wrong
    for (const absl::string_view cut : {absl::string_view("] "), absl::string_view(": ")}) {
      if (const size_t at = text.find(cut); at != absl::string_view::npos)
        text = text.substr(at + cut.size());
    }
    return Fail(absl::StrCat("not valid JSON at byte ", position, ": ", Printable(text)));
  }

  absl::Status status() const { return status_; }
  Json Take() { return std::move(root_); }

 private:
  struct Level {
    Json value;
    std::string key;
    std::unordered_set<std::string> keys;
  };

  bool Fail(absl::string_view what) {
    if (status_.ok()) status_ = absl::DataLossError(absl::StrCat(where_, ": ", what));
    return false;
  }
  bool Add(Json value) {
    if (++num_values_ > limits_.max_values) {
      return Fail(absl::StrCat("more than ", limits_.max_values, " JSON values"));
    }
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (Level& top = open_.back(); top.value.is_array()) {
      top.value.array().push_back(std::move(value));
    } else {
      top.value.object().emplace_back(std::move(top.key), std::move(value));
    }
    return true;
  }
  bool Open(Json value) {
    if (static_cast<int>(open_.size()) >= limits_.max_depth) {
      return Fail(absl::StrCat("JSON is nested more than ", limits_.max_depth, " deep"));
    }
    open_.push_back(Level{std::move(value), {}, {}});
    return true;
  }
  bool Close() {
    Json value = std::move(open_.back().value);
    open_.pop_back();
    return Add(std::move(value));
  }

  const absl::string_view where_;
  const JsonLimits& limits_;
  uint64_t num_values_ = 0;
  std::vector<Level> open_;
  Json root_;
  absl::Status status_;
};

void AppendString(absl::string_view s, std::string* out) {
  static constexpr char kHex[] = "0123456789abcdef";
  out->push_back('"');
  while (!s.empty()) {
    const Utf8Char c = NextUtf8(s);
    if (!c.valid) {
      out->append("\xEF\xBF\xBD");  // JSON must be UTF-8: U+FFFD stands for a stray byte
    } else if (c.code == '"' || c.code == '\\') {
      out->push_back('\\');
      out->push_back(static_cast<char>(c.code));
    } else if (c.code == '\n') {
      out->append("\\n");
    } else if (c.code == '\t') {
      out->append("\\t");
    } else if (c.code == '\r') {
      out->append("\\r");
    } else if (c.code == '\b') {
      out->append("\\b");
    } else if (c.code == '\f') {
      out->append("\\f");
    } else if (c.code < 0x20) {
      out->append("\\u00");
      out->push_back(kHex[c.code >> 4]);
      out->push_back(kHex[c.code & 15]);
    } else {
      out->append(s.data(), c.bytes);
    }
    s.remove_prefix(c.bytes);
  }
  out->push_back('"');
}

void AppendDouble(double v, std::string* out) {
  if (std::isnan(v)) {
    out->append("\"NaN\"");
  } else if (std::isinf(v)) {
    out->append(v > 0 ? "\"Infinity\"" : "\"-Infinity\"");
  } else {
    char buffer[40];
    const auto end = std::to_chars(buffer, buffer + sizeof(buffer), v).ptr;
    const absl::string_view text(buffer, static_cast<size_t>(end - buffer));
    absl::StrAppend(out, text);
    // Keep the kind: 1.0 must not come back as an integer.
    if (text.find_first_of(".e") == absl::string_view::npos) out->append(".0");
  }
}

bool IsScalarArray(const Json& v) {
  if (!v.is_array()) return false;
  for (const Json& e : v.array()) {
    if (e.is_object() || e.is_array()) return false;
  }
  return true;
}

void NewLine(int indent, int level, std::string* out) {
  if (indent > 0) {
    out->push_back('\n');
    out->append(static_cast<size_t>(indent) * static_cast<size_t>(level), ' ');
  }
}

void Append(const Json& v, int indent, int level, std::string* out) {
  if (v.is_null()) {
    out->append("null");
  } else if (v.is_bool()) {
    out->append(v.bool_value() ? "true" : "false");
  } else if (v.is_int()) {
    absl::StrAppend(out, v.int_value());
  } else if (v.is_uint()) {
    absl::StrAppend(out, v.uint_value());
  } else if (v.is_double()) {
    AppendDouble(v.number_value(), out);
  } else if (v.is_string()) {
    AppendString(v.string_value(), out);
  } else if (v.is_array()) {
    const bool one_line = indent == 0 || IsScalarArray(v);
    const char* separator = "";
    out->push_back('[');
    for (const Json& e : v.array()) {
      out->append(separator);
      separator = indent > 0 && one_line ? ", " : ",";
      if (!one_line) NewLine(indent, level + 1, out);
      Append(e, indent, level + 1, out);
    }
    if (!one_line && !v.array().empty()) NewLine(indent, level, out);
    out->push_back(']');
  } else {
    const char* separator = "";
    out->push_back('{');
    for (const auto& [key, value] : v.object()) {
      out->append(separator);
      separator = ",";
      NewLine(indent, level + 1, out);
      AppendString(key, out);
      out->append(indent > 0 ? ": " : ":");
      Append(value, indent, level + 1, out);
    }
    if (!v.object().empty()) NewLine(indent, level, out);
    out->push_back('}');
  }
}

}  // namespace

Json::Json(uint64_t v) {
  if (v <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    value_ = static_cast<int64_t>(v);
  } else {
    value_ = v;
  }
}

double Json::number_value() const {
  if (is_int()) return static_cast<double>(int_value());
  if (is_uint()) return static_cast<double>(uint_value());
  return std::get<double>(value_);
}

const Json* Json::Find(absl::string_view key) const {
  if (!is_object()) return nullptr;
  for (const Member& m : object()) {
    if (key == m.first) return &m.second;
  }
  return nullptr;
}

void Json::Erase(absl::string_view key) {
  if (!is_object()) return;
  Object& members = object();
  members.erase(
      std::remove_if(members.begin(), members.end(), [&](const Member& m) { return key == m.first; }),
      members.end());
}

Json& Json::Set(absl::string_view key, Json value) {
  if (is_null()) value_ = Object{};
  for (Member& m : object()) {
    if (key == m.first) {
      m.second = std::move(value);
      return *this;
    }
  }
  object().emplace_back(std::string(key), std::move(value));
  return *this;
}

void Json::Append(Json value) {
  if (is_null()) value_ = Array{};
  array().push_back(std::move(value));
}

absl::StatusOr<int64_t> Json::GetInt(absl::string_view key, absl::string_view where) const {
  const Json* v = Find(key);
  if (v == nullptr) return Missing(key, where);
  if (!v->is_int()) return WrongKind(key, where, *v, "an integer below 2^63");
  return v->int_value();
}

absl::StatusOr<double> Json::GetDouble(absl::string_view key, absl::string_view where) const {
  const Json* v = Find(key);
  if (v == nullptr) return Missing(key, where);
  if (!v->is_number()) return WrongKind(key, where, *v, "a number");
  return v->number_value();
}

absl::StatusOr<std::string> Json::GetString(absl::string_view key, absl::string_view where) const {
  const Json* v = Find(key);
  if (v == nullptr) return Missing(key, where);
  if (!v->is_string()) return WrongKind(key, where, *v, "a string");
  return v->string_value();
}

absl::StatusOr<bool> Json::GetBool(absl::string_view key, absl::string_view where) const {
  const Json* v = Find(key);
  if (v == nullptr) return Missing(key, where);
  if (!v->is_bool()) return WrongKind(key, where, *v, "true or false");
  return v->bool_value();
}

std::string Json::Dump(int indent) const {
  std::string out;
  spikefold::Append(*this, indent, 0, &out);
  return out;
}

absl::StatusOr<Json> ParseJson(absl::string_view text, absl::string_view where, const JsonLimits& limits) {
  if (text.size() > limits.max_bytes) {
    return absl::DataLossError(
        absl::StrCat(where, ": ", text.size(), " bytes of JSON; at most ", limits.max_bytes, " are allowed"));
  }
  // nlohmann takes a NUL byte for the end of the text and skips a byte order mark.
  if (const size_t nul = text.find('\0'); nul != absl::string_view::npos) {
    return absl::DataLossError(absl::StrCat(where, ": not valid JSON at byte ", nul, ": a NUL byte"));
  }
  if (text.substr(0, 3) == "\xEF\xBB\xBF") {
    return absl::DataLossError(absl::StrCat(where, ": not valid JSON at byte 0: a byte order mark"));
  }
  Builder builder(where, limits);
  nlohmann::json::sax_parse(text.begin(), text.end(), &builder, nlohmann::json::input_format_t::json,
                            /*strict=*/true);
  if (!builder.status().ok()) return builder.status();
  return builder.Take();
}

}  // namespace spikefold
