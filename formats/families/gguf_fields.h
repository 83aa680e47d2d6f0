// Reading GGUF metadata into a ModelConfig: typed keys with defaults, and what all families share.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "formats/gguf.h"
#include "formats/model_config.h"

namespace spikefold {

// Looks up "<arch>.<key>" and remembers the first error. An array with equal elements counts as one number
// (some converters write per-layer values).
class GgufFields {
 public:
  GgufFields(const GgufFile& file, std::string arch) : file_(file), arch_(std::move(arch)) {}

  const GgufValue* Get(absl::string_view key) const;
  int64_t Int(absl::string_view key);  // required
  int64_t Int(absl::string_view key, int64_t fallback);
  double Number(absl::string_view key, double fallback);
  std::string Text(absl::string_view key, absl::string_view fallback);

  void Fail(absl::Status status);
  void Unsupported(absl::string_view what);
  void Contradiction(absl::string_view what);
  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }
  const GgufFile& file() const { return file_; }
  const std::string& arch() const { return arch_; }

 private:
  const GgufFile& file_;
  std::string arch_;
  absl::Status status_;
};

// Sizes, norm, token ids, rope (with rope_freqs.weight turned back into llama3 parameters), biases and tying
// from the tensors that are there. Refuses every "<arch>." key that it does not know.
ModelConfig CommonFromGguf(GgufFields& fields, const char* family, const char* architecture);

// The llama3 parameters behind a list of per-pair frequency divisors [head_dim / 2] such as converters write
// for Llama 3.1 (transformers _compute_llama3_parameters). Unimplemented if no such parameters reproduce it.
absl::StatusOr<RopeConfig> RopeFromFactors(absl::Span<const float> factors, double theta,
                                           absl::string_view where);

}  // namespace spikefold
