#include "apps/spikefold/context.h"

#include "absl/strings/str_cat.h"
#include "apps/spikefold/interrupt.h"
#include "apps/spikefold/machine.h"
#include "apps/spikefold/text.h"
#include "formats/base/json.h"
#include "formats/base/status.h"
#include "formats/quantized/quant_format.h"
#include "formats/tokenizer/checked_tokenizer.h"
#include "kernels/cpu/cpu_features.h"

namespace spikefold {
namespace {

// Bytes of a tensor's values in memory.
uint64_t ValueBytes(const StoredTensor& tensor, bool simulate) {
  const auto format =
      ParseWeightFormat(absl::string_view(tensor.stored_type).substr(0, 3));  // "s8c", "s4g64"
  const uint64_t values = static_cast<uint64_t>(NumElements(tensor.shape));
  if (simulate || !format.ok()) return sizeof(float) * values;
  return format->trellis ? values : tensor.bytes;  // trellis codes run as INT8
}

absl::Status CheckMemory(const CheckpointReader& reader, bool simulate) {
  const uint64_t need = WeightMemory(reader, simulate), have = ReadMachine().memory_available;
  if (have == 0 || need <= have) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(Printable(reader.path()), ": its weights need ",
                                                   BytesText(need), " of memory; ", BytesText(have),
                                                   " are available; use a smaller model or more memory"));
}

}  // namespace

ThreadPool& Context::pool() {
  if (pool_ == nullptr) pool_ = std::make_unique<ThreadPool>(num_threads_);
  return *pool_;
}

absl::Status Context::CalibrateOn(const std::string& backend) {
  if (BackendOf(backend) != Backend::kCuda) return absl::OkStatus();
  SF_ASSIGN_OR_RETURN(device_, MakeCudaOps(nullptr));
  return absl::OkStatus();
}

std::string Context::FloatArithmetic() const {
  const char* const level = kernels::ActiveIsa() >= kernels::Isa::kAvx2 ? "fused" : "plain";
  return device_ == nullptr ? level : absl::StrCat("cuda ", device_->device(), " ", level);
}

uint64_t WeightMemory(const CheckpointReader& reader, bool simulate) {
  uint64_t bytes = 0;
  for (const StoredTensor& tensor : reader.tensors()) bytes += ValueBytes(tensor, simulate);
  return bytes;
}

absl::StatusOr<std::unique_ptr<CheckpointReader>> OpenReader(Context& context, const std::string& path) {
  SF_ASSIGN_OR_RETURN(auto reader, CheckpointReader::Open(path));
  reader->WatchHashing([](absl::string_view, int64_t, int64_t) { return !Interrupted(); });
  for (const std::string& warning : reader->warnings()) context.console.Warn(Printable(warning, 2000));
  return reader;
}

absl::StatusOr<std::unique_ptr<CheckpointReader>> OpenFloatReader(Context& context, const std::string& path) {
  SF_ASSIGN_OR_RETURN(auto reader, OpenReader(context, path));
  if (reader->kind() != CheckpointKind::kNative) return reader;
  return absl::InvalidArgumentError(
      absl::StrCat(Printable(path, 1024), ": is quantized already; give the float model it came from"));
}

absl::StatusOr<OpenedModel> OpenFloatModel(Context& context, const std::string& path) {
  SF_ASSIGN_OR_RETURN(auto reader, OpenFloatReader(context, path));
  return OpenModel(context, std::move(reader), {.backend = context.calibration_backend()});
}

Backend BackendOf(const std::string& name) { return name == "cuda" ? Backend::kCuda : Backend::kCpu; }

absl::StatusOr<OpenedModel> OpenModel(Context& context, const std::string& path, const OpenOptions& options) {
  SF_ASSIGN_OR_RETURN(auto reader, OpenReader(context, path));
  return OpenModel(context, std::move(reader), options);
}

absl::StatusOr<OpenedModel> OpenModel(Context& context, std::shared_ptr<CheckpointReader> reader,
                                      const OpenOptions& options) {
  OpenedModel opened = {.reader = std::move(reader), .tokenizer = nullptr, .model = nullptr};
  if (options.backend == Backend::kCpu) SF_RETURN_IF_ERROR(CheckMemory(*opened.reader, options.simulate));
  if (options.tokenizer) {
    SF_ASSIGN_OR_RETURN(opened.tokenizer, opened.reader->LoadTokenizer());
  }
  SF_ASSIGN_OR_RETURN(opened.model, LoadModel(*opened.reader, {.pool = &context.pool(),
                                                               .backend = options.backend,
                                                               .simulate = options.simulate,
                                                               .progress = context.console.progress()}));
  context.console.EndProgress();
  if (opened.tokenizer != nullptr) {
    opened.tokenizer = CheckedTokenizer(std::move(opened.tokenizer), opened.model->graph().config.vocab,
                                        opened.reader->path());
  }
  return opened;
}

}  // namespace spikefold
