#include "tests/testing/memory_checkpoint.h"

#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "formats/base/hash.h"

namespace spikefold::testing {

absl::StatusOr<std::vector<int32_t>> WordTokenizer::Encode(absl::string_view text,
                                                           const EncodeOptions&) const {
  std::vector<int32_t> ids;
  for (const absl::string_view word : absl::StrSplit(text, absl::ByAnyChar(" \n"), absl::SkipEmpty())) {
    int32_t id = 0;
    const bool known = word[0] == 't' && absl::SimpleAtoi(word.substr(1), &id) && id >= 0 && id < vocab_;
    ids.push_back(known ? id : 0);
  }
  return ids;
}

std::string WordTokenizer::Decode(absl::Span<const int32_t> ids, bool skip_special) const {
  std::string text;
  for (const int32_t id : ids) {
    if (skip_special && is_special(id)) continue;
    absl::StrAppend(&text, text.empty() ? "" : " ", TokenText(id));
  }
  return text;
}

std::string WordTokenizer::TokenText(int32_t id) const { return absl::StrCat("t", id); }

void MemoryCheckpoint::Add(const std::string& name, Tensor tensor) {
  stored_.push_back({name, name, "F32", tensor.shape(), static_cast<uint64_t>(tensor.num_bytes())});
  tensors_.push_back(std::move(tensor));
}

int MemoryCheckpoint::IndexOf(absl::string_view name) const {
  for (size_t i = 0; i < stored_.size(); ++i) {
    if (stored_[i].name == name) return static_cast<int>(i);
  }
  return -1;
}

Tensor& MemoryCheckpoint::tensor(absl::string_view name) {
  const int index = IndexOf(name);
  if (index < 0) std::abort();
  return tensors_[static_cast<size_t>(index)];
}

const StoredTensor* MemoryCheckpoint::Find(absl::string_view name) const {
  const int index = IndexOf(name);
  return index < 0 ? nullptr : &stored_[static_cast<size_t>(index)];
}

absl::StatusOr<Tensor> MemoryCheckpoint::ReadF32(absl::string_view name) const {
  const int index = IndexOf(name);
  if (index < 0) return absl::NotFoundError(absl::StrCat("memory: no tensor \"", name, "\""));
  return tensors_[static_cast<size_t>(index)].Clone();
}

absl::StatusOr<std::unique_ptr<Tokenizer>> MemoryCheckpoint::LoadTokenizer() const {
  return std::make_unique<WordTokenizer>(graph_.config.vocab, static_cast<int32_t>(graph_.config.bos_id));
}

absl::StatusOr<std::string> MemoryCheckpoint::Fingerprint() const {
  Sha256 hash;
  for (size_t i = 0; i < stored_.size(); ++i) {
    hash.Update(stored_[i].name);
    hash.Update({static_cast<const char*>(tensors_[i].data()), static_cast<size_t>(stored_[i].bytes)});
  }
  return hash.Hex();
}

uint64_t MemoryCheckpoint::file_bytes() const {
  uint64_t bytes = 0;
  for (const StoredTensor& t : stored_) bytes += t.bytes;
  return bytes;
}

}  // namespace spikefold::testing
