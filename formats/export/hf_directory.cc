#include "formats/export/hf_directory.h"

#include "formats/base/file.h"
#include "formats/base/status.h"

namespace spikefold {

Json ConfigWithType(const ExportSource& source, const char* type) {
  Json config = source.reader().config_json();
  config.Erase("quantization_config");
  config.Set("torch_dtype", type);
  if (config.Find("dtype") != nullptr) config.Set("dtype", type);
  return config;
}

absl::Status WriteConfigAndSideFiles(const ExportSource& source, const Json& config, const std::string& path,
                                     ExportReport& report) {
  SF_RETURN_IF_ERROR(WriteFileAtomically(JoinPath(path, "config.json"), config.Dump(2) + "\n"));
  SF_ASSIGN_OR_RETURN(const auto files, source.reader().SideFiles());
  bool json = false;
  for (const auto& file : files) {
    json = json || file.name == "tokenizer.json";
    SF_RETURN_IF_ERROR(WriteFileAtomically(JoinPath(path, file.name), file.bytes));
  }
  if (!json) {
    report.losses.push_back({.what = "tokenizer",
                             .detail =
                                 "the model came as GGUF, so there is no tokenizer.json; copy the one of the "
                                 "original model for engines that need it"});
  }
  return absl::OkStatus();
}

}  // namespace spikefold
