// What the tests of the command line share.
#pragma once

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/base/file.h"
#include "formats/base/json.h"
#include "tests/apps/model_directory.h"
#include "tests/apps/process.h"
#include "tests/testing/temp_directory.h"

namespace spikefold::testing {

using Args = std::vector<std::string>;

inline Args With(Args args, const Args& more) {
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

// A temporary directory with the tiny model in "model" and text in "text.txt".
struct Workplace {
  Workplace() {
    WriteTinyLlama(model);
    REQUIRE(WriteFileAtomically(text, RandomText(2000, 1)).ok());
  }
  std::string operator/(const std::string& name) const { return directory / name; }

  TempDirectory directory;
  const std::string model = directory / "model", text = directory / "text.txt";
};

// Runs, and requires that it succeeds.
inline std::string Succeed(const Args& arguments, const ProcessOptions& options = {}) {
  const Finished run = RunSpikefold(arguments, options);
  INFO(run.err);
  REQUIRE(run.exit == 0);
  return run.out;
}

// The one document on stdout.
inline Json SucceedJson(Args arguments) {
  arguments.push_back("--json");
  const std::string out = Succeed(arguments);
  const auto json = ParseJson(out, "stdout");
  INFO(out);
  REQUIRE(json.ok());
  CHECK(json->GetInt("format_version", "stdout").ok());
  return *json;
}

// Fails with this exit code and exactly this line on stderr, and says nothing on stdout.
inline void CheckRefused(const Args& arguments, int exit, const std::string& line) {
  const Finished run = RunSpikefold(arguments);
  CHECK(run.exit == exit);
  CHECK(run.err == line + "\n");
  CHECK(run.out.empty());
}

inline void WriteBytes(const std::string& path, const std::string& bytes) {
  REQUIRE(WriteFileAtomically(path, bytes).ok());
}

inline std::string ReadAll(const std::string& path) {
  const auto bytes = ReadFileToString(path, 1 << 28);
  INFO(path);
  REQUIRE(bytes.ok());
  return *bytes;
}

// Every file of a directory but the manifest, which holds the command.
inline std::string AllBytes(const std::string& directory) {
  const auto names = ListDirectory(directory);
  REQUIRE(names.ok());
  std::string all;
  for (const std::string& name : *names) {
    if (name != "manifest.json") absl::StrAppend(&all, name, "\n", ReadAll(JoinPath(directory, name)));
  }
  return all;
}

// What happens at the run's `call`-th call that changes the file system: SPIKEFOLD_KILL_AT, SPIKEFOLD_FULL_AT
// (tests/apps/disk_fault.cc).
inline ProcessOptions DiskFault(const std::string& what, int64_t call) {
  return {.environment = {"LD_PRELOAD=" SPIKEFOLD_DISK_FAULT, "ASAN_OPTIONS=verify_asan_link_order=0",
                          absl::StrCat(what, "=", call)}};
}
// The number of such calls of a whole run, which succeeds.
inline int64_t CountDiskCalls(const Args& arguments) {
  const TempDirectory elsewhere;
  ProcessOptions options = DiskFault("SPIKEFOLD_KILL_AT", 0);
  options.environment.push_back(absl::StrCat("SPIKEFOLD_COUNT=", elsewhere / "count"));
  Succeed(arguments, options);
  return std::stoll(ReadAll(elsewhere / "count"));
}

}  // namespace spikefold::testing
