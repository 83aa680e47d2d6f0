// Bad inputs 38 and 40: caches that lie, and a machine that refuses. (39, journals and manifests:
// resume_test.cc, verify_test.cc; a disk that is full at any write: tests/quant/disk_full_test.cc.)
#include <sys/stat.h>

#include <filesystem>

#include "calib/stats.h"
#include "tests/apps/bad_inputs.h"

namespace spikefold::testing {
namespace {

std::string LittleEndian(uint64_t value, int bytes) {
  std::string out;
  for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i) & 0xff);
  return out;
}
// RFC 8878: magic number, descriptor, [window], content size of 8 bytes; then one raw block of "abcd".
std::string Frame(unsigned char descriptor, const std::string& window, uint64_t content_size) {
  return LittleEndian(0xFD2FB528, 4) + static_cast<char>(descriptor) + window +
         LittleEndian(content_size, 8) + LittleEndian(4 << 3 | 1, 3) + "abcd" + LittleEndian(0, 4);
}

TEST_CASE("A scan's cache that is no honest zstd frame is refused", "[apps][bad]") {
  const Workplace w;
  Succeed({"scan", w.model, "-o", w / "scan", "--text", w.text, "--windows", "4", "--length", "32"});
  const std::string path = w / "scan/scan.spike", good = ReadAll(path);
  std::string unchecked = good, lying = good, flipped = good;
  const unsigned char descriptor = static_cast<unsigned char>(good[4]);
  REQUIRE((descriptor & 4) != 0);
  unchecked[4] = static_cast<char>(descriptor & ~4);
  unchecked.resize(good.size() - 4);
  const size_t size_at = 5 + ((descriptor & 0x20) != 0 ? 0 : 1);
  lying[size_at] = static_cast<char>(lying[size_at] + 1);
  flipped.back() =
      static_cast<char>(flipped.back() ^ 4);  // of the checksum: bits before it fail in ways of their own
  constexpr unsigned char kSingle = 0xe4, kWindowed = 0xc4;  // 8 bytes of size, checksum
  const struct {
    const char* what;
    std::string bytes, message;
  } cases[] = {
      {"empty", "", "not a zstd frame, or cut off in its header; make the file again"},
      {"text", "no zstd at all", "not a zstd frame, or cut off in its header; make the file again"},
      {"bomb: a TiB", Frame(kSingle, "", uint64_t{1} << 40),
       "claims 1099511627776 bytes of content; at most 8589934592 are allowed; make the file again"},
      {"bomb: more than 1000 times its size", Frame(kSingle, "", 1 << 20),
       "claims 1048576 bytes of content from 24 bytes; at most 1000 times are allowed; make the file again"},
      {"window of 2^31", Frame(kWindowed, "\xA8", 4),
       "a window of 2^31 bytes; at most 2^27 are allowed; make the file again"},
      {"a content size that lies", lying,
       "damaged zstd frame (Data corruption detected); make the file again"},
      {"no checksum", unchecked, "the zstd frame has no checksum; make the file again"},
      {"two frames", good + good,
       absl::StrCat(good.size(), " bytes after the zstd frame; one frame is allowed; make the file again")},
      {"a byte behind it", good + "x",
       "1 bytes after the zstd frame; one frame is allowed; make the file again"},
      {"cut off", good.substr(0, good.size() - 1),
       "the zstd frame is damaged or cut off; make the file again"},
      {"a flipped bit", flipped,
       "damaged zstd frame (Restored data doesn't match checksum); make the file again"},
  };
  for (const auto& c : cases) {
    INFO(c.what);
    WriteBytes(path, c.bytes);
    const Finished run = RunSpikefold({"plan", w.model, "--scan", w / "scan", "--scheme", "w8a8"},
                                      {.max_memory = uint64_t{1} << 30});
    CHECK(run.exit == 3);
    CHECK(run.err == absl::StrCat("spikefold plan: ", path, ": ", c.message, "\n"));
    CHECK(run.out.empty());
  }
}

TEST_CASE("Statistics that do not fit the model are refused, and of a folded model made again",
          "[apps][bad]") {
  const Workplace w;
  Succeed({"scan", w.model, "-o", w / "scan", "--text", w.text, "--windows", "4", "--length", "32"});
  const auto lose_site = [](const std::string& path) {
    auto stats = LoadStats(path);
    REQUIRE(stats.ok());
    stats->arms.front().sites.pop_back();
    REQUIRE(SaveStats(*stats, path).ok());
  };
  const Args plan = {"plan", w.model, "--scan", w / "scan", "--scheme", "w8a8-static", "--smooth", "0.5"};
  const std::string expected = Succeed(plan);
  const auto files = *ListDirectory(w / "scan");
  std::string folded;
  for (const std::string& name : files) {
    if (name.rfind("folded-", 0) == 0) folded = w / "scan/" + name;
  }
  REQUIRE(!folded.empty());
  const std::string kept = ReadAll(folded);
  lose_site(folded);
  CHECK(ReadAll(folded) != kept);
  CHECK(Succeed(plan) == expected);
  CHECK(ReadAll(folded) == kept);
  lose_site(w / "scan/scan.spike");
  CheckRefused(plan, 2,
               absl::StrCat("spikefold plan: ", w / "scan/scan.spike",
                            ": the scan saw 8 linear inputs, the model has 9; scan this model"));
}

TEST_CASE("A model, a tokenizer or a text that is a FIFO or a device is refused without waiting",
          "[apps][bad]") {
  const Workplace w;
  const std::string fifo = w / "fifo";
  REQUIRE(mkfifo(fifo.c_str(), 0600) == 0);
  CheckRefused({"inspect", fifo}, 3,
               absl::StrCat("spikefold inspect: ", fifo, ": is a FIFO; expected a regular file"));
  CheckRefused({"inspect", "/dev/zero"}, 3,
               "spikefold inspect: /dev/zero: is a device; expected a regular file");
  CheckRefused({"scan", w.model, "-o", w / "scan", "--text", fifo}, 3,
               absl::StrCat("spikefold scan: ", fifo, ": is a FIFO; expected a regular file"));
  CheckRefused({"plan", w.model, "--recipe", "/dev/zero"}, 3,
               "spikefold plan: /dev/zero: is a device; expected a regular file");
  for (const char* name : {"config.json", "tokenizer.json"}) {
    const std::string path = w.model + "/" + name, bytes = ReadAll(path);
    std::filesystem::remove(path);
    REQUIRE(mkfifo(path.c_str(), 0600) == 0);
    CheckRefused({"scan", w.model, "-o", w / "scan", "--text", w.text}, 3,
                 absl::StrCat("spikefold scan: ", path, ": is a FIFO; expected a regular file"));
    std::filesystem::remove(path);
    WriteBytes(path, bytes);
  }
}

TEST_CASE("A model file that shrinks while it is read ends with 3 and leaves nothing", "[apps][bad]") {
  const Workplace w;
  WritePlantedModel(w / "planted");
  const std::string weights = w / "planted/model.safetensors";
  bool cut = false;
  const Finished run =
      RunSpikefold({"quantize", w / "planted", "--scheme", "w4a16", "--weight-scales", "absmax", "--rounding",
                    "nearest", "--outliers", "none", "-o", w / "out", "--progress", "always"},
                   {.when = [&](const Finished& so_far) {
                     if (!cut && so_far.err.find("quantizing: 0 of") != std::string::npos) {
                       cut = true;
                       std::filesystem::resize_file(weights, 5000);
                     }
                     return false;
                   }});
  REQUIRE(cut);
  CAPTURE(run.err);
  CHECK(run.exit == 3);
  CHECK(run.err.find(weights + ": ends at byte ") != std::string::npos);
  CHECK(*ListDirectory(w.directory.path()) == std::vector<std::string>{"model", "planted", "text.txt"});
}

TEST_CASE("Too little address space ends with 7, and a smaller one with 7 too", "[apps][bad]") {
  if (kSanitized) return;
  const Workplace w;
  WritePlantedModel(w / "planted");
  bool ran_out = false;
  for (uint64_t mib = 24; mib <= 64; mib += 8) {
    const Finished run = RunSpikefold({"quantize", w / "planted", "--scheme", "w4a16", "-o", w / "out",
                                       "--text", w.text, "--windows", "4", "--length", "64"},
                                      {.max_memory = mib << 20});
    CAPTURE(mib, run.err);
    if (run.exit == 0) break;
    if (run.exit == 127 || run.signal != 0) continue;  // too little even to start
    CHECK(run.exit == 7);
    CHECK(run.err.find("spikefold quantize: ") == 0);
    CHECK(!PathExists(w / "out"));
    ran_out = true;
  }
  CHECK(ran_out);
}

}  // namespace
}  // namespace spikefold::testing
