#include "formats/export/export_report.h"

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "formats/base/status.h"

namespace spikefold {

Json ExportReportToJson(const ExportReport& report) {
  Json json = Json::MakeObject(), tensors = Json::MakeArray(), losses = Json::MakeArray();
  Json notes = Json::MakeArray();
  for (const ExportedTensor& t : report.tensors) {
    Json line = Json::MakeObject();
    line.Set("name", t.name).Set("from", t.from).Set("to", t.to).Set("same_codes", t.same_codes);
    line.Set("bytes", t.bytes).Set("error", t.error);
    if (!t.reason.empty()) line.Set("reason", t.reason);
    tensors.Append(std::move(line));
  }
  for (const ExportLoss& loss : report.losses) {
    Json line = Json::MakeObject();
    line.Set("what", loss.what).Set("detail", loss.detail).Set("changes_function", loss.changes_function);
    losses.Append(std::move(line));
  }
  for (const std::string& note : report.notes) notes.Append(note);
  json.Set("format", report.format).Set("file_bytes", report.file_bytes).Set("losses", std::move(losses));
  json.Set("notes", std::move(notes)).Set("tensors", std::move(tensors));
  return json;
}

double RelativeError(absl::Span<const float> ours, absl::Span<const float> theirs) {
  double error = 0, square = 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    const double d = static_cast<double>(theirs[i]) - static_cast<double>(ours[i]);
    error += d * d;
    square += static_cast<double>(ours[i]) * static_cast<double>(ours[i]);
  }
  if (!std::isfinite(error)) return std::numeric_limits<double>::infinity();
  if (error == 0) return 0;
  return square > 0 ? std::sqrt(error / square) : std::numeric_limits<double>::infinity();
}

namespace {

absl::StatusOr<ExportLoss> PrefixLoss(const ExportSource& source) {
  SF_ASSIGN_OR_RETURN(const NativePrefix prefix, source.ReadPrefix());
  std::string text;
  if (const auto tokenizer = source.reader().LoadTokenizer(); tokenizer.ok()) {
    for (const int32_t id : prefix.ids) absl::StrAppend(&text, (*tokenizer)->TokenText(id));
  }
  return ExportLoss{.what = "prefix",
                    .detail = absl::StrCat(
                        "the ", prefix.ids.size(), " prefix token(s) (ids ", absl::StrJoin(prefix.ids, " "),
                        text.empty() ? "" : absl::StrCat(", \"", text, "\""),
                        ") are dropped: put them before each prompt to have the same function"),
                    .changes_function = source.native()->prefix.changes_function};
}

}  // namespace

absl::Status CompareWithSource(const ExportSource& source,
                               absl::FunctionRef<absl::StatusOr<Tensor>(size_t weight)> read,
                               absl::FunctionRef<double(size_t weight)> limit, absl::string_view type,
                               const Progress& progress, ExportReport& report) {
  const size_t total = source.weights().size();
  for (size_t i = 0; i < total; ++i) {
    if (!Report(progress, "reading back", static_cast<int64_t>(i), static_cast<int64_t>(total))) {
      return absl::CancelledError("export: interrupted");
    }
    const ExportWeight& w = source.weights()[i];
    SF_ASSIGN_OR_RETURN(const Tensor ours, source.ReadWeight(w));
    SF_ASSIGN_OR_RETURN(const Tensor theirs, read(i));
    ExportedTensor& t = report.tensors[i];
    t.error = RelativeError(ours.as<float>(), theirs.as<float>());
    if (t.error <= limit(i)) continue;
    return absl::UnimplementedError(absl::StrCat(w.weight_name(), " as ", t.to, " differs by ", t.error,
                                                 " of its size; its values do not fit ", type));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ExportLoss>> CommonLosses(const ExportSource& source, bool target_keeps_static) {
  std::vector<ExportLoss> losses;
  const NativeInfo* info = source.native();
  if (info == nullptr) return losses;
  if (info->prefix.num_tokens > 0) {
    SF_ASSIGN_OR_RETURN(ExportLoss loss, PrefixLoss(source));
    losses.push_back(std::move(loss));
  }
  if (!info->kv.is_float()) {
    losses.push_back({.what = "keys and values",
                      .detail = "their codes are not carried over: they are float, or what the other engine "
                                "is told to use"});
  }
  for (const Rotation& rotation : info->rotations) {
    if (rotation.place == RotationPlace::kQueriesKeys) {
      losses.push_back(
          {.what = "rotation",
           .detail = absl::StrCat(rotation.name,
                                  " of queries and keys is left out: it only served their codes, "
                                  "products are the same without it")});
    }
  }
  if (!info->shifts.empty()) {
    losses.push_back(
        {.what = "shifts",
         .detail = absl::StrCat("what is taken off the inputs of ", info->shifts.size(),
                                " sites went into biases: the same function with float activations, "
                                "but activations are rounded unshifted")});
  }
  int64_t spiked = 0, fixed = 0;
  for (const QuantizedLinearSpec& s : info->linears) fixed += s.act.is_static() ? 1 : 0;
  if (!info->shifts.empty() && fixed > 0 && target_keeps_static) {
    losses.push_back({.what = "static scales",
                      .detail = "were chosen for shifted inputs; without the shift values saturate",
                      .changes_function = true});
  }
  for (const QuantizedLinearSpec& s : info->linears) spiked += s.spike_threshold > 0 ? 1 : 0;
  if (spiked > 0) {
    losses.push_back({.what = "spike rows",
                      .detail = absl::StrCat(spiked, " linears no longer compute spike tokens in float"),
                      .changes_function = true});
  }
  return losses;
}

}  // namespace spikefold
