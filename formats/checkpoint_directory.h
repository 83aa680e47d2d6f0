// What float and native directories share: tokenizer, side files, plain safetensors tensors. Included by
// checkpoint*.cc only.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "formats/checkpoint_base.h"
#include "formats/safetensors.h"

namespace spikefold {

class DirectoryCheckpoint : public CheckpointBase {
 public:
  absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer() const override;
  absl::StatusOr<std::vector<SideFile>> SideFiles() const override;
  const std::vector<std::string>& warnings() const override { return warnings_; }
  // Through ReadRaw(), or ReadRawRows() where ReadsRows().
  absl::StatusOr<Tensor> ReadF32(absl::string_view name) const override;
  absl::Status ReadF32Rows(absl::string_view name, int64_t begin, int64_t end, float* out) const override;

 protected:
  using CheckpointBase::CheckpointBase;
  // Rows of a matrix as stored; of those that ReadsRows() names.
  virtual absl::StatusOr<Tensor> ReadRawRows(absl::string_view name, int64_t begin, int64_t end) const = 0;
  bool IsMatrix(absl::string_view name) const;
  absl::Status SetConfig(Json config_json);  // and the graph that it describes
  // Under another name than it is stored by, unless that is empty.
  void AddEntry(const SafetensorsEntry& entry, absl::string_view name = "");
  void AddWeightFiles(const std::vector<std::string>& names);
  // For SideFiles(). What has the name of one and is none (a directory, a link to elsewhere) is warned of.
  absl::Status FindSideFiles();
  // A head in the file of a tied model must be the embedding: transformers 4 takes the embedding whatever the
  // file says, transformers 5 a head that differs. A few rows tell a head that was trained apart. DataLoss.
  absl::Status CheckTiedHead(const SafetensorsEntry& head) const;
  absl::Status Missing(const ModelGraph::TensorSpec& spec) const;    // DataLoss
  absl::Status NotFloat(absl::string_view name, DType dtype) const;  // DataLoss

  std::vector<std::string> warnings_;

 private:
  std::vector<std::string> side_files_;
};

absl::StatusOr<std::unique_ptr<CheckpointReader>> OpenNativeCheckpoint(const std::string& path);
// `config_json` has a quantization_config.
absl::StatusOr<std::unique_ptr<CheckpointReader>> OpenForeignCheckpoint(const std::string& path,
                                                                        Json config_json);

}  // namespace spikefold
