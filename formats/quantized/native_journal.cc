#include "formats/quantized/native_journal.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "formats/base/file.h"
#include "formats/base/file_errno.h"
#include "formats/base/file_fault.h"
#include "formats/base/hash.h"
#include "formats/base/json.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

constexpr uint64_t kMaxJournalBytes = uint64_t{256} << 20;
constexpr int kVersion = 1;
constexpr char kMagic[] = "spikefold_journal";

std::string Line(const Json& json) {
  const std::string text = json.Dump();
  return absl::StrCat(Xxh3Hex(absl::MakeConstSpan(text.data(), text.size())), " ", text, "\n");
}

// The JSON of the whole line at the beginning of `text`, which is shortened by it. Fails on any other.
absl::StatusOr<Json> TakeLine(absl::string_view& text) {
  const size_t end = text.find('\n');
  if (end == absl::string_view::npos || end < 18 || text[16] != ' ') return absl::DataLossError("torn");
  const absl::string_view body = text.substr(17, end - 17);
  if (Xxh3Hex(absl::MakeConstSpan(body.data(), body.size())) != text.substr(0, 16)) {
    return absl::DataLossError("torn");
  }
  SF_ASSIGN_OR_RETURN(Json json, ParseJson(body, "journal"));
  text.remove_prefix(end + 1);
  return json;
}

absl::StatusOr<JournalRecord> RecordOf(const Json& json) {
  JournalRecord record;
  SF_ASSIGN_OR_RETURN(record.module, json.GetString("linear", "journal"));
  SF_ASSIGN_OR_RETURN(record.weight_error, json.GetDouble("weight_error", "journal"));
  const Json* tensors = json.Find("tensors");
  if (tensors == nullptr || !tensors->is_object()) return absl::DataLossError("torn");
  for (const auto& [name, hash] : tensors->object()) {
    if (!hash.is_string()) return absl::DataLossError("torn");
    record.tensors.emplace_back(name, hash.string_value());
  }
  return record;
}

Json ToJson(const JournalRecord& record) {
  Json tensors = Json::MakeObject();
  for (const auto& [name, hash] : record.tensors) tensors.object().emplace_back(name, Json(hash));
  return Json::MakeObject()
      .Set("linear", record.module)
      .Set("weight_error", record.weight_error)
      .Set("tensors", std::move(tensors));
}

struct Content {
  std::string fingerprint;  // empty: not even the first record is whole
  std::vector<JournalRecord> records;
  uint64_t end = 0;  // bytes of whole records
};

Content Parse(absl::string_view text) {
  Content content;
  absl::string_view rest = text;
  const auto head = TakeLine(rest);
  if (!head.ok() || head->GetInt(kMagic, "journal").value_or(0) != kVersion) return content;
  content.fingerprint = head->GetString("fingerprint", "journal").value_or("");
  content.end = text.size() - rest.size();
  while (!rest.empty()) {
    const auto json = TakeLine(rest);
    auto record = json.ok() ? RecordOf(*json) : json.status();
    if (!record.ok()) break;
    content.end = text.size() - rest.size();
    const auto same = std::find_if(content.records.begin(), content.records.end(),
                                   [&](const JournalRecord& r) { return r.module == record->module; });
    if (same != content.records.end()) content.records.erase(same);  // it was written again
    content.records.push_back(*std::move(record));
  }
  return content;
}

absl::Status Busy(const std::string& path) {
  return absl::UnavailableError(
      absl::StrCat(Printable(path, 1024),
                   ": another process is writing this output; wait for it or choose another output"));
}

}  // namespace

absl::Status NativeJournal::CheckFree(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0) return absl::OkStatus();
  const bool free = flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;
  close(fd);
  return free ? absl::OkStatus() : Busy(path);
}

int64_t NativeJournal::CountRecords(const std::string& path) {
  const auto text = ReadFileToString(path, kMaxJournalBytes);
  return text.ok() ? static_cast<int64_t>(Parse(*text).records.size()) : 0;
}

absl::StatusOr<std::unique_ptr<NativeJournal>> NativeJournal::Open(const std::string& path,
                                                                   const std::string& fingerprint,
                                                                   bool resume) {
  const bool existed = PathExists(path);
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
  if (fd < 0) return ErrnoStatus(errno, "create", path);
  auto journal = std::unique_ptr<NativeJournal>(new NativeJournal(fd, path, fingerprint));
  journal->existed_ = existed;
  journal->keep_ = true;  // until it is known to be ours
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrnoStatus(errno, "lock", path);
    return Busy(path);
  }
  if (existed) SF_RETURN_IF_ERROR(journal->Load(resume));
  journal->keep_ = !journal->records_.empty();
  if (!resume || journal->end_ == 0) SF_RETURN_IF_ERROR(journal->Restart());
  journal->keep_ = !journal->records_.empty();
  return journal;
}

absl::Status NativeJournal::Load(bool resume) {
  SF_ASSIGN_OR_RETURN(const std::string text, ReadFileToString(path_, kMaxJournalBytes));
  Content content = Parse(text);
  if (content.fingerprint.empty() && text.find(kMagic) == std::string::npos && !text.empty()) {
    return absl::DataLossError(absl::StrCat(Printable(path_, 1024), ": is no journal; move it away"));
  }
  if (resume && !content.fingerprint.empty() && content.fingerprint != fingerprint_) {
    return absl::DataLossError(absl::StrCat(
        Printable(path_, 1024), ": is of another model, plan, calibration, arithmetic or version (",
        Printable(content.fingerprint.substr(0, 12)), "..., this is ", fingerprint_.substr(0, 12),
        "...); resume with what it was begun with, or begin again with --force instead of --resume"));
  }
  records_ = std::move(content.records);
  end_ = content.end;
  return absl::OkStatus();
}

NativeJournal::~NativeJournal() {
  if (!keep_) unlink(path_.c_str());
  close(fd_);
}

absl::Status NativeJournal::Restart() {
  records_.clear();
  end_ = 0;
  return Append(Line(Json::MakeObject().Set(kMagic, kVersion).Set("fingerprint", fingerprint_)));
}

absl::Status NativeJournal::Add(const JournalRecord& record) { return Append(Line(ToJson(record))); }

absl::Status NativeJournal::Sync() {
  return !FailsByFault("sync") && fdatasync(fd_) == 0 ? absl::OkStatus() : ErrnoStatus(errno, "sync", path_);
}

absl::Status NativeJournal::Append(const std::string& text) {
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = FailsByFault("write") ? -1
                                            : pwrite(fd_, text.data() + done, text.size() - done,
                                                     static_cast<off_t>(end_ + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "write", path_);
    done += static_cast<size_t>(n);
  }
  end_ += text.size();
  // A torn record behind the end may be longer than what replaced it.
  return ftruncate(fd_, static_cast<off_t>(end_)) == 0 ? absl::OkStatus() : ErrnoStatus(errno, "cut", path_);
}

}  // namespace spikefold
