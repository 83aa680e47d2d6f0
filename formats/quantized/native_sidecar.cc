// spikefold.json: NativeInfo as JSON and back, and the prefix.
#include <cmath>
#include <limits>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/base/hash.h"
#include "formats/base/status.h"
#include "formats/quantized/native_parts.h"

namespace spikefold {
namespace {

constexpr absl::string_view kXxh3 = "xxh3:";

std::string WeightWord(const QuantizedLinearSpec& s) {
  if (!s.format.is_float()) return FormatWord(s.format);
  return s.float_dtype == DType::kBF16 ? "bf16" : s.float_dtype == DType::kF16 ? "f16" : "f32";
}

absl::Status UnknownWord(absl::string_view word, absl::string_view known, absl::string_view where) {
  return absl::UnimplementedError(
      absl::StrCat(where, ": \"", Printable(word), "\" is not supported; known: ", known));
}

// A word's error, with its place.
template <typename T>
absl::StatusOr<T> At(absl::string_view where, absl::StatusOr<T> parsed) {
  if (parsed.ok()) return parsed;
  return absl::Status(parsed.status().code(), absl::StrCat(where, ": ", parsed.status().message()));
}

absl::Status SetWeight(absl::string_view word, absl::string_view where, QuantizedLinearSpec* s) {
  s->format = WeightFormat::kFloat;
  if (word == "bf16") {
    s->float_dtype = DType::kBF16;
  } else if (word == "f16") {
    s->float_dtype = DType::kF16;
  } else if (word == "f32") {
    s->float_dtype = DType::kF32;
  } else {
    SF_ASSIGN_OR_RETURN(s->format, At(where, ParseWeightFormat(word)));
  }
  return absl::OkStatus();
}

constexpr std::pair<absl::string_view, DType> kScaleWords[] = {
    {"bf16", DType::kBF16}, {"f16", DType::kF16}, {"f32", DType::kF32}};

absl::Status SetGroup(const Json& j, absl::string_view where, QuantizedLinearSpec* s) {
  if (!s->format.grouped) {
    if (j.Find("group") == nullptr && j.Find("scale") == nullptr) return absl::OkStatus();
    return absl::DataLossError(
        absl::StrCat(where, ": \"group\" and \"scale\" belong to weights in groups only"));
  }
  SF_ASSIGN_OR_RETURN(s->group, j.GetInt("group", where));
  SF_ASSIGN_OR_RETURN(const std::string scale, j.GetString("scale", where));
  for (const auto& [word, type] : kScaleWords) {
    if (scale != word) continue;
    s->scale_dtype = type;
    return absl::OkStatus();
  }
  return UnknownWord(scale, "bf16, f16, f32", where);
}

Json LinearToJson(const QuantizedLinearSpec& s) {
  Json j = Json::MakeObject();
  j.Set("weight", WeightWord(s)).Set("shape", Json::Array{Json(s.n), Json(s.k)});
  if (s.format.grouped) j.Set("group", s.group);
  for (const auto& [word, type] : kScaleWords) {
    if (s.format.grouped && type == s.scale_dtype) j.Set("scale", word);
  }
  j.Set("act", FormatWord(s.act)).Set("kept", s.num_kept).Set("super", s.num_super);
  Json bias = Json::MakeArray();
  for (const std::string& source : s.bias_sources) bias.Append(source);
  if (s.has_bias && s.bias_sources.empty()) bias.Append("original");
  if (s.has_bias) j.Set("bias", std::move(bias));
  if (s.spike_threshold > 0) {
    Json rows = Json::MakeObject();
    rows.Set("above", static_cast<double>(s.spike_threshold)).Set("max", s.max_spike_rows);
    j.Set("spike_rows", std::move(rows));
  }
  if (s.weight_error >= 0) j.Set("weight_error", s.weight_error);
  j.Set("reason", s.reason);
  return j;
}

// A list of strings that is not empty.
absl::Status ReadBias(const Json& bias, absl::string_view where, QuantizedLinearSpec* s) {
  if (!bias.is_array() || bias.array().empty()) {
    return absl::DataLossError(absl::StrCat(where, ": \"bias\" is not a list of its sources"));
  }
  for (const Json& source : bias.array()) {
    if (!source.is_string()) return absl::DataLossError(absl::StrCat(where, ": \"bias\" holds no string"));
    s->bias_sources.push_back(source.string_value());
  }
  s->has_bias = true;
  return absl::OkStatus();
}

absl::Status ReadShape(const Json& j, absl::string_view where, QuantizedLinearSpec* s) {
  const Json* shape = j.Find("shape");
  if (shape == nullptr || !shape->is_array() || shape->array().size() != 2 || !shape->array()[0].is_int() ||
      !shape->array()[1].is_int()) {
    return absl::DataLossError(absl::StrCat(where, ": \"shape\" is not two integers"));
  }
  s->n = shape->array()[0].int_value();
  s->k = shape->array()[1].int_value();
  return absl::OkStatus();
}

absl::StatusOr<QuantizedLinearSpec> LinearFromJson(const std::string& module, const Json& j,
                                                   absl::string_view sidecar) {
  const std::string where = absl::StrCat(sidecar, ": ", Printable(module));
  SF_RETURN_IF_ERROR(CheckKeys(j,
                               {"weight", "shape", "group", "scale", "act", "kept", "super", "bias",
                                "spike_rows", "weight_error", "reason"},
                               where));
  QuantizedLinearSpec s;
  s.module = module;
  SF_ASSIGN_OR_RETURN(const std::string weight, j.GetString("weight", where));
  SF_RETURN_IF_ERROR(SetWeight(weight, where, &s));
  SF_RETURN_IF_ERROR(ReadShape(j, where, &s));
  SF_RETURN_IF_ERROR(SetGroup(j, where, &s));
  SF_ASSIGN_OR_RETURN(const std::string act, j.GetString("act", where));
  SF_ASSIGN_OR_RETURN(s.act, At(where, ParseActivationFormat(act)));
  SF_ASSIGN_OR_RETURN(s.num_kept, j.GetInt("kept", where));
  SF_ASSIGN_OR_RETURN(s.num_super, j.GetInt("super", where));
  if (const Json* bias = j.Find("bias"); bias != nullptr) SF_RETURN_IF_ERROR(ReadBias(*bias, where, &s));
  if (const Json* rows = j.Find("spike_rows"); rows != nullptr) {
    SF_RETURN_IF_ERROR(CheckKeys(*rows, {"above", "max"}, where));
    SF_ASSIGN_OR_RETURN(const double above, rows->GetDouble("above", where));
    SF_ASSIGN_OR_RETURN(s.max_spike_rows, rows->GetInt("max", where));
    if (!(above > 0 && above <= static_cast<double>(std::numeric_limits<float>::max()))) {
      return absl::DataLossError(
          absl::StrCat(where, ": spike rows above ", above, "; expected a positive float"));
    }
    s.spike_threshold = static_cast<float>(above);
  }
  if (j.Find("weight_error") != nullptr) {
    SF_ASSIGN_OR_RETURN(s.weight_error, j.GetDouble("weight_error", where));
  }
  SF_ASSIGN_OR_RETURN(s.reason, j.GetString("reason", where));
  if (const absl::Status status = CheckSpec(s); !status.ok()) {
    return absl::DataLossError(absl::StrCat(sidecar, ": ", status.message()));
  }
  return s;
}

Json PrefixToJson(const NativePrefixSpec& p) {
  if (p.num_tokens == 0) return Json();
  Json j = Json::MakeObject(), layers = Json::MakeArray();
  for (const int layer : p.layers) layers.Append(layer);
  j.Set("tokens", p.num_tokens).Set("kind", p.kind).Set("changes_function", p.changes_function);
  j.Set("layers", std::move(layers)).Set("kv_heads", p.num_kv_heads).Set("head_dim", p.head_dim);
  return j;
}

absl::Status PrefixFromJson(const Json& j, absl::string_view sidecar, NativePrefixSpec* p) {
  if (j.is_null()) return absl::OkStatus();
  const std::string where = absl::StrCat(sidecar, ": prefix");
  SF_RETURN_IF_ERROR(
      CheckKeys(j, {"tokens", "kind", "changes_function", "layers", "kv_heads", "head_dim"}, where));
  SF_ASSIGN_OR_RETURN(p->num_tokens, j.GetInt("tokens", where));
  SF_ASSIGN_OR_RETURN(p->kind, j.GetString("kind", where));
  SF_ASSIGN_OR_RETURN(p->changes_function, j.GetBool("changes_function", where));
  SF_ASSIGN_OR_RETURN(p->num_kv_heads, j.GetInt("kv_heads", where));
  SF_ASSIGN_OR_RETURN(p->head_dim, j.GetInt("head_dim", where));
  const Json* layers = j.Find("layers");
  if (layers == nullptr || !layers->is_array()) {
    return absl::DataLossError(absl::StrCat(where, ": \"layers\" is not a list"));
  }
  for (const Json& layer : layers->array()) {
    if (!layer.is_int() || layer.int_value() < 0 || layer.int_value() > 100000) {
      return absl::DataLossError(absl::StrCat(where, ": \"layers\" holds no layer number"));
    }
    p->layers.push_back(static_cast<int>(layer.int_value()));
  }
  const absl::Status status = CheckPrefixSpec(*p);
  if (p->num_tokens < 1 || !status.ok()) {
    return absl::DataLossError(absl::StrCat(where, ": ", status.ok() ? "no tokens" : status.message()));
  }
  return absl::OkStatus();
}

absl::Status HashesFromJson(const Json* tensors, absl::string_view where, TensorHashes* hashes) {
  if (tensors == nullptr || !tensors->is_object()) {
    return absl::DataLossError(absl::StrCat(where, ": \"tensors\" is not an object"));
  }
  for (const auto& [name, hash] : tensors->object()) {
    if (!hash.is_string() || !absl::StartsWith(hash.string_value(), kXxh3)) {
      return absl::DataLossError(
          absl::StrCat(where, ": the hash of \"", Printable(name), "\" is not \"xxh3:...\""));
    }
    hashes->emplace_back(name, hash.string_value().substr(kXxh3.size()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckKeys(const Json& json, std::initializer_list<absl::string_view> known,
                       absl::string_view where) {
  if (!json.is_object()) return absl::DataLossError(absl::StrCat(where, ": is not a JSON object"));
  for (const auto& [key, value] : json.object()) {
    bool found = absl::StartsWith(key, "x-");
    for (const absl::string_view k : known) found = found || key == k;
    if (!found) {
      return absl::UnimplementedError(absl::StrCat(where, ": has the unknown key \"", Printable(key),
                                                   "\"; it may need a newer Spikefold"));
    }
  }
  return absl::OkStatus();
}

NativeBits CountBits(const NativeInfo& info, const std::vector<SafetensorsWriter::Spec>& plain) {
  double linear_bytes = 0, linear_weights = 0, bytes = 0, weights = 0;  // integers below 2^53: exact
  for (const QuantizedLinearSpec& s : info.linears) {
    const double stored = static_cast<double>(StoredBytes(s)), count = static_cast<double>(s.n * s.k);
    bytes += stored;
    weights += count;
    if (absl::StrContains(s.module, ".layers.")) {
      linear_bytes += stored;
      linear_weights += count;
    }
  }
  for (const SafetensorsWriter::Spec& t : plain) {
    bytes += static_cast<double>(NumElements(t.shape) * DTypeBytes(t.dtype));
    weights += static_cast<double>(NumElements(t.shape));
  }
  for (const SafetensorsWriter::Spec& t : PrefixTensorSpecs(info.prefix)) {
    bytes += static_cast<double>(NumElements(t.shape) * DTypeBytes(t.dtype));
  }
  for (const Rotation& r : info.rotations) bytes += static_cast<double>(r.width());
  for (const NativeShift& s : info.shifts) {  // side data of the linears that read it
    bytes += 2 * static_cast<double>(s.values.size());
    linear_bytes += 2 * static_cast<double>(s.values.size());
  }
  for (const SafetensorsWriter::Spec& t : NativeKvTensorSpecs(info.kv)) {
    bytes += static_cast<double>(NumElements(t.shape) * DTypeBytes(t.dtype));
  }
  return {linear_weights > 0 ? 8 * linear_bytes / linear_weights : 0, weights > 0 ? 8 * bytes / weights : 0};
}

Json SidecarToJson(const NativeInfo& info, const TensorHashes& hashes) {
  Json j = Json::MakeObject(), tool = Json::MakeObject(), base = Json::MakeObject();
  tool.Set("version", info.tool_version);
  base.Set("architecture", info.architecture).Set("fingerprint", info.base_fingerprint);
  j.Set("format_version", kNativeFormatVersion).Set("tool", std::move(tool)).Set("base", std::move(base));
  j.Set("scheme", info.scheme);
  Json linears = Json::MakeObject(), tensors = Json::MakeObject(), bits = Json::MakeObject();
  for (const QuantizedLinearSpec& s : info.linears) linears.object().emplace_back(s.module, LinearToJson(s));
  for (const auto& [name, hash] : hashes) tensors.object().emplace_back(name, absl::StrCat(kXxh3, hash));
  j.Set("linears", std::move(linears))
      .Set("kv", NativeKvToJson(info.kv))
      .Set("prefix", PrefixToJson(info.prefix));
  if (!info.rotations.empty()) j.Set("rotations", RotationsToJson(info.rotations));
  if (!info.shifts.empty()) j.Set("shifts", ShiftsToJson(info.shifts));
  j.Set("folds", info.folds).Set("calibration", info.calibration);
  j.Set("recipe_sha256", info.recipe_sha256).Set("plan_sha256", info.plan_sha256);
  bits.Set("linears", info.bits_linears).Set("all", info.bits_all).Set("file_bytes", info.file_bytes);
  j.Set("bits", std::move(bits)).Set("tensors", std::move(tensors));
  return j;
}

absl::Status SidecarFromJson(const Json& j, absl::string_view where, NativeInfo* info, TensorHashes* hashes) {
  if (!j.is_object()) return absl::DataLossError(absl::StrCat(where, ": is not a JSON object"));
  SF_ASSIGN_OR_RETURN(const int64_t version, j.GetInt("format_version", where));
  if (version != kNativeFormatVersion) {
    return absl::UnimplementedError(absl::StrCat(where, ": format_version ", version,
                                                 "; this Spikefold reads ", kNativeFormatVersion, " only"));
  }
  SF_RETURN_IF_ERROR(
      CheckKeys(j,
                {"format_version", "tool", "base", "scheme", "linears", "kv", "prefix", "rotations", "shifts",
                 "folds", "calibration", "recipe_sha256", "plan_sha256", "bits", "tensors"},
                where));
  const Json nothing = Json::MakeObject();
  const auto find = [&](absl::string_view key) { return j.Find(key) == nullptr ? nothing : *j.Find(key); };
  const Json tool = find("tool"), base = find("base"), bits = find("bits");
  SF_RETURN_IF_ERROR(CheckKeys(tool, {"version", "git"}, where));
  SF_RETURN_IF_ERROR(CheckKeys(base, {"architecture", "fingerprint"}, where));
  SF_RETURN_IF_ERROR(CheckKeys(bits, {"linears", "all", "file_bytes"}, where));
  SF_ASSIGN_OR_RETURN(info->tool_version, tool.GetString("version", where));
  SF_ASSIGN_OR_RETURN(info->architecture, base.GetString("architecture", where));
  SF_ASSIGN_OR_RETURN(info->base_fingerprint, base.GetString("fingerprint", where));
  SF_ASSIGN_OR_RETURN(info->scheme, j.GetString("scheme", where));
  SF_ASSIGN_OR_RETURN(info->recipe_sha256, j.GetString("recipe_sha256", where));
  SF_ASSIGN_OR_RETURN(info->plan_sha256, j.GetString("plan_sha256", where));
  SF_ASSIGN_OR_RETURN(info->bits_linears, bits.GetDouble("linears", where));
  SF_ASSIGN_OR_RETURN(info->bits_all, bits.GetDouble("all", where));
  SF_ASSIGN_OR_RETURN(const int64_t file_bytes, bits.GetInt("file_bytes", where));
  info->file_bytes = static_cast<uint64_t>(file_bytes);
  const Json* linears = j.Find("linears");
  if (linears == nullptr || !linears->is_object()) {
    return absl::DataLossError(absl::StrCat(where, ": \"linears\" is not an object"));
  }
  for (const auto& [module, value] : linears->object()) {
    SF_ASSIGN_OR_RETURN(QuantizedLinearSpec spec, LinearFromJson(module, value, where));
    info->linears.push_back(std::move(spec));
  }
  for (const auto& [key, target] :
       {std::make_pair("folds", &info->folds), std::make_pair("calibration", &info->calibration)}) {
    if (j.Find(key) != nullptr) *target = *j.Find(key);
  }
  if (j.Find("kv") != nullptr) {
    SF_ASSIGN_OR_RETURN(info->kv, NativeKvFromJson(*j.Find("kv"), where));
  }
  if (j.Find("prefix") != nullptr)
    SF_RETURN_IF_ERROR(PrefixFromJson(*j.Find("prefix"), where, &info->prefix));
  if (j.Find("rotations") != nullptr) {
    SF_ASSIGN_OR_RETURN(info->rotations, RotationsFromJson(*j.Find("rotations"), where));
  }
  if (j.Find("shifts") != nullptr) {
    SF_ASSIGN_OR_RETURN(info->shifts, ShiftsFromJson(*j.Find("shifts"), where));
  }
  return HashesFromJson(j.Find("tensors"), where, hashes);
}

std::string PrefixIdsName() { return "spikefold.prefix.ids"; }
std::string PrefixName(int layer, char k_or_v) {
  return absl::StrCat("spikefold.prefix.", layer, ".", std::string(1, k_or_v));
}

std::vector<SafetensorsWriter::Spec> PrefixTensorSpecs(const NativePrefixSpec& p) {
  std::vector<SafetensorsWriter::Spec> out;
  if (p.num_tokens == 0) return out;
  out.push_back({PrefixIdsName(), DType::kI32, {p.num_tokens}});
  for (const int layer : p.layers) {
    for (const char c : {'k', 'v'}) {
      out.push_back({PrefixName(layer, c), DType::kBF16, {p.num_kv_heads, p.num_tokens, p.head_dim}});
    }
  }
  return out;
}

std::vector<SafetensorsWriter::Spec> CommonTensorSpecs(const NativeInfo& info) {
  std::vector<SafetensorsWriter::Spec> specs = PrefixTensorSpecs(info.prefix);
  for (const Rotation& r : info.rotations) specs.push_back(RotationTensorSpec(r));
  for (const NativeShift& s : info.shifts) specs.push_back(ShiftTensorSpec(s));
  for (SafetensorsWriter::Spec& t : NativeKvTensorSpecs(info.kv)) specs.push_back(std::move(t));
  return specs;
}

absl::Status CheckPrefixSpec(const NativePrefixSpec& p) {
  if (p.num_tokens == 0) return absl::OkStatus();
  const auto sane = [](int64_t v) { return v >= 1 && v <= 65536; };
  if (!sane(p.num_tokens) || !sane(p.num_kv_heads) || !sane(p.head_dim)) {
    return absl::InvalidArgumentError(absl::StrCat("prefix of ", p.num_tokens, " tokens, ", p.num_kv_heads,
                                                   " KV heads, head_dim ", p.head_dim,
                                                   "; each must be 1..65536"));
  }
  for (size_t i = 0; i < p.layers.size(); ++i) {
    if (p.layers[i] < 0 || (i > 0 && p.layers[i] <= p.layers[i - 1])) {
      return absl::InvalidArgumentError("prefix: its layers do not ascend");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckPrefix(const NativePrefixSpec& spec, const NativePrefix& prefix) {
  if (static_cast<int64_t>(prefix.ids.size()) != spec.num_tokens || prefix.k.size() != spec.layers.size() ||
      prefix.v.size() != spec.layers.size()) {
    return absl::InvalidArgumentError(absl::StrCat("prefix of ", prefix.ids.size(), " tokens and ",
                                                   prefix.k.size(), " layers; its declaration says ",
                                                   spec.num_tokens, " and ", spec.layers.size()));
  }
  for (const int32_t id : prefix.ids) {
    if (id < 0) return absl::InvalidArgumentError(absl::StrCat("prefix: token ", id, " is negative"));
  }
  const Shape shape = {spec.num_kv_heads, spec.num_tokens, spec.head_dim};
  for (size_t l = 0; l < spec.layers.size(); ++l) {
    for (const Tensor* t : {&prefix.k[l], &prefix.v[l]}) {
      if (t->empty() || t->dtype() != DType::kBF16 || t->shape() != shape) {
        return absl::InvalidArgumentError(
            absl::StrCat("prefix: layer ", spec.layers[l], " is not BF16 ", ShapeString(shape)));
      }
      for (const uint16_t bits : t->as<uint16_t>()) {
        if (!std::isfinite(Bf16ToFloat(bits))) {
          return absl::InvalidArgumentError(
              absl::StrCat("prefix: layer ", spec.layers[l], " holds a value that is not finite"));
        }
      }
    }
  }
  return absl::OkStatus();
}

namespace {
constexpr char kSeal[] = ",\n  \"self_sha256\": \"";
constexpr char kSealEnd[] = "\"\n}\n";
}  // namespace

std::string SealManifest(absl::string_view text) {
  const absl::string_view open = text.substr(0, text.rfind("\n}"));
  return absl::StrCat(open, kSeal, Sha256Hex(open), kSealEnd);
}

absl::Status CheckManifestSeal(absl::string_view text, absl::string_view where) {
  const size_t seal = text.rfind(kSeal);
  if (seal == absl::string_view::npos) {
    return absl::DataLossError(absl::StrCat(where,
                                            ": does not end with \"self_sha256\", its own hash: "
                                            "cut off, or written before manifests had one; quantize again"));
  }
  const absl::string_view open = text.substr(0, seal);
  if (text.substr(seal) == absl::StrCat(kSeal, Sha256Hex(open), kSealEnd)) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(where, ": is not what its own \"self_sha256\" says"));
}

}  // namespace spikefold
