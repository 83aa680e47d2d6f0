// What of a native checkpoint is written already, so that an interrupted run can be gone on with.
//
// A text file beside the unfinished directory, one record a line: 16 hexadecimal digits, the XXH3 of what
// follows; a blank; JSON. The first record names the format and the fingerprint of what is being written
// (model, plan, calibration, version), each later one a linear: its tensors' XXH3, and what of it does not
// follow from the plan. The first line that is not whole ends the journal. A record may reach the disk before
// the tensors that it names; whoever goes on reads them and compares their XXH3.
//
// The file is locked while a process has it, so that two cannot write one output.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace spikefold {

struct JournalRecord {
  std::string module;
  double weight_error = -1;                                  // QuantizedLinearSpec::weight_error
  std::vector<std::pair<std::string, std::string>> tensors;  // name, XXH3
};

class NativeJournal {
 public:
  // Takes the journal at `path`, or makes it. Without `resume` an older one is begun again.
  // Unavailable: another process has it. DataLoss: it is of something else than `fingerprint`, or no journal.
  static absl::StatusOr<std::unique_ptr<NativeJournal>> Open(const std::string& path,
                                                             const std::string& fingerprint, bool resume);
  // Unavailable: another process has the journal at `path`.
  static absl::Status CheckFree(const std::string& path);
  // How many linears the journal at `path` holds; 0 if there is none. Reads only.
  static int64_t CountRecords(const std::string& path);

  // Removes the file unless Keep(true) was called last, or it holds an earlier run's records.
  ~NativeJournal();
  NativeJournal(const NativeJournal&) = delete;
  NativeJournal& operator=(const NativeJournal&) = delete;

  const std::vector<JournalRecord>& records() const { return records_; }  // as read; none twice
  bool existed() const { return existed_; }
  absl::Status Restart();  // forgets them
  absl::Status Add(const JournalRecord& record);
  absl::Status Sync();  // what was added survives a loss of power
  void Keep(bool keep) { keep_ = keep; }

 private:
  NativeJournal(int fd, std::string path, std::string fingerprint)
      : fd_(fd), path_(std::move(path)), fingerprint_(std::move(fingerprint)) {}
  absl::Status Load(bool resume);  // another fingerprint is an error only if it is to be gone on with
  absl::Status Append(const std::string& text);

  const int fd_;
  const std::string path_, fingerprint_;
  bool existed_ = false, keep_ = false;
  uint64_t end_ = 0;  // bytes of whole records
  std::vector<JournalRecord> records_;
};

}  // namespace spikefold
