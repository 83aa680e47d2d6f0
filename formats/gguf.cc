#include "formats/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/base/checked.h"
#include "formats/base/json.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

constexpr uint32_t kVersion = 3;
constexpr uint64_t kMaxStringBytes = uint64_t{1} << 30;
constexpr uint64_t kMaxKeyBytes = 65535;  // the format's own limit
constexpr uint64_t kMaxKeys = 65536, kMaxTensors = 65536;
constexpr uint64_t kMaxTensorNameBytes = 63;  // ggml keeps 64 with the final NUL
constexpr uint32_t kMaxDims = 4;
constexpr uint64_t kMaxElements = uint64_t{1} << 40;
constexpr uint64_t kChunkBytes = 64 << 10;  // read and decoded at once: what the cache holds
constexpr uint64_t kDefaultAlignment = 32, kMaxAlignment = uint64_t{1} << 20;
constexpr uint64_t kMinKeyBytes = 8 + 1 + 4 + 1, kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

enum ValueType : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};
constexpr uint64_t kValueBytes[] = {1, 1, 2,  2, 4, 4, 4,
                                    1, 8, 12, 8, 8, 8};  // of a string or array: at least
constexpr const char* kValueNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                       "bool", "string", "array", "u64", "i64", "f64"};

// What a looked-up value is, for error texts.
absl::string_view KindOf(const GgufValue& value) {
  static constexpr const char* kKinds[] = {"a bool",
                                           "an integer",
                                           "an integer above int64",
                                           "a float",
                                           "a string",
                                           "an array of integers",
                                           "an array of floats",
                                           "an array of bools",
                                           "an array of strings"};
  return kKinds[value.v.index()];
}

}  // namespace

// Reads the header sequentially through a small buffer; every count is held against the bytes left before
// anything is allocated.
class GgufParser {
 public:
  explicit GgufParser(GgufFile* file) : file_(*file), size_(file->source_->size()) {}

  absl::Status Parse() {
    SF_RETURN_IF_ERROR(ParsePrologue());
    for (uint64_t i = 0; i < num_keys_; ++i) SF_RETURN_IF_ERROR(ParseKey(i));
    SF_RETURN_IF_ERROR(FindAlignment());
    for (uint64_t i = 0; i < num_tensors_; ++i) SF_RETURN_IF_ERROR(ParseTensor(i));
    return PlaceTensors();
  }

 private:
  template <typename... Args>
  absl::Status Bad(const Args&... args) const {
    return absl::DataLossError(absl::StrCat(file_.name(), ": ", args...));
  }
  uint64_t Left() const { return size_ - position_; }

  absl::Status ReadBytes(void* out, uint64_t count, const char* what) {
    if (count > Left()) {
      return Bad("truncated in ", what, " at byte ", position_, ": ", count, " bytes needed, ", Left(),
                 " left");
    }
    char* to = static_cast<char*>(out);
    while (count > 0) {
      if (position_ < buffer_begin_ || position_ >= buffer_begin_ + buffer_.size()) {
        buffer_.resize(static_cast<size_t>(std::min<uint64_t>(Left(), 1 << 16)));
        buffer_begin_ = position_;
        SF_RETURN_IF_ERROR(file_.source_->Read(position_, absl::MakeSpan(buffer_)));
      }
      const uint64_t at = position_ - buffer_begin_;
      const uint64_t part = std::min<uint64_t>(count, buffer_.size() - at);
      std::memcpy(to, buffer_.data() + at, static_cast<size_t>(part));
      to += part;
      position_ += part;
      count -= part;
    }
    return absl::OkStatus();
  }
  template <typename T>
  absl::Status Read(T* out, const char* what) {
    return ReadBytes(out, sizeof(T), what);
  }
  absl::Status ReadString(std::string* out, uint64_t max_bytes, const char* what) {
    uint64_t bytes = 0;
    SF_RETURN_IF_ERROR(Read(&bytes, what));
    if (bytes > max_bytes || bytes > Left()) {
      return Bad(what, " at byte ", position_ - 8, " claims ", bytes, " bytes; ", Left(),
                 " are left and at most ", max_bytes, " are allowed");
    }
    out->resize(static_cast<size_t>(bytes));
    return ReadBytes(out->data(), bytes, what);
  }

  absl::Status ParsePrologue() {
    char magic[4] = {};
    if (size_ < 24) return Bad("is ", size_, " bytes long; a GGUF header needs at least 24");
    SF_RETURN_IF_ERROR(Read(&magic, "the magic"));
    if (std::memcmp(magic, "GGUF", 4) != 0) return Bad("does not begin with the magic \"GGUF\"");
    uint32_t version = 0;
    SF_RETURN_IF_ERROR(Read(&version, "the version"));
    if (version == __builtin_bswap32(kVersion)) {
      return absl::UnimplementedError(
          absl::StrCat(file_.name(), ": is a big-endian GGUF file; only little-endian ones are read"));
    }
    if (version == 1 || version == 2) {
      return absl::UnimplementedError(absl::StrCat(file_.name(), ": GGUF version ", version,
                                                   "; only version 3 is read; convert it with llama.cpp"));
    }
    if (version != kVersion) return Bad("GGUF version ", version, "; only version 3 is read");
    SF_RETURN_IF_ERROR(Read(&num_tensors_, "the tensor count"));
    SF_RETURN_IF_ERROR(Read(&num_keys_, "the key count"));
    if (num_tensors_ > std::min(kMaxTensors, Left() / kMinTensorBytes)) {
      return Bad("claims ", num_tensors_, " tensors; ", Left(), " bytes are left and at most ", kMaxTensors,
                 " tensors are allowed");
    }
    if (num_keys_ > std::min(kMaxKeys, Left() / kMinKeyBytes)) {
      return Bad("claims ", num_keys_, " metadata keys; ", Left(), " bytes are left and at most ", kMaxKeys,
                 " keys are allowed");
    }
    return absl::OkStatus();
  }

  absl::Status ParseKey(uint64_t number) {
    const uint64_t begin = position_;
    std::string key;
    SF_RETURN_IF_ERROR(ReadString(&key, kMaxKeyBytes, "a metadata key"));
    if (key.empty()) return Bad("metadata key ", number, " at byte ", begin, " is empty");
    uint32_t type = 0;
    SF_RETURN_IF_ERROR(Read(&type, "a metadata type"));
    GgufValue value;
    if (type == kArray) {
      SF_RETURN_IF_ERROR(ReadArray(key, &value));
    } else {
      SF_RETURN_IF_ERROR(ReadScalar(key, type, &value));
    }
    if (!file_.values_.emplace(key, std::move(value)).second) {
      return Bad("metadata key \"", Printable(key), "\" appears twice");
    }
    file_.ranges_[key] = {begin, position_};
    file_.keys_.push_back(std::move(key));
    return absl::OkStatus();
  }

  absl::Status ReadScalar(const std::string& key, uint32_t type, GgufValue* value) {
    const auto integer = [&](auto v) {
      SF_RETURN_IF_ERROR(Read(&v, "a metadata value"));
      value->v = static_cast<int64_t>(v);
      return absl::OkStatus();
    };
    switch (type) {
      case kU8:
        return integer(uint8_t{});
      case kI8:
        return integer(int8_t{});
      case kU16:
        return integer(uint16_t{});
      case kI16:
        return integer(int16_t{});
      case kU32:
        return integer(uint32_t{});
      case kI32:
        return integer(int32_t{});
      case kI64:
        return integer(int64_t{});
      case kU64: {
        uint64_t v = 0;
        SF_RETURN_IF_ERROR(Read(&v, "a metadata value"));
        if (v >> 63 != 0) {
          value->v = v;
        } else {
          value->v = static_cast<int64_t>(v);
        }
        return absl::OkStatus();
      }
      case kF32: {
        float v = 0;
        SF_RETURN_IF_ERROR(Read(&v, "a metadata value"));
        value->v = static_cast<double>(v);
        return absl::OkStatus();
      }
      case kF64: {
        double v = 0;
        SF_RETURN_IF_ERROR(Read(&v, "a metadata value"));
        value->v = v;
        return absl::OkStatus();
      }
      case kBool: {
        uint8_t v = 0;
        SF_RETURN_IF_ERROR(Read(&v, "a metadata value"));
        if (v > 1)
          return Bad("metadata \"", Printable(key), "\": bool value ", int{v}, "; allowed are 0 and 1");
        value->v = v == 1;
        return absl::OkStatus();
      }
      case kString: {
        std::string v;
        SF_RETURN_IF_ERROR(ReadString(&v, kMaxStringBytes, "a metadata string"));
        value->v = std::move(v);
        return absl::OkStatus();
      }
      default:
        return Bad("metadata \"", Printable(key), "\": unknown value type ", type, "; allowed are 0 to 12");
    }
  }

  absl::Status ReadArray(const std::string& key, GgufValue* value) {
    uint32_t type = 0;
    uint64_t count = 0;
    SF_RETURN_IF_ERROR(Read(&type, "an array's type"));
    SF_RETURN_IF_ERROR(Read(&count, "an array's length"));
    if (type == kArray) return Bad("metadata \"", Printable(key), "\": arrays of arrays are not allowed");
    if (type > kF64) {
      return Bad("metadata \"", Printable(key), "\": unknown element type ", type, "; allowed are 0 to 12");
    }
    if (count > kMaxGgufArray || count > Left() / kValueBytes[type]) {
      return Bad("metadata \"", Printable(key), "\": array of ", count, " ", kValueNames[type], "; ", Left(),
                 " bytes are left and at most ", kMaxGgufArray, " elements are allowed");
    }
    switch (type) {
      case kF32:
        return ReadNumbers<float, double>(count, value);
      case kF64:
        return ReadNumbers<double, double>(count, value);
      case kU8:
        return ReadNumbers<uint8_t, int64_t>(count, value);
      case kI8:
        return ReadNumbers<int8_t, int64_t>(count, value);
      case kU16:
        return ReadNumbers<uint16_t, int64_t>(count, value);
      case kI16:
        return ReadNumbers<int16_t, int64_t>(count, value);
      case kU32:
        return ReadNumbers<uint32_t, int64_t>(count, value);
      case kI32:
        return ReadNumbers<int32_t, int64_t>(count, value);
      case kI64:
        return ReadNumbers<int64_t, int64_t>(count, value);
      case kU64:
        return ReadU64s(key, count, value);
      case kBool:
        return ReadBools(key, count, value);
      default:
        return ReadStrings(count, value);
    }
  }

  template <typename Stored, typename Kept>
  absl::Status ReadNumbers(uint64_t count, GgufValue* value) {
    std::vector<Stored> stored(static_cast<size_t>(count));
    SF_RETURN_IF_ERROR(ReadBytes(stored.data(), count * sizeof(Stored), "a metadata array"));
    value->v = std::vector<Kept>(stored.begin(), stored.end());
    return absl::OkStatus();
  }
  absl::Status ReadU64s(const std::string& key, uint64_t count, GgufValue* value) {
    SF_RETURN_IF_ERROR((ReadNumbers<uint64_t, int64_t>(count, value)));
    for (const int64_t v : std::get<std::vector<int64_t>>(value->v)) {
      if (v < 0) return Bad("metadata \"", Printable(key), "\": an element is above ", INT64_MAX);
    }
    return absl::OkStatus();
  }
  absl::Status ReadBools(const std::string& key, uint64_t count, GgufValue* value) {
    std::vector<uint8_t> stored(static_cast<size_t>(count));
    SF_RETURN_IF_ERROR(ReadBytes(stored.data(), count, "a metadata array"));
    for (const uint8_t v : stored) {
      if (v > 1)
        return Bad("metadata \"", Printable(key), "\": bool value ", int{v}, "; allowed are 0 and 1");
    }
    value->v = std::vector<bool>(stored.begin(), stored.end());
    return absl::OkStatus();
  }
  absl::Status ReadStrings(uint64_t count, GgufValue* value) {
    GgufValue::Strings strings(static_cast<size_t>(count));
    for (std::string& s : strings) {
      SF_RETURN_IF_ERROR(ReadString(&s, kMaxStringBytes, "a metadata string"));
    }
    value->v = std::move(strings);
    return absl::OkStatus();
  }

  absl::Status FindAlignment() {
    const GgufValue* value = file_.Find("general.alignment");
    if (value == nullptr) return absl::OkStatus();
    const int64_t* v = std::get_if<int64_t>(&value->v);
    if (v == nullptr) return Bad("general.alignment is ", KindOf(*value), "; an integer is needed");
    if (*v < 1 || static_cast<uint64_t>(*v) > kMaxAlignment ||
        !std::has_single_bit(static_cast<uint64_t>(*v))) {
      return Bad("general.alignment=", *v, "; a power of two up to ", kMaxAlignment, " is needed");
    }
    alignment_ = static_cast<uint64_t>(*v);
    return absl::OkStatus();
  }

  absl::Status ParseTensor(uint64_t number) {
    GgufTensor t;
    SF_RETURN_IF_ERROR(ReadString(&t.name, kMaxTensorNameBytes, "a tensor name"));
    const std::string shown = Printable(t.name);
    if (t.name.empty()) return Bad("tensor ", number, " has an empty name");
    uint32_t num_dims = 0, type = 0;
    SF_RETURN_IF_ERROR(Read(&num_dims, "a tensor's dimension count"));
    if (num_dims < 1 || num_dims > kMaxDims) {
      return Bad("tensor \"", shown, "\" has ", num_dims, " dimensions; allowed are 1 to ", kMaxDims);
    }
    uint64_t elements = 1;
    for (uint32_t i = 0; i < num_dims; ++i) {
      uint64_t ne = 0;
      SF_RETURN_IF_ERROR(Read(&ne, "a tensor's dimensions"));
      const auto product = CheckedMul(elements, ne);
      if (ne < 1 || !product || *product > kMaxElements) {
        return Bad("tensor \"", shown, "\": dimension ", i, " is ", static_cast<int64_t>(ne),
                   "; allowed is 1 up to ", kMaxElements, " elements in all");
      }
      elements = *product;
      t.shape.push_back(static_cast<int64_t>(ne));
    }
    std::reverse(t.shape.begin(), t.shape.end());
    SF_RETURN_IF_ERROR(Read(&type, "a tensor's type"));
    SF_RETURN_IF_ERROR(Read(&t.offset, "a tensor's offset"));
    const GgmlTypeInfo* info = FindGgmlType(type);
    if (info == nullptr) return UnknownType(shown, type);
    if (t.shape.back() % info->block_elements != 0) {
      return Bad("tensor \"", shown, "\": rows of ", t.shape.back(), " elements are not whole ", info->name,
                 " blocks of ", info->block_elements);
    }
    t.type = info->type;
    t.bytes =
        elements / static_cast<uint64_t>(info->block_elements) * static_cast<uint64_t>(info->block_bytes);
    if (!file_.index_.emplace(t.name, static_cast<int>(number)).second) {
      return Bad("tensor \"", shown, "\" appears twice");
    }
    file_.tensors_.push_back(std::move(t));
    return absl::OkStatus();
  }

  absl::Status UnknownType(const std::string& shown, uint32_t type) const {
    const absl::string_view name = GgmlTypeName(type);
    if (name.empty()) return Bad("tensor \"", shown, "\" has type ", type, ", which ggml does not have");
    return absl::UnimplementedError(absl::StrCat(file_.name(), ": tensor \"", shown, "\" has type ", name,
                                                 ", which is not decoded; supported are ",
                                                 DecodedGgmlTypes()));
  }

  // Turns relative offsets into absolute ones. Each tensor must begin where the one before it ends, padded.
  absl::Status PlaceTensors() {
    const uint64_t mask = alignment_ - 1;  // no sum below can wrap: positions are below 2^63
    const uint64_t data = (position_ + mask) & ~mask;
    uint64_t expected = 0;
    for (GgufTensor& t : file_.tensors_) {
      if (t.offset != expected) {
        return Bad("tensor \"", Printable(t.name), "\" begins at data byte ", t.offset, "; ", expected,
                   " is expected (tensors follow each other without gap or overlap)");
      }
      const uint64_t available = size_ > data + expected ? size_ - data - expected : 0;
      if (t.bytes > available) {
        return Bad("tensor \"", Printable(t.name), "\" needs ", t.bytes, " bytes at byte ", data + expected,
                   "; ", available, " are left");
      }
      t.offset = data + expected;
      end_ = t.offset + t.bytes;
      expected = (expected + t.bytes + mask) & ~mask;
    }
    if (file_.tensors_.empty()) end_ = position_;
    const uint64_t padded = data + expected;
    if (size_ > std::max(end_, padded)) {
      return Bad("has ", size_ - padded, " bytes after the last tensor; none are allowed");
    }
    return absl::OkStatus();
  }

  GgufFile& file_;
  const uint64_t size_;
  uint64_t position_ = 0, buffer_begin_ = 0, end_ = 0;
  std::vector<char> buffer_;
  uint64_t num_tensors_ = 0, num_keys_ = 0, alignment_ = kDefaultAlignment;
};

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(const std::string& path) {
  SF_ASSIGN_OR_RETURN(std::unique_ptr<ByteSource> source, OpenFile(path));
  return FromSource(std::move(source));
}

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::FromSource(std::unique_ptr<ByteSource> source) {
  std::unique_ptr<GgufFile> file(new GgufFile);
  file->source_ = std::move(source);
  SF_RETURN_IF_ERROR(GgufParser(file.get()).Parse());
  return file;
}

const GgufValue* GgufFile::Find(absl::string_view key) const {
  const auto it = values_.find(key);
  return it == values_.end() ? nullptr : &it->second;
}

namespace {

absl::Status LookupError(const GgufFile& file, absl::string_view key, const GgufValue* value,
                         const char* wanted) {
  if (value == nullptr)
    return absl::DataLossError(absl::StrCat(file.name(), ": metadata \"", key, "\" is missing"));
  return absl::DataLossError(
      absl::StrCat(file.name(), ": metadata \"", key, "\" is ", KindOf(*value), "; ", wanted, " is needed"));
}

template <typename T>
absl::StatusOr<T> Get(const GgufFile& file, absl::string_view key, const char* wanted) {
  const GgufValue* value = file.Find(key);
  if (value != nullptr) {
    if (const T* v = std::get_if<T>(&value->v)) return *v;
  }
  return LookupError(file, key, value, wanted);
}

}  // namespace

absl::StatusOr<int64_t> GgufFile::GetInt(absl::string_view key) const {
  return Get<int64_t>(*this, key, "an integer");
}
absl::StatusOr<std::string> GgufFile::GetString(absl::string_view key) const {
  return Get<std::string>(*this, key, "a string");
}
absl::StatusOr<bool> GgufFile::GetBool(absl::string_view key) const {
  return Get<bool>(*this, key, "a bool");
}
absl::StatusOr<double> GgufFile::GetDouble(absl::string_view key) const {
  const GgufValue* value = Find(key);
  if (value != nullptr) {
    if (const auto* d = std::get_if<double>(&value->v)) return *d;
    if (const auto* i = std::get_if<int64_t>(&value->v)) return static_cast<double>(*i);
  }
  return LookupError(*this, key, value, "a number");
}

const GgufTensor* GgufFile::FindTensor(absl::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &tensors_[static_cast<size_t>(it->second)];
}

// Blocks go through a buffer that stays in the cache.
absl::Status GgufFile::Decode(const GgmlTypeInfo& info, uint64_t offset, uint64_t num_blocks,
                              float* out) const {
  const uint64_t block_bytes = static_cast<uint64_t>(info.block_bytes);
  const uint64_t chunk_blocks = std::max<uint64_t>(1, kChunkBytes / block_bytes);
  const auto buffer = std::make_unique_for_overwrite<char[]>(
      static_cast<size_t>(std::min(chunk_blocks, num_blocks) * block_bytes));
  for (uint64_t begin = 0; begin < num_blocks; begin += chunk_blocks) {
    const uint64_t count = std::min(chunk_blocks, num_blocks - begin);
    const absl::Span<char> bytes(buffer.get(), static_cast<size_t>(count * block_bytes));
    SF_RETURN_IF_ERROR(source_->Read(offset + begin * block_bytes, bytes));
    info.decode(reinterpret_cast<const uint8_t*>(bytes.data()), static_cast<int64_t>(count),
                out + begin * static_cast<uint64_t>(info.block_elements));
  }
  return absl::OkStatus();
}

absl::StatusOr<Tensor> GgufFile::ReadF32(const GgufTensor& tensor) const {
  const GgmlTypeInfo& info = *FindGgmlType(static_cast<uint32_t>(tensor.type));
  Tensor out(DType::kF32, tensor.shape);
  const uint64_t num_blocks = tensor.bytes / static_cast<uint64_t>(info.block_bytes);
  SF_RETURN_IF_ERROR(Decode(info, tensor.offset, num_blocks, out.as<float>().data()));
  return out;
}

absl::Status GgufFile::ReadF32Rows(const GgufTensor& tensor, int64_t begin, int64_t end, float* out) const {
  const GgmlTypeInfo& info = *FindGgmlType(static_cast<uint32_t>(tensor.type));
  const uint64_t row_blocks = static_cast<uint64_t>(tensor.shape[1] / info.block_elements);
  const uint64_t first = static_cast<uint64_t>(begin) * row_blocks;
  return Decode(info, tensor.offset + first * static_cast<uint64_t>(info.block_bytes),
                static_cast<uint64_t>(end - begin) * row_blocks, out);
}

absl::StatusOr<GgufFile::RawEntries> GgufFile::RawMetadata(bool (*keep)(absl::string_view key)) const {
  RawEntries out;
  for (const std::string& key : keys_) {
    if (key == "general.alignment" || !keep(key)) continue;
    const KeyRange& range = ranges_.at(key);
    const size_t at = out.bytes.size();
    out.bytes.resize(at + static_cast<size_t>(range.end - range.begin));
    SF_RETURN_IF_ERROR(source_->Read(range.begin, absl::MakeSpan(out.bytes).subspan(at)));
    ++out.count;
  }
  return out;
}

absl::StatusOr<std::string> GgufFile::MetadataOnly(bool (*keep)(absl::string_view key)) const {
  SF_ASSIGN_OR_RETURN(const RawEntries entries, RawMetadata(keep));
  std::string out = "GGUF";
  const auto append = [&out](auto v) { out.append(reinterpret_cast<const char*>(&v), sizeof(v)); };
  append(kVersion);
  append(uint64_t{0});
  append(entries.count);
  out += entries.bytes;
  out.resize((out.size() + kDefaultAlignment - 1) / kDefaultAlignment * kDefaultAlignment);
  return out;
}

}  // namespace spikefold
