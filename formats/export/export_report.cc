#include "formats/export/export_report.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "formats/base/status.h"
#include "formats/base/vector_clones.h"

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

namespace {

// Sums over weights; those of parts are added in their order, whoever made them.
struct Difference {
  double error = 0, square = 0;  // of the difference, and of ours
  void operator+=(const Difference& other) {
    error += other.error;
    square += other.square;
  }
  double relative() const {
    if (!std::isfinite(error)) return std::numeric_limits<double>::infinity();
    if (error == 0) return 0;
    return square > 0 ? std::sqrt(error / square) : std::numeric_limits<double>::infinity();
  }
};

SF_VECTOR_CLONES Difference Compare(const float* ours, const float* theirs, size_t count) {
  // In explicit vectors: loops over so few lanes the compiler unrolls before it sees vectors in them.
  constexpr size_t kLanes = 8, kVectors = 2;
  using Floats = float __attribute__((vector_size(kLanes * sizeof(float))));
  using Doubles = double __attribute__((vector_size(kLanes * sizeof(double))));
  Doubles error[kVectors] = {}, square[kVectors] = {};
  size_t i = 0;
  for (; i + kVectors * kLanes <= count; i += kVectors * kLanes) {
    for (size_t v = 0; v < kVectors; ++v) {
      Floats a, b;
      std::memcpy(&a, ours + i + v * kLanes, sizeof a);
      std::memcpy(&b, theirs + i + v * kLanes, sizeof b);
      const Doubles x = __builtin_convertvector(a, Doubles), d = __builtin_convertvector(b, Doubles) - x;
      error[v] += d * d;
      square[v] += x * x;
    }
  }
  Difference sum;
  for (size_t v = 0; v < kVectors; ++v) {
    for (size_t lane = 0; lane < kLanes; ++lane) sum += {error[v][lane], square[v][lane]};
  }
  for (; i < count; ++i) {
    const double x = static_cast<double>(ours[i]), d = static_cast<double>(theirs[i]) - x;
    sum += {d * d, x * x};
  }
  return sum;
}

absl::StatusOr<Difference> CompareMatrix(const WeightRows& ours, const WeightRows& theirs, const Shape& shape,
                                         ThreadPool& pool) {
  const int64_t n = shape[0], k = shape[1];
  std::vector<Difference> rows(static_cast<size_t>(n));
  const int64_t together = std::lcm(ours.rows_together(), theirs.rows_together());
  const auto compare = [&](int64_t begin, int64_t end) -> absl::Status {
    const size_t width = static_cast<size_t>(k), count = static_cast<size_t>(end - begin);
    SF_ASSIGN_OR_RETURN(const auto x, ReadBlock(ours, begin, end, k));
    SF_ASSIGN_OR_RETURN(const auto y, ReadBlock(theirs, begin, end, k));
    for (size_t i = 0; i < count; ++i) {
      rows[static_cast<size_t>(begin) + i] = Compare(x.get() + i * width, y.get() + i * width, width);
    }
    return absl::OkStatus();
  };
  SF_RETURN_IF_ERROR(ForRowBlocks(pool, n, k, together, compare));
  Difference sum;
  for (const Difference& row : rows) sum += row;
  return sum;
}

absl::StatusOr<Difference> CompareWeight(const ExportSource& source, const WrittenWeights& written, size_t i,
                                         ThreadPool& pool) {
  const ExportWeight& w = source.weights()[i];
  if (w.shape.size() == 2) {
    SF_ASSIGN_OR_RETURN(const std::unique_ptr<WeightRows> ours, source.OpenRows(w));
    SF_ASSIGN_OR_RETURN(const std::unique_ptr<WeightRows> theirs, written.rows(i));
    return CompareMatrix(*ours, *theirs, w.shape, pool);
  }
  SF_ASSIGN_OR_RETURN(const Tensor ours, source.ReadWeight(w));
  SF_ASSIGN_OR_RETURN(const Tensor theirs, written.vector(i));
  return Compare(ours.as<float>().data(), theirs.as<float>().data(),
                 static_cast<size_t>(ours.num_elements()));
}

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

double RelativeError(absl::Span<const float> ours, absl::Span<const float> theirs) {
  return Compare(ours.data(), theirs.data(), ours.size()).relative();
}

WrittenWeights ReadWith(const CheckpointReader& reader, const ExportSource& source) {
  const auto name = [&source](size_t i) { return source.weights()[i].weight_name(); };
  return {.rows = [&reader, name](size_t i) { return reader.OpenRows(name(i)); },
          .vector = [&reader, name](size_t i) { return reader.ReadF32(name(i)); },
          .limit = [](size_t) { return kExportTolerance; },
          .type = ""};
}

absl::Status CompareWithSource(const ExportSource& source, const WrittenWeights& written, ThreadPool& pool,
                               const Progress& progress, ExportReport& report) {
  const size_t total = source.weights().size();
  for (size_t i = 0; i < total; ++i) {
    if (!Report(progress, "reading back", static_cast<int64_t>(i), static_cast<int64_t>(total))) {
      return absl::CancelledError("export: interrupted");
    }
    const ExportWeight& w = source.weights()[i];
    const absl::StatusOr<Difference> difference = CompareWeight(source, written, i, pool);
    if (!difference.ok() && !IsNotFinite(difference.status())) return difference.status();
    ExportedTensor& t = report.tensors[i];
    // Readers take no values that are not finite.
    t.error = difference.ok() ? difference->relative() : std::numeric_limits<double>::infinity();
    if (t.error <= written.limit(i)) continue;
    return absl::UnimplementedError(absl::StrCat(w.weight_name(), " as ", t.to, " differs by ", t.error,
                                                 " of its size; its values do not fit ", written.type));
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
