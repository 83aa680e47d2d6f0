// eval.json in both directions from one list of members: Visit*() names each key once, with its type and
// range.
#include <cmath>
#include <limits>
#include <optional>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "apps/report/eval_document.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

constexpr int kFormatVersion = 1;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

class Writer {
 public:
  void Text(const char* key, const std::string& v) { json_.Set(key, v); }
  void Flag(const char* key, bool v) { json_.Set(key, v); }
  template <typename T>
  void Count(const char* key, const T& v, int64_t = 0, int64_t = 0) {
    json_.Set(key, static_cast<int64_t>(v));
  }
  void Size(const char* key, double v) { json_.Set(key, v); }
  void Metric(const char* key, double v, double = 0, double = 0) { json_.Set(key, v); }
  void Metrics(const char* key, const std::vector<double>& v) {
    Json list = Json::MakeArray();
    for (const double value : v) list.Append(value);
    json_.Set(key, std::move(list));
  }
  template <typename T, typename Name, typename Parse>
  void Word(const char* key, const T& v, const Name& name, const Parse&) {
    json_.Set(key, name(v));
  }
  void Raw(const char* key, const Json& v) { json_.Set(key, v); }
  template <typename F>
  void Object(const char* key, const F& members) {
    Writer inner;
    members(inner);
    json_.Set(key, std::move(inner.json_));
  }
  template <typename T, typename F>
  void Maybe(const char* key, const std::optional<T>& v, const F& members) {  // null: nothing
    if (v.has_value()) {
      Object(key, [&](Writer& inner) { members(inner, *v); });
    } else {
      json_.Set(key, Json());
    }
  }
  const Json& json() const { return json_; }

 private:
  Json json_ = Json::MakeObject();
};

// The first error sticks.
class Reader {
 public:
  Reader(const Json& json, std::string where) : json_(json), where_(std::move(where)) {
    if (!json.is_object()) status_ = absl::DataLossError(absl::StrCat(where_, ": not a JSON object"));
  }

  void Text(const char* key, std::string& out) { Take(key, json_.GetString(key, where_), out); }
  void Flag(const char* key, bool& out) { Take(key, json_.GetBool(key, where_), out); }
  template <typename T>
  void Count(const char* key, T& out, int64_t low = 0, int64_t high = std::numeric_limits<int64_t>::max()) {
    int64_t value = 0;
    Take(key, json_.GetInt(key, where_), value);
    if (status_.ok() && (value < low || value > high)) {
      return Fail(absl::StrCat("\"", key, "\" is ", value, "; expected ", low, " to ", high));
    }
    out = static_cast<T>(value);
  }
  void Size(const char* key, double& out) {  // finite
    Take(key, json_.GetDouble(key, where_), out);
    if (status_.ok() && !(out >= 0 && out < kInfinity)) Fail(absl::StrCat("\"", key, "\" is negative"));
  }
  // A measured value: any number or one of the three words. NaN is in every range.
  void Metric(const char* key, double& out, double low = -kInfinity, double high = kInfinity) {
    const Json* json = Member(key);
    if (json == nullptr) return;
    if (!ToDouble(*json, out)) {
      return Fail(
          absl::StrCat("\"", key, "\" is neither a number nor \"Infinity\", \"-Infinity\" or \"NaN\""));
    }
    if (out < low || out > high) {
      Fail(absl::StrCat("\"", key, "\" is ", out, "; expected ", low, " to ", high));
    }
  }
  void Metrics(const char* key, std::vector<double>& out) {
    const Json* json = Member(key);
    if (json == nullptr) return;
    if (!json->is_array()) return Fail(absl::StrCat("\"", key, "\" is not a list"));
    for (const Json& value : json->array()) {
      if (!ToDouble(value, out.emplace_back())) {
        return Fail(absl::StrCat("\"", key, "\" holds something that is no number"));
      }
    }
  }
  template <typename T, typename Name, typename Parse>
  void Word(const char* key, T& out, const Name&, const Parse& parse) {
    std::string word;
    Text(key, word);
    if (!status_.ok()) return;
    const auto value = parse(word);
    if (!value.ok()) return Fail(absl::StrCat("\"", key, "\": ", value.status().message()));
    out = *value;
  }
  void Raw(const char* key, Json& out) {
    const Json* json = Member(key);
    if (json == nullptr) return;
    if (!json->is_null() && !json->is_object() && !json->is_array()) {
      return Fail(absl::StrCat("\"", key, "\" is neither an object, a list nor null"));
    }
    out = *json;
  }
  template <typename F>
  void Object(const char* key, const F& members) {
    const Json* json = Member(key);
    if (json == nullptr) return;
    Reader inner(*json, absl::StrCat(where_, ": ", key));
    if (inner.status_.ok()) members(inner);
    status_ = inner.Finish();
  }
  template <typename T, typename F>
  void Maybe(const char* key, std::optional<T>& out, const F& members) {
    const Json* json = Member(key);
    if (json == nullptr || json->is_null()) return;
    Object(key, [&](Reader& inner) { members(inner, out.emplace()); });
  }
  // Each element of a list of objects, by `member(Reader&)`.
  template <typename F>
  void Objects(const char* key, const F& element) {
    const Json* json = Member(key);
    if (json == nullptr) return;
    if (!json->is_array()) return Fail(absl::StrCat("\"", key, "\" is not a list"));
    for (size_t i = 0; i < json->array().size() && status_.ok(); ++i) {
      Reader inner(json->array()[i], absl::StrCat(where_, ": ", key, "[", i, "]"));
      if (inner.status_.ok()) element(inner);
      status_ = inner.Finish();
    }
  }
  // That no member was left unread.
  absl::Status Finish() {
    if (!status_.ok()) return status_;
    for (const auto& [key, value] : json_.object()) {
      if (read_.contains(key) || absl::StartsWith(key, "x-")) continue;
      return absl::UnimplementedError(absl::StrCat(where_, ": has the unknown key \"", Printable(key),
                                                   "\"; it may need a newer Spikefold"));
    }
    return absl::OkStatus();
  }

 private:
  void Fail(absl::string_view what) {
    if (status_.ok()) status_ = absl::DataLossError(absl::StrCat(where_, ": ", what, "; evaluate again"));
  }
  const Json* Member(const char* key) {
    read_.insert(key);
    const Json* json = json_.Find(key);
    if (json == nullptr) Fail(absl::StrCat("\"", key, "\" is missing"));
    return status_.ok() ? json : nullptr;
  }
  template <typename T>
  void Take(const char* key, absl::StatusOr<T> value, T& out) {
    read_.insert(key);
    if (!status_.ok()) return;
    if (!value.ok()) {
      status_ = value.status();
    } else {
      out = *std::move(value);
    }
  }
  static bool ToDouble(const Json& json, double& out) {
    if (json.is_number()) {
      out = json.number_value();
      return true;
    }
    if (!json.is_string()) return false;
    const std::string& word = json.string_value();
    if (word == "Infinity") out = kInfinity;
    if (word == "-Infinity") out = -kInfinity;
    if (word == "NaN") out = std::numeric_limits<double>::quiet_NaN();
    return word == "Infinity" || word == "-Infinity" || word == "NaN";
  }

  const Json& json_;
  const std::string where_;
  absl::flat_hash_set<std::string> read_;
  absl::Status status_;
};

// Keys up to num_scored are the contract with gates and scripts.
template <typename V, typename D>
void VisitAccuracy(V& v, D& d) {
  auto& r = d.result;
  v.Word("protocol", r.protocol, ProtocolName, ParseProtocol);
  v.Word("bos", r.bos, BosModeName, ParseBosMode);
  v.Metric("ppl", r.ppl, 0);
  v.Metric("ppl_reference", r.ppl_reference, 0);
  v.Metric("ppl_ratio", r.ppl_ratio, 0);
  v.Metric("ppl_ratio_se", r.ppl_ratio_se, 0);
  v.Metric("kld_mean", r.kld_mean);
  v.Metric("kld_p99", r.kld.p99);
  v.Metric("same_top", r.same_top, 0, 1);
  v.Count("num_scored", r.num_scored, 1);
  v.Size("bits_linear", d.bits_linear);
  v.Size("bits_total", d.bits_total);

  v.Size("activation_bits", d.activation_bits);
  v.Size("kv_bytes_per_token", d.kv_bytes_per_token);
  v.Count("context", r.context);
  v.Count("num_windows", r.num_windows);
  v.Count("num_text_tokens", r.num_text_tokens);
  v.Metric("ppl_se", r.ppl_se, 0);
  v.Metric("ppl_reference_se", r.ppl_reference_se, 0);
  v.Metric("ppl_reference_no_prefix", r.ppl_reference_no_prefix, 0);
  v.Metric("prefix_ratio", r.prefix_ratio, 0);
  v.Metric("ln_ratio", r.ln_ratio);
  v.Metric("ln_ratio_se", r.ln_ratio_se, 0);
  v.Metric("ln_ratio_se_window", r.ln_ratio_se_window, 0);
  v.Metric("design_effect", r.design_effect, 0);
  v.Metric("kld_se", r.kld_se, 0);
  v.Metric("kld_llamacpp", r.kld_llamacpp);
  v.Metric("kld_max", r.kld.max);
  v.Metric("kld_p999", r.kld.p999);
  v.Metric("kld_p95", r.kld.p95);
  v.Metric("kld_p90", r.kld.p90);
  v.Metric("kld_p50", r.kld.p50);
  v.Metric("kld_p10", r.kld.p10);
  v.Metric("kld_p5", r.kld.p5);
  v.Metric("kld_p1", r.kld.p1);
  v.Metric("kld_p01", r.kld.p01);
  v.Metric("kld_min", r.kld.min);
  v.Metric("same_top_se", r.same_top_se, 0);
  v.Metric("delta_p_mean", r.delta_p_mean, -1, 1);
  v.Metric("delta_p_rms", r.delta_p_rms, 0, 1);
  v.Metric("bits_per_byte", r.bits_per_byte);
  v.Metric("nonfinite_share", r.nonfinite_share, 0, 1);
  v.Metric("noise_floor_kld", r.noise_floor_kld);
  v.Metric("noise_floor_same_top", r.noise_floor_same_top, 0, 1);
  v.Size("seconds_reference", r.seconds_reference);
  v.Size("seconds_quantized", r.seconds_quantized);
  v.Count("num_missed_spike_rows", r.num_missed_spike_rows);
  v.Count("num_saturated", r.num_saturated);
  v.Metrics("kld_by_position", r.kld_by_position);
  v.Metrics("window_ln_ratio", r.window_ln_ratio);
}

template <typename V, typename D>
void VisitProvenance(V& v, D& d) {
  const auto model = [&](const char* key, auto& m) {
    v.Object(key, [&](auto& o) {
      o.Text("path", m.path);
      o.Text("fingerprint", m.fingerprint);
      o.Text("architecture", m.architecture);
      o.Count("file_bytes", m.file_bytes);
    });
  };
  model("model", d.model);
  model("reference", d.reference);
  v.Object("text", [&](auto& o) {
    o.Text("source", d.text_source);
    o.Text("sha256", d.text_sha256);
    o.Count("bytes", d.text_bytes);
  });
  v.Raw("calibration", d.calibration);
  v.Raw("kv", d.kv);
  v.Raw("folds", d.folds);
  v.Object("prefix", [&](auto& o) {
    o.Count("tokens", d.prefix.tokens);
    o.Text("kind", d.prefix.kind);
    o.Flag("changes_function", d.prefix.changes_function);
  });
  v.Raw("static_ranges", d.static_ranges);
  v.Raw("kernel_notes", d.kernel_notes);
  v.Maybe("parity", d.parity, [](auto& o, auto& parity) {
    o.Count("tokens", parity.tokens, 1);
    o.Count("outputs", parity.outputs);
    o.Count("different", parity.different);
    o.Count("rounded", parity.rounded);
    o.Metric("logits_worst", parity.logits_worst, 0);
    o.Metric("kld_mean", parity.kld_mean);
    o.Metric("kld_max", parity.kld_max);
    o.Metric("same_top", parity.same_top, 0, 1);
  });
  v.Text("recipe_sha256", d.recipe_sha256);
  v.Text("plan_sha256", d.plan_sha256);
  v.Text("command", d.command);
  v.Text("machine", d.machine);
  v.Count("threads", d.threads, 0, 1 << 20);
  v.Size("seconds", d.seconds);
}

template <typename V, typename D>
void VisitLinear(V& v, D& d) {
  constexpr int64_t kMaxSize = int64_t{1} << 40;
  v.Text("module", d.module);
  v.Text("role", d.role);
  v.Count("layer", d.layer, -1, 100000);
  v.Count("n", d.n, 1, kMaxSize);
  v.Count("k", d.k, 1, kMaxSize);
  v.Text("weight", d.weight);
  v.Count("group", d.group, 0, kMaxSize);
  v.Text("act", d.act);
  v.Count("kept", d.kept, 0, kMaxSize);
  v.Count("super", d.super, 0, kMaxSize);
  v.Size("spike_threshold", d.spike_threshold);
  v.Size("bits", d.bits);
  v.Metric("weight_error", d.weight_error);
  v.Text("reason", d.reason);
}

template <typename V, typename D>
void VisitDocument(V& v, D& d) {
  v.Count("format_version", d.format_version, kFormatVersion, kFormatVersion);
  v.Text("tool_version", d.tool_version);
  v.Text("name", d.name);
  v.Text("scheme", d.scheme);
  v.Text("backend", d.backend);
  VisitAccuracy(v, d);
  VisitProvenance(v, d);
}

}  // namespace

std::string EvalDocumentToJson(const EvalDocument& document) {
  Writer writer;
  VisitDocument(writer, document);
  std::string out = writer.json().Dump(2);
  out.resize(out.size() - 2);  // "\n}"
  out.append(",\n  \"linears\": [");
  const char* separator = "\n    ";
  for (const LinearDecision& linear : document.linears) {
    Writer line;
    VisitLinear(line, linear);
    absl::StrAppend(&out, separator, line.json().Dump());
    separator = ",\n    ";
  }
  out.append(document.linears.empty() ? "]\n}\n" : "\n  ]\n}\n");
  return out;
}

absl::StatusOr<EvalDocument> EvalDocumentFromJson(absl::string_view text, absl::string_view where) {
  SF_ASSIGN_OR_RETURN(const Json json, ParseJson(text, where));
  if (!json.is_object()) return absl::DataLossError(absl::StrCat(where, ": not a JSON object"));
  SF_ASSIGN_OR_RETURN(const int64_t version, json.GetInt("format_version", where));
  if (version != kFormatVersion) {
    return absl::UnimplementedError(absl::StrCat(where, ": format_version ", version,
                                                 "; this Spikefold reads ", kFormatVersion,
                                                 " only; evaluate again"));
  }
  EvalDocument document;
  Reader reader(json, std::string(where));
  VisitDocument(reader, document);
  reader.Objects("linears", [&](Reader& r) { VisitLinear(r, document.linears.emplace_back()); });
  SF_RETURN_IF_ERROR(reader.Finish());
  return document;
}

}  // namespace spikefold
