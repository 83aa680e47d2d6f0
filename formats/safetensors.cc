#include "formats/safetensors.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <mutex>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/base/checked.h"
#include "formats/base/json.h"
#include "formats/base/status.h"
#include "formats/base/utf8.h"

namespace spikefold {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference reader's limit
constexpr size_t kMaxNameBytes = 4096;
constexpr absl::string_view kMetadataKey = "__metadata__";
using Metadata = std::vector<std::pair<std::string, std::string>>;

bool IsUnreadDType(absl::string_view name) {
  for (const absl::string_view known :
       {"F4", "F6_E2M3", "F6_E3M2", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64"}) {
    if (name == known) return true;
  }
  return false;
}

// What is wrong with a tensor's name, or empty.
std::string NameFault(absl::string_view name) {
  if (name.size() > kMaxNameBytes) {
    return absl::StrCat("has a name of ", name.size(), " bytes; at most ", kMaxNameBytes, " are allowed");
  }
  for (const char c : name) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) return "has a control character in its name";
  }
  return IsValidUtf8(name) ? "" : "has a name that is not UTF-8";
}

// Bytes of a tensor, or nothing on overflow. A zero dimension does not excuse a product of the others that
// overflows: readers disagree on those.
std::optional<uint64_t> CheckedTensorBytes(DType dtype, const Shape& shape) {
  uint64_t bytes = static_cast<uint64_t>(DTypeBytes(dtype));
  bool empty = false;
  for (const int64_t d : shape) {
    if (d < 0) return std::nullopt;
    if (d == 0) empty = true;
    const auto product = CheckedMul(bytes, static_cast<uint64_t>(std::max<int64_t>(d, 1)));
    if (!product || *product > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return std::nullopt;
    }
    bytes = *product;
  }
  return empty ? 0 : bytes;
}

// Reads the header's entries into `entries`, offsets still relative to the data area.
class HeaderParser {
 public:
  HeaderParser(absl::string_view file, std::vector<SafetensorsEntry>* entries, Metadata* metadata,
               std::vector<std::string>* warnings)
      : file_(file), entries_(*entries), metadata_(*metadata), warnings_(*warnings) {}

  absl::Status Parse(absl::string_view text) {
    JsonLimits limits;
    limits.max_bytes = kMaxHeaderBytes;
    SF_ASSIGN_OR_RETURN(const Json header, ParseJson(text, absl::StrCat(file_, ": header"), limits));
    if (!header.is_object()) return Bad("the header is not a JSON object");
    entries_.reserve(header.object().size());
    for (const auto& [name, value] : header.object()) {
      if (name == kMetadataKey) {
        SF_RETURN_IF_ERROR(ParseMetadata(value));
      } else {
        SF_RETURN_IF_ERROR(ParseEntry(name, value));
      }
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Bad(absl::string_view what) const {
    return absl::DataLossError(absl::StrCat(file_, ": ", what));
  }

  absl::Status ParseMetadata(const Json& value) {
    if (!value.is_object()) return Bad("__metadata__ is not an object");
    for (const auto& [key, text] : value.object()) {
      if (!text.is_string()) {
        return Bad(absl::StrCat("__metadata__ \"", Printable(key), "\" is not a string"));
      }
      metadata_.emplace_back(key, text.string_value());
    }
    return absl::OkStatus();
  }

  // Non-negative integers only: 1.0, -1 and 2^64 are refused.
  static bool ReadIntegers(const Json* value, std::vector<int64_t>* out) {
    if (value == nullptr || !value->is_array()) return false;
    for (const Json& e : value->array()) {
      if (!e.is_int() || e.int_value() < 0) return false;
      out->push_back(e.int_value());
    }
    return true;
  }

  absl::Status ParseEntry(const std::string& name, const Json& value) {
    const std::string subject = absl::StrCat("tensor \"", Printable(name), "\" ");
    if (const std::string fault = NameFault(name); !fault.empty()) return Bad(subject + fault);
    if (!value.is_object()) return Bad(subject + "is not described by an object");
    for (const auto& [key, unused] : value.object()) {
      if (key != "dtype" && key != "shape" && key != "data_offsets" && warnings_.size() < 100) {
        warnings_.push_back(
            absl::StrCat(file_, ": ", subject, "has the unknown key \"", Printable(key), "\""));
      }
    }
    const Json* dtype_name = value.Find("dtype");
    if (dtype_name == nullptr || !dtype_name->is_string()) return Bad(subject + "has no dtype");
    const std::optional<DType> dtype = DTypeFromName(dtype_name->string_value());
    if (!dtype && IsUnreadDType(dtype_name->string_value())) {
      return absl::UnimplementedError(absl::StrCat(file_, ": ", subject, "has dtype ",
                                                   dtype_name->string_value(),
                                                   ", which Spikefold does not read; convert it to BF16"));
    }
    if (!dtype) {
      return Bad(
          absl::StrCat(subject, "has the unknown dtype \"", Printable(dtype_name->string_value()), "\""));
    }
    SafetensorsEntry entry;
    entry.name = name;
    entry.dtype = *dtype;
    std::vector<int64_t> offsets;
    if (!ReadIntegers(value.Find("shape"), &entry.shape)) {
      return Bad(subject + "has a shape that is not a list of integers from 0 to 2^63-1");
    }
    if (!ReadIntegers(value.Find("data_offsets"), &offsets) || offsets.size() != 2) {
      return Bad(subject + "has data_offsets that are not two integers from 0 to 2^63-1");
    }
    if (offsets[0] > offsets[1]) {
      return Bad(absl::StrCat(subject, "begins at ", offsets[0], " and ends before that, at ", offsets[1]));
    }
    const auto bytes = CheckedTensorBytes(*dtype, entry.shape);
    if (!bytes) return Bad(absl::StrCat(subject, "has a shape whose size overflows"));
    entry.offset = static_cast<uint64_t>(offsets[0]);
    entry.bytes = static_cast<uint64_t>(offsets[1] - offsets[0]);
    if (entry.bytes != *bytes) {
      return Bad(absl::StrCat(subject, "holds ", entry.bytes, " bytes, but ", DTypeName(*dtype), " ",
                              ShapeString(entry.shape), " takes ", *bytes));
    }
    entries_.push_back(std::move(entry));
    return absl::OkStatus();
  }

  const std::string file_;
  std::vector<SafetensorsEntry>& entries_;
  Metadata& metadata_;
  std::vector<std::string>& warnings_;
};

// Sorts by offset; every byte of the data area must belong to exactly one tensor.
absl::Status CheckTiling(absl::string_view file, uint64_t data_bytes,
                         std::vector<SafetensorsEntry>* entries) {
  std::sort(entries->begin(), entries->end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    if (a.offset != b.offset) return a.offset < b.offset;
    return a.bytes != b.bytes ? a.bytes < b.bytes : a.name < b.name;
  });
  uint64_t end = 0;
  for (const SafetensorsEntry& e : *entries) {
    if (e.offset != end) {
      return absl::DataLossError(absl::StrCat(
          file, ": tensor \"", Printable(e.name), "\" begins at ", e.offset,
          e.offset < end ? ", inside the tensor before it that ends at " : ", leaving a hole after ", end));
    }
    end += e.bytes;  // no overflow: begin + bytes = end, which fitted int64
  }
  if (end > data_bytes) {
    return absl::DataLossError(absl::StrCat(file, ": holds ", data_bytes,
                                            " bytes of tensor data, but its header ", "describes ", end,
                                            "; the file is truncated"));
  }
  if (end < data_bytes) {
    return absl::DataLossError(
        absl::StrCat(file, ": ", data_bytes - end, " bytes follow the last tensor; none may"));
  }
  return absl::OkStatus();
}

std::string HeaderText(const std::vector<SafetensorsEntry>& entries, const Metadata& metadata) {
  Json header = Json::MakeObject();
  if (!metadata.empty()) {
    Json m = Json::MakeObject();
    for (const auto& [key, value] : metadata) m.Set(key, value);
    header.object().emplace_back(std::string(kMetadataKey), std::move(m));
  }
  for (const SafetensorsEntry& e : entries) {
    Json shape = Json::MakeArray(), offsets = Json::MakeArray(), entry = Json::MakeObject();
    for (const int64_t d : e.shape) shape.Append(d);
    offsets.Append(e.offset);
    offsets.Append(e.offset + e.bytes);
    entry.Set("dtype", DTypeName(e.dtype)).Set("shape", std::move(shape));
    entry.Set("data_offsets", std::move(offsets));
    header.object().emplace_back(e.name, std::move(entry));  // Set() would search all names each time
  }
  std::string text = header.Dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return text;
}

// Entries in file order with relative offsets.
std::vector<SafetensorsEntry> Layout(const std::vector<SafetensorsWriter::Spec>& specs) {
  std::vector<SafetensorsEntry> entries;
  entries.reserve(specs.size());
  for (const auto& s : specs) {
    entries.push_back(
        {s.name, s.dtype, s.shape, 0, static_cast<uint64_t>(NumElements(s.shape) * DTypeBytes(s.dtype))});
  }
  // DType's values are in the order of the reference's ranks.
  std::sort(entries.begin(), entries.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return a.dtype != b.dtype ? a.dtype > b.dtype : a.name < b.name;
  });
  uint64_t offset = 0;
  for (SafetensorsEntry& e : entries) {
    e.offset = offset;
    offset += e.bytes;
  }
  return entries;
}

class Writer : public SafetensorsWriter {
 public:
  Writer(std::unique_ptr<RandomWriter> file, std::string path, uint64_t header_bytes, uint64_t file_bytes,
         std::vector<SafetensorsEntry> entries)
      : file_(std::move(file)),
        path_(std::move(path)),
        header_bytes_(header_bytes),
        file_bytes_(file_bytes),
        entries_(std::move(entries)),
        written_(entries_.size()) {
    for (size_t i = 0; i < entries_.size(); ++i) index_.emplace(entries_[i].name, i);
  }

  absl::Status Write(absl::string_view name, const TensorView& tensor) override {
    const auto it = index_.find(name);
    if (it == index_.end()) return Broken(name, "was not declared");
    const SafetensorsEntry& e = entries_[it->second];
    if (tensor.dtype != e.dtype || tensor.shape != e.shape) {
      return Broken(name, absl::StrCat("is ", DTypeName(tensor.dtype), " ", ShapeString(tensor.shape),
                                       ", declared as ", DTypeName(e.dtype), " ", ShapeString(e.shape)));
    }
    return WriteBytes(it->second, 0, tensor);
  }
  absl::Status WriteRows(absl::string_view name, int64_t begin, const TensorView& rows) override {
    const auto it = index_.find(name);
    if (it == index_.end()) return Broken(name, "was not declared");
    const SafetensorsEntry& e = entries_[it->second];
    const bool fits = e.shape.size() == 2 && rows.shape.size() == 2 && rows.shape[1] == e.shape[1] &&
                      begin >= 0 && rows.shape[0] <= e.shape[0] - begin;
    if (rows.dtype != e.dtype || !fits) {
      return Broken(name,
                    absl::StrCat("gets rows ", DTypeName(rows.dtype), " ", ShapeString(rows.shape), " from ",
                                 begin, " on, declared as ", DTypeName(e.dtype), " ", ShapeString(e.shape)));
    }
    return WriteBytes(it->second, static_cast<uint64_t>(begin * e.shape[1] * DTypeBytes(e.dtype)), rows);
  }
  absl::StatusOr<Tensor> ReadBack(absl::string_view name) override {
    if (finished_ == nullptr) {
      SF_ASSIGN_OR_RETURN(finished_, SafetensorsFile::Open(path_));
    }
    const SafetensorsEntry* entry = finished_->Find(name);
    if (entry == nullptr) {
      return absl::DataLossError(absl::StrCat(path_, ": has no tensor \"", Printable(name), "\""));
    }
    return finished_->Read(*entry);
  }
  void MarkWritten(absl::string_view name) override {
    if (const auto it = index_.find(name); it != index_.end()) {
      written_[it->second] = {.begun = true, .bytes = entries_[it->second].bytes};
    }
  }
  absl::Status Sync() override { return file_->Sync(); }
  void Keep() override { file_->Keep(); }
  absl::Status Finish() override {
    for (size_t i = 0; i < entries_.size(); ++i) {
      if (written_[i].begun && written_[i].bytes == entries_[i].bytes) continue;
      return Broken(entries_[i].name, written_[i].begun ? "lacks rows" : "was declared, but not written");
    }
    return file_->Finish();
  }
  uint64_t file_bytes() const override { return file_bytes_; }

 private:
  struct Written {
    bool begun = false;
    uint64_t bytes = 0;
  };

  absl::Status Broken(absl::string_view name, absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": tensor \"", Printable(name), "\" ", what));
  }

  absl::Status WriteBytes(size_t index, uint64_t offset, const TensorView& part) {
    const SafetensorsEntry& e = entries_[index];
    const uint64_t bytes = static_cast<uint64_t>(part.num_bytes());
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      Written& written = written_[index];
      if (written.bytes + bytes > e.bytes || (written.begun && e.bytes == 0)) {
        return Broken(e.name, "was written before");
      }
      written = {.begun = true, .bytes = written.bytes + bytes};
    }
    return file_->WriteAt(
        header_bytes_ + e.offset + offset,
        absl::MakeConstSpan(static_cast<const char*>(part.data), static_cast<size_t>(bytes)));
  }

  std::unique_ptr<RandomWriter> file_;
  const std::string path_;
  const uint64_t header_bytes_, file_bytes_;
  const std::vector<SafetensorsEntry> entries_;
  std::mutex mutex_;
  std::vector<Written> written_;  // guarded
  absl::flat_hash_map<std::string, size_t> index_;
  std::unique_ptr<SafetensorsFile> finished_;  // the file as ReadBack() reads it
};

// The length and the text of a header, and all that is known of the file before its data.
struct Preamble {
  std::vector<SafetensorsEntry> entries;
  std::string head;
  uint64_t file_bytes = 0;
};

absl::Status CheckSpecs(const std::string& path, const std::vector<SafetensorsWriter::Spec>& specs) {
  absl::flat_hash_set<absl::string_view> names;
  uint64_t total = 0;
  for (const auto& s : specs) {
    std::string fault = NameFault(s.name);
    const auto bytes = CheckedTensorBytes(s.dtype, s.shape);
    const auto sum = CheckedAdd(total, bytes.value_or(0));
    if (s.name == kMetadataKey) {
      fault = "has a reserved name";
    } else if (!bytes || !sum || *sum > (uint64_t{1} << 62)) {
      fault = absl::StrCat("has an impossible shape ", ShapeString(s.shape));
    } else if (!names.insert(s.name).second) {
      fault = "is declared twice";
    }
    if (!fault.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": tensor \"", Printable(s.name), "\" ", fault));
    }
    total = *sum;
  }
  return absl::OkStatus();
}

absl::StatusOr<Preamble> MakePreamble(const std::string& path,
                                      const std::vector<SafetensorsWriter::Spec>& specs,
                                      const Metadata& metadata) {
  SF_RETURN_IF_ERROR(CheckSpecs(path, specs));
  Preamble p{.entries = Layout(specs), .head = std::string(8, '\0')};
  const std::string header = HeaderText(p.entries, metadata);
  if (header.size() > kMaxHeaderBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": a header of ", header.size(), " bytes; at most ",
                                                   kMaxHeaderBytes, " are allowed; write more shards"));
  }
  for (size_t i = 0; i < 8; ++i) p.head[i] = static_cast<char>((uint64_t{header.size()} >> (8 * i)) & 0xff);
  p.head += header;
  p.file_bytes = p.head.size() + (p.entries.empty() ? 0 : p.entries.back().offset + p.entries.back().bytes);
  return p;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  SF_ASSIGN_OR_RETURN(std::unique_ptr<ByteSource> source, OpenFile(path));
  return FromSource(std::move(source));
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::FromSource(
    std::unique_ptr<ByteSource> source) {
  const std::string name = Printable(source->name(), 1024);
  const uint64_t size = source->size();
  if (size < 8) {
    return absl::DataLossError(absl::StrCat(
        name, ": ", size, " bytes; a safetensors file begins with the 8 bytes of its header's size"));
  }
  unsigned char prefix[8];
  SF_RETURN_IF_ERROR(source->Read(0, absl::MakeSpan(reinterpret_cast<char*>(prefix), 8)));
  uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) header_bytes = (header_bytes << 8) | prefix[i];
  if (header_bytes > kMaxHeaderBytes) {
    return absl::DataLossError(absl::StrCat(name, ": a header of ", header_bytes, " bytes; at most ",
                                            kMaxHeaderBytes, " are allowed. Is it a safetensors file?"));
  }
  if (header_bytes > size - 8) {
    return absl::DataLossError(absl::StrCat(name, ": a header of ", header_bytes, " bytes, but only ",
                                            size - 8, " follow; the file is truncated"));
  }
  auto file = std::unique_ptr<SafetensorsFile>(new SafetensorsFile());
  {
    std::string text(static_cast<size_t>(header_bytes), '\0');
    SF_RETURN_IF_ERROR(source->Read(8, absl::MakeSpan(text.data(), text.size())));
    HeaderParser parser(name, &file->entries_, &file->metadata_, &file->warnings_);
    SF_RETURN_IF_ERROR(parser.Parse(text));
  }
  SF_RETURN_IF_ERROR(CheckTiling(name, size - 8 - header_bytes, &file->entries_));
  for (size_t i = 0; i < file->entries_.size(); ++i) {
    file->entries_[i].offset += 8 + header_bytes;
    file->index_.emplace(file->entries_[i].name, static_cast<int>(i));
  }
  file->source_ = std::move(source);
  return file;
}

const SafetensorsEntry* SafetensorsFile::Find(absl::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &entries_[static_cast<size_t>(it->second)];
}

absl::StatusOr<Tensor> SafetensorsFile::Read(const SafetensorsEntry& entry) const {
  Tensor tensor(entry.dtype, entry.shape);
  SF_RETURN_IF_ERROR(source_->Read(
      entry.offset, absl::MakeSpan(static_cast<char*>(tensor.data()), static_cast<size_t>(entry.bytes))));
  return tensor;
}

absl::StatusOr<Tensor> SafetensorsFile::ReadRows(const SafetensorsEntry& entry, int64_t begin,
                                                 int64_t end) const {
  if (entry.shape.size() != 2 || begin < 0 || begin > end || end > entry.shape[0]) {
    return absl::InvalidArgumentError(
        absl::StrCat(Printable(entry.name), ": rows ", begin, " to ", end, " of ", ShapeString(entry.shape)));
  }
  Tensor tensor(entry.dtype, {end - begin, entry.shape[1]});
  const uint64_t row_bytes = static_cast<uint64_t>(entry.shape[1] * DTypeBytes(entry.dtype));
  SF_RETURN_IF_ERROR(source_->Read(
      entry.offset + static_cast<uint64_t>(begin) * row_bytes,
      absl::MakeSpan(static_cast<char*>(tensor.data()), static_cast<size_t>(tensor.num_bytes()))));
  return tensor;
}

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(const std::string& path,
                                                                             std::vector<Spec> specs,
                                                                             const Metadata& metadata,
                                                                             FileSpace space) {
  SF_ASSIGN_OR_RETURN(Preamble p, MakePreamble(path, specs, metadata));
  SF_ASSIGN_OR_RETURN(std::unique_ptr<RandomWriter> file, RandomWriter::Create(path, p.file_bytes, space));
  SF_RETURN_IF_ERROR(file->WriteAt(0, absl::MakeConstSpan(p.head.data(), p.head.size())));
  return std::unique_ptr<SafetensorsWriter>(
      new Writer(std::move(file), path, p.head.size(), p.file_bytes, std::move(p.entries)));
}

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Reopen(const std::string& path,
                                                                             std::vector<Spec> specs) {
  SF_ASSIGN_OR_RETURN(Preamble p, MakePreamble(path, specs, {{"format", "pt"}}));
  SF_ASSIGN_OR_RETURN(const std::unique_ptr<ByteSource> source, OpenFile(path));
  std::string head(std::min<uint64_t>(p.head.size(), source->size()), '\0');
  SF_RETURN_IF_ERROR(source->Read(0, absl::MakeSpan(head.data(), head.size())));
  if (head != p.head) {
    return absl::DataLossError(
        absl::StrCat(Printable(path, 1024), ": its header is not that of the model to be written"));
  }
  SF_ASSIGN_OR_RETURN(std::unique_ptr<RandomWriter> file, RandomWriter::Reopen(path, p.file_bytes));
  return std::unique_ptr<SafetensorsWriter>(
      new Writer(std::move(file), path, p.head.size(), p.file_bytes, std::move(p.entries)));
}

uint64_t SafetensorsFileBytes(const std::vector<SafetensorsWriter::Spec>& specs, const Metadata& metadata) {
  const std::vector<SafetensorsEntry> entries = Layout(specs);
  const uint64_t data_bytes = entries.empty() ? 0 : entries.back().offset + entries.back().bytes;
  return 8 + HeaderText(entries, metadata).size() + data_bytes;
}

}  // namespace spikefold
