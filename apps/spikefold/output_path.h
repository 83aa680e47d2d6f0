// Whether a result can be put where the user wants it: asked before the work, not after it.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace spikefold {

// A file to be written (an existing one is replaced). InvalidArgument: `path` is empty, a directory, one of
// the inputs, or named as a file that an input directory consists of. NotFound, PermissionDenied,
// Unavailable: its directory is not there or cannot be written to.
absl::Status CheckOutputFile(const std::string& path, const std::vector<std::string>& inputs);

// A directory to be made. Also AlreadyExists without `force` if there is one.
absl::Status CheckOutputDirectory(const std::string& path, bool force,
                                  const std::vector<std::string>& inputs);

// Whether two paths name the same file or directory.
bool SamePath(const std::string& a, const std::string& b);

}  // namespace spikefold
