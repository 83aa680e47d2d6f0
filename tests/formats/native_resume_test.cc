// What an interrupted writer leaves, and the next one makes of it.
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "formats/base/file.h"
#include "formats/quantized/native_journal.h"
#include "formats/safetensors_model.h"
#include "tests/formats/native_kit.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"

namespace spikefold {
namespace {

using namespace native_kit;
using absl::StatusCode;
using testing::Fails;
using testing::TempDirectory;

NativeWriter::Options Journaled(bool resume, uint64_t max_shard_bytes = 0) {
  NativeWriter::Options options;
  options.max_shard_bytes = max_shard_bytes;
  options.journal_fingerprint = "0123456789abcdef";
  options.resume = resume;
  return options;
}

// What only the run that rounded it knows.
QuantizedLinear Rounded() {
  QuantizedLinear q = DownProj();
  q.weight_error = 0.25;
  return q;
}

void WriteRest(NativeWriter& writer) {
  for (const QuantizedLinear& q : {Rounded(), QProj(), Head()}) {
    if (!writer.HasLinear(q.module)) REQUIRE(writer.WriteLinear(q) == absl::OkStatus());
  }
  REQUIRE(writer.WriteTensor(kGain, Tensor::FromFloats({6}, {1, 2, 3, 4, 5, 6}).view()).ok());
  REQUIRE(writer.WritePrefix(Prefix()).ok());
  REQUIRE(writer.Commit() == absl::OkStatus());
}

std::vector<std::string> AllBytes(const std::string& path) {
  std::vector<std::string> all = *ListDirectory(path);
  const size_t count = all.size();
  for (size_t i = 0; i < count; ++i) all.push_back(Read(path + "/" + all[i]));
  return all;
}

// A run that was interrupted behind its first linear, and the whole that it should become.
struct Interrupted {
  explicit Interrupted(uint64_t max_shard_bytes = 0) : shard(max_shard_bytes) {
    NativeWriter::Options options;
    options.max_shard_bytes = shard;
    WriteRest(**Begin(directory / "whole", options));
    whole = AllBytes(directory / "whole");
    auto writer = Begin(path, Journaled(false, shard));
    REQUIRE(writer.ok());
    REQUIRE((*writer)->WriteLinear(Rounded()).ok());
    CHECK((*writer)->num_resumed() == 0);
  }
  // Goes on, and must come to the same bytes.
  void GoOn(int64_t num_resumed) const {
    auto writer = Begin(path, Journaled(true, shard));
    REQUIRE(writer.status() == absl::OkStatus());
    CHECK((*writer)->num_resumed() == num_resumed);
    CHECK((*writer)->HasLinear(Rounded().module) == (num_resumed > 0));
    WriteRest(**writer);
    CHECK(AllBytes(path) == whole);
    writer->reset();
    CHECK(*ListDirectory(directory.path()) == std::vector<std::string>{"q", "whole"});
  }
  const uint64_t shard;
  const TempDirectory directory;
  const std::string path = directory / "q", partial = PartialPath(path), journal = JournalPath(path);
  std::vector<std::string> whole;
};

}  // namespace

TEST_CASE("A run goes on behind the last linear of an interrupted one, to the same bytes",
          "[native][resume]") {
  for (const uint64_t shard : {0, 64}) {
    const Interrupted run(shard);
    CHECK(!PathExists(run.path));
    CHECK(IsDirectory(run.partial));
    CHECK(NativeJournal::CountRecords(run.journal) == 1);
    {
      auto writer = Begin(run.path, Journaled(true, shard));
      REQUIRE(writer.status() == absl::OkStatus());
      const auto back = (*writer)->ReadBack(Rounded().module);
      REQUIRE(back.status() == absl::OkStatus());
      CHECK(back->codes == DownProj().codes);
      CHECK(back->kept_weight_bf16 == DownProj().kept_weight_bf16);
      CHECK_THAT((*writer)->ReadBack(QProj().module).status(),
                 Fails(StatusCode::kInternal, "q_proj: is not written yet"));
      for (const bool resume : {true, false}) {
        CHECK_THAT(Begin(run.path, Journaled(resume, shard)).status(),
                   Fails(StatusCode::kUnavailable, "another process is writing this output"));
      }
    }  // interrupted again, with nothing new
    run.GoOn(1);
  }
}

TEST_CASE("An interrupted run behind a link is one run with that behind what it leads to",
          "[native][resume]") {
  const Interrupted run;
  const std::string link = run.path + "-link";
  REQUIRE(mkdir(run.path.c_str(), 0700) == 0);
  REQUIRE(symlink(run.path.c_str(), link.c_str()) == 0);
  CHECK(PartialPath(link) == run.partial);
  CHECK(JournalPath(link + "/") == run.journal);
}

TEST_CASE("The work of an interrupted run is neither thrown away nor mixed up unasked", "[native][resume]") {
  const Interrupted run;
  const auto before = AllBytes(run.partial);
  CHECK_THAT(Begin(run.path, Journaled(false)).status(),
             Fails(StatusCode::kAlreadyExists,
                   "q.partial: holds 1 linears of an interrupted run; go on with --resume, or begin again"));
  NativeWriter::Options other = Journaled(true);
  other.journal_fingerprint = "fedcba9876543210";
  CHECK_THAT(Begin(run.path, other).status(),
             Fails(StatusCode::kDataLoss,
                   "is of another model, plan, calibration, arithmetic or version (0123456789ab..., "
                   "this is fedcba987654...)"));
  CHECK(AllBytes(run.partial) == before);
  CHECK(NativeJournal::CountRecords(run.journal) == 1);
  other.resume = false;
  other.overwrite = true;  // --force begins again
  const auto writer = Begin(run.path, other);
  REQUIRE(writer.status() == absl::OkStatus());
  CHECK((*writer)->num_resumed() == 0);
  REQUIRE((*writer)->WriteLinear(QProj()).ok());
  (*writer)->Discard();
}

TEST_CASE("A linear whose bytes are not those of its record is written again", "[native][resume]") {
  const Interrupted run;
  const SafetensorsEntry entry = *(*SafetensorsModel::Open(run.partial))->Find(Rounded().module + ".bias");
  std::string bytes = Read(run.partial + "/model.safetensors");
  bytes[entry.offset] = static_cast<char>(bytes[entry.offset] ^ 1);
  REQUIRE(WriteFileAtomically(run.partial + "/model.safetensors", bytes).ok());
  run.GoOn(0);
}

TEST_CASE("A record that is not whole, or of something else, ends the journal", "[native][resume]") {
  for (const int damage : {0, 1, 2}) {
    INFO(damage);
    const Interrupted run;
    std::string text = Read(run.journal);
    const size_t record = text.find('\n') + 1;
    if (damage == 0) text.pop_back();
    if (damage == 1) text[record + 40] ^= 1;
    if (damage == 2) text = text.substr(record);  // without the first, which says whose it is
    REQUIRE(WriteFileAtomically(run.journal, text).ok());
    CHECK(NativeJournal::CountRecords(run.journal) == 0);
    if (damage < 2) {
      run.GoOn(0);
      continue;
    }
    CHECK_THAT(Begin(run.path, Journaled(true)).status(),
               Fails(StatusCode::kDataLoss, "is no journal; move it away"));
    CHECK(Read(run.journal) == text);
  }
}

TEST_CASE("Files of an interrupted run that do not fit its journal are refused, not guessed at",
          "[native][resume]") {
  {
    const Interrupted run;
    std::filesystem::resize_file(run.partial + "/model.safetensors", 100);
    CHECK_THAT(Begin(run.path, Journaled(true)).status(),
               Fails(StatusCode::kDataLoss, "; begin again with --force instead of --resume"));
    CHECK(NativeJournal::CountRecords(run.journal) == 1);
  }
  {
    const Interrupted run;  // only the journal is left: nothing to go on with
    std::filesystem::remove_all(run.partial);
    run.GoOn(0);
  }
  {
    const Interrupted run;  // a directory that no journal speaks of may be anyone's
    std::filesystem::remove(run.journal);
    CHECK_THAT(Begin(run.path, Journaled(true)).status(), Fails(StatusCode::kAlreadyExists, "q.partial"));
    CHECK(PathExists(run.partial + "/model.safetensors"));
  }
}

TEST_CASE("A run that wrote no linear, or is given up, leaves nothing", "[native][resume]") {
  const TempDirectory directory;
  {
    auto writer = Begin(directory / "q", Journaled(false));
    REQUIRE(writer.ok());
    CHECK(PathExists(JournalPath(directory / "q")));
  }
  CHECK(ListDirectory(directory.path())->empty());
  {
    auto writer = Begin(directory / "q", Journaled(false));
    REQUIRE(writer.ok());
    REQUIRE((*writer)->WriteLinear(Rounded()).ok());
    (*writer)->Discard();
  }
  CHECK(ListDirectory(directory.path())->empty());
}

}  // namespace spikefold
