#include "apps/spikefold/verify_command.h"

#include "absl/strings/str_cat.h"
#include "apps/spikefold/text.h"
#include "formats/base/file.h"
#include "formats/base/status.h"
#include "formats/checkpoint.h"
#include "formats/quantized/input_form.h"
#include "formats/quantized/native.h"

namespace spikefold {

absl::Status RunVerify(const VerifyCommandOptions& options, Context& context) {
  const std::string& path = options.model;
  if (!PathExists(path)) {
    return absl::NotFoundError(absl::StrCat(Printable(path, 1024), ": no such file or directory"));
  }
  // By its sidecar or manifest as well: config.json may be what is damaged.
  const bool ours = IsNativeCheckpoint(path) || PathExists(JoinPath(path, "spikefold.json")) ||
                    PathExists(JoinPath(path, "manifest.json"));
  if (!ours) {
    return absl::InvalidArgumentError(
        absl::StrCat(Printable(path, 1024),
                     ": is not a directory that `spikefold quantize` wrote; only those can be verified"));
  }
  SF_ASSIGN_OR_RETURN(const auto reader, NativeReader::Open(path));
  const auto model = CheckpointReader::Open(path);
  if (!model.ok()) {
    SF_RETURN_IF_ERROR(NativeVerify(path, context.console.progress()));  // may say which file it comes from
    return model.status();
  }
  InputForms inputs((*model)->graph());
  SF_RETURN_IF_ERROR(NativeVerify(path, context.console.progress(), [&](const QuantizedLinear& linear) {
    return linear.format.is_float() ? absl::OkStatus() : inputs.Add(InputFormOf(linear));
  }));
  Console& console = context.console;
  const NativeInfo& info = reader->info();
  if (console.json()) {
    return console.PrintJson(NewDocument("verify")
                                 .Set("path", path)
                                 .Set("verified", true)
                                 .Set("linears", static_cast<int64_t>(info.linears.size()))
                                 .Set("file_bytes", info.file_bytes));
  }
  console.Print(absl::StrCat(Printable(path, 1024), ": ", console.Good("verified"), ", ", info.linears.size(),
                             " linears in ", BytesText(info.file_bytes),
                             ": every file, tensor and rule is as written\n"));
  return console.Flush();
}

}  // namespace spikefold
