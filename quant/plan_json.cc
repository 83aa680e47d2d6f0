// plan.json: the head of the document, then one tensor a line.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "formats/base/suggest.h"
#include "quant/plan.h"

namespace spikefold {
namespace {

constexpr int64_t kMaxDimension = (int64_t{1} << 31) - 1;

Json Integers(const std::vector<int32_t>& values) {
  Json out = Json::MakeArray();
  for (const int32_t v : values) out.Append(static_cast<int64_t>(v));
  return out;
}

Json DecisionToJson(const TensorDecision& d) {
  Json j = Json::MakeObject();
  j.Set("module", d.module)
      .Set("role", RoleName(d.role))
      .Set("layer", d.layer)
      .Set("shape", Json(Json::Array{Json(d.n), Json(d.k)}))
      .Set("bias", d.has_bias)
      .Set("weight_bits", d.weight_bits);
  if (d.group_size > 0) j.Set("group_size", d.group_size);
  if (d.trellis) j.Set("trellis", true);
  if (d.weight_zeros) j.Set("weight_zeros", true);
  if (d.scale_multiples) j.Set("scale_multiples", true);
  if (d.weight_bits < 16) {
    j.Set("weight_scales", ScaleMethodName(d.weight_scales)).Set("rounding", RoundingName(d.rounding));
  }
  j.Set("activation_bits", d.activation_bits);
  if (d.activation_group > 0) j.Set("activation_group", d.activation_group);
  if (d.activation_zeros) j.Set("activation_zeros", true);
  if (d.activation_static) j.Set("activation_scale", static_cast<double>(d.activation_scale));
  if (d.activation_zero != 0) j.Set("activation_zero", d.activation_zero);
  if (!d.kept.empty()) j.Set("kept", Integers(d.kept));
  if (!d.supers.empty()) {
    Json supers = Json::MakeArray();
    for (const PlannedSuper& s : d.supers) supers.Append(Integers({s.row, s.column}));
    j.Set("super", std::move(supers));
  }
  if (d.spike_threshold > 0) j.Set("spike_threshold", static_cast<double>(d.spike_threshold));
  j.Set("bytes", d.bytes).Set("bits", d.bits()).Set("reason", d.reason);
  return j;
}

Json HeadOfPlan(const Plan& plan) {
  const PlanTotals& t = plan.totals;
  return Json::MakeObject()
      .Set("format_version", plan.format_version)
      .Set("tool_version", plan.tool_version)
      .Set("model_fingerprint", plan.model_fingerprint)
      .Set("scan_sha256", plan.scan_sha256)
      .Set("recipe", RecipeToJson(plan.recipe))
      .Set("group_size", plan.group_size)
      .Set("prefix", Integers(plan.prefix))
      .Set("prefix_changes_function", plan.prefix_changes_function)
      .Set("outlier_reason", plan.outlier_reason)
      .Set("totals", Json::MakeObject()
                         .Set("bits_linear", t.bits_linear())
                         .Set("bits_total", t.bits_total())
                         .Set("activation_bits", t.activation_bits)
                         .Set("linear_bytes", t.linear_bytes)
                         .Set("linear_weights", t.linear_weights)
                         .Set("total_bytes", t.total_bytes)
                         .Set("total_weights", t.total_weights)
                         .Set("prefix_bytes", t.prefix_bytes)
                         .Set("norm_bytes", plan.norm_bytes)
                         .Set("norm_weights", plan.num_norm_weights));
}

// Reads one object's members and complains about what it does not know.
class Members {
 public:
  Members(const Json& json, std::string where) : json_(json), where_(std::move(where)) {}

  absl::Status CheckKeys(const std::vector<std::string>& known) const {
    if (!json_.is_object()) return absl::DataLossError(absl::StrCat(where_, ": expected an object"));
    for (const auto& [key, value] : json_.object()) {
      if (std::find(known.begin(), known.end(), key) != known.end()) continue;
      return absl::DataLossError(
          absl::StrCat(where_, ": \"", Printable(key), "\" is no key of a plan", DidYouMean(key, known)));
    }
    return absl::OkStatus();
  }
  bool Has(absl::string_view key) const { return json_.Find(key) != nullptr; }
  absl::Status Integer(absl::string_view key, int64_t lo, int64_t hi, int64_t* out) const {
    SF_ASSIGN_OR_RETURN(*out, json_.GetInt(key, where_));
    if (*out >= lo && *out <= hi) return absl::OkStatus();
    return absl::DataLossError(
        absl::StrCat(where_, ": \"", key, "\" is ", *out, "; ", lo, " to ", hi, " is allowed"));
  }
  absl::Status Small(absl::string_view key, int lo, int hi, int* out) const {
    int64_t value = 0;
    SF_RETURN_IF_ERROR(Integer(key, lo, hi, &value));
    *out = static_cast<int>(value);
    return absl::OkStatus();
  }
  absl::Status Flag(absl::string_view key, bool* out) const {  // absent: false
    if (!Has(key)) return absl::OkStatus();
    SF_ASSIGN_OR_RETURN(*out, json_.GetBool(key, where_));
    return absl::OkStatus();
  }
  absl::Status Positive(absl::string_view key, float* out) const {
    SF_ASSIGN_OR_RETURN(const double value, json_.GetDouble(key, where_));
    *out = static_cast<float>(value);
    if (std::isfinite(*out) && *out > 0) return absl::OkStatus();
    return absl::DataLossError(
        absl::StrCat(where_, ": \"", key, "\" is ", value, "; a positive number is needed"));
  }
  absl::Status Integers(absl::string_view key, std::vector<int32_t>* out) const {
    const Json* list = json_.Find(key);
    bool good = list != nullptr && list->is_array();
    for (size_t i = 0; good && i < list->array().size(); ++i) {
      const Json& v = list->array()[i];
      good = v.is_int() && v.int_value() >= 0 && v.int_value() <= kMaxDimension;
      if (good) out->push_back(static_cast<int32_t>(v.int_value()));
    }
    if (good) return absl::OkStatus();
    return absl::DataLossError(
        absl::StrCat(where_, ": \"", key, "\" must be an array of integers from 0 to 2^31 - 1"));
  }
  const Json& json() const { return json_; }
  const std::string& where() const { return where_; }

 private:
  const Json& json_;
  const std::string where_;
};

absl::StatusOr<Role> RoleFromName(absl::string_view name, absl::string_view where) {
  for (int r = 0; r <= static_cast<int>(Role::kDownProj); ++r) {
    if (RoleName(static_cast<Role>(r)) == name) return static_cast<Role>(r);
  }
  return absl::DataLossError(absl::StrCat(where, ": role \"", Printable(name), "\" is unknown"));
}

absl::Status ReadSupers(const Members& m, TensorDecision& d) {
  const Json* list = m.json().Find("super");
  if (!list->is_array()) return absl::DataLossError(absl::StrCat(m.where(), ": \"super\" must be an array"));
  for (const Json& pair : list->array()) {
    std::vector<int32_t> at;
    Json holder = Json::MakeObject();
    holder.Set("super", pair);
    SF_RETURN_IF_ERROR(Members(holder, m.where()).Integers("super", &at));
    if (at.size() != 2 || at[0] >= d.n || at[1] >= d.k) {
      return absl::DataLossError(
          absl::StrCat(m.where(), ": a super weight must be [row, column] inside the tensor"));
    }
    d.supers.push_back({at[0], at[1]});
  }
  return absl::OkStatus();
}

absl::Status CheckKept(const Members& m, const TensorDecision& d) {
  for (size_t i = 0; i < d.kept.size(); ++i) {
    if (d.kept[i] < d.k && (i == 0 || d.kept[i] > d.kept[i - 1])) continue;
    return absl::DataLossError(absl::StrCat(m.where(), ": \"kept\" column ", d.kept[i],
                                            " is out of order or outside 0 to ", d.k - 1));
  }
  return absl::OkStatus();
}

absl::StatusOr<TensorDecision> DecisionFromJson(const Json& json, absl::string_view where) {
  TensorDecision d;
  SF_ASSIGN_OR_RETURN(d.module, json.GetString("module", where));
  const Members m(json, absl::StrCat(where, ": ", Printable(d.module)));
  SF_RETURN_IF_ERROR(m.CheckKeys({"module",
                                  "role",
                                  "layer",
                                  "shape",
                                  "bias",
                                  "weight_bits",
                                  "group_size",
                                  "trellis",
                                  "weight_zeros",
                                  "scale_multiples",
                                  "weight_scales",
                                  "rounding",
                                  "activation_bits",
                                  "activation_group",
                                  "activation_zeros",
                                  "activation_scale",
                                  "activation_zero",
                                  "kept",
                                  "super",
                                  "spike_threshold",
                                  "bytes",
                                  "bits",
                                  "reason"}));
  SF_ASSIGN_OR_RETURN(const std::string role, json.GetString("role", m.where()));
  SF_ASSIGN_OR_RETURN(d.role, RoleFromName(role, m.where()));
  SF_RETURN_IF_ERROR(m.Small("layer", -1, 1023, &d.layer));
  std::vector<int32_t> shape;
  SF_RETURN_IF_ERROR(m.Integers("shape", &shape));
  if (shape.size() != 2 || shape[0] == 0 || shape[1] == 0) {
    return absl::DataLossError(absl::StrCat(m.where(), ": \"shape\" must be [rows, columns]"));
  }
  d.n = shape[0];
  d.k = shape[1];
  SF_ASSIGN_OR_RETURN(d.has_bias, json.GetBool("bias", m.where()));
  SF_RETURN_IF_ERROR(m.Small("weight_bits", 2, 16, &d.weight_bits));
  if (m.Has("group_size")) SF_RETURN_IF_ERROR(m.Small("group_size", 1, 1 << 20, &d.group_size));
  SF_RETURN_IF_ERROR(m.Flag("trellis", &d.trellis));
  SF_RETURN_IF_ERROR(m.Flag("weight_zeros", &d.weight_zeros));
  SF_RETURN_IF_ERROR(m.Flag("scale_multiples", &d.scale_multiples));
  if (d.scale_multiples && (d.weight_bits > 4 || d.group_size == 0)) {
    return absl::DataLossError(
        absl::StrCat(m.where(), ": \"scale_multiples\" go with groups of weights of at most 4 bits"));
  }
  if (m.Has("weight_scales")) {
    SF_ASSIGN_OR_RETURN(const std::string word, json.GetString("weight_scales", m.where()));
    SF_ASSIGN_OR_RETURN(d.weight_scales, ParseScaleMethod(word));
  }
  if (m.Has("rounding")) {
    SF_ASSIGN_OR_RETURN(const std::string word, json.GetString("rounding", m.where()));
    SF_ASSIGN_OR_RETURN(d.rounding, ParseRounding(word));
  }
  SF_RETURN_IF_ERROR(m.Small("activation_bits", 2, 16, &d.activation_bits));
  if (m.Has("activation_group"))
    SF_RETURN_IF_ERROR(m.Small("activation_group", 1, 1 << 20, &d.activation_group));
  SF_RETURN_IF_ERROR(m.Flag("activation_zeros", &d.activation_zeros));
  if (m.Has("activation_zero")) SF_RETURN_IF_ERROR(m.Small("activation_zero", -128, 127, &d.activation_zero));
  d.activation_static = m.Has("activation_scale");
  if (d.activation_static) {
    SF_RETURN_IF_ERROR(m.Positive("activation_scale", &d.activation_scale));
    if (!std::isnormal(d.activation_scale)) {
      return absl::DataLossError(
          absl::StrCat(m.where(), ": \"activation_scale\" ", d.activation_scale, " is no normal float"));
    }
  }
  if (m.Has("kept")) SF_RETURN_IF_ERROR(m.Integers("kept", &d.kept));
  SF_RETURN_IF_ERROR(CheckKept(m, d));
  if (d.trellis &&
      (d.weight_bits > 6 || d.group_size > 0 || d.weight_zeros || !d.kept.empty() || m.Has("super"))) {
    return absl::DataLossError(absl::StrCat(m.where(),
                                            ": trellis codes have 2 to 6 bits and neither groups, zero "
                                            "points, kept columns nor super weights"));
  }
  if (m.Has("super")) SF_RETURN_IF_ERROR(ReadSupers(m, d));
  if (m.Has("spike_threshold")) SF_RETURN_IF_ERROR(m.Positive("spike_threshold", &d.spike_threshold));
  SF_RETURN_IF_ERROR(m.Integer("bytes", 0, int64_t{1} << 50, &d.bytes));
  SF_ASSIGN_OR_RETURN(d.reason, json.GetString("reason", m.where()));
  return d;
}

absl::Status ReadTotals(const Json& json, absl::string_view where, Plan& plan) {
  const Json* totals = json.Find("totals");
  if (totals == nullptr) return absl::DataLossError(absl::StrCat(where, ": \"totals\" is missing"));
  const Members m(*totals, absl::StrCat(where, ": totals"));
  SF_RETURN_IF_ERROR(
      m.CheckKeys({"bits_linear", "bits_total", "activation_bits", "linear_bytes", "linear_weights",
                   "total_bytes", "total_weights", "prefix_bytes", "norm_bytes", "norm_weights"}));
  constexpr int64_t kMost = int64_t{1} << 50;
  PlanTotals& t = plan.totals;
  SF_RETURN_IF_ERROR(m.Integer("linear_bytes", 0, kMost, &t.linear_bytes));
  SF_RETURN_IF_ERROR(m.Integer("linear_weights", 0, kMost, &t.linear_weights));
  SF_RETURN_IF_ERROR(m.Integer("total_bytes", 0, kMost, &t.total_bytes));
  SF_RETURN_IF_ERROR(m.Integer("total_weights", 0, kMost, &t.total_weights));
  SF_RETURN_IF_ERROR(m.Integer("prefix_bytes", 0, kMost, &t.prefix_bytes));
  SF_RETURN_IF_ERROR(m.Integer("norm_bytes", 0, kMost, &plan.norm_bytes));
  SF_RETURN_IF_ERROR(m.Integer("norm_weights", 0, kMost, &plan.num_norm_weights));
  SF_ASSIGN_OR_RETURN(t.activation_bits, totals->GetDouble("activation_bits", m.where()));
  return absl::OkStatus();
}

}  // namespace

std::string PlanToJson(const Plan& plan) {
  std::string out = HeadOfPlan(plan).Dump(2);
  out.resize(out.rfind('}'));
  while (!out.empty() && out.back() == '\n') out.pop_back();
  absl::StrAppend(&out, ",\n  \"embedding\": ", DecisionToJson(plan.embedding).Dump());
  if (plan.has_head) absl::StrAppend(&out, ",\n  \"head\": ", DecisionToJson(plan.head).Dump());
  out += ",\n  \"linears\": [\n";
  for (size_t i = 0; i < plan.linears.size(); ++i) {
    absl::StrAppend(&out, "    ", DecisionToJson(plan.linears[i]).Dump(),
                    i + 1 < plan.linears.size() ? ",\n" : "\n");
  }
  out += "  ]\n}\n";
  return out;
}

absl::StatusOr<Plan> PlanFromJson(absl::string_view text, absl::string_view where) {
  SF_ASSIGN_OR_RETURN(const Json json, ParseJson(text, where));
  const Members m(json, std::string(where));
  SF_RETURN_IF_ERROR(m.CheckKeys({"format_version", "tool_version", "model_fingerprint", "scan_sha256",
                                  "recipe", "group_size", "prefix", "prefix_changes_function",
                                  "outlier_reason", "totals", "embedding", "head", "linears"}));
  Plan plan;
  SF_ASSIGN_OR_RETURN(const int64_t version, json.GetInt("format_version", where));
  if (version != plan.format_version) {
    return absl::UnimplementedError(absl::StrCat(where, ": format version ", version, "; this version reads ",
                                                 plan.format_version, "; make the plan again"));
  }
  SF_ASSIGN_OR_RETURN(plan.tool_version, json.GetString("tool_version", where));
  SF_ASSIGN_OR_RETURN(plan.model_fingerprint, json.GetString("model_fingerprint", where));
  SF_ASSIGN_OR_RETURN(plan.scan_sha256, json.GetString("scan_sha256", where));
  const Json* recipe = json.Find("recipe");
  if (recipe == nullptr) return absl::DataLossError(absl::StrCat(where, ": \"recipe\" is missing"));
  SF_ASSIGN_OR_RETURN(plan.recipe, RecipeFromJson(*recipe, absl::StrCat(where, ": recipe")));
  SF_RETURN_IF_ERROR(m.Small("group_size", 0, 1 << 20, &plan.group_size));
  SF_RETURN_IF_ERROR(m.Integers("prefix", &plan.prefix));
  SF_ASSIGN_OR_RETURN(plan.prefix_changes_function, json.GetBool("prefix_changes_function", where));
  SF_ASSIGN_OR_RETURN(plan.outlier_reason, json.GetString("outlier_reason", where));
  SF_RETURN_IF_ERROR(ReadTotals(json, where, plan));
  const Json* embedding = json.Find("embedding");
  const Json* head = json.Find("head");
  const Json* linears = json.Find("linears");
  if (embedding == nullptr || linears == nullptr || !linears->is_array()) {
    return absl::DataLossError(absl::StrCat(where, ": \"embedding\" or the array \"linears\" is missing"));
  }
  SF_ASSIGN_OR_RETURN(plan.embedding, DecisionFromJson(*embedding, where));
  plan.has_head = head != nullptr;
  if (head != nullptr) {
    SF_ASSIGN_OR_RETURN(plan.head, DecisionFromJson(*head, where));
  }
  for (const Json& linear : linears->array()) {
    SF_ASSIGN_OR_RETURN(TensorDecision d, DecisionFromJson(linear, where));
    plan.linears.push_back(std::move(d));
  }
  return plan;
}

}  // namespace spikefold
