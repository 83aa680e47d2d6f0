#include "formats/gguf_writer.h"

#include <mutex>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "formats/base/file.h"
#include "formats/base/json.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

constexpr uint64_t kAlignment = 32;
constexpr size_t kMaxNameBytes = 63, kMaxDims = 4;
enum ValueType : uint32_t { kU32 = 4, kI32 = 5, kF32 = 6, kBool = 7, kString = 8, kArray = 9 };

uint64_t Padded(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

template <typename T>
void AppendTo(std::string* out, T value) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

}  // namespace

template <typename T>
void GgufMetadata::Append(T value) {
  AppendTo(&bytes_, value);
}
void GgufMetadata::AppendString(absl::string_view text) {
  Append(uint64_t{text.size()});
  bytes_.append(text.data(), text.size());
}
void GgufMetadata::Key(absl::string_view key, uint32_t type) {
  if (!keys_.insert(std::string(key)).second) repeated_ = std::string(key);
  ++count_;
  AppendString(key);
  Append(type);
}
void GgufMetadata::ArrayKey(absl::string_view key, uint32_t type, uint64_t count) {
  Key(key, kArray);
  Append(type);
  Append(count);
}
void GgufMetadata::AddBool(absl::string_view key, bool value) {
  Key(key, kBool);
  Append(static_cast<uint8_t>(value));
}
void GgufMetadata::AddU32(absl::string_view key, uint32_t value) {
  Key(key, kU32);
  Append(value);
}
void GgufMetadata::AddF32(absl::string_view key, float value) {
  Key(key, kF32);
  Append(value);
}
void GgufMetadata::AddString(absl::string_view key, absl::string_view value) {
  Key(key, kString);
  AppendString(value);
}
void GgufMetadata::AddStrings(absl::string_view key, const std::vector<std::string>& values) {
  ArrayKey(key, kString, values.size());
  for (const std::string& value : values) AppendString(value);
}
void GgufMetadata::AddI32s(absl::string_view key, absl::Span<const int32_t> values) {
  ArrayKey(key, kI32, values.size());
  for (const int32_t value : values) Append(value);
}
void GgufMetadata::AddF32s(absl::string_view key, absl::Span<const float> values) {
  ArrayKey(key, kF32, values.size());
  for (const float value : values) Append(value);
}
void GgufMetadata::AddBools(absl::string_view key, const std::vector<bool>& values) {
  ArrayKey(key, kBool, values.size());
  for (const bool value : values) Append(static_cast<uint8_t>(value));
}
void GgufMetadata::AddRaw(const GgufFile::RawEntries& entries) {
  bytes_ += entries.bytes;
  count_ += entries.count;
}

uint64_t GgufWriter::Spec::bytes() const {
  const GgmlTypeInfo& info = *FindGgmlType(static_cast<uint32_t>(type));
  return static_cast<uint64_t>(NumElements(shape) / info.block_elements * info.block_bytes);
}

namespace {

class Writer : public GgufWriter {
 public:
  Writer(std::unique_ptr<RandomWriter> file, uint64_t file_bytes)
      : file_(std::move(file)), file_bytes_(file_bytes) {}

  struct Place {
    uint64_t offset = 0, bytes = 0, written = 0;
    bool begun = false;
  };
  void SetPlace(const std::string& name, Place place) { places_.emplace(name, place); }
  absl::Status WriteHeader(absl::string_view header) {
    return file_->WriteAt(0, absl::MakeConstSpan(header.data(), header.size()));
  }

  absl::Status Write(absl::string_view name, absl::string_view blocks) override {
    const auto it = places_.find(name);
    if (it != places_.end() && blocks.size() != it->second.bytes) {
      return absl::InvalidArgumentError(
          absl::StrCat(Printable(name), ": ", blocks.size(), " bytes; declared are ", it->second.bytes));
    }
    return WritePart(name, 0, blocks);
  }
  absl::Status WritePart(absl::string_view name, uint64_t offset, absl::string_view blocks) override {
    const auto it = places_.find(name);
    if (it == places_.end()) {
      return absl::InvalidArgumentError(absl::StrCat(Printable(name), ": was not declared"));
    }
    Place& place = it->second;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (blocks.size() > place.bytes || offset > place.bytes - blocks.size()) {
        return absl::InvalidArgumentError(absl::StrCat(Printable(name), ": ", blocks.size(), " bytes at ",
                                                       offset, "; declared are ", place.bytes));
      }
      if (blocks.size() > place.bytes - place.written || (place.begun && place.bytes == 0)) {
        return absl::InvalidArgumentError(absl::StrCat(Printable(name), ": has been written already"));
      }
      place.written += blocks.size();
      place.begun = true;
    }
    return file_->WriteAt(place.offset + offset, absl::MakeConstSpan(blocks.data(), blocks.size()));
  }
  absl::Status Finish() override {
    for (const auto& [name, place] : places_) {
      if (place.begun && place.written == place.bytes) continue;
      return absl::InvalidArgumentError(
          absl::StrCat(Printable(name), ": was declared and has not been written"));
    }
    return file_->Finish();
  }
  uint64_t file_bytes() const override { return file_bytes_; }

 private:
  std::unique_ptr<RandomWriter> file_;
  const uint64_t file_bytes_;
  std::mutex mutex_;
  absl::flat_hash_map<std::string, Place> places_;  // `written` is guarded
};

absl::Status CheckSpec(const GgufWriter::Spec& spec) {
  const std::string shown = Printable(spec.name);
  if (spec.name.empty() || spec.name.size() > kMaxNameBytes) {
    return absl::InvalidArgumentError(absl::StrCat("tensor name \"", shown, "\" has ", spec.name.size(),
                                                   " bytes; 1 to ", kMaxNameBytes, " are allowed"));
  }
  const GgmlTypeInfo* info = FindGgmlType(static_cast<uint32_t>(spec.type));
  if (info == nullptr) return absl::InvalidArgumentError(absl::StrCat(shown, ": an unknown type"));
  bool ok = !spec.shape.empty() && spec.shape.size() <= kMaxDims;
  for (const int64_t dim : spec.shape) ok = ok && dim > 0;
  if (!ok || spec.shape.back() % info->block_elements != 0) {
    return absl::InvalidArgumentError(absl::StrCat(shown, ": shape ", ShapeString(spec.shape), " as ",
                                                   info->name, "; rows must be whole blocks of ",
                                                   info->block_elements, " and dimensions 1 to ", kMaxDims));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<GgufWriter>> GgufWriter::Create(const std::string& path,
                                                               const GgufMetadata& metadata,
                                                               std::vector<Spec> tensors) {
  if (!metadata.repeated().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("metadata key \"", Printable(metadata.repeated()), "\" is there twice"));
  }
  std::string header = "GGUF";
  AppendTo(&header, uint32_t{3});
  AppendTo(&header, uint64_t{tensors.size()});
  AppendTo(&header, metadata.count());
  header += metadata.bytes();
  uint64_t data_bytes = 0;
  absl::flat_hash_set<std::string> names;
  for (const Spec& t : tensors) {
    SF_RETURN_IF_ERROR(CheckSpec(t));
    if (!names.insert(t.name).second) {
      return absl::InvalidArgumentError(absl::StrCat("tensor \"", Printable(t.name), "\" is declared twice"));
    }
    AppendTo(&header, uint64_t{t.name.size()});
    header += t.name;
    AppendTo(&header, static_cast<uint32_t>(t.shape.size()));
    for (auto dim = t.shape.rbegin(); dim != t.shape.rend(); ++dim) AppendTo(&header, *dim);
    AppendTo(&header, static_cast<uint32_t>(t.type));
    AppendTo(&header, data_bytes);
    data_bytes += Padded(t.bytes());
  }
  header.resize(static_cast<size_t>(Padded(header.size())));
  const uint64_t file_bytes = header.size() + data_bytes;
  SF_ASSIGN_OR_RETURN(std::unique_ptr<RandomWriter> file, RandomWriter::Create(path, file_bytes));
  auto writer = std::make_unique<Writer>(std::move(file), file_bytes);
  uint64_t offset = header.size();
  for (const Spec& t : tensors) {
    writer->SetPlace(t.name, {.offset = offset, .bytes = t.bytes()});
    offset += Padded(t.bytes());
  }
  SF_RETURN_IF_ERROR(writer->WriteHeader(header));
  return std::unique_ptr<GgufWriter>(std::move(writer));
}

}  // namespace spikefold
