// Writes GGUF version 3 (ggml): metadata and tensor table first, then the data of each tensor, in any order
// of writing. Metadata is given in the order in which it will stand.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "formats/gguf.h"

namespace spikefold {

// Key-value pairs as they will stand in the file. Create() refuses a key that was added twice.
class GgufMetadata {
 public:
  void AddBool(absl::string_view key, bool value);
  void AddU32(absl::string_view key, uint32_t value);
  void AddF32(absl::string_view key, float value);
  void AddString(absl::string_view key, absl::string_view value);
  void AddStrings(absl::string_view key, const std::vector<std::string>& values);
  void AddI32s(absl::string_view key, absl::Span<const int32_t> values);
  void AddF32s(absl::string_view key, absl::Span<const float> values);
  void AddBools(absl::string_view key, const std::vector<bool>& values);
  // What another file has, byte by byte.
  void AddRaw(const GgufFile::RawEntries& entries);

  uint64_t count() const { return count_; }
  const std::string& bytes() const { return bytes_; }
  const std::string& repeated() const { return repeated_; }  // a key that was added twice, or ""

 private:
  void Key(absl::string_view key, uint32_t type);
  void ArrayKey(absl::string_view key, uint32_t type, uint64_t count);
  template <typename T>
  void Append(T value);
  void AppendString(absl::string_view text);

  std::string bytes_, repeated_;
  uint64_t count_ = 0;
  absl::flat_hash_set<std::string> keys_;
};

class GgufWriter {
 public:
  struct Spec {
    std::string name;
    Shape shape;  // outermost first, as in HF
    GgmlType type;
    uint64_t bytes() const;  // of the data, without padding
  };
  // Reserves the whole file (Unavailable when the disk is full). InvalidArgument: a name or key twice, a name
  // above 63 bytes, a shape that is no whole number of blocks or has more than four dimensions.
  static absl::StatusOr<std::unique_ptr<GgufWriter>> Create(const std::string& path,
                                                            const GgufMetadata& metadata,
                                                            std::vector<Spec> tensors);
  virtual ~GgufWriter() = default;
  // InvalidArgument if it was not declared, was written before or has another number of bytes.
  virtual absl::Status Write(absl::string_view name, absl::string_view blocks) = 0;
  // A part of it from byte `offset` on, each byte to be written once. Threads may call it at once.
  virtual absl::Status WritePart(absl::string_view name, uint64_t offset, absl::string_view blocks) = 0;
  // All declared tensors must have been written (else InvalidArgument). fsyncs. Destruction without it
  // removes the file.
  virtual absl::Status Finish() = 0;
  virtual uint64_t file_bytes() const = 0;
};

}  // namespace spikefold
