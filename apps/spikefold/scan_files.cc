#include "apps/spikefold/scan_files.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <initializer_list>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "apps/spikefold/output_path.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

constexpr char kMapName[] = "outliers.json", kStatsName[] = "scan.spike";
constexpr uint64_t kMaxMapBytes = uint64_t{64} << 20;

// What planning adds (quant/prepare, quant/dynamic_sites): statistics of folded models, what rounding and
// static scales cost.
bool IsFromPlanning(absl::string_view name) {
  return (absl::StartsWith(name, "folded-") && absl::EndsWith(name, ".spike")) ||
         ((absl::StartsWith(name, "costs-") || absl::StartsWith(name, "damage-")) &&
          absl::EndsWith(name, ".json"));
}

std::string Shown(const std::string& path) { return Printable(path, 1024); }

// An old scan may be replaced; anything else in the directory is somebody's work.
absl::Status CheckHoldsScan(const std::string& directory) {
  if (!IsDirectory(directory)) {
    return absl::InvalidArgumentError(
        absl::StrCat(Shown(directory), ": exists and is no directory; choose another output"));
  }
  SF_ASSIGN_OR_RETURN(const auto names, ListDirectory(directory));
  for (const std::string& name : names) {
    if (name == kMapName || name == kStatsName || IsFromPlanning(name)) continue;
    return absl::InvalidArgumentError(absl::StrCat(Shown(directory), ": holds \"", Printable(name),
                                                   "\", so it is no scan and is not replaced; choose another "
                                                   "output"));
  }
  return absl::OkStatus();
}

absl::Status CheckSameScan(const OutlierMap& map, const CalibStats& stats, const std::string& directory) {
  const auto text = [&](const char* key) {
    const Json* value = map.provenance.Find(key);
    return value != nullptr && value->is_string() ? value->string_value() : std::string();
  };
  if (text("model_fingerprint") == stats.model_fingerprint && text("text_sha256") == stats.text_sha256 &&
      map.prefix == stats.prefix.tokens) {
    return absl::OkStatus();
  }
  return absl::DataLossError(
      absl::StrCat(Shown(directory), ": outliers.json and scan.spike are of different scans; scan again"));
}

}  // namespace

absl::Status CheckScanOutput(const std::string& directory, bool force,
                             const std::vector<std::string>& inputs) {
  SF_RETURN_IF_ERROR(CheckOutputDirectory(directory, force, inputs));
  return PathExists(directory) ? CheckHoldsScan(directory) : absl::OkStatus();
}

absl::Status SaveScan(const ScanResult& scan, const ModelGraph& graph, const std::string& directory,
                      bool force) {
  const std::string path = BehindLink(directory);
  const bool replace = force && PathExists(path);
  // Written beside an old scan, which goes only when the new one is complete.
  const std::string fresh = replace ? absl::StrCat(path, ".new-", getpid()) : path;
  SF_ASSIGN_OR_RETURN(auto output, AtomicDirectory::Create(fresh, false));
  const std::string& partial = output->partial_path();
  SF_RETURN_IF_ERROR(SaveStats(scan.stats, JoinPath(partial, kStatsName)));
  SF_RETURN_IF_ERROR(
      WriteFileAtomically(JoinPath(partial, kMapName), OutlierMapToJson(scan.map, graph).Dump(1) + "\n"));
  if (replace) SF_RETURN_IF_ERROR(CheckHoldsScan(path));
  SF_RETURN_IF_ERROR(output->Commit());
  if (!replace) return absl::OkStatus();
  absl::Status replaced = ReplaceDirectory(fresh, path);
  if (replaced.ok()) return replaced;
  return absl::Status(replaced.code(),
                      absl::StrCat(replaced.message(), "; the new scan is in ", Shown(fresh)));
}

absl::StatusOr<LoadedScan> LoadScan(const std::string& directory, const ModelGraph& graph) {
  if (!IsDirectory(directory)) {
    return absl::NotFoundError(absl::StrCat(Shown(directory),
                                            ": no such directory; make it with `spikefold scan MODEL -o ",
                                            Shown(directory), "`"));
  }
  const std::string map_path = JoinPath(directory, kMapName), stats_path = JoinPath(directory, kStatsName);
  LoadedScan scan;
  SF_ASSIGN_OR_RETURN(const std::string text, ReadFileToString(map_path, kMaxMapBytes));
  SF_ASSIGN_OR_RETURN(const Json json, ParseJson(text, map_path));
  SF_ASSIGN_OR_RETURN(scan.map, OutlierMapFromJson(json, graph, map_path));
  SF_ASSIGN_OR_RETURN(scan.stats, LoadStats(stats_path));
  SF_RETURN_IF_ERROR(CheckStats(scan.stats, graph, Shown(stats_path)));
  SF_ASSIGN_OR_RETURN(scan.sha256, Sha256File(stats_path));
  SF_RETURN_IF_ERROR(CheckSameScan(scan.map, scan.stats, directory));
  return scan;
}

absl::StatusOr<std::string> HashStats(const CalibStats& stats) {
  const char* temporary = getenv("TMPDIR");
  std::string pattern =
      absl::StrCat(temporary != nullptr && *temporary != '\0' ? temporary : "/tmp", "/spikefold-XXXXXX");
  if (mkdtemp(pattern.data()) == nullptr) {
    return absl::UnavailableError(absl::StrCat(Shown(pattern), ": ", strerror(errno)));
  }
  const std::string path = JoinPath(pattern, kStatsName);
  const absl::Cleanup remove = [&] {
    unlink(path.c_str());
    rmdir(pattern.c_str());
  };
  SF_RETURN_IF_ERROR(SaveStats(stats, path));
  return Sha256File(path);
}

}  // namespace spikefold
