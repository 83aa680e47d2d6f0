#include "apps/spikefold/gguf_rounding.h"

#include "absl/strings/str_cat.h"
#include "apps/spikefold/text.h"
#include "formats/base/status.h"
#include "formats/families/gguf_names.h"
#include "formats/ggml_scales.h"
#include "formats/gguf.h"
#include "formats/gguf_encode.h"
#include "quant/block_rounding.h"

namespace spikefold {
namespace {

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

absl::StatusOr<GgufRounding> RoundForGguf(const ExportModel& model, const ExportCommandOptions& options,
                                          std::optional<GgmlType> type, Context& context) {
  GgufRounding out;
  if (model.base->kind() == CheckpointKind::kNative) return out;
  if (!options.like.empty()) SF_RETURN_IF_ERROR(ReadTypes(options.like, *model.source, out));
  std::map<std::string, GgmlType> types;  // that are rounded here
  const GgufExportOptions decide{.type = type, .types = out.types};
  for (const ExportWeight& w : model.source->weights()) {
    if (w.shape.size() == 1) continue;
    const GgmlType decided = DecideGguf(w, decide).type;
    const bool here = FindGgmlScaleLayout(decided) != nullptr && (model.scan || !CanEncode(decided));
    if (here) types[w.node.module] = decided;
  }
  if (types.empty()) return out;
  SF_ASSIGN_OR_RETURN(out.blocks, RoundToBlocks(model.model(), types,
                                                {.pool = &context.pool(),
                                                 .stats = model.scan ? &model.scan->stats : nullptr,
                                                 .progress = context.console.progress()}));
  context.console.EndProgress();
  return out;
}

}  // namespace spikefold
