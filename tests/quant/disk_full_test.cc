// A disk that fills at any moment: an error that says so, and nothing left.
#include <cerrno>
#include <cstring>

#include "formats/base/file_fault.h"
#include "formats/quantized/native.h"
#include "quant/apply.h"
#include "tests/quant/quant_kit.h"
#include "tests/testing/status_matchers.h"

namespace spikefold::testing {
namespace {

int g_calls_left = 0;

// From a certain call on, nothing can be written. What is there already stays in its place: that the parent's
// entry cannot be synced comes after the output has appeared.
int DiskFull(const char* call) {
  if (std::strcmp(call, "sync directory") == 0 || g_calls_left-- > 0) return 0;
  return ENOSPC;
}

struct FaultyDisk {
  explicit FaultyDisk(int good_calls) {
    g_calls_left = good_calls;
    SetFileFault(DiskFull);
  }
  ~FaultyDisk() { SetFileFault(nullptr); }
};

TEST_CASE("A disk that is full at any write leaves no output, no remains and an error that says so") {
  const Scanned s = ScanTiny(PlainModel());
  const auto plan = MakePlan({.scheme = "w4a8"}, s.input());
  REQUIRE(plan.ok());
  for (const bool journal : {false, true}) {
    const TempDirectory directory;
    const std::string out = directory / "q";
    int calls = 0;
    for (;; ++calls) {
      REQUIRE(calls < 1000);
      absl::Status status;
      {
        const FaultyDisk disk(calls);
        status = ApplyPlan(*plan, *s.tiny.checkpoint,
                           {.pool = &TestPool(), .stats = &s.scan.stats, .output = out, .journal = journal});
      }
      if (status.ok()) break;
      CAPTURE(calls);
      CHECK_THAT(status, Fails(absl::StatusCode::kUnavailable, "No space left on device"));
      CHECK(ListDirectory(directory.path())->empty());
    }
    CHECK(calls > 30);  // tensors, and a few files
    CHECK(NativeVerify(out).ok());
    CHECK(*ListDirectory(directory.path()) == std::vector<std::string>{"q"});
  }
}

TEST_CASE("A file is replaced whole or not at all when the disk is full") {
  const TempDirectory directory;
  const std::string path = directory / "plan.json";
  REQUIRE(WriteFileAtomically(path, "old").ok());
  int calls = 0;
  for (;; ++calls) {
    absl::Status status;
    {
      const FaultyDisk disk(calls);
      status = WriteFileAtomically(path, "new");
    }
    if (status.ok()) break;
    CHECK_THAT(status, Fails(absl::StatusCode::kUnavailable, "No space left on device"));
    CHECK(*ReadFileToString(path, 10) == "old");
    CHECK(ListDirectory(directory.path())->size() == 1);
  }
  CHECK(calls == 5);  // create, write, sync, close, rename
  CHECK(*ReadFileToString(path, 10) == "new");
}

}  // namespace
}  // namespace spikefold::testing
