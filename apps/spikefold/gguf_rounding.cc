#include "apps/spikefold/gguf_rounding.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "apps/spikefold/scan_files.h"
#include "apps/spikefold/text.h"
#include "formats/base/status.h"
#include "formats/families/gguf_names.h"
#include "formats/ggml_scales.h"
#include "formats/gguf.h"
#include "formats/gguf_encode.h"
#include "quant/block_rounding.h"
#include "quant/recipe.h"

namespace spikefold {
namespace {

absl::Status Rotate(const std::string& words, uint64_t seed, ThreadPool& pool, GgufRounding& out) {
  SF_ASSIGN_OR_RETURN(const RotationChoice choice, ParseRotations(words));
  if (choice.r3 || choice.r4) {
    return absl::InvalidArgumentError(
        absl::StrCat("--rotate ", words,
                     ": R3 and R4 turn values while the model runs, which GGUF cannot say; use offline"));
  }
  if (!choice.any()) return absl::OkStatus();
  FoldOptions folds;
  folds.rotate_residual = choice.r1;
  folds.rotate_values = choice.r2;
  folds.seed = seed;
  SF_ASSIGN_OR_RETURN(out.folded, FoldCheckpoint(*out.base, folds, &pool));
  if (out.folded->refused().empty()) return absl::OkStatus();
  const RefusedFold& refused = out.folded->refused().front();
  return absl::UnimplementedError(
      absl::StrCat("--rotate ", words, ": ", refused.fold, ": ", refused.reason, "; leave it out"));
}

// The types that another file of the same model gives its tensors.
absl::Status ReadTypes(const std::string& path, const ExportSource& source, GgufRounding& out) {
  SF_ASSIGN_OR_RETURN(const auto file, GgufFile::Open(path));
  for (const ExportWeight& w : source.weights()) {
    if (w.shape.size() == 1) continue;
    const GgufTensor* t = file->FindTensor(GgufModule(w.node) + ".weight");
    const bool untied = w.node.role == Role::kHead;  // by a rotation: as the embedding, which was it
    if (t == nullptr && untied) t = file->FindTensor("token_embd.weight");
    if (t == nullptr || t->shape != w.shape) {
      return absl::InvalidArgumentError(absl::StrCat("--like ", Printable(path, 1024), ": has no ",
                                                     GgufModule(w.node), ".weight ", ShapeString(w.shape),
                                                     "; give a file of this model"));
    }
    if (!CanEncode(t->type) && FindGgmlScaleLayout(t->type) == nullptr) {
      return absl::UnimplementedError(
          absl::StrCat("--like ", Printable(path, 1024), ": ", t->name, " is ",
                       GgmlTypeName(static_cast<uint32_t>(t->type)),
                       ", which is read but not written; give a file without it, or use --type q4_k"));
    }
    out.types[w.node.module] = t->type;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GgufRounding> RoundForGguf(const ExportCommandOptions& options, std::optional<GgmlType> type,
                                          Context& context) {
  GgufRounding out;
  SF_ASSIGN_OR_RETURN(out.base, CheckpointReader::Open(options.model));
  const bool rounds = !options.scan.empty() || !options.rotate.empty() || !options.like.empty();
  if (out.base->kind() == CheckpointKind::kNative) {
    if (rounds) {
      return absl::InvalidArgumentError(absl::StrCat(
          Printable(options.model, 1024),
          ": is quantized, its codes are copied; --scan, --rotate and --like are for float models"));
    }
    SF_ASSIGN_OR_RETURN(out.source, ExportSource::Open(options.model));
    return out;
  }
  if (!options.rotate.empty()) {
    SF_RETURN_IF_ERROR(Rotate(options.rotate, context.seed, context.pool(), out));
  }
  const CheckpointReader& model = out.folded == nullptr ? *out.base : *out.folded;
  out.source = ExportSource::Of(model);
  if (!options.like.empty()) SF_RETURN_IF_ERROR(ReadTypes(options.like, *out.source, out));
  std::optional<LoadedScan> scan;
  if (!options.scan.empty()) {
    SF_ASSIGN_OR_RETURN(scan, LoadScan(options.scan, out.base->graph()));
    SF_ASSIGN_OR_RETURN(const std::string fingerprint, out.base->Fingerprint());
    if (scan->stats.model_fingerprint != fingerprint) {
      return absl::InvalidArgumentError(absl::StrCat("the scan is of model ", scan->stats.model_fingerprint,
                                                     ", this is model ", fingerprint, "; scan this model"));
    }
  }
  std::map<std::string, GgmlType> types;  // that are rounded here
  const GgufExportOptions decide{.type = type, .types = out.types};
  for (const ExportWeight& w : out.source->weights()) {
    if (w.shape.size() == 1) continue;
    const GgmlType decided = DecideGguf(w, decide).type;
    const bool here = FindGgmlScaleLayout(decided) != nullptr && (scan || !CanEncode(decided));
    if (here) types[w.node.module] = decided;
  }
  if (types.empty()) return out;
  SF_ASSIGN_OR_RETURN(out.blocks, RoundToBlocks(model, types,
                                                {.pool = &context.pool(),
                                                 .stats = scan ? &scan->stats : nullptr,
                                                 .progress = context.console.progress()}));
  context.console.EndProgress();
  return out;
}

}  // namespace spikefold
