// What the readers of all kinds of checkpoints share. Included by checkpoint*.cc only.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "formats/checkpoint.h"

namespace spikefold {

class CheckpointBase : public CheckpointReader {
 public:
  const std::string& path() const override { return path_; }
  const ModelGraph& graph() const override { return graph_; }
  const std::vector<StoredTensor>& tensors() const override { return tensors_; }
  const StoredTensor* Find(absl::string_view name) const override;
  const Json& config_json() const override { return config_json_; }
  absl::StatusOr<std::string> Fingerprint() const override;
  void WatchHashing(Progress progress) override { hashing_ = std::move(progress); }
  uint64_t file_bytes() const override { return file_bytes_; }

 protected:
  explicit CheckpointBase(std::string path) : path_(std::move(path)) {}
  void AddTensor(StoredTensor tensor);
  // Of rows of a matrix; not finite, they give the error of the whole, which is read for it once.
  absl::Status CheckFiniteRows(absl::Span<const float> rows, absl::string_view name) const;
  absl::Status NoSuchTensor(absl::string_view name) const;  // NotFound, with a suggestion
  // Basenames and full paths of the files that hold the weights, in a fixed order.
  struct WeightFile {
    std::string name, path;
  };

  std::string path_;
  ModelGraph graph_;
  Json config_json_;
  std::vector<WeightFile> weight_files_;
  std::string meaning_;  // what the model is beside the weights' bytes, where their files do not say it
  uint64_t file_bytes_ = 0;

 private:
  std::vector<StoredTensor> tensors_;
  absl::flat_hash_map<std::string, int> index_;
  Progress hashing_;
  mutable std::mutex fingerprint_mutex_;
  mutable std::string fingerprint_;
  mutable std::mutex not_finite_mutex_;
  mutable absl::flat_hash_map<std::string, absl::Status> not_finite_;  // by tensor; guarded
};

// DataLoss "<where>: <tensor>: 2 of 1024 values are not finite, the first is nan at index 17; ..." .
absl::Status CheckFinite(absl::Span<const float> values, absl::string_view where, absl::string_view tensor);
// InvalidArgument unless [begin, end) are rows of a matrix of that shape.
absl::Status CheckRows(const Shape& shape, int64_t begin, int64_t end, absl::string_view where,
                       absl::string_view tensor);
// DataLoss with both shapes unless equal.
absl::Status CheckShape(const Shape& stored, const Shape& needed, absl::string_view where,
                        absl::string_view tensor);

absl::StatusOr<std::unique_ptr<CheckpointReader>> OpenGgufCheckpoint(const std::string& path);
absl::StatusOr<std::unique_ptr<CheckpointReader>> OpenDirectoryCheckpoint(const std::string& path);

}  // namespace spikefold
