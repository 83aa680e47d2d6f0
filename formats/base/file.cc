#include "formats/base/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/base/file_errno.h"
#include "formats/base/json.h"
#include "formats/base/status.h"

namespace spikefold {

absl::Status ErrnoStatus(int error, absl::string_view doing, absl::string_view path) {
  const std::string text = absl::StrCat(Printable(path), ": cannot ", doing, ": ", std::strerror(error));
  switch (error) {
    case ENOENT:
    case ENOTDIR:
    case ENAMETOOLONG:
      return absl::NotFoundError(text);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(text);
    case EEXIST:
    case ENOTEMPTY:
      return absl::AlreadyExistsError(text);
    case ELOOP:
    case EISDIR:
      return absl::DataLossError(text);
    case ENOMEM:
      return absl::ResourceExhaustedError(text);
    default:  // ENOSPC, EDQUOT, EFBIG, EIO, EMFILE ...
      return absl::UnavailableError(text);
  }
}

namespace {

// The path in an error is the whole subject, so it may be longer than Printable's default.
std::string Shown(absl::string_view path) { return Printable(path, 1024); }

class FileSource : public ByteSource {
 public:
  FileSource(int fd, uint64_t size, std::string name) : fd_(fd), size_(size), name_(std::move(name)) {}
  ~FileSource() override { close(fd_); }
  uint64_t size() const override { return size_; }
  const std::string& name() const override { return name_; }

  absl::Status Read(uint64_t offset, absl::Span<char> out) const override {
    if (offset > size_ || out.size() > size_ - offset) {
      return absl::DataLossError(absl::StrCat(Shown(name_), ": bytes ", offset, "..+", out.size(),
                                              " lie outside the file of ", size_, " bytes"));
    }
    size_t done = 0;
    while (done < out.size()) {
      const size_t want = std::min<size_t>(out.size() - done, 1u << 30);  // one pread takes at most 2 GiB
      const ssize_t n = pread(fd_, out.data() + done, want, static_cast<off_t>(offset + done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return ErrnoStatus(errno, "read", name_);
      if (n == 0) {
        return absl::DataLossError(absl::StrCat(Shown(name_), ": ends at byte ", offset + done, ", but had ",
                                                size_, " bytes when it was opened"));
      }
      done += static_cast<size_t>(n);
    }
    return absl::OkStatus();
  }

 private:
  const int fd_;
  const uint64_t size_;
  const std::string name_;
};

class StringSource : public ByteSource {
 public:
  StringSource(std::string bytes, std::string name) : bytes_(std::move(bytes)), name_(std::move(name)) {}
  uint64_t size() const override { return bytes_.size(); }
  const std::string& name() const override { return name_; }
  absl::Status Read(uint64_t offset, absl::Span<char> out) const override {
    if (offset > bytes_.size() || out.size() > bytes_.size() - offset) {
      return absl::DataLossError(absl::StrCat(Shown(name_), ": bytes ", offset, "..+", out.size(),
                                              " lie outside the file of ", bytes_.size(), " bytes"));
    }
    if (!out.empty()) std::memcpy(out.data(), bytes_.data() + offset, out.size());
    return absl::OkStatus();
  }

 private:
  const std::string bytes_;
  const std::string name_;
};

absl::Status NotRegular(absl::string_view path, mode_t mode) {
  const char* kind = S_ISDIR(mode)    ? "a directory"
                     : S_ISFIFO(mode) ? "a FIFO"
                     : S_ISSOCK(mode) ? "a socket"
                                      : "a device";
  return absl::DataLossError(absl::StrCat(Shown(path), ": is ", kind, "; expected a regular file"));
}

// Takes the descriptor. Without O_NONBLOCK the open of a FIFO would wait for a writer for ever.
constexpr int kReadFlags = O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;

absl::StatusOr<std::unique_ptr<ByteSource>> SourceOf(int fd, const std::string& path) {
  struct stat st;
  if (fstat(fd, &st) != 0) {
    const int error = errno;
    close(fd);
    return ErrnoStatus(error, "stat", path);
  }
  if (!S_ISREG(st.st_mode)) {
    close(fd);
    return NotRegular(path, st.st_mode);
  }
  return std::unique_ptr<ByteSource>(new FileSource(fd, static_cast<uint64_t>(st.st_size), path));
}

absl::StatusOr<std::string> RealPath(const std::string& path) {
  char* resolved = realpath(path.c_str(), nullptr);
  if (resolved == nullptr) return ErrnoStatus(errno, "resolve", path);
  std::string out(resolved);
  std::free(resolved);
  return out;
}

// Model hubs cache a model as snapshots/<revision>/<name> -> ../../blobs/<hash>; that one way out is theirs.
bool IsHubBlob(absl::string_view real_directory, absl::string_view target) {
  const std::string snapshots = Dirname(real_directory);
  return Basename(snapshots) == "snapshots" && Dirname(target) == JoinPath(Dirname(snapshots), "blobs");
}

}  // namespace

absl::StatusOr<std::unique_ptr<ByteSource>> OpenFile(const std::string& path) {
  // Opening some devices has effects, so look first; SourceOf() looks again at what was really opened.
  struct stat st;
  if (stat(path.c_str(), &st) != 0) return ErrnoStatus(errno, "open", path);
  if (!S_ISREG(st.st_mode)) return NotRegular(path, st.st_mode);
  const int fd = open(path.c_str(), kReadFlags);
  if (fd < 0) return ErrnoStatus(errno, "open", path);
  return SourceOf(fd, path);
}

absl::StatusOr<std::unique_ptr<ByteSource>> OpenFileIn(const std::string& directory,
                                                       const std::string& basename) {
  if (basename.empty() || basename == "." || basename == ".." || basename.find('/') != std::string::npos ||
      basename.find('\0') != std::string::npos) {
    return absl::DataLossError(absl::StrCat(Shown(directory), ": \"", Shown(basename),
                                            "\" is not a plain file name; a model's files lie beside each "
                                            "other"));
  }
  const std::string path = JoinPath(directory, basename);
  struct stat st;
  if (lstat(path.c_str(), &st) != 0) return ErrnoStatus(errno, "open", path);
  if (!S_ISLNK(st.st_mode)) {
    if (!S_ISREG(st.st_mode)) return NotRegular(path, st.st_mode);
    const int fd = open(path.c_str(), kReadFlags | O_NOFOLLOW);
    if (fd < 0) return ErrnoStatus(errno, "open", path);
    return SourceOf(fd, path);
  }
  SF_ASSIGN_OR_RETURN(const std::string real_directory, RealPath(directory));
  SF_ASSIGN_OR_RETURN(const std::string target, RealPath(path));
  if (Dirname(target) != real_directory && !IsHubBlob(real_directory, target)) {
    return absl::DataLossError(absl::StrCat(Shown(path), ": is a symlink that leaves the directory, to ",
                                            Shown(target), "; copy the file into the directory"));
  }
  if (stat(target.c_str(), &st) != 0) return ErrnoStatus(errno, "open", target);
  if (!S_ISREG(st.st_mode)) return NotRegular(target, st.st_mode);
  const int fd = open(target.c_str(), kReadFlags | O_NOFOLLOW);
  if (fd < 0) return ErrnoStatus(errno, "open", target);
  return SourceOf(fd, path);
}

std::unique_ptr<ByteSource> MemorySource(std::string bytes, std::string name) {
  return std::make_unique<StringSource>(std::move(bytes), std::move(name));
}

absl::StatusOr<std::string> ReadToString(const ByteSource& source, uint64_t max_bytes) {
  if (source.size() > max_bytes) {
    return absl::DataLossError(absl::StrCat(Shown(source.name()), ": ", source.size(), " bytes; at most ",
                                            max_bytes, " are allowed"));
  }
  std::string out(static_cast<size_t>(source.size()), '\0');
  SF_RETURN_IF_ERROR(source.Read(0, absl::MakeSpan(out.data(), out.size())));
  return out;
}

absl::StatusOr<std::string> ReadFileToString(const std::string& path, uint64_t max_bytes) {
  SF_ASSIGN_OR_RETURN(const std::unique_ptr<ByteSource> source, OpenFile(path));
  return ReadToString(*source, max_bytes);
}

bool PathExists(const std::string& path) {
  struct stat st;
  return lstat(path.c_str(), &st) == 0;
}

bool IsDirectory(const std::string& path) {
  struct stat st;
  return stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode);
}

absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path) {
  DIR* directory = opendir(path.c_str());
  if (directory == nullptr) return ErrnoStatus(errno, "list", path);
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = readdir(directory)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  const int error = errno;
  closedir(directory);
  if (error != 0) return ErrnoStatus(error, "list", path);
  std::sort(names.begin(), names.end());
  return names;
}

std::string JoinPath(absl::string_view a, absl::string_view b) {
  if (a.empty() || absl::StartsWith(b, "/")) return std::string(b);
  return absl::EndsWith(a, "/") ? absl::StrCat(a, b) : absl::StrCat(a, "/", b);
}

namespace {

absl::string_view WithoutTrailingSlashes(absl::string_view path) {
  while (path.size() > 1 && path.back() == '/') path.remove_suffix(1);
  return path;
}

}  // namespace

std::string Basename(absl::string_view path) {
  path = WithoutTrailingSlashes(path);
  const size_t slash = path.rfind('/');
  return std::string(slash == absl::string_view::npos || path.size() == 1 ? path : path.substr(slash + 1));
}

std::string Dirname(absl::string_view path) {
  path = WithoutTrailingSlashes(path);
  const size_t slash = path.rfind('/');
  if (slash == absl::string_view::npos) return ".";
  return std::string(slash == 0 ? path.substr(0, 1) : WithoutTrailingSlashes(path.substr(0, slash)));
}

}  // namespace spikefold
