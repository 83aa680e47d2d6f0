#include "formats/base/file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <string>

#include "formats/base/hash.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"

namespace spikefold {
namespace {

using testing::Fails;
using testing::TempDirectory;

}  // namespace

TEST_CASE("A FIFO, a device and a directory are refused without waiting", "[file]") {
  const TempDirectory dir;
  const std::string fifo = dir / "fifo";
  REQUIRE(mkfifo(fifo.c_str(), 0600) == 0);
  CHECK_THAT(OpenFile(fifo).status(), Fails(absl::StatusCode::kDataLoss, "is a FIFO"));
  CHECK_THAT(OpenFileIn(dir.path(), "fifo").status(), Fails(absl::StatusCode::kDataLoss, "is a FIFO"));
  CHECK_THAT(OpenFile("/dev/zero").status(), Fails(absl::StatusCode::kDataLoss, "is a device"));
  CHECK_THAT(OpenFile(dir.path()).status(), Fails(absl::StatusCode::kDataLoss, "is a directory"));
  CHECK_THAT(OpenFile(dir / "absent").status(), Fails(absl::StatusCode::kNotFound, "cannot open"));
}

TEST_CASE("A file inside a directory is opened by its plain name only", "[file]") {
  const TempDirectory dir;
  REQUIRE(mkdir((dir / "in").c_str(), 0700) == 0);
  REQUIRE(WriteFileAtomically(dir / "outside", "secret").ok());
  REQUIRE(WriteFileAtomically(dir / "in/inside", "open").ok());
  REQUIRE(symlink("inside", (dir / "in/alias").c_str()) == 0);
  REQUIRE(symlink("../outside", (dir / "in/out").c_str()) == 0);
  REQUIRE(symlink("loop", (dir / "in/loop").c_str()) == 0);
  for (const char* name : {"../outside", "/etc/passwd", "..", ".", "", "in/inside"}) {
    CHECK_THAT(OpenFileIn(dir / "in", name).status(),
               Fails(absl::StatusCode::kDataLoss, "is not a plain file name"));
  }
  CHECK(OpenFileIn(dir / "in", "inside").ok());
  CHECK(OpenFileIn(dir / "in", "alias").ok());
  CHECK_THAT(OpenFileIn(dir / "in", "out").status(),
             Fails(absl::StatusCode::kDataLoss, "is a symlink that leaves the directory"));
  CHECK_THAT(OpenFileIn(dir / "in", "loop").status(), Fails(absl::StatusCode::kDataLoss, "cannot resolve"));
}

TEST_CASE("The links of a model hub's cache may leave a snapshot for the blobs", "[file]") {
  const TempDirectory dir;
  for (const char* d : {"blobs", "snapshots", "snapshots/abc", "other"}) {
    REQUIRE(mkdir((dir / d).c_str(), 0700) == 0);
  }
  REQUIRE(WriteFileAtomically(dir / "blobs/123", "weights").ok());
  REQUIRE(WriteFileAtomically(dir / "other/123", "weights").ok());
  REQUIRE(symlink("../../blobs/123", (dir / "snapshots/abc/model").c_str()) == 0);
  REQUIRE(symlink("../../other/123", (dir / "snapshots/abc/stray").c_str()) == 0);
  CHECK(OpenFileIn(dir / "snapshots/abc", "model").ok());
  CHECK_THAT(OpenFileIn(dir / "snapshots/abc", "stray").status(),
             Fails(absl::StatusCode::kDataLoss, "leaves the directory"));
}

TEST_CASE("A file that shrinks after it was opened gives an error, not a fault", "[file]") {
  const TempDirectory dir;
  REQUIRE(WriteFileAtomically(dir / "f", std::string(100, 'x')).ok());
  auto file = OpenFile(dir / "f");
  REQUIRE(file.ok());
  std::string bytes(100, '\0');
  CHECK((*file)->Read(0, absl::MakeSpan(bytes.data(), 100)).ok());
  CHECK_THAT((*file)->Read(1, absl::MakeSpan(bytes.data(), 100)),
             Fails(absl::StatusCode::kDataLoss, "lie outside the file of 100 bytes"));
  REQUIRE(truncate((dir / "f").c_str(), 10) == 0);
  CHECK_THAT((*file)->Read(0, absl::MakeSpan(bytes.data(), 100)),
             Fails(absl::StatusCode::kDataLoss, "ends at byte 10, but had 100 bytes"));
  CHECK_THAT(ReadFileToString(dir / "f", 9).status(), Fails(absl::StatusCode::kDataLoss, "at most 9"));
}

TEST_CASE("A directory appears whole or not at all", "[file]") {
  const TempDirectory dir;
  const std::string out = dir / "model-q";
  {
    auto directory = AtomicDirectory::Create(out, false);
    REQUIRE(directory.ok());
    REQUIRE(WriteFileAtomically(JoinPath((*directory)->partial_path(), "config.json"), "{}").ok());
    CHECK_FALSE(PathExists(out));
  }
  CHECK(ListDirectory(dir.path())->empty());

  for (const char* content : {"first", "second"}) {
    auto directory = AtomicDirectory::Create(out, content != std::string("first"));
    REQUIRE(directory.ok());
    REQUIRE(WriteFileAtomically(JoinPath((*directory)->partial_path(), "config.json"), content).ok());
    REQUIRE((*directory)->Commit().ok());
    CHECK(*ReadFileToString(JoinPath(out, "config.json"), 100) == content);
  }
  CHECK(*ListDirectory(dir.path()) == std::vector<std::string>{"model-q"});
  CHECK_THAT(AtomicDirectory::Create(out, false).status(),
             Fails(absl::StatusCode::kAlreadyExists, "choose another output"));
}

TEST_CASE("Overwriting never replaces what is no model directory", "[file]") {
  const TempDirectory dir;
  REQUIRE(mkdir((dir / "home").c_str(), 0700) == 0);
  REQUIRE(WriteFileAtomically(dir / "home/letter.txt", "dear").ok());
  CHECK_THAT(AtomicDirectory::Create(dir / "home", true).status(),
             Fails(absl::StatusCode::kInvalidArgument, "neither config.json nor manifest.json"));
  REQUIRE(WriteFileAtomically(dir / "home/config.json", "{}").ok());
  REQUIRE(mkdir((dir / "home/photos").c_str(), 0700) == 0);
  CHECK_THAT(AtomicDirectory::Create(dir / "home/", true).status(),
             Fails(absl::StatusCode::kInvalidArgument, "holds the directory \"photos\""));
  CHECK_THAT(AtomicDirectory::Create(dir / "home/config.json", true).status(),
             Fails(absl::StatusCode::kInvalidArgument, "is not a directory"));
}

TEST_CASE("Behind a symbolic link what it leads to is replaced, not the link", "[file]") {
  const TempDirectory dir;
  REQUIRE(mkdir((dir / "there").c_str(), 0700) == 0);
  REQUIRE(WriteFileAtomically(dir / "there/e.json", "old").ok());
  REQUIRE(symlink("there/e.json", (dir / "link").c_str()) == 0);
  REQUIRE(WriteFileAtomically(dir / "link", "new").ok());
  CHECK(*ReadFileToString(dir / "there/e.json", 100) == "new");
  REQUIRE(mkdir((dir / "there/model").c_str(), 0700) == 0);
  REQUIRE(WriteFileAtomically(dir / "there/model/config.json", "old").ok());
  REQUIRE(symlink("there/model", (dir / "model").c_str()) == 0);
  {
    auto directory = AtomicDirectory::Create(dir / "model", true);
    REQUIRE(directory.ok());
    REQUIRE(WriteFileAtomically(JoinPath((*directory)->partial_path(), "config.json"), "new").ok());
    REQUIRE((*directory)->Commit().ok());
  }
  CHECK(*ReadFileToString(dir / "there/model/config.json", 100) == "new");
  for (const char* name : {"link", "model"}) {
    struct stat st;
    REQUIRE(lstat((dir / name).c_str(), &st) == 0);
    CHECK(S_ISLNK(st.st_mode));
  }
  CHECK(*ListDirectory(dir.path()) == std::vector<std::string>{"link", "model", "there"});
  CHECK(*ListDirectory(dir / "there") == std::vector<std::string>{"e.json", "model"});
}

TEST_CASE("A target that came into being meanwhile is not overwritten", "[file]") {
  const TempDirectory dir;
  auto directory = AtomicDirectory::Create(dir / "out", false);
  REQUIRE(directory.ok());
  REQUIRE(mkdir((dir / "out").c_str(), 0700) == 0);
  CHECK_THAT((*directory)->Commit(), Fails(absl::StatusCode::kAlreadyExists, "out"));
}

TEST_CASE("A writer hashes what it writes, and leaves nothing when it is abandoned", "[file]") {
  const TempDirectory dir;
  {
    auto writer = FileWriter::Create(dir / "f");
    REQUIRE(writer.ok());
    REQUIRE((*writer)->Append(absl::MakeConstSpan("abc", 3)).ok());
  }
  CHECK_FALSE(PathExists(dir / "f"));
  auto writer = FileWriter::Create(dir / "f");
  REQUIRE(writer.ok());
  CHECK_THAT(FileWriter::Create(dir / "f").status(),
             Fails(absl::StatusCode::kAlreadyExists, "cannot create"));
  REQUIRE((*writer)->Append(absl::MakeConstSpan("a", 1)).ok());
  REQUIRE((*writer)->Append(absl::MakeConstSpan("bc", 2)).ok());
  auto sha = (*writer)->Finish();
  REQUIRE(sha.ok());
  // FIPS 180-4, the message "abc".
  CHECK(*sha == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(*Sha256File(dir / "f") == *sha);
}

TEST_CASE("XXH3 of nothing is its published value", "[hash]") { CHECK(Xxh3Hex({}) == "2d06800538d394c2"); }

TEST_CASE("Paths are joined and taken apart like the shell does", "[file]") {
  CHECK(JoinPath("a", "b") == "a/b");
  CHECK(JoinPath("a/", "b") == "a/b");
  CHECK(JoinPath("a", "/b") == "/b");
  CHECK(Basename("a/b/") == "b");
  CHECK(Basename("/") == "/");
  CHECK(Dirname("a/b/") == "a");
  CHECK(Dirname("b") == ".");
  CHECK(Dirname("/b") == "/");
}

}  // namespace spikefold
