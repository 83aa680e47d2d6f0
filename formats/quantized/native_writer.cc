#include <algorithm>
#include <chrono>
#include <map>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/status.h"
#include "formats/base/version.h"
#include "formats/quantized/native_journal.h"
#include "formats/quantized/native_parts.h"
#include "formats/safetensors_model.h"

namespace spikefold {
namespace {

absl::Span<const char> Bytes(const TensorView& t) {
  return absl::MakeConstSpan(static_cast<const char*>(t.data), static_cast<size_t>(t.num_bytes()));
}

// With the power so much work is lost, with the process none.
constexpr std::chrono::seconds kSyncPause(1);

class Writer : public NativeWriter {
 public:
  Writer(std::unique_ptr<NativeJournal> journal, std::unique_ptr<AtomicDirectory> directory, NativeInfo info,
         std::vector<SafetensorsWriter::Spec> plain, Json config, Options options)
      : journal_(std::move(journal)),
        directory_(std::move(directory)),
        info_(std::move(info)),
        plain_(std::move(plain)),
        config_(std::move(config)),
        options_(std::move(options)) {
    for (size_t i = 0; i < info_.linears.size(); ++i) linear_index_.emplace(info_.linears[i].module, i);
  }

  ~Writer() override {
    if (journal_ == nullptr) return;
    const bool keep = !done_ && num_written_ > 0;
    journal_->Keep(keep);
    if (!keep) return;
    if (tensors_ != nullptr) tensors_->Keep();
    directory_->Keep();
  }

  // Declares all tensors and writes what is known already.
  absl::Status Begin(const std::vector<NativeSideFile>& side_files) {
    std::vector<SafetensorsWriter::Spec> specs = PartTensorSpecs(info_, plain_, options_.part);
    const std::string& partial = directory_->partial_path();
    if (journal_ != nullptr && !journal_->records().empty()) {
      num_written_ =
          static_cast<int64_t>(journal_->records().size());  // stays, even if it cannot be taken up
      auto reopened = SafetensorsModelWriter::Reopen(partial, std::move(specs), options_.max_shard_bytes);
      if (!reopened.ok()) {
        return absl::Status(reopened.status().code(),
                            absl::StrCat(std::string(reopened.status().message()),
                                         "; begin again with --force instead of --resume"));
      }
      tensors_ = *std::move(reopened);
      SF_RETURN_IF_ERROR(TakeUp());
    } else {
      SF_ASSIGN_OR_RETURN(
          tensors_, SafetensorsModelWriter::Create(partial, std::move(specs), options_.max_shard_bytes));
    }
    for (const NativeSideFile& file : side_files) SF_RETURN_IF_ERROR(AddFile(file.name, file.bytes));
    return is_part() && !options_.part.common ? absl::OkStatus() : WriteCommon();
  }

  // What is known without any weight.
  absl::Status WriteCommon() {
    for (const Rotation& r : info_.rotations) {
      const SafetensorsWriter::Spec spec = RotationTensorSpec(r);
      SF_RETURN_IF_ERROR(WriteAny(spec.name, TensorView{spec.dtype, spec.shape, r.signs.data()}));
    }
    for (const NativeShift& s : info_.shifts) {
      const SafetensorsWriter::Spec spec = ShiftTensorSpec(s);
      std::vector<uint16_t> halves;
      for (const float v : s.values) halves.push_back(FloatToBf16(v));
      SF_RETURN_IF_ERROR(WriteAny(spec.name, TensorView{spec.dtype, spec.shape, halves.data()}));
    }
    const std::vector<SafetensorsWriter::Spec> scales = NativeKvTensorSpecs(info_.kv);
    for (size_t i = 0; i < scales.size(); ++i) {
      const TensorView view = {scales[i].dtype, scales[i].shape, NativeKvTensor(info_.kv, i).data()};
      SF_RETURN_IF_ERROR(WriteAny(scales[i].name, view));
    }
    return absl::OkStatus();
  }

  absl::Status WriteLinear(const QuantizedLinear& linear) override {
    const auto it = linear_index_.find(linear.module);
    if (it == linear_index_.end()) {
      return absl::InvalidArgumentError(absl::StrCat(Printable(linear.module), ": was not declared"));
    }
    QuantizedLinearSpec& declared = info_.linears[it->second];
    if (!SameLayout(declared, linear)) {
      return absl::InvalidArgumentError(absl::StrCat(
          Printable(linear.module), ": differs from its declaration in shape, format or extras"));
    }
    SF_RETURN_IF_ERROR(CheckLinear(linear));
    SF_RETURN_IF_ERROR(EncodeLinear(
        linear, [this](const std::string& name, const TensorView& t) { return WriteAny(name, t); }));
    declared = static_cast<const QuantizedLinearSpec&>(linear);
    written_.insert(linear.module);
    return journal_ == nullptr ? absl::OkStatus() : Record(linear);
  }
  bool HasLinear(absl::string_view module) const override { return written_.contains(module); }
  int64_t num_resumed() const override { return num_resumed_; }
  absl::StatusOr<QuantizedLinear> ReadBack(absl::string_view module) override {
    const auto it = linear_index_.find(module);
    if (it == linear_index_.end() || !HasLinear(module)) {
      return absl::InternalError(absl::StrCat(Printable(module), ": is not written yet"));
    }
    return DecodeLinear(info_.linears[it->second],
                        [this](const std::string& name) { return tensors_->ReadBack(name); });
  }
  void Discard() override { done_ = true; }

  absl::Status WriteTensor(absl::string_view name, const TensorView& tensor) override {
    const bool is_plain = std::any_of(plain_.begin(), plain_.end(),
                                      [&](const SafetensorsWriter::Spec& s) { return name == s.name; });
    if (!is_plain) {
      return absl::InvalidArgumentError(
          absl::StrCat(Printable(name), ": was not declared as a plain tensor"));
    }
    return WriteAny(std::string(name), tensor);
  }

  absl::Status WritePrefix(const NativePrefix& prefix) override {
    SF_RETURN_IF_ERROR(CheckPrefix(info_.prefix, prefix));
    if (prefix.ids.empty()) return absl::OkStatus();
    SF_RETURN_IF_ERROR(
        WriteAny(PrefixIdsName(), TensorView{DType::kI32, {info_.prefix.num_tokens}, prefix.ids.data()}));
    for (size_t l = 0; l < prefix.k.size(); ++l) {
      SF_RETURN_IF_ERROR(WriteAny(PrefixName(info_.prefix.layers[l], 'k'), prefix.k[l].view()));
      SF_RETURN_IF_ERROR(WriteAny(PrefixName(info_.prefix.layers[l], 'v'), prefix.v[l].view()));
    }
    return absl::OkStatus();
  }

  absl::Status Commit() override {
    SF_RETURN_IF_ERROR(tensors_->Finish());
    for (const std::string& name : tensors_->file_names()) SF_RETURN_IF_ERROR(HashFile(name));
    Json method = Json::MakeObject();
    method.Set("quant_method", is_part() ? kPartMethod : kQuantMethod)
        .Set("format_version", kNativeFormatVersion);
    config_.Set("quantization_config", std::move(method));
    SF_RETURN_IF_ERROR(AddFile(kConfigFile, config_.Dump(2) + "\n"));
    const NativeBits bits = CountBits(info_, plain_);
    info_.bits_linears = bits.linears;
    info_.bits_all = bits.all;
    info_.file_bytes = tensors_->file_bytes();
    const TensorHashes hashes(hashes_.begin(), hashes_.end());
    Json sidecar = SidecarToJson(info_, hashes);
    if (is_part()) sidecar.Set(kPartKey, PartToJson(options_.part));
    SF_RETURN_IF_ERROR(AddFile(kSidecarFile, sidecar.Dump(2) + "\n"));
    SF_RETURN_IF_ERROR(WriteManifest());
    SF_RETURN_IF_ERROR(directory_->Commit());
    done_ = true;
    if (journal_ != nullptr) journal_->Keep(false);
    journal_.reset();  // last: without its directory it says nothing
    return absl::OkStatus();
  }

 private:
  bool is_part() const { return options_.part.count > 0; }

  // What the journal says is written, as far as it is there.
  absl::Status TakeUp() {
    SF_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDirectory(directory_->partial_path()));
    for (const std::string& name : names) {  // what is made at the end, or again
      const auto& files = tensors_->file_names();
      if (std::find(files.begin(), files.end(), name) != files.end()) continue;
      SF_RETURN_IF_ERROR(RemoveFile(JoinPath(directory_->partial_path(), name)));
    }
    for (const JournalRecord& record : journal_->records()) {
      const auto it = linear_index_.find(record.module);
      if (it == linear_index_.end() || !IsThere(record)) continue;
      for (const auto& [name, hash] : record.tensors) {
        tensors_->MarkWritten(name);
        hashes_[name] = hash;
      }
      info_.linears[it->second].weight_error = record.weight_error;
      written_.insert(record.module);
      ++num_resumed_;
    }
    return absl::OkStatus();
  }

  // Whether the file holds what the record says, which must be all tensors of the linear.
  bool IsThere(const JournalRecord& record) {
    const auto specs = TensorSpecs(info_.linears[linear_index_.at(record.module)]);
    if (specs.size() != record.tensors.size()) return false;
    for (size_t i = 0; i < specs.size(); ++i) {
      const auto& [name, hash] = record.tensors[i];
      if (name != specs[i].name) return false;
      const auto tensor = tensors_->ReadBack(name);
      if (!tensor.ok() || Xxh3Hex(Bytes(tensor->view())) != hash) return false;
    }
    return true;
  }

  absl::Status Record(const QuantizedLinear& linear) {
    JournalRecord record{.module = linear.module, .weight_error = linear.weight_error};
    for (const SafetensorsWriter::Spec& spec : TensorSpecs(linear)) {
      record.tensors.emplace_back(spec.name, hashes_.at(spec.name));
    }
    SF_RETURN_IF_ERROR(journal_->Add(record));
    ++num_written_;
    const auto now = std::chrono::steady_clock::now();
    if (now - last_sync_ < kSyncPause) return absl::OkStatus();
    last_sync_ = now;
    SF_RETURN_IF_ERROR(tensors_->Sync());
    return journal_->Sync();
  }

  absl::Status WriteAny(const std::string& name, const TensorView& tensor) {
    SF_RETURN_IF_ERROR(tensors_->Write(name, tensor));
    hashes_[name] = Xxh3Hex(Bytes(tensor));
    return absl::OkStatus();
  }

  absl::Status AddFile(const std::string& name, const std::string& bytes) {
    SF_ASSIGN_OR_RETURN(const std::unique_ptr<FileWriter> file,
                        FileWriter::Create(JoinPath(directory_->partial_path(), name)));
    SF_RETURN_IF_ERROR(file->Append(absl::MakeConstSpan(bytes.data(), bytes.size())));
    SF_ASSIGN_OR_RETURN(const std::string sha256, file->Finish());
    return ListFile(name, bytes.size(), sha256);
  }

  absl::Status HashFile(const std::string& name) {
    SF_ASSIGN_OR_RETURN(const std::unique_ptr<ByteSource> file, OpenFileIn(directory_->partial_path(), name));
    SF_ASSIGN_OR_RETURN(const std::string sha256, Sha256Source(*file));
    return ListFile(name, file->size(), sha256);
  }

  absl::Status ListFile(const std::string& name, uint64_t bytes, const std::string& sha256) {
    Json entry = Json::MakeObject();
    entry.Set("bytes", bytes).Set("sha256", sha256);
    files_.emplace(name, std::move(entry));
    return absl::OkStatus();
  }

  absl::Status WriteManifest() {
    Json manifest = Json::MakeObject(), files = Json::MakeObject(), arguments = Json::MakeArray();
    for (auto& [name, entry] : files_) files.Set(name, entry);
    for (const std::string& a : options_.arguments) arguments.Append(a);
    manifest.Set("format_version", kNativeFormatVersion).Set("tool", ToolVersionAndCommit());
    manifest.Set("arguments", std::move(arguments)).Set("files", std::move(files));
    return AddFile(kManifestFile, SealManifest(manifest.Dump(2)));
  }

  // In this order: the journal, which tells whose the directory is, is made first and removed last.
  std::unique_ptr<NativeJournal> journal_;  // null: none
  std::unique_ptr<AtomicDirectory> directory_;
  NativeInfo info_;
  const std::vector<SafetensorsWriter::Spec> plain_;
  Json config_;
  const Options options_;
  std::unique_ptr<SafetensorsModelWriter> tensors_;
  absl::flat_hash_map<std::string, size_t> linear_index_;
  std::map<std::string, std::string> hashes_;  // sorted: the sidecar does not depend on the order of writing
  std::map<std::string, Json> files_;
  absl::flat_hash_set<std::string> written_;  // linears
  int64_t num_resumed_ = 0, num_written_ = 0;
  bool done_ = false;  // nothing stays for a later run
  std::chrono::steady_clock::time_point last_sync_ = std::chrono::steady_clock::now();
};

absl::Status CheckSideFile(const NativeSideFile& file, std::vector<std::string>* seen) {
  const std::string& name = file.name;
  if (name.empty() || name[0] == '.' || name.find('/') != std::string::npos ||
      name.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("side file \"", Printable(name), "\" is not a plain file name"));
  }
  const bool ours = name == kConfigFile || name == kSidecarFile || name == kManifestFile ||
                    name.rfind("model", 0) == 0;  // model.safetensors, shards and their index
  if (ours || std::find(seen->begin(), seen->end(), name) != seen->end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("side file \"", Printable(name), "\" has the name of another file of the checkpoint"));
  }
  seen->push_back(name);
  return absl::OkStatus();
}

// The work of an interrupted run is not thrown away unasked.
absl::Status CheckLeftover(const std::string& path, const NativeWriter::Options& options) {
  if (options.resume || options.overwrite || !PathExists(PartialPath(path))) return absl::OkStatus();
  const int64_t linears = NativeJournal::CountRecords(JournalPath(path));
  if (linears == 0) return absl::OkStatus();
  SF_RETURN_IF_ERROR(NativeJournal::CheckFree(JournalPath(path)));
  return absl::AlreadyExistsError(
      absl::StrCat(Printable(PartialPath(path), 1024), ": holds ", linears,
                   " linears of an interrupted run; go on with --resume, or begin again with --force"));
}

}  // namespace

// Beside what is written, as AtomicDirectory::Resume() names it.
std::string PartialPath(const std::string& path) {
  return BehindLink(JoinPath(Dirname(path), Basename(path))) + ".partial";
}
std::string JournalPath(const std::string& path) { return PartialPath(path) + ".journal"; }

absl::StatusOr<std::unique_ptr<NativeWriter>> NativeWriter::Create(
    const std::string& path, NativeInfo info, std::vector<SafetensorsWriter::Spec> plain, Json config_json,
    const std::vector<NativeSideFile>& side_files, const Options& options) {
  if (!config_json.is_object()) return absl::InvalidArgumentError("config.json: is not a JSON object");
  for (const QuantizedLinearSpec& s : info.linears) SF_RETURN_IF_ERROR(CheckSpec(s));
  SF_RETURN_IF_ERROR(CheckPrefixSpec(info.prefix));
  SF_RETURN_IF_ERROR(CheckRotations(info.rotations));
  SF_RETURN_IF_ERROR(CheckShifts(info.shifts));
  SF_RETURN_IF_ERROR(CheckNativeKv(info.kv));
  for (const SafetensorsWriter::Spec& s : plain) {
    if (!IsFloat(s.dtype) || s.name.rfind("spikefold.", 0) == 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          Printable(s.name), ": ", DTypeName(s.dtype),
          "; a plain tensor is F16, BF16, F32 or F64 and its name does not begin with \"spikefold.\""));
    }
  }
  absl::flat_hash_set<std::string> modules;
  for (const QuantizedLinearSpec& s : info.linears) modules.insert(s.module);
  for (const SafetensorsWriter::Spec& s : plain) {
    if (modules.contains(s.name.substr(0, s.name.rfind('.')))) {
      return absl::InvalidArgumentError(
          absl::StrCat(Printable(s.name), ": belongs to a declared linear and cannot be a plain tensor"));
    }
  }
  std::vector<std::string> names;
  for (const NativeSideFile& file : side_files) SF_RETURN_IF_ERROR(CheckSideFile(file, &names));
  if (info.tool_version.empty()) info.tool_version = ToolVersion();
  std::unique_ptr<NativeJournal> journal;
  std::unique_ptr<AtomicDirectory> directory;
  if (options.journal_fingerprint.empty()) {
    SF_ASSIGN_OR_RETURN(directory, AtomicDirectory::Create(path, options.overwrite));
  } else {
    SF_RETURN_IF_ERROR(CheckLeftover(path, options));
    SF_ASSIGN_OR_RETURN(journal,
                        NativeJournal::Open(JournalPath(path), options.journal_fingerprint, options.resume));
    if (!PathExists(PartialPath(path))) SF_RETURN_IF_ERROR(journal->Restart());
    using Leftover = AtomicDirectory::Leftover;
    const Leftover leftover = !journal->existed()          ? Leftover::kNew
                              : journal->records().empty() ? Leftover::kAgain
                                                           : Leftover::kContinue;
    SF_ASSIGN_OR_RETURN(directory, AtomicDirectory::Resume(path, options.overwrite, leftover));
  }
  auto writer = std::make_unique<Writer>(std::move(journal), std::move(directory), std::move(info),
                                         std::move(plain), std::move(config_json), options);
  SF_RETURN_IF_ERROR(writer->Begin(side_files));
  return std::unique_ptr<NativeWriter>(std::move(writer));
}

}  // namespace spikefold
