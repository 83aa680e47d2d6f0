// The tool's version, as written into every file it makes.
#pragma once

#include <string>

namespace spikefold {

// "0.1.0": the project's version. It alone decides compatibility.
std::string ToolVersion();

// "729b392", "729b392-dirty" with uncommitted changes to tracked files, or "unknown" when built outside a git
// checkout.
std::string ToolCommit();

// "0.1.0 (729b392)", for people and for provenance.
std::string ToolVersionAndCommit();

}  // namespace spikefold
