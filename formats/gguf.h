// GGUF version 3 (ggml): metadata, tensor table and dequantized tensors. Hardened: every count is checked
// against the bytes left.
//
//   SF_ASSIGN_OR_RETURN(auto file, GgufFile::Open("model.gguf"));
//   file->Find("general.architecture")        // typed metadata, nullptr if absent
//   file->tensors()                           // name, shape (outermost first, as in HF), block type, offset
//   file->ReadF32(tensor, &out)               // decodes to float32 through gguf_blocks
//
// DataLoss for a malformed file, Unimplemented for a well-formed one with a block type that is not decoded
// here or another version. Stricter than ggml: data must tile the data area (no gap, overlap or trailing
// byte), dimensions are at least 1, and an array has at most kMaxGgufArray elements.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "formats/base/file.h"
#include "formats/gguf_blocks.h"
#include "formats/tensor.h"

namespace spikefold {

inline constexpr uint64_t kMaxGgufArray = uint64_t{1} << 24;  // vocabularies reach 2^18, merges 2^19

// A metadata value. Integers of any width become int64 (u64 above its range: DataLoss where it is used as a
// size).
struct GgufValue {
  using Strings = std::vector<std::string>;
  std::variant<bool, int64_t, uint64_t, double, std::string, std::vector<int64_t>, std::vector<double>,
               std::vector<bool>, Strings>
      v;
};

struct GgufTensor {
  std::string name;
  Shape shape;  // outermost first: [N, K]; ggml's ne reversed
  GgmlType type;
  uint64_t offset = 0;  // absolute in the file
  uint64_t bytes = 0;
};

class GgufFile {
 public:
  static absl::StatusOr<std::unique_ptr<GgufFile>> Open(const std::string& path);
  static absl::StatusOr<std::unique_ptr<GgufFile>> FromSource(std::unique_ptr<ByteSource> source);

  const std::string& name() const { return source_->name(); }
  const GgufValue* Find(absl::string_view key) const;
  // Typed lookups; DataLoss naming file and key if absent or of another type.
  absl::StatusOr<int64_t> GetInt(absl::string_view key) const;
  absl::StatusOr<double> GetDouble(absl::string_view key) const;  // any number
  absl::StatusOr<std::string> GetString(absl::string_view key) const;
  absl::StatusOr<bool> GetBool(absl::string_view key) const;
  const std::vector<std::string>& keys() const { return keys_; }  // file order

  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  const GgufTensor* FindTensor(absl::string_view name) const;
  // Decodes a whole tensor to float32 (thread-safe). Values are not checked for NaN or infinity.
  absl::StatusOr<Tensor> ReadF32(const GgufTensor& tensor) const;
  // Rows [begin, end) of a matrix, which has them, into out [end - begin, K].
  absl::Status ReadF32Rows(const GgufTensor& tensor, int64_t begin, int64_t end, float* out) const;
  uint64_t file_bytes() const { return source_->size(); }

  // A GGUF file with the same metadata keys for which keep(key) holds, byte-copied, and no tensors. The
  // native container stores a GGUF model's tokenizer so, without translating it.
  absl::StatusOr<std::string> MetadataOnly(bool (*keep)(absl::string_view key)) const;
  // Only the bytes of those metadata entries, one after the other, and their number.
  struct RawEntries {
    std::string bytes;
    uint64_t count = 0;
  };
  absl::StatusOr<RawEntries> RawMetadata(bool (*keep)(absl::string_view key)) const;

 private:
  friend class GgufParser;
  GgufFile() = default;
  absl::Status Decode(const GgmlTypeInfo& info, uint64_t offset, uint64_t num_blocks, float* out) const;
  struct KeyRange {
    uint64_t begin = 0, end = 0;  // bytes of the whole kv in the file
  };
  std::unique_ptr<ByteSource> source_;
  std::vector<std::string> keys_;
  absl::flat_hash_map<std::string, GgufValue> values_;
  absl::flat_hash_map<std::string, KeyRange> ranges_;
  std::vector<GgufTensor> tensors_;
  absl::flat_hash_map<std::string, int> index_;
};

}  // namespace spikefold
