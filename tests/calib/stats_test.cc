#include "calib/stats.h"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <functional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "calib/dataset.h"
#include "calib/observers/site_observer.h"
#include "calib/zstd_frame.h"
#include "formats/base/file.h"
#include "kernels/runtime/forward.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tiny_model.h"

namespace spikefold {
namespace {

std::string TempPath(const char* name) {
  return absl::StrCat("/tmp/spikefold_calib_test_", getpid(), "_", name);
}

struct TempFile {
  explicit TempFile(const char* name) : path(TempPath(name)) {}
  ~TempFile() { unlink(path.c_str()); }
  std::string path;
};

CalibStats SmallStats() {
  CalibStats stats;
  stats.tool_version = std::string("1");
  stats.model_fingerprint = std::string("m");
  stats.tokenizer_fingerprint = std::string("t");
  stats.text_sha256 = std::string("x");
  stats.text_source = "a \"quoted\" file";
  stats.bos = "none";
  stats.num_windows = 2;
  stats.window_length = 3;
  stats.seed = ~uint64_t{0};
  stats.windows = {{1, 2, 3}, {4, 5, 6}};
  SiteStats site{.site = 0, .k = 2, .rows = 3, .min = {-1, 0}, .max = {2, 5}};
  site.sum = {1, 2};
  site.sum_sq = {3, 4};
  site.histogram.assign(2 * kMagnitudeBins, 7);
  site.weight_sq = {0.5, 0.25};
  site.row_peak = {1, 2, 5};
  stats.arms.push_back({.name = "plain", .prefix = {}, .sites = {site}});
  stats.arms.push_back({.name = "prefix", .prefix = {4, 1}, .sites = {site}});
  stats.prefix.tokens = {4, 1};
  stats.prefix.k = {{1, 2, 3, 4}};
  stats.prefix.v = {{5, 6, 7, 8}};
  return stats;
}

std::string Compress(const std::string& content, uint64_t claimed) {
  auto writer = ZstdFrameWriter::Create(claimed);
  REQUIRE(writer.ok());
  REQUIRE((*writer)->Append(content).ok());
  return (*writer)->Finish().value_or("");
}

}  // namespace

TEST_CASE("Magnitudes fall into eight bins an octave") {
  CHECK(MagnitudeBin(0) == 0);
  CHECK(MagnitudeBin(std::ldexp(1.0f, -12)) == 0);
  CHECK(MagnitudeBin(1.0f) == 96);
  CHECK(MagnitudeBin(-1.124f) == 96);
  CHECK(MagnitudeBin(1.125f) == 97);
  CHECK(MagnitudeBin(2.0f) == 104);
  CHECK(MagnitudeBin(1e9f) == kMagnitudeBins - 1);
  CHECK(MagnitudeBin(NAN) == kMagnitudeBins - 1);
  CHECK(MagnitudeBinCenter(96) == 1.0625f);
  for (int b = 0; b < kMagnitudeBins; ++b) CHECK(MagnitudeBin(MagnitudeBinCenter(b)) == b);
}

TEST_CASE("The observer's numbers are those of the tapped rows") {
  const auto tiny = testing::MakeTinyModel({.hidden = 72, .intermediate = 50, .num_layers = 2, .vocab = 64});
  ThreadPool pool(2);
  const auto model = LoadModel(*tiny.checkpoint, {.pool = &pool});
  REQUIRE(model.ok());
  const ModelGraph& graph = (*model)->graph();
  struct Keep : Taps {  // one site's rows as they come
    bool Wants(int layer, ValueKind value) const override {
      return layer == 1 && value == ValueKind::kDownIn;
    }
    void OnRows(const TapRows& r) override { rows.insert(rows.end(), r.data, r.data + r.num_rows * r.width); }
    std::vector<float> rows;
  } keep;
  SiteObserver observer(graph, pool);
  const std::vector<int32_t> tokens = {1, 5, 9, 33, 2, 7};
  for (Taps* taps : {static_cast<Taps*>(&keep), static_cast<Taps*>(&observer)}) {
    KvCache cache(graph.config, 6);
    std::vector<float> hidden(6 * 72);
    REQUIRE(Forward(**model, tokens, cache, absl::MakeSpan(hidden), {.taps = taps}).ok());
  }
  const SiteStats* site = nullptr;
  for (const Site& s : graph.sites) {
    if (s.layer == 1 && s.value == ValueKind::kDownIn) site = &observer.sites()[static_cast<size_t>(s.id)];
  }
  REQUIRE(site != nullptr);
  REQUIRE(site->rows == 6);
  REQUIRE(site->k == 50);
  for (size_t c = 0; c < 50; ++c) {
    double sum = 0, sum_sq = 0;
    float low = INFINITY, high = -INFINITY;
    std::vector<uint32_t> histogram(kMagnitudeBins, 0);
    for (size_t t = 0; t < 6; ++t) {
      const float x = keep.rows[t * 50 + c];
      sum += static_cast<double>(x);
      sum_sq += static_cast<double>(x) * static_cast<double>(x);
      low = std::min(low, x);
      high = std::max(high, x);
      ++histogram[static_cast<size_t>(MagnitudeBin(x))];
    }
    CHECK(site->min[c] == low);
    CHECK(site->max[c] == high);
    CHECK(site->sum[c] == sum);
    CHECK(site->sum_sq[c] == sum_sq);
    CHECK(std::equal(histogram.begin(), histogram.end(),
                     site->histogram.begin() + static_cast<int64_t>(c) * kMagnitudeBins));
  }
  float peak = 0;
  for (size_t c = 0; c < 50; ++c) peak = std::max(peak, std::fabs(keep.rows[3 * 50 + c]));
  CHECK(site->row_peak[3] == peak);
}

TEST_CASE("Statistics read back equal") {
  const TempFile file("roundtrip");
  const CalibStats stats = SmallStats();
  REQUIRE(SaveStats(stats, file.path).ok());
  const auto back = LoadStats(file.path);
  REQUIRE(back.ok());
  CHECK(back->seed == stats.seed);
  CHECK(back->text_source == stats.text_source);
  CHECK(back->windows == stats.windows);
  REQUIRE(back->arms.size() == 2);
  const StatsArm* arm = back->FindArm("prefix");
  REQUIRE(arm != nullptr);
  CHECK(arm->prefix == stats.arms[1].prefix);
  CHECK(arm->sites[0].histogram == stats.arms[1].sites[0].histogram);
  CHECK(arm->sites[0].sum_sq == stats.arms[1].sites[0].sum_sq);
  CHECK(arm->sites[0].weight_sq == stats.arms[1].sites[0].weight_sq);
  CHECK(arm->sites[0].row_peak == stats.arms[1].sites[0].row_peak);
  CHECK(arm->sites[0].rows == 3);
  CHECK(back->prefix.tokens == stats.prefix.tokens);
  CHECK(back->prefix.v == stats.prefix.v);
  CHECK(back->FindArm("other") == nullptr);
}

TEST_CASE("Statistics of another model's inputs, prefix or tokens are refused") {
  const auto tiny = testing::MakeTinyModel({.hidden = 72, .intermediate = 50, .num_layers = 2, .vocab = 64});
  const ModelGraph& graph = tiny.checkpoint->graph();
  CalibStats good;
  good.windows = {{0, 63}};
  good.prefix.tokens = {5, 6};
  good.prefix.k = good.prefix.v = std::vector<std::vector<uint16_t>>(2, std::vector<uint16_t>(2 * 2 * 64));
  StatsArm arm{.name = "plain", .prefix = {5, 6}};
  for (const Site& site : graph.sites) arm.sites.push_back({.site = site.id, .k = site.k});
  good.arms = {arm, arm};
  REQUIRE(CheckStats(good, graph, "s") == absl::OkStatus());
  const auto refused = [&](const std::function<void(CalibStats&)>& spoil, const std::string& message) {
    CalibStats stats = good;
    spoil(stats);
    CHECK_THAT(CheckStats(stats, graph, "s"),
               testing::Fails(absl::StatusCode::kInvalidArgument, absl::StrCat("s: ", message)));
  };
  refused([](CalibStats& s) { s.arms[1].sites.pop_back(); },
          "the scan saw 8 linear inputs, the model has 9; scan this model");
  refused([](CalibStats& s) { s.arms[0].sites[3].k = 72; },
          "layers.0.down_in: the scan saw 72 channels of input 3, the model has 50 of input 3");
  refused([](CalibStats& s) { s.arms[0].sites[1].site = 60000; },
          "layers.0.ctx: the scan saw 256 channels of input 60000, the model has 256 of input 1");
  refused([](CalibStats& s) { s.windows[0][1] = 64; }, "token 64; the model has 64");
  refused([](CalibStats& s) { s.arms[1].prefix = {-1}; }, "token -1; the model has 64");
  const std::string values = "the prefix has not 256 keys and values in each layer";
  refused([](CalibStats& s) { s.prefix.k.pop_back(); }, values);
  refused([](CalibStats& s) { s.prefix.k[1].pop_back(); }, values);
  refused([](CalibStats& s) { s.prefix.v[0].clear(); }, values);
  refused([](CalibStats& s) { s.prefix.tokens.push_back(7); },
          "the prefix has not 384 keys and values in each layer");
}

TEST_CASE("A truncated, damaged, doubled or lying file of statistics is refused with its reason") {
  const TempFile file("broken");
  REQUIRE(SaveStats(SmallStats(), file.path).ok());
  const auto bytes = ReadFileToString(file.path, 1 << 24);
  REQUIRE(bytes.ok());
  const auto load = [&](const std::string& content) {
    REQUIRE(WriteFileAtomically(file.path, content).ok());
    return LoadStats(file.path).status();
  };
  const auto expect = [&](const absl::Status& status, const char* text) {
    CAPTURE(status.ToString());
    CHECK(status.code() == absl::StatusCode::kDataLoss);
    CHECK(absl::StrContains(status.message(), text));
  };
  expect(load(bytes->substr(0, bytes->size() - 9)), "damaged or cut off");
  expect(load(bytes->substr(0, 3)), "not a zstd frame");
  expect(load(absl::StrCat(*bytes, *bytes)), "one frame is allowed");
  std::string flipped = *bytes;
  flipped[flipped.size() - 2] = static_cast<char>(flipped[flipped.size() - 2] ^ 1);  // in the checksum
  expect(load(flipped), "damaged zstd frame");
  std::string no_checksum = *bytes;
  no_checksum[4] = static_cast<char>(no_checksum[4] & ~4);
  expect(load(no_checksum), "no checksum");
  expect(load(Compress(std::string(100, 'x'), 100)), "");
  CHECK(LoadStats(absl::StrCat(file.path, ".none")).status().code() == absl::StatusCode::kNotFound);
}

TEST_CASE("A zstd bomb and a lying content size are stopped before memory is spent") {
  const std::string zeros(8 << 20, '\0');
  const std::string bomb = Compress(zeros, zeros.size());
  const auto refused = ReadZstdFrame(bomb, "bomb");
  CHECK(refused.status().code() == absl::StatusCode::kDataLoss);
  CHECK(absl::StrContains(refused.status().message(), "at most 1000 times are allowed"));
  CHECK(absl::StrContains(
      ReadZstdFrame(bomb, "big", {.max_bytes = 1000, .max_ratio = 1 << 30}).status().message(),
      "at most 1000 are allowed"));
  REQUIRE(ReadZstdFrame(bomb, "fine", {.max_ratio = 1 << 30}).ok());
  // The content size (4 bytes here) is made to claim one byte more or less.
  for (const int change : {1, -1}) {
    std::string lie = bomb;
    lie[5 + 1] = static_cast<char>(lie[5 + 1] + change);
    const auto status = ReadZstdFrame(lie, "lie", {.max_ratio = 1 << 30}).status();
    CHECK(status.code() == absl::StatusCode::kDataLoss);
  }
}

TEST_CASE("Windows are spread evenly over the text and never overlap") {
  TokenStream stream;
  for (int i = 0; i < 103; ++i) stream.ids.push_back(i);
  stream.source = "text";
  const auto windows = CutWindows(stream, 5, 20);
  REQUIRE(windows.ok());
  REQUIRE(windows->size() == 5);
  for (size_t w = 1; w < 5; ++w) CHECK((*windows)[w].front() > (*windows)[w - 1].back());
  CHECK(windows->back().front() == 82);
  const auto refused = CutWindows(stream, 64, 512);
  CHECK(refused.status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(
      refused.status().message() ==
      "text: 103 tokens; 64 windows of 512 need 32,768; give more text or ask for fewer or shorter windows");
}

TEST_CASE("Another seed draws other windows of the same text, still apart from each other") {
  TokenStream stream;
  for (int32_t i = 0; i < 107; ++i) stream.ids.push_back(i);
  const auto first = *CutWindows(stream, 5, 20);
  CHECK(*CutWindows(stream, 5, 20, 1) == first);
  for (uint64_t seed = 2; seed < 40; ++seed) {
    CAPTURE(seed);
    const auto windows = *CutWindows(stream, 5, 20, seed);
    CHECK(*CutWindows(stream, 5, 20, seed) == windows);
    std::vector<int> seen(stream.ids.size(), 0);
    for (const auto& window : windows) {
      REQUIRE(window.size() == 20);
      for (size_t t = 0; t < window.size(); ++t) {
        CHECK(window[t] == (window[0] + static_cast<int32_t>(t)) % 107);  // goes on at the beginning
        CHECK(++seen[static_cast<size_t>(window[t])] == 1);
      }
    }
  }
  CHECK(*CutWindows(stream, 5, 20, 2) != *CutWindows(stream, 5, 20, 3));
}

TEST_CASE("Files are joined with a newline, hashed, and refused when they are not text") {
  const TempFile a("a"), b("b");
  const testing::WordTokenizer tokenizer(64);
  REQUIRE(WriteFileAtomically(a.path, "t1 t2").ok());
  REQUIRE(WriteFileAtomically(b.path, "t3").ok());
  const auto stream = TokenizeFiles(tokenizer, {a.path, b.path});
  REQUIRE(stream.ok());
  CHECK(stream->num_bytes == 8);
  // SHA-256 of "t1 t2\nt3"
  CHECK(stream->sha256.size() == 64);
  REQUIRE(WriteFileAtomically(b.path, "\xff\xfe").ok());
  CHECK(TokenizeFiles(tokenizer, {b.path}).status().code() == absl::StatusCode::kDataLoss);
  REQUIRE(WriteFileAtomically(b.path, "").ok());
  CHECK(TokenizeFiles(tokenizer, {b.path}).status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(TokenizeFiles(tokenizer, {}).status().code() == absl::StatusCode::kInvalidArgument);
}

}  // namespace spikefold
