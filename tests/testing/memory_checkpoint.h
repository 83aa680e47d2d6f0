// A CheckpointReader over tensors in memory, and a tokenizer whose tokens are the words "t0", "t1", ...
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/families/family.h"

namespace spikefold::testing {

// "t3 t14 t15" <-> {3, 14, 15}; any other word is token 0.
class WordTokenizer : public Tokenizer {
 public:
  explicit WordTokenizer(int64_t vocab, int32_t bos = -1) : vocab_(vocab), bos_(bos) {}
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                              const EncodeOptions& options = {}) const override;
  std::string Decode(absl::Span<const int32_t> ids, bool skip_special = false) const override;
  int64_t vocab_size() const override { return vocab_; }
  std::string TokenText(int32_t id) const override;
  int32_t bos_id() const override { return bos_; }
  int32_t eos_id() const override { return -1; }
  bool add_bos() const override { return false; }
  bool is_special(int32_t id) const override { return id >= 0 && id == bos_; }
  std::string fingerprint() const override { return "words"; }

 private:
  int64_t vocab_;
  int32_t bos_;
};

class MemoryCheckpoint : public CheckpointReader {
 public:
  explicit MemoryCheckpoint(ModelGraph graph)
      : graph_(std::move(graph)), config_json_(ConfigToJson(graph_.config)) {}
  void Add(const std::string& name, Tensor tensor);
  Tensor& tensor(absl::string_view name);  // to edit; must exist

  CheckpointKind kind() const override { return CheckpointKind::kSafetensors; }
  const std::string& path() const override { return path_; }
  const ModelGraph& graph() const override { return graph_; }
  const std::vector<StoredTensor>& tensors() const override { return stored_; }
  const StoredTensor* Find(absl::string_view name) const override;
  absl::StatusOr<Tensor> ReadF32(absl::string_view name) const override;
  absl::StatusOr<Tensor> ReadRaw(absl::string_view name) const override { return ReadF32(name); }
  absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer() const override;
  const Json& config_json() const override { return config_json_; }
  absl::StatusOr<std::vector<SideFile>> SideFiles() const override { return std::vector<SideFile>(); }
  absl::StatusOr<std::string> Fingerprint() const override;
  uint64_t file_bytes() const override;

 private:
  int IndexOf(absl::string_view name) const;  // -1: none
  std::string path_ = "memory";
  ModelGraph graph_;
  Json config_json_;
  std::vector<StoredTensor> stored_;
  std::vector<Tensor> tensors_;
};

}  // namespace spikefold::testing
