// Files: bounded reads that cannot fault when a file shrinks, and writes that appear whole or not at all.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace spikefold {

// Read-only random access to bytes: a regular file (pread, never mmap) or memory (tests, fuzzing).
// Thread-safe.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  virtual uint64_t size() const = 0;            // bytes, fixed at opening
  virtual const std::string& name() const = 0;  // for error texts
  // Fills `out` from `offset`. DataLoss if the range is not inside the source (also when a file shrank).
  virtual absl::Status Read(uint64_t offset, absl::Span<char> out) const = 0;
};
// NotFound / PermissionDenied / DataLoss (not a regular file: directory, FIFO, device).
absl::StatusOr<std::unique_ptr<ByteSource>> OpenFile(const std::string& path);
// Opens `basename` inside `directory`; basename must be a plain file name (no '/', not "..") and must not be
// a symlink that leaves the directory (a hub cache's snapshots/<rev>/<name> -> ../../blobs/<hash> is let
// through). DataLoss otherwise.
absl::StatusOr<std::unique_ptr<ByteSource>> OpenFileIn(const std::string& directory,
                                                       const std::string& basename);
std::unique_ptr<ByteSource> MemorySource(std::string bytes, std::string name = "memory");

// Whole file as a string, refused (DataLoss) above max_bytes.
absl::StatusOr<std::string> ReadToString(const ByteSource& source, uint64_t max_bytes);
absl::StatusOr<std::string> ReadFileToString(const std::string& path, uint64_t max_bytes);

bool PathExists(const std::string& path);
// Where a symbolic link leads, so that what is written replaces that and not the link. Other paths, and links
// that lead nowhere, as they are; without slashes at the end.
std::string BehindLink(const std::string& path);
bool IsDirectory(const std::string& path);
absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path);  // sorted basenames
absl::Status RemoveFile(const std::string& path);                                 // no directory
std::string JoinPath(absl::string_view a, absl::string_view b);
std::string Basename(absl::string_view path);
std::string Dirname(absl::string_view path);

// Writes one file under its final name atomically: temp file beside it, fsync, rename. Overwrites an existing
// regular file.
absl::Status WriteFileAtomically(const std::string& path, absl::string_view bytes);

// A file that appears under its final name only by Commit(): whoever writes it writes partial_path(), which
// lies beside it, and syncs it. Destruction without Commit() removes that file. InvalidArgument if `path`
// exists and is no regular file.
class AtomicFile {
 public:
  static absl::StatusOr<std::unique_ptr<AtomicFile>> Create(const std::string& path);
  virtual ~AtomicFile() = default;
  virtual const std::string& partial_path() const = 0;
  virtual absl::Status Commit() = 0;  // replaces a regular file that is there
};

// Sequential writer with its own EINTR/short-write loop and a running SHA-256. Destruction without Finish()
// removes the file.
class FileWriter {
 public:
  static absl::StatusOr<std::unique_ptr<FileWriter>> Create(const std::string& path);  // O_EXCL|O_NOFOLLOW
  virtual ~FileWriter() = default;
  virtual absl::Status Append(absl::Span<const char> bytes) = 0;
  virtual uint64_t bytes_written() const = 0;
  virtual absl::StatusOr<std::string> Finish() = 0;  // fsync, close; returns the SHA-256 in lower-case hex
};

enum class FileSpace { kReserved, kSparse };

// Writes at any offset of a file whose size is known and reserved at once, so that a full disk is noticed
// before the work, not after it (Unavailable); a sparse one takes the room of what is written. Bytes that are
// not written read as zero. Destruction without Finish() removes the file.
class RandomWriter {
 public:
  static absl::StatusOr<std::unique_ptr<RandomWriter>> Create(const std::string& path, uint64_t size,
                                                              FileSpace space = FileSpace::kReserved);
  // Goes on in a file that an earlier Create() made and nobody finished. DataLoss if its size is another.
  static absl::StatusOr<std::unique_ptr<RandomWriter>> Reopen(const std::string& path, uint64_t size);
  virtual ~RandomWriter() = default;
  virtual absl::Status WriteAt(uint64_t offset, absl::Span<const char> bytes) = 0;  // Internal if outside
  virtual absl::Status Sync() = 0;    // what was written survives a loss of power
  virtual void Keep() = 0;            // destruction without Finish() leaves the file for Reopen()
  virtual absl::Status Finish() = 0;  // fsync, close
};

// Puts the flat directory `fresh` in the place of `path`, beside it, and removes what was there. There is one
// of the two at any time, where the file system can exchange names; elsewhere none for a moment, the old one
// being `fresh`.old. On an error both are as before.
absl::Status ReplaceDirectory(const std::string& fresh, const std::string& path);

// A directory that appears under its final name only by Commit(): everything is written into
// `<path>.partial-<pid>` on the same file system, fsynced and renamed (RENAME_NOREPLACE; exchanged and the
// old one removed with overwrite). Destruction without Commit() removes the partial directory. AlreadyExists
// if `path` exists and overwrite is false. Overwriting is refused (InvalidArgument) for what is no model
// directory: a file, a directory with subdirectories, or one without config.json and manifest.json.
//
// A directory that can be gone on with after an interruption is written into `<path>.partial` instead, which
// Keep() leaves there. Whoever calls Resume() knows whether such a directory is its own: kNew refuses one
// that is there (AlreadyExists), kAgain empties it, kContinue leaves its files; where there is none, each
// makes it.
class AtomicDirectory {
 public:
  enum class Leftover { kNew, kAgain, kContinue };
  static absl::StatusOr<std::unique_ptr<AtomicDirectory>> Create(const std::string& path, bool overwrite);
  static absl::StatusOr<std::unique_ptr<AtomicDirectory>> Resume(const std::string& path, bool overwrite,
                                                                 Leftover leftover);
  virtual ~AtomicDirectory() = default;
  virtual const std::string& partial_path() const = 0;
  virtual void Keep() = 0;
  virtual absl::Status Commit() = 0;
};

}  // namespace spikefold
