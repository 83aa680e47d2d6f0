#include "formats/checkpoint.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/status.h"
#include "formats/base/suggest.h"
#include "formats/base/vector_clones.h"
#include "formats/checkpoint_base.h"

namespace spikefold {

absl::StatusOr<std::unique_ptr<CheckpointReader>> CheckpointReader::Open(const std::string& path) {
  if (!PathExists(path)) return absl::NotFoundError(absl::StrCat(path, ": no such file or directory"));
  if (IsDirectory(path)) return OpenDirectoryCheckpoint(path);
  if (absl::EndsWith(path, ".safetensors")) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is one safetensors file; give the directory that also holds its config.json"));
  }
  return OpenGgufCheckpoint(path);
}

const std::vector<std::string>& CheckpointReader::warnings() const {
  static const std::vector<std::string> none;
  return none;
}

const StoredTensor* CheckpointBase::Find(absl::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &tensors_[static_cast<size_t>(it->second)];
}

void CheckpointBase::AddTensor(StoredTensor tensor) {
  index_.emplace(tensor.name, static_cast<int>(tensors_.size()));
  tensors_.push_back(std::move(tensor));
}

absl::Status CheckpointBase::NoSuchTensor(absl::string_view name) const {
  std::vector<std::string> known;
  for (const StoredTensor& t : tensors_) known.push_back(t.name);
  return absl::NotFoundError(
      absl::StrCat(path_, ": no tensor \"", Printable(name), "\"", DidYouMean(name, known)));
}

absl::StatusOr<std::string> CheckpointBase::Fingerprint() const {
  const std::lock_guard<std::mutex> lock(fingerprint_mutex_);
  if (fingerprint_.empty()) {
    std::string digest;
    for (const WeightFile& file : weight_files_) {
      SF_ASSIGN_OR_RETURN(const std::string hex, Sha256File(file.path, hashing_));
      absl::StrAppend(&digest, file.name, "\n", hex, "\n");
    }
    if (!meaning_.empty()) absl::StrAppend(&digest, "config\n", Sha256Hex(meaning_), "\n");
    fingerprint_ = Sha256Hex(digest);
  }
  return fingerprint_;
}

absl::Status CheckpointBase::CheckFiniteRows(absl::Span<const float> rows, absl::string_view name) const {
  if (CheckFinite(rows, path_, name).ok()) return absl::OkStatus();
  const std::lock_guard<std::mutex> lock(not_finite_mutex_);
  absl::Status& status = not_finite_[std::string(name)];
  if (status.ok()) status = ReadF32(name).status();  // counts all of the tensor and says where
  if (!status.ok()) return status;
  return absl::DataLossError(absl::StrCat(path_, ": ", name, ": changes while it is read"));
}

absl::Status CheckpointReader::ReadF32Rows(absl::string_view name, int64_t begin, int64_t end,
                                           float* out) const {
  SF_ASSIGN_OR_RETURN(const Tensor whole, ReadF32(name));
  SF_RETURN_IF_ERROR(CheckRows(whole.shape(), begin, end, path(), name));
  const int64_t k = whole.dim(1);
  std::copy_n(whole.as<float>().data() + begin * k, (end - begin) * k, out);
  return absl::OkStatus();
}

bool CheckpointReader::ReadsRows(absl::string_view) const { return false; }

int64_t CheckpointReader::ReadMemory(absl::string_view name) const {
  const StoredTensor* stored = Find(name);
  if (stored == nullptr) return 0;
  const int64_t values = static_cast<int64_t>(sizeof(float)) * NumElements(stored->shape);
  return ReadsRows(name) ? values : values + static_cast<int64_t>(stored->bytes);  // decoded from these
}

namespace {

class StoredRows : public WeightRows {
 public:
  StoredRows(const CheckpointReader& reader, absl::string_view name) : reader_(reader), name_(name) {}
  absl::Status Read(int64_t begin, int64_t end, float* out) const override {
    return reader_.ReadF32Rows(name_, begin, end, out);
  }
  int64_t rows_together() const override { return reader_.RowsTogether(name_); }

 private:
  const CheckpointReader& reader_;
  const std::string name_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<WeightRows>> CheckpointReader::OpenRows(absl::string_view name) const {
  if (ReadsRows(name)) return std::make_unique<StoredRows>(*this, name);
  SF_ASSIGN_OR_RETURN(Tensor whole, ReadF32(name));
  return RowsInMemory(std::move(whole));
}

absl::StatusOr<Tensor> ReadF32(const CheckpointReader& reader, absl::string_view name, ThreadPool& pool) {
  if (!reader.ReadsRows(name)) return reader.ReadF32(name);
  const Shape& shape = reader.Find(name)->shape;
  Tensor whole = Tensor::ForOverwrite(DType::kF32, shape);
  float* const to = whole.as<float>().data();
  SF_RETURN_IF_ERROR(
      ForRowBlocks(pool, shape[0], shape[1], reader.RowsTogether(name), [&](int64_t begin, int64_t end) {
        return reader.ReadF32Rows(name, begin, end, to + begin * shape[1]);
      }));
  return whole;
}

namespace {

constexpr char kNotFinite[] = "spikefold/not_finite";  // payload of such a status

// By the exponent bits, so that the loop vectorises.
SF_VECTOR_CLONES uint32_t CountNotFinite(const float* values, size_t n) {
  uint32_t count = 0;
  for (size_t i = 0; i < n; ++i) {
    count += (std::bit_cast<uint32_t>(values[i]) & 0x7f800000u) == 0x7f800000u ? 1u : 0u;
  }
  return count;
}

}  // namespace

absl::Status CheckFinite(absl::Span<const float> values, absl::string_view where, absl::string_view tensor) {
  int64_t bad = 0;
  constexpr size_t kPart = size_t{1} << 24;  // keeps the counter small
  for (size_t begin = 0; begin < values.size(); begin += kPart) {
    const absl::Span<const float> part = values.subspan(begin, kPart);
    bad += CountNotFinite(part.data(), part.size());
  }
  if (bad == 0) return absl::OkStatus();
  size_t first = 0;
  while (std::isfinite(values[first])) ++first;
  absl::Status status = absl::DataLossError(
      absl::StrCat(where, ": ", tensor, ": ", bad, " of ", values.size(),
                   " values are not finite, the first is ", std::isnan(values[first]) ? "NaN" : "infinite",
                   " at index ", first, "; only finite weights are allowed"));
  status.SetPayload(kNotFinite, absl::Cord());
  return status;
}

bool IsNotFinite(const absl::Status& status) { return status.GetPayload(kNotFinite).has_value(); }

absl::Status CheckRows(const Shape& shape, int64_t begin, int64_t end, absl::string_view where,
                       absl::string_view tensor) {
  if (shape.size() == 2 && begin >= 0 && begin <= end && end <= shape[0]) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(where, ": ", tensor, " ", ShapeString(shape), ": has no rows ", begin, "..", end));
}

absl::Status CheckShape(const Shape& stored, const Shape& needed, absl::string_view where,
                        absl::string_view tensor) {
  if (stored == needed) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(where, ": ", tensor, " is ", ShapeString(stored),
                                          "; the configuration needs ", ShapeString(needed)));
}

}  // namespace spikefold
