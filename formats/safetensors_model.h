// The tensors of a model directory: model.safetensors, or shards with model.safetensors.index.json.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "formats/safetensors.h"

namespace spikefold {

class SafetensorsModel {
 public:
  // Headers only. NotFound: no such directory, or it holds no safetensors. DataLoss: a file is corrupt or not
  // a regular file inside the directory, the index names an absent shard, an absent tensor or one that lies
  // in two shards.
  static absl::StatusOr<std::unique_ptr<SafetensorsModel>> Open(const std::string& directory);

  // All tensors, shard by shard in order of the shards' names, each in order of offset. Pointers stay valid.
  const std::vector<const SafetensorsEntry*>& entries() const { return entries_; }
  const SafetensorsEntry* Find(absl::string_view name) const;  // nullptr: none
  absl::StatusOr<Tensor> Read(absl::string_view name) const;   // NotFound
  // Rows [begin, end) of a matrix, which has them.
  absl::StatusOr<Tensor> ReadRows(absl::string_view name, int64_t begin, int64_t end) const;
  // Base names of the files read, sorted; the index is not among them.
  const std::vector<std::string>& file_names() const { return file_names_; }
  uint64_t file_bytes() const;  // of all safetensors files
  // What is odd but harmless: a wrong total_size, tensors that the index does not map (they are left out).
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  SafetensorsModel() = default;
  absl::Status AddFile(const std::string& directory, const std::string& name);
  absl::Status ReadIndex(const std::string& directory);
  void AddEntry(size_t file, const SafetensorsEntry& entry);

  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::vector<std::string> file_names_;
  std::vector<const SafetensorsEntry*> entries_;
  absl::flat_hash_map<absl::string_view, std::pair<size_t, const SafetensorsEntry*>> index_;
  std::vector<std::string> warnings_;
};

// Writes model.safetensors into a directory, or model-00001-of-0000N.safetensors and their index when the
// tensors take more than max_shard_bytes (0: never). A tensor is never split; shards fill in declared order.
class SafetensorsModelWriter {
 public:
  static absl::StatusOr<std::unique_ptr<SafetensorsModelWriter>> Create(
      const std::string& directory, std::vector<SafetensorsWriter::Spec> specs, uint64_t max_shard_bytes);
  static absl::StatusOr<std::unique_ptr<SafetensorsModelWriter>> Reopen(
      const std::string& directory, std::vector<SafetensorsWriter::Spec> specs, uint64_t max_shard_bytes);
  // As SafetensorsWriter.
  absl::Status Write(absl::string_view name, const TensorView& tensor);
  absl::Status WriteRows(absl::string_view name, int64_t begin, const TensorView& rows);
  absl::StatusOr<Tensor> ReadBack(absl::string_view name);
  void MarkWritten(absl::string_view name);
  absl::Status Sync();
  void Keep();
  absl::Status Finish();
  const std::vector<std::string>& file_names() const { return file_names_; }  // the index included
  uint64_t file_bytes() const;                                                // of the safetensors files

 private:
  SafetensorsModelWriter() = default;
  absl::StatusOr<SafetensorsWriter*> ShardOf(absl::string_view name) const;
  absl::Status Declare(const std::string& directory, std::vector<SafetensorsWriter::Spec> specs,
                       uint64_t max_shard_bytes, bool reopen);
  std::string directory_;
  uint64_t total_bytes_ = 0;
  std::vector<std::unique_ptr<SafetensorsWriter>> shards_;
  std::vector<std::string> file_names_;
  absl::flat_hash_map<std::string, size_t> shard_of_;
};

}  // namespace spikefold
