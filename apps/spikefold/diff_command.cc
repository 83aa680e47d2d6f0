#include "apps/spikefold/diff_command.h"

#include <algorithm>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "apps/report/json_diff.h"
#include "apps/spikefold/text.h"
#include "formats/base/file.h"
#include "formats/base/status.h"
#include "formats/export/export_report.h"
#include "formats/quantized/native.h"

namespace spikefold {
namespace {

constexpr uint64_t kMaxBytes = uint64_t{256} << 20;
constexpr size_t kMaxLines = 60;

enum class Kind { kModel, kPlan, kScan, kEval };
constexpr const char* kKindNames[] = {"quantized model", "plan", "scan", "evaluation"};

struct Side {
  Kind kind = Kind::kModel;
  std::string path;
  Json json;  // of a model: its sidecar
};

bool Has(const Json& json, const char* key) { return json.Find(key) != nullptr; }

absl::StatusOr<Json> ReadJson(const std::string& path) {
  SF_ASSIGN_OR_RETURN(const std::string text, ReadFileToString(path, kMaxBytes));
  return ParseJson(text, Printable(path, 1024));
}

absl::Status NothingToCompare(const std::string& path) {
  return absl::InvalidArgumentError(absl::StrCat(
      Printable(path, 1024), ": is no quantized model, plan, scan or evaluation; only those are compared"));
}

absl::StatusOr<Side> ReadSide(const std::string& path) {
  Side side{.path = path, .json = Json()};
  if (IsDirectory(path) && IsNativeCheckpoint(path)) {
    SF_RETURN_IF_ERROR(NativeReader::Open(path).status());
    SF_ASSIGN_OR_RETURN(side.json, ReadJson(JoinPath(path, "spikefold.json")));
    return side;
  }
  const std::string outliers = JoinPath(path, "outliers.json");
  if (IsDirectory(path) && !PathExists(outliers)) return NothingToCompare(path);
  SF_ASSIGN_OR_RETURN(side.json, ReadJson(IsDirectory(path) ? outliers : path));
  if (Has(side.json, "recipe") && Has(side.json, "totals")) {
    side.kind = Kind::kPlan;
  } else if (Has(side.json, "provenance") && Has(side.json, "stages")) {
    side.kind = Kind::kScan;
  } else if (Has(side.json, "ppl_ratio") && Has(side.json, "kld_mean")) {
    side.kind = Kind::kEval;
  } else {
    return NothingToCompare(path);
  }
  return side;
}

// What differs from run to run without meaning anything.
std::vector<std::string> IgnoredKeys(Kind kind) {
  switch (kind) {
    case Kind::kModel:
      return {"tool", "tensors"};  // tensors are compared by value
    case Kind::kEval:
      return {"tool_version",      "seconds", "seconds_reference",
              "seconds_quantized", "command", "machine",
              "threads",           "name",    "path"};
    default:
      return {"tool", "tool_version"};
  }
}

// A tensor whose hash differs, in words: how many codes, how far apart the values.
absl::StatusOr<std::string> LinearChange(const NativeReader& a, const NativeReader& b,
                                         const std::string& module) {
  SF_ASSIGN_OR_RETURN(const QuantizedLinear first, a.ReadLinear(module));
  SF_ASSIGN_OR_RETURN(const QuantizedLinear second, b.ReadLinear(module));
  if (first.n != second.n || first.k != second.k) return std::string("another shape");
  const Tensor x = Dequantize(first), y = Dequantize(second);
  std::string text =
      absl::StrFormat("values differ by %.3g of their size", RelativeError(x.as<float>(), y.as<float>()));
  if (first.codes.size() == second.codes.size() && first.format == second.format && !first.codes.empty()) {
    int64_t changed = 0;
    for (size_t i = 0; i < first.codes.size(); ++i) changed += first.codes[i] != second.codes[i] ? 1 : 0;
    absl::StrAppend(&text, ", ", changed, " of ", first.codes.size(), " codes");
  }
  return text;
}

absl::Status DiffTensors(const Side& a, const Side& b, const Progress& progress,
                         std::vector<JsonChange>* changes) {
  SF_ASSIGN_OR_RETURN(const auto first, NativeReader::Open(a.path));
  SF_ASSIGN_OR_RETURN(const auto second, NativeReader::Open(b.path));
  const Json *hashes = a.json.Find("tensors"), *others = b.json.Find("tensors");
  if (hashes == nullptr || others == nullptr) return absl::OkStatus();
  std::vector<std::string> modules;
  for (const JsonChange& c : DiffJson(*hashes, *others, {})) {
    const std::string module = c.path.substr(0, c.path.rfind('.'));
    const bool linear = first->FindLinear(module) != nullptr && second->FindLinear(module) != nullptr;
    if (!linear) {
      changes->push_back({absl::StrCat("tensor ", c.path), c.a, c.b});
    } else if (std::find(modules.begin(), modules.end(), module) == modules.end()) {
      modules.push_back(module);
    }
  }
  for (size_t i = 0; i < modules.size(); ++i) {
    if (!Report(progress, "comparing", static_cast<int64_t>(i), static_cast<int64_t>(modules.size()))) {
      return absl::CancelledError("diff: interrupted");
    }
    SF_ASSIGN_OR_RETURN(const std::string text, LinearChange(*first, *second, modules[i]));
    changes->push_back({absl::StrCat("weights of ", modules[i]), "", text});
  }
  return absl::OkStatus();
}

Json ChangesToJson(const std::vector<JsonChange>& changes) {
  Json list = Json::MakeArray();
  for (const JsonChange& c : changes) {
    list.Append(Json::MakeObject().Set("path", c.path).Set("a", c.a).Set("b", c.b));
  }
  return list;
}

// The same change in many places is one line: "act: "float" -> "s8r" in 210 places, the first
// linears.model...".
std::vector<std::string> Lines(const std::vector<JsonChange>& changes) {
  struct Group {
    const JsonChange* first;
    size_t count = 0;
  };
  std::vector<Group> groups;
  absl::flat_hash_map<std::string, size_t> index;
  for (const JsonChange& c : changes) {
    const std::string member = c.path.substr(c.path.rfind('.') + 1);
    const auto [it, is_new] = index.emplace(absl::StrCat(member, "\n", c.a, "\n", c.b), groups.size());
    if (is_new) groups.push_back({&c});
    ++groups[it->second].count;
  }
  std::vector<std::string> lines;
  for (const Group& g : groups) {
    const JsonChange& c = *g.first;
    const std::string value = c.a.empty()   ? c.b
                              : c.b.empty() ? absl::StrCat(c.a, " -> nothing")
                                            : absl::StrCat(c.a, " -> ", c.b);
    const std::string more = g.count > 1 ? absl::StrCat("  (and ", g.count - 1, " more like it)") : "";
    lines.push_back(absl::StrCat("  ", c.path, ": ", value, more, "\n"));
  }
  return lines;
}

}  // namespace

absl::Status RunDiff(const DiffCommandOptions& options, Context& context) {
  SF_ASSIGN_OR_RETURN(const Side a, ReadSide(options.a));
  SF_ASSIGN_OR_RETURN(const Side b, ReadSide(options.b));
  const char* kind = kKindNames[static_cast<int>(a.kind)];
  if (a.kind != b.kind) {
    return absl::InvalidArgumentError(absl::StrCat(
        Printable(a.path, 1024), ": is of kind ", kind, ", ", Printable(b.path, 1024), " of kind ",
        kKindNames[static_cast<int>(b.kind)], "; only two of one kind are compared"));
  }
  std::vector<JsonChange> changes = DiffJson(a.json, b.json, IgnoredKeys(a.kind));
  if (a.kind == Kind::kModel) {
    SF_RETURN_IF_ERROR(DiffTensors(a, b, context.console.progress(), &changes));
    context.console.EndProgress();
  }
  Console& console = context.console;
  if (console.json()) {
    SF_RETURN_IF_ERROR(console.PrintJson(NewDocument("diff")
                                             .Set("kind", kind)
                                             .Set("equal", changes.empty())
                                             .Set("a", a.path)
                                             .Set("b", b.path)
                                             .Set("changes", ChangesToJson(changes))));
  } else if (changes.empty()) {
    console.Print(absl::StrCat("equal ", kind, "s\n"));
  } else {
    const std::vector<std::string> lines = Lines(changes);
    for (size_t i = 0; i < std::min(lines.size(), kMaxLines); ++i) console.Print(lines[i]);
    if (lines.size() > kMaxLines) {
      console.Print(absl::StrCat("  ... and ", lines.size() - kMaxLines, " lines more; --json lists all\n"));
    }
  }
  SF_RETURN_IF_ERROR(console.Flush());
  if (changes.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(changes.size(), " differences"));
}

}  // namespace spikefold
