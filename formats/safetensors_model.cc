#include "formats/safetensors_model.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/base/file.h"
#include "formats/base/json.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";
constexpr uint64_t kMaxIndexBytes = 100'000'000;

absl::Status NoSafetensors(const std::string& directory) {
  std::string hint;
  if (auto names = ListDirectory(directory); names.ok()) {
    for (const std::string& name : *names) {
      if (absl::EndsWith(name, ".bin") || absl::EndsWith(name, ".pt") || absl::EndsWith(name, ".pth")) {
        hint = absl::StrCat("; ", Printable(name),
                            " is a pickle, which Spikefold never reads: convert it to safetensors");
      }
    }
  }
  return absl::NotFoundError(
      absl::StrCat(Printable(directory, 1024), ": has neither ", kSingleFile, " nor ", kIndexFile, hint));
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsModel>> SafetensorsModel::Open(const std::string& directory) {
  if (!IsDirectory(directory)) {
    return absl::NotFoundError(absl::StrCat(Printable(directory, 1024), ": is not a directory"));
  }
  auto model = std::unique_ptr<SafetensorsModel>(new SafetensorsModel());
  const bool has_index = PathExists(JoinPath(directory, kIndexFile));
  if (PathExists(JoinPath(directory, kSingleFile))) {
    if (has_index) {
      model->warnings_.push_back(absl::StrCat(Printable(directory, 1024), ": has both ", kSingleFile, " and ",
                                              kIndexFile, "; the index is ignored"));
    }
    SF_RETURN_IF_ERROR(model->AddFile(directory, kSingleFile));
    for (const SafetensorsEntry& e : model->files_[0]->entries()) model->AddEntry(0, e);
    return model;
  }
  if (!has_index) return NoSafetensors(directory);
  SF_RETURN_IF_ERROR(model->ReadIndex(directory));
  return model;
}

absl::Status SafetensorsModel::AddFile(const std::string& directory, const std::string& name) {
  SF_ASSIGN_OR_RETURN(std::unique_ptr<ByteSource> source, OpenFileIn(directory, name));
  SF_ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file, SafetensorsFile::FromSource(std::move(source)));
  warnings_.insert(warnings_.end(), file->warnings().begin(), file->warnings().end());
  files_.push_back(std::move(file));
  file_names_.push_back(name);
  return absl::OkStatus();
}

void SafetensorsModel::AddEntry(size_t file, const SafetensorsEntry& entry) {
  entries_.push_back(&entry);
  index_.emplace(entry.name, std::make_pair(file, &entry));
}

absl::Status SafetensorsModel::ReadIndex(const std::string& directory) {
  const std::string where = Printable(JoinPath(directory, kIndexFile), 1024);
  SF_ASSIGN_OR_RETURN(const std::unique_ptr<ByteSource> source, OpenFileIn(directory, kIndexFile));
  SF_ASSIGN_OR_RETURN(const std::string text, ReadToString(*source, kMaxIndexBytes));
  SF_ASSIGN_OR_RETURN(const Json index, ParseJson(text, where));
  const Json* map = index.Find("weight_map");
  if (map == nullptr || !map->is_object()) {
    return absl::DataLossError(absl::StrCat(where, ": \"weight_map\" is not an object"));
  }
  std::map<std::string, size_t> shard_ids;  // sorted by name
  absl::flat_hash_map<absl::string_view, absl::string_view> shard_of;
  for (const auto& [tensor, shard] : map->object()) {
    if (!shard.is_string()) {
      return absl::DataLossError(
          absl::StrCat(where, ": the shard of \"", Printable(tensor), "\" is not a string"));
    }
    shard_ids.emplace(shard.string_value(), 0);
    shard_of.emplace(tensor, shard.string_value());
  }
  for (auto& [name, id] : shard_ids) {
    const absl::Status status = AddFile(directory, name);
    if (absl::IsNotFound(status)) {
      return absl::DataLossError(
          absl::StrCat(where, ": names the shard \"", Printable(name), "\", which is absent"));
    }
    SF_RETURN_IF_ERROR(status);
    id = files_.size() - 1;
  }
  absl::flat_hash_map<absl::string_view, size_t> home;
  uint64_t total_size = 0;
  for (size_t f = 0; f < files_.size(); ++f) {
    for (const SafetensorsEntry& e : files_[f]->entries()) {
      const auto [it, is_new] = home.emplace(e.name, f);
      if (!is_new) {
        return absl::DataLossError(absl::StrCat(where, ": tensor \"", Printable(e.name),
                                                "\" lies in two shards, ", Printable(file_names_[it->second]),
                                                " and ", Printable(file_names_[f])));
      }
      total_size += e.bytes;
      const auto mapped = shard_of.find(e.name);
      if (mapped == shard_of.end()) {
        warnings_.push_back(absl::StrCat(where, ": does not map tensor \"", Printable(e.name), "\" of ",
                                         Printable(file_names_[f]), "; it is left out"));
      } else if (mapped->second == file_names_[f]) {
        AddEntry(f, e);
      }
    }
  }
  for (const auto& [tensor, shard] : map->object()) {
    if (index_.contains(tensor)) continue;
    return absl::DataLossError(absl::StrCat(where, ": tensor \"", Printable(tensor),
                                            "\" is not in its shard ", Printable(shard.string_value())));
  }
  if (const Json* metadata = index.Find("metadata"); metadata != nullptr) {
    const Json* stated = metadata->Find("total_size");
    if (stated != nullptr && stated->is_number() &&
        stated->number_value() != static_cast<double>(total_size)) {
      warnings_.push_back(absl::StrCat(where, ": total_size is ", Printable(stated->Dump()),
                                       ", but the tensors take ", total_size, " bytes"));
    }
  }
  return absl::OkStatus();
}

const SafetensorsEntry* SafetensorsModel::Find(absl::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : it->second.second;
}

absl::StatusOr<Tensor> SafetensorsModel::Read(absl::string_view name) const {
  const auto it = index_.find(name);
  if (it == index_.end()) {
    return absl::NotFoundError(absl::StrCat("tensor \"", Printable(name), "\" is not in the model"));
  }
  return files_[it->second.first]->Read(*it->second.second);
}

absl::StatusOr<Tensor> SafetensorsModel::ReadRows(absl::string_view name, int64_t begin, int64_t end) const {
  const auto it = index_.find(name);
  if (it == index_.end()) {
    return absl::NotFoundError(absl::StrCat("tensor \"", Printable(name), "\" is not in the model"));
  }
  return files_[it->second.first]->ReadRows(*it->second.second, begin, end);
}

uint64_t SafetensorsModel::file_bytes() const {
  uint64_t sum = 0;
  for (const auto& file : files_) sum += file->file_bytes();
  return sum;
}

absl::StatusOr<std::unique_ptr<SafetensorsModelWriter>> SafetensorsModelWriter::Create(
    const std::string& directory, std::vector<SafetensorsWriter::Spec> specs, uint64_t max_shard_bytes) {
  auto writer = std::unique_ptr<SafetensorsModelWriter>(new SafetensorsModelWriter());
  SF_RETURN_IF_ERROR(writer->Declare(directory, std::move(specs), max_shard_bytes, false));
  return writer;
}

absl::StatusOr<std::unique_ptr<SafetensorsModelWriter>> SafetensorsModelWriter::Reopen(
    const std::string& directory, std::vector<SafetensorsWriter::Spec> specs, uint64_t max_shard_bytes) {
  auto writer = std::unique_ptr<SafetensorsModelWriter>(new SafetensorsModelWriter());
  SF_RETURN_IF_ERROR(writer->Declare(directory, std::move(specs), max_shard_bytes, true));
  return writer;
}

absl::Status SafetensorsModelWriter::Declare(const std::string& directory,
                                             std::vector<SafetensorsWriter::Spec> specs,
                                             uint64_t max_shard_bytes, bool reopen) {
  directory_ = directory;
  std::vector<std::vector<SafetensorsWriter::Spec>> shards(1);
  uint64_t bytes = 0;
  for (SafetensorsWriter::Spec& spec : specs) {
    const uint64_t size = static_cast<uint64_t>(NumElements(spec.shape) * DTypeBytes(spec.dtype));
    if (max_shard_bytes > 0 && bytes + size > max_shard_bytes && !shards.back().empty()) {
      shards.emplace_back();
      bytes = 0;
    }
    if (!shard_of_.emplace(spec.name, shards.size() - 1).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(directory, ": tensor \"", Printable(spec.name), "\" is declared twice"));
    }
    bytes += size;
    total_bytes_ += size;
    shards.back().push_back(std::move(spec));
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    char name[64];
    std::snprintf(name, sizeof(name), "model-%05zu-of-%05zu.safetensors", i + 1, shards.size());
    file_names_.push_back(shards.size() == 1 ? kSingleFile : name);
    const std::string path = JoinPath(directory, file_names_.back());
    SF_ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsWriter> shard,
                        reopen ? SafetensorsWriter::Reopen(path, std::move(shards[i]))
                               : SafetensorsWriter::Create(path, std::move(shards[i])));
    shards_.push_back(std::move(shard));
  }
  return absl::OkStatus();
}

absl::StatusOr<Tensor> SafetensorsModelWriter::ReadBack(absl::string_view name) {
  const auto it = shard_of_.find(name);
  if (it == shard_of_.end()) {
    return absl::DataLossError(absl::StrCat(directory_, ": has no tensor \"", Printable(name), "\""));
  }
  return shards_[it->second]->ReadBack(name);
}

void SafetensorsModelWriter::MarkWritten(absl::string_view name) {
  if (const auto it = shard_of_.find(name); it != shard_of_.end()) shards_[it->second]->MarkWritten(name);
}

absl::Status SafetensorsModelWriter::Sync() {
  for (const auto& shard : shards_) SF_RETURN_IF_ERROR(shard->Sync());
  return absl::OkStatus();
}

void SafetensorsModelWriter::Keep() {
  for (const auto& shard : shards_) shard->Keep();
}

absl::StatusOr<SafetensorsWriter*> SafetensorsModelWriter::ShardOf(absl::string_view name) const {
  if (const auto it = shard_of_.find(name); it != shard_of_.end()) return shards_[it->second].get();
  return absl::InvalidArgumentError(
      absl::StrCat(directory_, ": tensor \"", Printable(name), "\" was not declared"));
}

absl::Status SafetensorsModelWriter::Write(absl::string_view name, const TensorView& tensor) {
  SF_ASSIGN_OR_RETURN(SafetensorsWriter* const shard, ShardOf(name));
  return shard->Write(name, tensor);
}

absl::Status SafetensorsModelWriter::WriteRows(absl::string_view name, int64_t begin,
                                               const TensorView& rows) {
  SF_ASSIGN_OR_RETURN(SafetensorsWriter* const shard, ShardOf(name));
  return shard->WriteRows(name, begin, rows);
}

absl::Status SafetensorsModelWriter::Finish() {
  for (const auto& shard : shards_) SF_RETURN_IF_ERROR(shard->Finish());
  if (shards_.size() == 1) return absl::OkStatus();
  const std::map<absl::string_view, size_t> sorted(shard_of_.begin(), shard_of_.end());
  Json map = Json::MakeObject(), metadata = Json::MakeObject(), index = Json::MakeObject();
  for (const auto& [tensor, shard] : sorted) {
    map.object().emplace_back(std::string(tensor), Json(file_names_[shard]));
  }
  metadata.Set("total_size", total_bytes_);
  index.Set("metadata", std::move(metadata)).Set("weight_map", std::move(map));
  file_names_.push_back(kIndexFile);
  return WriteFileAtomically(JoinPath(directory_, kIndexFile), index.Dump(2) + "\n");
}

uint64_t SafetensorsModelWriter::file_bytes() const {
  uint64_t sum = 0;
  for (const auto& shard : shards_) sum += shard->file_bytes();
  return sum;
}

}  // namespace spikefold
