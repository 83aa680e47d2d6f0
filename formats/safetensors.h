// safetensors: reader (single file) and streaming writer, byte-identical to the reference writer's order and
// padding.
//
// Reader: header <= 100,000,000 bytes; entries must tile the data area exactly (no overlap, hole or trailing
// byte); duplicate tensor names and keys are refused, as are names with control characters or above 4096
// bytes; every error is DataLoss with file and reason. Dtypes of the format that Spikefold does not read
// (F8_E4M3, C64 ...): Unimplemented.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "formats/base/dtype.h"
#include "formats/base/file.h"
#include "formats/tensor.h"

namespace spikefold {

struct SafetensorsEntry {
  std::string name;
  DType dtype;
  Shape shape;
  uint64_t offset = 0;  // absolute in the file
  uint64_t bytes = 0;
};

class SafetensorsFile {
 public:
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> FromSource(std::unique_ptr<ByteSource> source);
  const std::string& name() const { return source_->name(); }
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }  // order of offset
  const SafetensorsEntry* Find(absl::string_view name) const;
  const std::vector<std::pair<std::string, std::string>>& metadata() const { return metadata_; }
  const std::vector<std::string>& warnings() const { return warnings_; }  // unknown keys of entries
  absl::StatusOr<Tensor> Read(const SafetensorsEntry& entry) const;
  // Rows [begin, end) of a matrix, which has them.
  absl::StatusOr<Tensor> ReadRows(const SafetensorsEntry& entry, int64_t begin, int64_t end) const;
  uint64_t file_bytes() const { return source_->size(); }

 private:
  SafetensorsFile() = default;
  std::unique_ptr<ByteSource> source_;
  std::vector<SafetensorsEntry> entries_;
  std::vector<std::pair<std::string, std::string>> metadata_;
  std::vector<std::string> warnings_;
  absl::flat_hash_map<std::string, int> index_;
};

// Writes one file. All names, dtypes and shapes are declared first (the header comes first in the file); then
// the data may come in any order. In the file: dtype rank descending, then name, as the reference writer
// does.
class SafetensorsWriter {
 public:
  struct Spec {
    std::string name;
    DType dtype;
    Shape shape;
  };
  // Reserves the whole file, or in a sparse one nothing: tensors that are only marked as written are zeros
  // then and take no room. InvalidArgument: a name twice, a bad name or shape, a header above the limit.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(
      const std::string& path, std::vector<Spec> specs,
      const std::vector<std::pair<std::string, std::string>>& metadata = {{"format", "pt"}},
      FileSpace space = FileSpace::kReserved);
  // Goes on in the file that Create() with the same arguments made and nobody finished. No tensor counts as
  // written. DataLoss: the file has another size or header.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Reopen(const std::string& path,
                                                                   std::vector<Spec> specs);
  virtual ~SafetensorsWriter() = default;
  // InvalidArgument if name, dtype or shape was not declared, or it was written before.
  virtual absl::Status Write(absl::string_view name, const TensorView& tensor) = 0;
  // Rows of a matrix from row `begin` on, each to be written once. Threads may call it at once.
  virtual absl::Status WriteRows(absl::string_view name, int64_t begin, const TensorView& rows) = 0;
  // Reopened and sparse files: what is in the place of a tensor, and that it is what should be there.
  virtual absl::StatusOr<Tensor> ReadBack(absl::string_view name) = 0;
  virtual void MarkWritten(absl::string_view name) = 0;
  virtual absl::Status Sync() = 0;  // what was written survives a loss of power
  virtual void Keep() = 0;          // destruction without Finish() leaves the file for Reopen()
  // All declared tensors must have been written (else InvalidArgument). fsyncs. Destruction without it
  // removes the file.
  virtual absl::Status Finish() = 0;
  virtual uint64_t file_bytes() const = 0;
};
// The exact size of the file that SafetensorsWriter would make.
uint64_t SafetensorsFileBytes(const std::vector<SafetensorsWriter::Spec>& specs,
                              const std::vector<std::pair<std::string, std::string>>& metadata = {
                                  {"format", "pt"}});

}  // namespace spikefold
