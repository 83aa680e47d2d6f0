#include "apps/spikefold/native_summary.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "apps/spikefold/text.h"
#include "apps/spikefold/text_table.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

std::string WeightWord(const QuantizedLinearSpec& linear) {
  if (!linear.format.is_float()) return FormatText(linear.format, linear.group);
  return std::string(DTypeName(linear.float_dtype));
}

void AddTo(NativeGroup& group, const QuantizedLinearSpec& linear) {
  group.kept_min = group.linears == 0 ? linear.num_kept : std::min(group.kept_min, linear.num_kept);
  group.kept_max = std::max(group.kept_max, linear.num_kept);
  group.supers += linear.num_super;
  group.row_split += linear.spike_threshold > 0 ? 1 : 0;
  group.weights += linear.n * linear.k;
  group.bytes += StoredBytes(linear);
  ++group.linears;
}

// "norm_gain, R1, R2, R4 (when it runs)": the exact rewrites before rounding.
std::string FoldsText(const NativeInfo& info) {
  std::vector<std::string> parts;
  const auto text = [](const Json& fold, const char* key) {
    const Json* value = fold.Find(key);
    return value != nullptr && value->is_string() ? Printable(value->string_value()) : std::string();
  };
  if (!info.folds.is_array()) return "";
  for (const Json& fold : info.folds.array()) {
    const std::string name = text(fold, "name");
    const bool online = std::any_of(info.rotations.begin(), info.rotations.end(),
                                    [&](const Rotation& r) { return IsOnline(r.place) && r.name == name; });
    const bool learned = text(fold, "kind") == "learned rotation";
    parts.push_back(absl::StrCat(name.empty() ? text(fold, "kind") : name,
                                 online ? " (while it runs)"
                                 : learned
                                     ? absl::StrCat(" (learned, ", text(fold, "sha256").substr(0, 12), "...)")
                                     : ""));
  }
  return absl::StrJoin(parts, ", ");
}

std::string KeptText(const NativeGroup& group) {
  if (group.kept_max == 0) return "-";
  if (group.kept_min == group.kept_max) return absl::StrCat(group.kept_max);
  return absl::StrCat(group.kept_min, " to ", group.kept_max);
}

}  // namespace

absl::StatusOr<NativeSummary> SummarizeNative(const std::string& path, const ModelGraph& graph) {
  SF_ASSIGN_OR_RETURN(const auto reader, NativeReader::Open(path));
  NativeSummary summary{.present = true, .info = reader->info()};
  for (const Node& node : graph.nodes) {
    const QuantizedLinearSpec* linear = node.module.empty() ? nullptr : reader->FindLinear(node.module);
    if (linear == nullptr) continue;
    const std::string role(RoleName(node.role)), weight = WeightWord(*linear);
    auto group = std::find_if(summary.groups.begin(), summary.groups.end(), [&](const NativeGroup& g) {
      return g.role == role && g.weight == weight && g.activation == FormatText(linear->act);
    });
    if (group == summary.groups.end()) {
      group = summary.groups.insert(summary.groups.end(),
                                    {.role = role, .weight = weight, .activation = FormatText(linear->act)});
    }
    AddTo(*group, *linear);
  }
  SF_ASSIGN_OR_RETURN(const NativePrefix prefix, reader->ReadPrefix());
  summary.prefix_tokens = prefix.ids;
  return summary;
}

std::string NativeSummary::Text(const Console& console) const {
  if (!present) return "";
  TextTable table("lllrrrr");
  table.Row({"", "weights", "activations", "linears", "kept columns", "super weights", "bits"});
  for (const NativeGroup& group : groups) {
    table.Row({group.role, group.weight, group.activation, absl::StrCat(group.linears), KeptText(group),
               group.supers == 0 ? "-" : absl::StrCat(group.supers), BitsText(group.bits())});
  }
  std::string text = absl::StrCat("\n", console.Bold(absl::StrCat("Quantized: ", Printable(info.scheme))),
                                  ", ", BitsText(info.bits_linears), " bits a weight in the linears, ",
                                  BitsText(info.bits_all), " in all\n", table.Text());
  if (const std::string folds = FoldsText(info); !folds.empty()) {
    absl::StrAppend(&text, "  folded exactly: ", folds, "\n");
  }
  if (!prefix_tokens.empty()) {
    absl::StrAppend(&text, "  prefix of ", prefix_tokens.size(), " (", Printable(info.prefix.kind),
                    "): token ", absl::StrJoin(prefix_tokens, ", "), "\n");
  }
  return text;
}

Json NativeSummary::ToJson() const {
  if (!present) return Json();
  Json linears = Json::MakeArray();
  for (const NativeGroup& group : groups) {
    linears.Append(Json::MakeObject()
                       .Set("role", group.role)
                       .Set("weight", group.weight)
                       .Set("activation", group.activation)
                       .Set("linears", group.linears)
                       .Set("kept_columns_min", group.kept_min)
                       .Set("kept_columns_max", group.kept_max)
                       .Set("super_weights", group.supers)
                       .Set("spike_rows_in_float", group.row_split)
                       .Set("bytes", group.bytes)
                       .Set("bits", group.bits()));
  }
  Json prefix = Json::MakeArray();
  for (const int32_t token : prefix_tokens) prefix.Append(static_cast<int64_t>(token));
  return Json::MakeObject()
      .Set("scheme", info.scheme)
      .Set("tool_version", info.tool_version)
      .Set("bits_linears", info.bits_linears)
      .Set("bits_all", info.bits_all)
      .Set("base_fingerprint", info.base_fingerprint)
      .Set("prefix", std::move(prefix))
      .Set("folds", info.folds)
      .Set("linears", std::move(linears));
}

}  // namespace spikefold
