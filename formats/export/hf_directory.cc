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

absl::Status WriteFloats(const ExportSource& source, const ExportWeight& weight, DType dtype,
                         ThreadPool& pool, SafetensorsModelWriter& tensors) {
  const std::string name = weight.weight_name();
  if (weight.shape.size() != 2) {
    SF_ASSIGN_OR_RETURN(const Tensor values, source.ReadWeight(weight));
    return tensors.Write(name, RoundTo(dtype, values.view()).view());
  }
  SF_ASSIGN_OR_RETURN(const std::unique_ptr<WeightRows> rows, source.OpenRows(weight));
  const int64_t n = weight.shape[0], k = weight.shape[1];
  const auto write = [&](int64_t begin, int64_t end) -> absl::Status {
    SF_ASSIGN_OR_RETURN(const auto values, ReadBlock(*rows, begin, end, k));
    const TensorView view{DType::kF32, {end - begin, k}, values.get()};
    return tensors.WriteRows(name, begin, RoundTo(dtype, view).view());
  };
  return ForRowBlocks(pool, n, k, rows->rows_together(), write);
}

}  // namespace spikefold
