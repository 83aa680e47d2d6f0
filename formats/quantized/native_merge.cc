// How the parts of a checkpoint become a whole.
#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/status.h"
#include "formats/quantized/native_parts.h"

namespace spikefold {
namespace {

constexpr uint64_t kMaxSideFileBytes = uint64_t{256} << 20;

std::string Quoted(const std::string& path) { return Printable(path, 1024); }

struct Part {
  std::string path;
  std::unique_ptr<NativeReader> native;
  std::vector<NativeSideFile> side_files;
  std::string identity;  // SHA-256 of what all parts of one checkpoint have in common
};

absl::StatusOr<std::vector<NativeSideFile>> SideFilesIn(const std::string& path) {
  SF_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDirectory(path));
  std::vector<NativeSideFile> files;
  for (const std::string& name : names) {
    const bool own = name == kConfigFile || name == kSidecarFile || name == kManifestFile ||
                     absl::StartsWith(name, "model");
    if (own) continue;
    SF_ASSIGN_OR_RETURN(const std::unique_ptr<ByteSource> source, OpenFileIn(path, name));
    SF_ASSIGN_OR_RETURN(std::string bytes, ReadToString(*source, kMaxSideFileBytes));
    files.push_back({name, std::move(bytes)});
  }
  return files;
}

// The sidecar without what differs from part to part.
std::string IdentityOf(const NativeReader& native, const std::vector<NativeSideFile>& files) {
  NativeInfo info = native.info();
  for (QuantizedLinearSpec& s : info.linears) s.weight_error = -1;
  info.file_bytes = 0;
  std::string text = absl::StrCat(SidecarToJson(info, {}).Dump(), "\n", native.config_json().Dump(), "\n");
  for (const NativeSideFile& file : files) absl::StrAppend(&text, file.name, "\n", file.bytes, "\n");
  return Sha256Hex(text);
}

absl::StatusOr<Part> OpenPart(const std::string& path, const Progress& progress) {
  Part part{.path = path, .native = nullptr, .side_files = {}, .identity = {}};
  SF_ASSIGN_OR_RETURN(part.native, NativeReader::OpenPart(path));
  SF_RETURN_IF_ERROR(VerifyManifest(path, progress));
  SF_ASSIGN_OR_RETURN(part.side_files, SideFilesIn(path));
  part.identity = IdentityOf(*part.native, part.side_files);
  if (!part.native->part().common) part.side_files = {};  // those of one are enough
  return part;
}

// All made alike, and each behind those that are here.
absl::Status CheckMaking(const std::vector<Part>& parts) {
  const Part& first = parts.front();
  absl::flat_hash_set<absl::string_view> here;
  for (const Part& part : parts) here.insert(part.native->part().sha256);
  for (const Part& part : parts) {
    const NativePart& p = part.native->part();
    if (p.made_by != first.native->part().made_by) {
      return absl::InvalidArgumentError(
          absl::StrCat(Quoted(part.path), ": was made by ", Printable(p.made_by), ", ", Quoted(first.path),
                       " by ", Printable(first.native->part().made_by), "; write all by one"));
    }
    for (const std::string& hash : p.rests_on) {
      if (here.contains(hash)) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          Quoted(part.path), ": part ", p.index, " of ", p.count,
          ", was rounded behind a part that is not among these; write it again, with --after the ",
          "parts that are"));
    }
  }
  return absl::OkStatus();
}

// All of one checkpoint, none missing, none twice; in order afterwards.
absl::Status CheckParts(std::vector<Part>& parts) {
  const auto index = [](const Part& p) { return p.native->part().index; };
  std::stable_sort(parts.begin(), parts.end(),
                   [&](const Part& a, const Part& b) { return index(a) < index(b); });
  const Part& first = parts.front();
  const int64_t count = first.native->part().count;
  for (const Part& part : parts) {
    if (part.identity != first.identity || part.native->part().count != count) {
      return absl::InvalidArgumentError(
          absl::StrCat(Quoted(part.path), ": part ", index(part), " of ", part.native->part().count,
                       ", is of another model, plan, calibration or version than ", Quoted(first.path),
                       ", part ", index(first), " of ", count, "; give parts of one model"));
    }
  }
  for (size_t i = 1; i < parts.size(); ++i) {
    if (index(parts[i]) != index(parts[i - 1])) continue;
    return absl::InvalidArgumentError(absl::StrCat(Quoted(parts[i - 1].path), " and ", Quoted(parts[i].path),
                                                   ": both are part ", index(parts[i]), " of ", count,
                                                   "; give each part once"));
  }
  for (int64_t i = 1; i <= count; ++i) {
    const size_t at = static_cast<size_t>(i - 1);
    if (at < parts.size() && index(parts[at]) == i) continue;
    return absl::InvalidArgumentError(absl::StrCat("part ", i, " of ", count, " is missing, ", parts.size(),
                                                   " are given; write it by quantize --shard ", i, "/",
                                                   count));
  }
  SF_RETURN_IF_ERROR(CheckMaking(parts));
  absl::flat_hash_set<absl::string_view> there;
  for (const Part& part : parts) {
    for (const std::string& module : part.native->part().modules) {
      if (part.native->FindLinear(module) == nullptr) {
        return absl::DataLossError(absl::StrCat(Quoted(part.path), ": lists ", Printable(module),
                                                ", which is no linear of the model; write the part again"));
      }
      if (there.insert(module).second) continue;
      return absl::DataLossError(absl::StrCat(Quoted(part.path), ": holds ", Printable(module),
                                              ", which another part holds too; write the parts again"));
    }
  }
  for (const QuantizedLinearSpec& s : first.native->info().linears) {
    if (there.contains(s.module)) continue;
    return absl::DataLossError(
        absl::StrCat(Quoted(first.path), ": no part holds ", Printable(s.module), "; write the parts again"));
  }
  return absl::OkStatus();
}

absl::Status WriteAll(const std::vector<Part>& parts, const Part& common, NativeWriter& writer,
                      const Progress& progress) {
  const int64_t total = static_cast<int64_t>(common.native->info().linears.size());
  int64_t done = 0;
  for (const Part& part : parts) {
    for (const std::string& module : part.native->part().modules) {
      if (!Report(progress, "merging", done++, total)) return absl::CancelledError("merge: stopped");
      SF_ASSIGN_OR_RETURN(const QuantizedLinear linear, part.native->ReadLinear(module));
      SF_RETURN_IF_ERROR(writer.WriteLinear(linear));
    }
  }
  for (const SafetensorsEntry& e : common.native->plain()) {
    SF_ASSIGN_OR_RETURN(const Tensor tensor, common.native->ReadTensor(e.name));
    SF_RETURN_IF_ERROR(writer.WriteTensor(e.name, tensor.view()));
  }
  SF_ASSIGN_OR_RETURN(const NativePrefix prefix, common.native->ReadPrefix());
  SF_RETURN_IF_ERROR(writer.WritePrefix(prefix));
  if (!Report(progress, "merging", total, total)) return absl::CancelledError("merge: stopped");
  return writer.Commit();
}

}  // namespace

absl::Status MergeNativeParts(const std::vector<std::string>& paths, const std::string& output,
                              const MergeOptions& options) {
  std::vector<Part> parts;
  for (const std::string& path : paths) {
    SF_ASSIGN_OR_RETURN(Part part, OpenPart(path, options.progress));
    parts.push_back(std::move(part));
  }
  if (parts.empty()) return absl::InvalidArgumentError("no parts; give the directories of all");
  SF_RETURN_IF_ERROR(CheckParts(parts));
  const auto common =
      std::find_if(parts.begin(), parts.end(), [](const Part& p) { return p.native->part().common; });
  if (common == parts.end()) {
    return absl::DataLossError("no part holds the norms; write the parts again");
  }
  std::vector<SafetensorsWriter::Spec> plain;
  for (const SafetensorsEntry& e : common->native->plain()) plain.push_back({e.name, e.dtype, e.shape});
  NativeWriter::Options how;
  how.overwrite = options.overwrite;
  how.arguments = options.arguments;
  SF_ASSIGN_OR_RETURN(const auto writer,
                      NativeWriter::Create(output, common->native->info(), std::move(plain),
                                           common->native->config_json(), common->side_files, how));
  return WriteAll(parts, *common, *writer, options.progress);
}

}  // namespace spikefold
