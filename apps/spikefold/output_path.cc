#include "apps/spikefold/output_path.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "formats/base/file.h"
#include "formats/base/json.h"
#include "formats/base/status.h"
#include "formats/checkpoint.h"

namespace spikefold {
namespace {

std::string Shown(const std::string& path) { return Printable(path, 1024); }

std::string WithoutSlashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

absl::Status CheckParent(const std::string& path) {
  const std::string clean = WithoutSlashes(path);
  const std::string parent = Dirname(clean);
  if (!PathExists(parent)) {
    return absl::NotFoundError(absl::StrCat(Shown(path), ": its directory ", Shown(parent),
                                            " does not exist; make it first (mkdir -p)"));
  }
  if (!IsDirectory(parent)) {
    return absl::NotFoundError(absl::StrCat(Shown(path), ": ", Shown(parent), " is no directory"));
  }
  if (access(parent.c_str(), W_OK) == 0) return absl::OkStatus();
  const std::string text = absl::StrCat(Shown(path), ": cannot be written: ", strerror(errno));
  return errno == EACCES ? absl::PermissionDeniedError(text) : absl::UnavailableError(text);
}

// Of a model's directory or a scan's; results (eval.json, plan.json) may lie beside them.
bool IsPartOfDirectory(absl::string_view name) {
  return IsCheckpointFile(name) || name == "outliers.json" || name == "scan.spike";
}

// Nor one of the files that an input directory consists of.
absl::Status CheckNotInput(const std::string& path, const std::vector<std::string>& inputs) {
  const std::string clean = WithoutSlashes(path);
  for (const std::string& input : inputs) {
    const bool inside = IsPartOfDirectory(Basename(clean)) && SamePath(Dirname(clean), input);
    if (!inside && !SamePath(path, input)) continue;
    return absl::InvalidArgumentError(absl::StrCat(Shown(path), ": is ", inside ? "a file of " : "",
                                                   "an input of this command; choose another output"));
  }
  return absl::OkStatus();
}

}  // namespace

bool SamePath(const std::string& a, const std::string& b) {
  struct stat first, second;
  if (stat(a.c_str(), &first) != 0 || stat(b.c_str(), &second) != 0) return false;
  return first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

namespace {

// That many tools mean standard output by "-" must not make a file of that name.
absl::Status CheckName(const std::string& path, const char* what) {
  if (path.empty()) return absl::InvalidArgumentError(absl::StrCat("--output: empty; name a ", what));
  if (path != "-") return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--output -: nothing is written to standard output but by --json; name a ", what,
                   " (\"./-\" if it is to be called so)"));
}

}  // namespace

absl::Status CheckOutputFile(const std::string& requested, const std::vector<std::string>& inputs) {
  SF_RETURN_IF_ERROR(CheckName(requested, "file"));
  if (IsDirectory(requested) || requested.back() == '/') {
    return absl::InvalidArgumentError(
        absl::StrCat(Shown(requested), ": is a directory; --output names one file"));
  }
  const std::string path = BehindLink(requested);
  SF_RETURN_IF_ERROR(CheckNotInput(path, inputs));
  return CheckParent(path);
}

absl::Status CheckOutputDirectory(const std::string& requested, bool force,
                                  const std::vector<std::string>& inputs) {
  SF_RETURN_IF_ERROR(CheckName(requested, "directory"));
  const std::string path = BehindLink(requested);
  SF_RETURN_IF_ERROR(CheckNotInput(path, inputs));
  if (PathExists(path) && !force) {
    return absl::AlreadyExistsError(
        absl::StrCat(Shown(path), ": exists; choose another output, or replace it with --force"));
  }
  return CheckParent(path);
}

}  // namespace spikefold
