#include "absl/strings/str_cat.h"
#include "kernels/runtime/loaded_model.h"

namespace spikefold {

absl::Status LoadedModel::LoadNative(const CheckpointReader& reader, bool, const Progress&) {
  return absl::UnimplementedError(
      absl::StrCat(reader.path(), ": natively quantized models are not loaded yet"));
}

}  // namespace spikefold
