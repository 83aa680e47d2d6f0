// Writing: everything of formats/base/file.h that changes the file system.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/base/file.h"
#include "formats/base/file_errno.h"
#include "formats/base/file_fault.h"
#include "formats/base/hash.h"
#include "formats/base/json.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

std::atomic<FileFault> g_fault{nullptr};

}  // namespace

std::string BehindLink(const std::string& requested) {
  std::string path = requested;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  struct stat st;
  if (lstat(path.c_str(), &st) != 0 || !S_ISLNK(st.st_mode)) return path;
  const std::unique_ptr<char, decltype(&free)> real(realpath(path.c_str(), nullptr), free);
  return real == nullptr ? path : std::string(real.get());
}

void SetFileFault(FileFault fault) { g_fault = fault; }

bool FailsByFault(const char* call) {
  const FileFault fault = g_fault.load(std::memory_order_relaxed);
  const int error = fault == nullptr ? 0 : fault(call);
  if (error != 0) errno = error;
  return error != 0;
}

namespace {

constexpr int kCreateFlags = O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW;

absl::Status SyncDirectory(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(errno, "open", path);
  // Some file systems cannot sync a directory and say EINVAL; the rename itself is still atomic.
  const int error = (!FailsByFault("sync directory") && fsync(fd) == 0) || errno == EINVAL ? 0 : errno;
  close(fd);
  return error == 0 ? absl::OkStatus() : ErrnoStatus(error, "sync", path);
}

// A file being written; removed again unless Finish() came to its end.
class OutputFile {
 public:
  OutputFile(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  ~OutputFile() {
    if (fd_ < 0) return;
    close(fd_);
    if (!keep_) unlink(path_.c_str());
  }
  void Keep() { keep_ = true; }
  absl::Status Sync() {
    return !FailsByFault("sync") && fdatasync(fd_) == 0 ? absl::OkStatus()
                                                        : ErrnoStatus(errno, "sync", path_);
  }
  absl::Status WriteAt(uint64_t offset, absl::Span<const char> bytes) {
    size_t done = 0;
    while (done < bytes.size()) {
      const size_t want = std::min<size_t>(bytes.size() - done, 1u << 30);
      const ssize_t n = FailsByFault("write")
                            ? -1
                            : pwrite(fd_, bytes.data() + done, want, static_cast<off_t>(offset + done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return ErrnoStatus(errno, absl::StrCat("write ", bytes.size() - done, " bytes"), path_);
      done += static_cast<size_t>(n);
    }
    return absl::OkStatus();
  }
  absl::Status Finish() {
    if (FailsByFault("sync") || fsync(fd_) != 0) return ErrnoStatus(errno, "sync", path_);
    const int fd = std::exchange(fd_, -1);
    const bool closed = close(fd) == 0 || errno == EINTR;
    if (!closed || FailsByFault("close")) {
      const int error = errno;
      unlink(path_.c_str());
      return ErrnoStatus(error, "close", path_);
    }
    return absl::OkStatus();
  }
  int fd() const { return fd_; }
  const std::string& path() const { return path_; }

 private:
  int fd_;
  const std::string path_;
  bool keep_ = false;
};

absl::StatusOr<std::unique_ptr<OutputFile>> CreateOutput(const std::string& path) {
  const int fd = FailsByFault("create") ? -1 : open(path.c_str(), O_WRONLY | kCreateFlags, 0666);
  if (fd < 0) return ErrnoStatus(errno, "create", path);
  return std::make_unique<OutputFile>(fd, path);
}

class HashingWriter : public FileWriter {
 public:
  explicit HashingWriter(std::unique_ptr<OutputFile> file) : file_(std::move(file)) {}
  absl::Status Append(absl::Span<const char> bytes) override {
    SF_RETURN_IF_ERROR(file_->WriteAt(written_, bytes));
    sha_.Update(bytes);
    written_ += bytes.size();
    return absl::OkStatus();
  }
  uint64_t bytes_written() const override { return written_; }
  absl::StatusOr<std::string> Finish() override {
    SF_RETURN_IF_ERROR(file_->Finish());
    return sha_.Hex();
  }

 private:
  std::unique_ptr<OutputFile> file_;
  uint64_t written_ = 0;
  Sha256 sha_;
};

class PositionedWriter : public RandomWriter {
 public:
  PositionedWriter(std::unique_ptr<OutputFile> file, uint64_t size) : file_(std::move(file)), size_(size) {}
  absl::Status WriteAt(uint64_t offset, absl::Span<const char> bytes) override {
    if (offset > size_ || bytes.size() > size_ - offset) {
      return absl::InternalError(absl::StrCat(file_->path(), ": a write of ", bytes.size(), " bytes at ",
                                              offset, " leaves the ", size_, " bytes announced"));
    }
    SF_RETURN_IF_ERROR(file_->WriteAt(offset, bytes));
    // The disk begins while the rest is made, so that syncing has little left to do; it also tells of errors.
    const uint64_t before = written_.fetch_add(bytes.size());
    if (before / kDiskBegins != (before + bytes.size()) / kDiskBegins) {
      sync_file_range(file_->fd(), 0, 0, SYNC_FILE_RANGE_WRITE);
    }
    return absl::OkStatus();
  }
  absl::Status Sync() override { return file_->Sync(); }
  void Keep() override { file_->Keep(); }
  absl::Status Finish() override { return file_->Finish(); }

 private:
  static constexpr uint64_t kDiskBegins = uint64_t{64} << 20;  // bytes
  std::unique_ptr<OutputFile> file_;
  const uint64_t size_;
  std::atomic<uint64_t> written_{0};
};

class PartialFile : public AtomicFile {
 public:
  PartialFile(std::string path, std::string partial) : path_(std::move(path)), partial_(std::move(partial)) {}
  ~PartialFile() override {
    if (!committed_) unlink(partial_.c_str());
  }
  const std::string& partial_path() const override { return partial_; }
  absl::Status Commit() override {
    if (FailsByFault("rename") || rename(partial_.c_str(), path_.c_str()) != 0) {
      return ErrnoStatus(errno, "rename the finished file to", path_);
    }
    committed_ = true;
    return SyncDirectory(Dirname(path_));
  }

 private:
  const std::string path_, partial_;
  bool committed_ = false;
};

// A directory that Spikefold may replace: empty, or flat with a model in it. --force on a home directory must
// not empty it.
absl::Status CheckReplaceable(const std::string& path) {
  if (!IsDirectory(path)) {
    return absl::InvalidArgumentError(
        absl::StrCat(Printable(path, 1024), ": exists and is not a directory; choose another output"));
  }
  SF_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDirectory(path));
  bool is_model = names.empty();
  for (const std::string& name : names) {
    if (name == "config.json" || name == "manifest.json") is_model = true;
    struct stat st;
    if (lstat(JoinPath(path, name).c_str(), &st) == 0 && S_ISDIR(st.st_mode)) {
      return absl::InvalidArgumentError(absl::StrCat(Printable(path, 1024), ": holds the directory \"",
                                                     Printable(name),
                                                     "\", so it is no model directory and is not replaced; "
                                                     "choose another output"));
    }
  }
  if (is_model) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(Printable(path, 1024),
                   ": has neither config.json nor manifest.json, so it is no model "
                   "directory and is not replaced; choose another output"));
}

// Our directories are flat; anything deeper is left alone, and then rmdir fails harmlessly.
// What a link leads to is not ours either.
void RemoveFlatDirectory(const std::string& path) {
  struct stat st;
  if (lstat(path.c_str(), &st) != 0 || !S_ISDIR(st.st_mode)) return;
  if (auto names = ListDirectory(path); names.ok()) {
    for (const std::string& name : *names) unlink(JoinPath(path, name).c_str());
  }
  rmdir(path.c_str());
}

class PartialDirectory : public AtomicDirectory {
 public:
  PartialDirectory(std::string path, std::string partial, bool overwrite)
      : path_(std::move(path)), partial_(std::move(partial)), overwrite_(overwrite) {}
  ~PartialDirectory() override {
    if (!committed_ && !keep_) RemoveFlatDirectory(partial_);
  }
  const std::string& partial_path() const override { return partial_; }
  void Keep() override { keep_ = true; }

  absl::Status Commit() override {
    SF_RETURN_IF_ERROR(SyncDirectory(partial_));
    if (overwrite_ && PathExists(path_)) {
      SF_RETURN_IF_ERROR(CheckReplaceable(path_));
      SF_RETURN_IF_ERROR(ReplaceDirectory(partial_, path_));
    } else {
      SF_RETURN_IF_ERROR(RenameToNew());
    }
    committed_ = true;
    return SyncDirectory(Dirname(path_));
  }

 private:
  absl::Status RenameToNew() {
    if (FailsByFault("rename")) return ErrnoStatus(errno, "rename the finished output to", path_);
    if (renameat2(AT_FDCWD, partial_.c_str(), AT_FDCWD, path_.c_str(), RENAME_NOREPLACE) == 0) {
      return absl::OkStatus();
    }
    if (errno == EINVAL || errno == ENOSYS) {  // a file system without the flag; plain rename keeps non-empty
      if (PathExists(path_)) return ErrnoStatus(EEXIST, "create", path_);
      if (rename(partial_.c_str(), path_.c_str()) == 0) return absl::OkStatus();
    }
    return ErrnoStatus(errno, "rename the finished output to", path_);
  }

  const std::string path_;
  const std::string partial_;
  const bool overwrite_;
  bool committed_ = false, keep_ = false;
};

// The path without a trailing slash; refuses what cannot become a directory of ours.
absl::StatusOr<std::string> CheckTarget(const std::string& requested, bool overwrite) {
  const std::string base = Basename(requested);
  if (base.empty() || base == "/" || base == "." || base == "..") {
    return absl::InvalidArgumentError(
        absl::StrCat("output \"", Printable(requested), "\" is no name for a new directory"));
  }
  const std::string path = BehindLink(JoinPath(Dirname(requested), base));
  if (!PathExists(path)) return path;
  if (!overwrite) {
    return absl::AlreadyExistsError(
        absl::StrCat(Printable(path, 1024), ": exists; choose another output or allow replacing it"));
  }
  SF_RETURN_IF_ERROR(CheckReplaceable(path));
  return path;
}

}  // namespace

absl::Status ReplaceDirectory(const std::string& fresh, const std::string& path) {
  if (FailsByFault("rename")) return ErrnoStatus(errno, "exchange the output with", path);
  if (renameat2(AT_FDCWD, fresh.c_str(), AT_FDCWD, path.c_str(), RENAME_EXCHANGE) == 0) {
    RemoveFlatDirectory(fresh);  // holds the old content now
    return absl::OkStatus();
  }
  if (errno != EINVAL && errno != ENOSYS) return ErrnoStatus(errno, "exchange the output with", path);
  const std::string old = absl::StrCat(fresh, ".old");
  if (rename(path.c_str(), old.c_str()) != 0) return ErrnoStatus(errno, "set aside", path);
  if (rename(fresh.c_str(), path.c_str()) != 0) {
    const int error = errno;
    rename(old.c_str(), path.c_str());
    return ErrnoStatus(error, "rename the finished output to", path);
  }
  RemoveFlatDirectory(old);
  return absl::OkStatus();
}

absl::Status RemoveFile(const std::string& path) {
  return unlink(path.c_str()) == 0 ? absl::OkStatus() : ErrnoStatus(errno, "remove", path);
}

absl::StatusOr<std::unique_ptr<FileWriter>> FileWriter::Create(const std::string& path) {
  SF_ASSIGN_OR_RETURN(std::unique_ptr<OutputFile> file, CreateOutput(path));
  return std::unique_ptr<FileWriter>(new HashingWriter(std::move(file)));
}

absl::StatusOr<std::unique_ptr<RandomWriter>> RandomWriter::Create(const std::string& path, uint64_t size,
                                                                   FileSpace space) {
  SF_ASSIGN_OR_RETURN(std::unique_ptr<OutputFile> file, CreateOutput(path));
  if (size > 0) {
    int error = EOPNOTSUPP;
    if (space == FileSpace::kReserved) {
      error = FailsByFault("reserve") ? errno : posix_fallocate(file->fd(), 0, static_cast<off_t>(size));
    }
    if (error == EOPNOTSUPP || error == EINVAL || error == ENODEV) {
      error = ftruncate(file->fd(), static_cast<off_t>(size)) == 0 ? 0 : errno;
    }
    if (error != 0) return ErrnoStatus(error, absl::StrCat("reserve ", size, " bytes"), path);
  }
  return std::unique_ptr<RandomWriter>(new PositionedWriter(std::move(file), size));
}

absl::StatusOr<std::unique_ptr<RandomWriter>> RandomWriter::Reopen(const std::string& path, uint64_t size) {
  const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0) return ErrnoStatus(errno, "open", path);
  auto file = std::make_unique<OutputFile>(fd, path);
  file->Keep();
  struct stat st;
  if (fstat(fd, &st) != 0) return ErrnoStatus(errno, "stat", path);
  if (!S_ISREG(st.st_mode) || static_cast<uint64_t>(st.st_size) != size) {
    return absl::DataLossError(
        absl::StrCat(Printable(path, 1024), ": ", st.st_size, " bytes, but the unfinished file had ", size));
  }
  return std::unique_ptr<RandomWriter>(new PositionedWriter(std::move(file), size));
}

absl::StatusOr<std::unique_ptr<AtomicFile>> AtomicFile::Create(const std::string& requested) {
  const std::string path = BehindLink(requested);
  struct stat st;
  if (stat(path.c_str(), &st) == 0 && !S_ISREG(st.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(Printable(path, 1024), ": exists and is not a regular file; choose another output"));
  }
  static std::atomic<int> counter{0};
  const std::string partial = absl::StrCat(path, ".partial-", getpid(), "-", counter.fetch_add(1));
  unlink(partial.c_str());  // left by a killed process of the same id
  return std::unique_ptr<AtomicFile>(new PartialFile(path, partial));
}

absl::Status WriteFileAtomically(const std::string& path, absl::string_view bytes) {
  SF_ASSIGN_OR_RETURN(const std::unique_ptr<AtomicFile> target, AtomicFile::Create(path));
  SF_ASSIGN_OR_RETURN(const std::unique_ptr<OutputFile> file, CreateOutput(target->partial_path()));
  SF_RETURN_IF_ERROR(file->WriteAt(0, absl::MakeConstSpan(bytes.data(), bytes.size())));
  SF_RETURN_IF_ERROR(file->Finish());
  return target->Commit();
}

absl::StatusOr<std::unique_ptr<AtomicDirectory>> AtomicDirectory::Create(const std::string& requested,
                                                                         bool overwrite) {
  SF_ASSIGN_OR_RETURN(const std::string path, CheckTarget(requested, overwrite));
  for (int attempt = 0;; ++attempt) {  // a killed process of the same id may have left one behind
    const std::string partial =
        absl::StrCat(path, ".partial-", getpid(), attempt == 0 ? "" : absl::StrCat("-", attempt));
    if (!FailsByFault("create") && mkdir(partial.c_str(), 0777) == 0) {
      return std::unique_ptr<AtomicDirectory>(new PartialDirectory(path, partial, overwrite));
    }
    if (errno != EEXIST || attempt == 99) return ErrnoStatus(errno, "create", partial);
  }
}

absl::StatusOr<std::unique_ptr<AtomicDirectory>> AtomicDirectory::Resume(const std::string& requested,
                                                                         bool overwrite, Leftover leftover) {
  SF_ASSIGN_OR_RETURN(const std::string path, CheckTarget(requested, overwrite));
  const std::string partial = path + ".partial";
  if (leftover == Leftover::kAgain) RemoveFlatDirectory(partial);
  if (FailsByFault("create") || mkdir(partial.c_str(), 0777) != 0) {
    const int error = errno;
    struct stat st;
    const bool there = error == EEXIST && lstat(partial.c_str(), &st) == 0 && S_ISDIR(st.st_mode);
    if (there && leftover == Leftover::kNew) {
      return absl::AlreadyExistsError(absl::StrCat(Printable(partial, 1024),
                                                   ": is there, without the journal of ",
                                                   "an interrupted run; move it away"));
    }
    if (!there || leftover != Leftover::kContinue) return ErrnoStatus(error, "create", partial);
  }
  return std::unique_ptr<AtomicDirectory>(new PartialDirectory(path, partial, overwrite));
}

}  // namespace spikefold
