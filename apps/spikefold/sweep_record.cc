#include "apps/spikefold/sweep_record.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "apps/spikefold/console.h"
#include "formats/base/file.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

constexpr uint64_t kMaxRecordBytes = uint64_t{64} << 20;
constexpr char kFile[] = "sweep.json";

Json EntryToJson(const SweepEntry& e) {
  Json json = Json::MakeObject();
  json.Set("name", e.name).Set("status", e.status);
  if (!e.reason.empty()) json.Set("reason", e.reason);
  if (!e.codes_from.empty()) json.Set("codes_from", e.codes_from);
  return json.Set("seconds", e.seconds).Set("key", e.key).Set("recipe", e.recipe);
}

absl::StatusOr<SweepEntry> EntryFromJson(const Json& json, absl::string_view where) {
  SweepEntry e;
  SF_ASSIGN_OR_RETURN(e.name, json.GetString("name", where));
  SF_ASSIGN_OR_RETURN(e.status, json.GetString("status", where));
  SF_ASSIGN_OR_RETURN(e.seconds, json.GetDouble("seconds", where));
  SF_ASSIGN_OR_RETURN(e.key, json.GetString("key", where));
  if (json.Find("reason") != nullptr) {
    SF_ASSIGN_OR_RETURN(e.reason, json.GetString("reason", where));
  }
  if (json.Find("codes_from") != nullptr) {
    SF_ASSIGN_OR_RETURN(e.codes_from, json.GetString("codes_from", where));
  }
  if (const Json* recipe = json.Find("recipe")) e.recipe = *recipe;
  return e;
}

}  // namespace

absl::StatusOr<SweepRecord> SweepRecord::Load(const std::string& directory) {
  SweepRecord record;
  const std::string path = JoinPath(directory, kFile);
  if (!PathExists(path)) return record;
  SF_ASSIGN_OR_RETURN(const std::string text, ReadFileToString(path, kMaxRecordBytes));
  SF_ASSIGN_OR_RETURN(const Json json, ParseJson(text, path));
  const Json* points = json.Find("points");
  const Json* command = json.Find("command");
  const bool ours = command != nullptr && command->is_string() && command->string_value() == "sweep";
  if (!ours || points == nullptr || !points->is_array()) {
    return absl::DataLossError(
        absl::StrCat(Printable(path, 1024), ": is not what sweep writes; choose another output"));
  }
  for (const Json& point : points->array()) {
    SF_ASSIGN_OR_RETURN(SweepEntry entry, EntryFromJson(point, path));
    record.Set(std::move(entry));
  }
  return record;
}

const SweepEntry* SweepRecord::Find(absl::string_view name) const {
  for (const SweepEntry& e : entries_) {
    if (e.name == name) return &e;
  }
  return nullptr;
}

void SweepRecord::Set(SweepEntry entry) {
  for (SweepEntry& e : entries_) {
    if (e.name != entry.name) continue;
    e = std::move(entry);
    return;
  }
  entries_.push_back(std::move(entry));
}

Json SweepRecord::ToJson(const Json& facts) const {
  Json json = NewDocument("sweep"), points = Json::MakeArray();
  for (const auto& [key, value] : facts.object()) json.Set(key, value);
  for (const SweepEntry& e : entries_) points.Append(EntryToJson(e));
  return json.Set("points", std::move(points));
}

absl::Status SweepRecord::Save(const std::string& directory, const Json& facts) const {
  return WriteFileAtomically(JoinPath(directory, kFile), ToJson(facts).Dump(2) + "\n");
}

}  // namespace spikefold
