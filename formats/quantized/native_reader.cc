#include <algorithm>
#include <atomic>
#include <future>

#include "absl/cleanup/cleanup.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/status.h"
#include "formats/quantized/native_parts.h"
#include "formats/safetensors_model.h"

namespace spikefold {
namespace {

constexpr uint64_t kMaxJsonBytes = 100'000'000;

absl::StatusOr<Json> ReadJsonIn(const std::string& directory, const std::string& name) {
  SF_ASSIGN_OR_RETURN(const std::unique_ptr<ByteSource> source, OpenFileIn(directory, name));
  SF_ASSIGN_OR_RETURN(const std::string text, ReadToString(*source, kMaxJsonBytes));
  return ParseJson(text, Printable(source->name(), 1024));
}

// A rule that a caller of the writer would break is a corrupt file here.
absl::Status AsDataLoss(const absl::Status& status, absl::string_view path) {
  if (status.code() != absl::StatusCode::kInvalidArgument) return status;
  return absl::DataLossError(absl::StrCat(Printable(path, 1024), ": ", status.message()));
}

absl::Status CheckConfig(const Json& config, absl::string_view path, bool part) {
  const std::string where = absl::StrCat(Printable(path, 1024), "/", kConfigFile);
  const Json* method = config.Find("quantization_config");
  if (method == nullptr || !method->is_object()) {
    return absl::DataLossError(absl::StrCat(where, ": has no quantization_config"));
  }
  SF_ASSIGN_OR_RETURN(const std::string name, method->GetString("quant_method", where));
  SF_ASSIGN_OR_RETURN(const int64_t version, method->GetInt("format_version", where));
  if (part && name != kPartMethod) {
    return absl::InvalidArgumentError(absl::StrCat(
        Printable(path, 1024), ": is no part of a model; give the directories that quantize --shard wrote"));
  }
  if (!part && name == kPartMethod) {
    return absl::UnimplementedError(absl::StrCat(
        Printable(path, 1024), ": is a part of a quantized model; put all together by spikefold merge"));
  }
  if ((!part && name != kQuantMethod) || version != kNativeFormatVersion) {
    return absl::UnimplementedError(absl::StrCat(where, ": quant_method \"", Printable(name), "\" version ",
                                                 version, "; this Spikefold reads \"", kQuantMethod,
                                                 "\" version ", kNativeFormatVersion));
  }
  return absl::OkStatus();
}

class Reader : public NativeReader {
 public:
  explicit Reader(std::string path) : path_(std::move(path)) {}

  absl::Status Load(bool part) {
    SF_ASSIGN_OR_RETURN(config_, ReadJsonIn(path_, kConfigFile));
    SF_RETURN_IF_ERROR(CheckConfig(config_, path_, part));
    SF_ASSIGN_OR_RETURN(const Json sidecar, ReadJsonIn(path_, kSidecarFile));
    if (part) {
      SF_ASSIGN_OR_RETURN(part_, PartFromJson(sidecar, SidecarName()));
      SF_ASSIGN_OR_RETURN(part_.sha256, Sha256File(JoinPath(path_, kSidecarFile)));
    }
    SF_RETURN_IF_ERROR(SidecarFromJson(sidecar, SidecarName(), &info_, &hashes_));
    SF_ASSIGN_OR_RETURN(tensors_, SafetensorsModel::Open(path_));
    for (size_t i = 0; i < info_.linears.size(); ++i) linear_index_.emplace(info_.linears[i].module, i);
    SF_RETURN_IF_ERROR(CheckTensors());
    SF_RETURN_IF_ERROR(CheckCounts());
    if (part && !part_.common) return absl::OkStatus();
    SF_RETURN_IF_ERROR(ReadSigns());
    SF_RETURN_IF_ERROR(ReadShifts());
    return ReadKeyScales();
  }

  const NativeInfo& info() const override { return info_; }
  const Json& config_json() const override { return config_; }
  const NativePart& part() const override { return part_; }
  const std::vector<SafetensorsEntry>& plain() const override { return plain_; }
  const std::vector<std::string>& warnings() const override { return tensors_->warnings(); }
  const TensorHashes& hashes() const { return hashes_; }
  const SafetensorsModel& tensors() const { return *tensors_; }

  const QuantizedLinearSpec* FindLinear(absl::string_view module) const override {
    const auto it = linear_index_.find(module);
    return it == linear_index_.end() ? nullptr : &info_.linears[it->second];
  }
  absl::StatusOr<QuantizedLinear> ReadLinear(absl::string_view module) const override {
    const QuantizedLinearSpec* spec = FindLinear(module);
    if (spec == nullptr) return NoLinear(module);
    absl::StatusOr<QuantizedLinear> linear =
        DecodeLinear(*spec, [this](const std::string& name) { return tensors_->Read(name); });
    if (!linear.ok()) return AsDataLoss(linear.status(), path_);
    return linear;
  }
  absl::StatusOr<std::unique_ptr<LinearRows>> OpenLinear(absl::string_view module) const override {
    const QuantizedLinearSpec* spec = FindLinear(module);
    if (spec == nullptr) return NoLinear(module);
    absl::StatusOr<std::unique_ptr<LinearRows>> rows = OpenLinearRows(
        *spec, [this](const std::string& name) { return tensors_->Read(name); },
        [this](const std::string& name, int64_t begin, int64_t end) {
          return tensors_->ReadRows(name, begin, end);
        });
    if (!rows.ok()) return AsDataLoss(rows.status(), path_);
    return std::make_unique<CheckedRows>(path_, *std::move(rows));
  }
  absl::StatusOr<Tensor> ReadTensor(absl::string_view name) const override {
    SF_RETURN_IF_ERROR(CheckPlain(name));
    return tensors_->Read(name);
  }
  absl::StatusOr<Tensor> ReadTensorRows(absl::string_view name, int64_t begin, int64_t end) const override {
    SF_RETURN_IF_ERROR(CheckPlain(name));
    return tensors_->ReadRows(name, begin, end);
  }
  absl::StatusOr<NativePrefix> ReadPrefix() const override {
    NativePrefix prefix;
    if (info_.prefix.num_tokens == 0) return prefix;
    SF_ASSIGN_OR_RETURN(const Tensor ids, tensors_->Read(PrefixIdsName()));
    prefix.ids.assign(ids.as<int32_t>().begin(), ids.as<int32_t>().end());
    for (const int layer : info_.prefix.layers) {
      SF_ASSIGN_OR_RETURN(Tensor k, tensors_->Read(PrefixName(layer, 'k')));
      SF_ASSIGN_OR_RETURN(Tensor v, tensors_->Read(PrefixName(layer, 'v')));
      prefix.k.push_back(std::move(k));
      prefix.v.push_back(std::move(v));
    }
    SF_RETURN_IF_ERROR(AsDataLoss(CheckPrefix(info_.prefix, prefix), path_));
    return prefix;
  }

 private:
  // Says where a rule is broken.
  class CheckedRows : public LinearRows {
   public:
    CheckedRows(std::string path, std::unique_ptr<LinearRows> rows)
        : path_(std::move(path)), rows_(std::move(rows)) {}
    const QuantizedLinear& sides() const override { return rows_->sides(); }
    absl::Status Codes(int64_t begin, int64_t end, int8_t* out) const override {
      return AsDataLoss(rows_->Codes(begin, end, out), path_);
    }
    absl::Status Read(int64_t begin, int64_t end, float* out) const override {
      return AsDataLoss(rows_->Read(begin, end, out), path_);
    }
    int64_t rows_together() const override { return rows_->rows_together(); }

   private:
    const std::string path_;
    const std::unique_ptr<LinearRows> rows_;
  };

  absl::Status NoLinear(absl::string_view module) const {
    return absl::NotFoundError(absl::StrCat(Printable(path_, 1024), ": has no linear ", Printable(module)));
  }
  absl::Status CheckPlain(absl::string_view name) const {
    const auto same = [&](const SafetensorsEntry& e) { return name == e.name; };
    if (std::any_of(plain_.begin(), plain_.end(), same)) return absl::OkStatus();
    return absl::NotFoundError(
        absl::StrCat(Printable(path_, 1024), ": has no plain tensor ", Printable(name)));
  }

  std::string SidecarName() const { return absl::StrCat(Printable(path_, 1024), "/", kSidecarFile); }

  // The tensors in the files are exactly those that the sidecar implies, and plain ones.
  absl::Status CheckTensors() {
    absl::flat_hash_map<std::string, SafetensorsWriter::Spec> expected;
    for (SafetensorsWriter::Spec& t : PartTensorSpecs(info_, {}, part_)) expected.emplace(t.name, t);
    for (const SafetensorsEntry* e : tensors_->entries()) {
      const auto it = expected.find(e->name);
      if (it == expected.end()) {
        SF_RETURN_IF_ERROR(AddPlain(*e));
        continue;
      }
      if (it->second.dtype != e->dtype || it->second.shape != e->shape) {
        return absl::DataLossError(absl::StrCat(SidecarName(), ": tensor ", Printable(e->name), " is ",
                                                DTypeName(e->dtype), " ", ShapeString(e->shape),
                                                "; the sidecar implies ", DTypeName(it->second.dtype), " ",
                                                ShapeString(it->second.shape)));
      }
      expected.erase(it);
    }
    if (!expected.empty()) {
      std::string first = expected.begin()->first;
      for (const auto& [name, spec] : expected) first = std::min(first, name);
      return absl::DataLossError(
          absl::StrCat(SidecarName(), ": implies the tensor ", Printable(first), ", which is absent"));
    }
    return absl::OkStatus();
  }

  absl::Status AddPlain(const SafetensorsEntry& e) {
    const size_t dot = e.name.rfind('.');
    const bool of_linear = dot != std::string::npos && FindLinear(e.name.substr(0, dot)) != nullptr;
    if (of_linear || absl::StartsWith(e.name, "spikefold.") || !IsFloat(e.dtype)) {
      return absl::UnimplementedError(absl::StrCat(Printable(path_, 1024), ": tensor ", Printable(e.name),
                                                   ", ", DTypeName(e.dtype),
                                                   ", does not follow from the sidecar; it may "
                                                   "need a newer Spikefold"));
    }
    plain_.push_back(e);
    return absl::OkStatus();
  }

  absl::Status ReadSigns() {
    for (Rotation& r : info_.rotations) {
      SF_ASSIGN_OR_RETURN(const Tensor signs, tensors_->Read(RotationTensorSpec(r).name));
      r.signs.assign(signs.as<int8_t>().begin(), signs.as<int8_t>().end());
    }
    return AsDataLoss(CheckRotations(info_.rotations), path_);
  }

  absl::Status ReadShifts() {
    for (NativeShift& s : info_.shifts) {
      SF_ASSIGN_OR_RETURN(const Tensor values, tensors_->Read(ShiftTensorSpec(s).name));
      s.values.clear();
      for (const uint16_t half : values.as<uint16_t>()) s.values.push_back(Bf16ToFloat(half));
    }
    return AsDataLoss(CheckShifts(info_.shifts), path_);
  }

  absl::Status ReadKeyScales() {
    const std::vector<SafetensorsWriter::Spec> specs = NativeKvTensorSpecs(info_.kv);
    for (size_t i = 0; i < specs.size(); ++i) {
      SF_ASSIGN_OR_RETURN(const Tensor t, tensors_->Read(specs[i].name));
      NativeKvTensor(info_.kv, i).assign(t.as<float>().begin(), t.as<float>().end());
    }
    return AsDataLoss(CheckNativeKv(info_.kv), path_);
  }

  absl::Status CheckCounts() const {
    for (const auto& [name, hash] : hashes_) {
      if (tensors_->Find(name) == nullptr) {
        return absl::DataLossError(
            absl::StrCat(SidecarName(), ": lists the tensor ", Printable(name), ", which is absent"));
      }
    }
    if (hashes_.size() != tensors_->entries().size()) {  // no name twice: JSON keys are unique
      return absl::DataLossError(absl::StrCat(SidecarName(), ": lists ", hashes_.size(),
                                              " tensors; the files hold ", tensors_->entries().size()));
    }
    if (part_.count > 0 && !part_.common) return absl::OkStatus();  // the others have what is counted
    std::vector<SafetensorsWriter::Spec> plain;
    for (const SafetensorsEntry& e : plain_) plain.push_back({e.name, e.dtype, e.shape});
    const NativeBits bits = CountBits(info_, plain);
    if (bits.linears != info_.bits_linears || bits.all != info_.bits_all ||
        info_.file_bytes != tensors_->file_bytes()) {
      return absl::DataLossError(absl::StrCat(SidecarName(), ": states ", info_.bits_linears, " and ",
                                              info_.bits_all, " bits in ", info_.file_bytes,
                                              " bytes; the tensors give ", bits.linears, " and ", bits.all,
                                              " in ", tensors_->file_bytes()));
    }
    return absl::OkStatus();
  }

  const std::string path_;
  Json config_;
  NativeInfo info_;
  TensorHashes hashes_;
  NativePart part_;
  std::unique_ptr<SafetensorsModel> tensors_;
  absl::flat_hash_map<std::string, size_t> linear_index_;
  std::vector<SafetensorsEntry> plain_;
};

absl::StatusOr<std::unique_ptr<Reader>> OpenReader(const std::string& path, bool part = false) {
  if (!IsDirectory(path)) {
    return absl::NotFoundError(absl::StrCat(Printable(path, 1024), ": is not a directory"));
  }
  auto reader = std::make_unique<Reader>(path);
  SF_RETURN_IF_ERROR(reader->Load(part));
  return reader;
}

absl::Status VerifyFile(const std::string& path, const std::string& name, const Json& entry) {
  const std::string where = absl::StrCat(Printable(path, 1024), "/", kManifestFile, ": ", Printable(name));
  SF_ASSIGN_OR_RETURN(const int64_t bytes, entry.GetInt("bytes", where));
  SF_ASSIGN_OR_RETURN(const std::string sha256, entry.GetString("sha256", where));
  const auto source = OpenFileIn(path, name);
  if (absl::IsNotFound(source.status())) return absl::DataLossError(absl::StrCat(where, " is absent"));
  SF_RETURN_IF_ERROR(source.status());
  if ((*source)->size() != static_cast<uint64_t>(bytes)) {
    return absl::DataLossError(absl::StrCat(where, " has ", (*source)->size(), " bytes, not ", bytes));
  }
  SF_ASSIGN_OR_RETURN(const std::string measured, Sha256Source(**source));
  if (measured != sha256) {
    return absl::DataLossError(absl::StrCat(where, " has SHA-256 ", measured, ", not ", Printable(sha256)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status VerifyManifest(const std::string& path, const Progress& progress) {
  SF_ASSIGN_OR_RETURN(const std::unique_ptr<ByteSource> source, OpenFileIn(path, kManifestFile));
  SF_ASSIGN_OR_RETURN(const std::string text, ReadToString(*source, kMaxJsonBytes));
  const std::string where = Printable(source->name(), 1024);
  SF_ASSIGN_OR_RETURN(const Json manifest, ParseJson(text, where));
  SF_RETURN_IF_ERROR(CheckManifestSeal(text, where));
  const Json* files = manifest.Find("files");
  if (files == nullptr || !files->is_object()) {
    return absl::DataLossError(absl::StrCat(where, ": \"files\" is not an object"));
  }
  SF_ASSIGN_OR_RETURN(const std::vector<std::string> present, ListDirectory(path));
  for (const std::string& name : present) {
    if (name != kManifestFile && files->Find(name) == nullptr) {
      return absl::DataLossError(absl::StrCat(Printable(path, 1024), ": holds ", Printable(name),
                                              ", which the manifest does not list"));
    }
  }
  int64_t done = 0;
  const int64_t total = static_cast<int64_t>(files->object().size());
  for (const auto& [name, entry] : files->object()) {
    if (!Report(progress, "hashing files", done++, total)) return absl::CancelledError("verify: interrupted");
    SF_RETURN_IF_ERROR(VerifyFile(path, name, entry));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<NativeReader>> NativeReader::Open(const std::string& path) {
  SF_ASSIGN_OR_RETURN(std::unique_ptr<Reader> reader, OpenReader(path));
  return std::unique_ptr<NativeReader>(std::move(reader));
}

absl::StatusOr<std::unique_ptr<NativeReader>> NativeReader::OpenPart(const std::string& path) {
  SF_ASSIGN_OR_RETURN(std::unique_ptr<Reader> reader, OpenReader(path, true));
  return std::unique_ptr<NativeReader>(std::move(reader));
}

bool IsNativeCheckpoint(const std::string& path) {
  const auto config = ReadJsonIn(path, kConfigFile);
  const Json* method = config.ok() ? config->Find("quantization_config") : nullptr;
  const Json* name = method != nullptr ? method->Find("quant_method") : nullptr;
  return name != nullptr && name->is_string() && name->string_value() == kQuantMethod;
}

namespace {

// Each tensor's hash, and each linear's rules, in one pass over the files.
absl::Status VerifyTensors(const std::string& path, const Progress& progress,
                           const std::function<absl::Status(const QuantizedLinear&)>& rule) {
  SF_ASSIGN_OR_RETURN(const std::unique_ptr<Reader> reader, OpenReader(path));
  absl::flat_hash_map<absl::string_view, absl::string_view> hashes;
  for (const auto& [name, hash] : reader->hashes()) hashes.emplace(name, hash);
  const auto read = [&](const std::string& name) -> absl::StatusOr<Tensor> {
    SF_ASSIGN_OR_RETURN(Tensor tensor, reader->tensors().Read(name));
    const std::string measured = Xxh3Hex(absl::MakeConstSpan(static_cast<const char*>(tensor.data()),
                                                             static_cast<size_t>(tensor.num_bytes())));
    const auto it = hashes.find(name);  // CheckCounts() saw that each has one
    if (it != hashes.end() && measured != it->second) {
      return absl::DataLossError(absl::StrCat(Printable(path, 1024), ": tensor ", Printable(name),
                                              " has XXH3 ", measured, ", not ", Printable(it->second)));
    }
    if (it != hashes.end()) hashes.erase(it);
    return tensor;
  };
  const auto& linears = reader->info().linears;
  const int64_t total = static_cast<int64_t>(linears.size());
  for (int64_t i = 0; i < total; ++i) {
    if (!Report(progress, "checking linears", i, total)) return absl::CancelledError("verify: interrupted");
    const absl::StatusOr<QuantizedLinear> linear = DecodeLinear(linears[static_cast<size_t>(i)], read);
    if (!linear.ok()) return AsDataLoss(linear.status(), path);
    if (rule) SF_RETURN_IF_ERROR(AsDataLoss(rule(*linear), path));
  }
  std::vector<std::string> others;
  for (const auto& [name, hash] : hashes) others.emplace_back(name);
  std::sort(others.begin(), others.end());
  for (const std::string& name : others) SF_RETURN_IF_ERROR(read(name).status());
  return reader->ReadPrefix().status();
}

}  // namespace

// SHA-256 is slower than everything else together, so it has a thread of its own.
absl::Status NativeVerify(const std::string& path, const Progress& progress,
                          const std::function<absl::Status(const QuantizedLinear&)>& rule) {
  std::atomic<bool> stop = false;
  auto hashing = std::async(std::launch::async, [&] {
    return VerifyManifest(path, [&stop](absl::string_view, int64_t, int64_t) { return !stop; });
  });
  const absl::Cleanup no_longer_needed = [&stop] {
    stop = true;
  };  // whoever leaves here waits for the thread
  absl::Status tensors = VerifyTensors(path, progress, rule);
  if (absl::IsCancelled(tensors)) return tensors;
  const absl::Status files = hashing.get();
  return files.ok() ? tensors : files;  // a file that is not as written explains what else is wrong
}

}  // namespace spikefold
