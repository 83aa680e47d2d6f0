// What GPTQ's layout holds of a quantized model: the same values, through the reader that was proved on files
// of other tools.
#include "formats/export/gptq_export.h"

#include <catch2/catch.hpp>
#include <cstring>

#include "absl/strings/match.h"
#include "formats/safetensors_model.h"
#include "quant/apply.h"
#include "tests/quant/quant_kit.h"
#include "tests/testing/status_matchers.h"

namespace spikefold {
namespace {

using absl::StatusCode;
using testing::Fails;
using testing::TempDirectory;

std::unique_ptr<ExportSource> Quantized(const testing::Scanned& s, const Recipe& recipe,
                                        const std::string& path) {
  const auto plan = MakePlan(recipe, s.input());
  REQUIRE(plan.status() == absl::OkStatus());
  REQUIRE(ApplyPlan(*plan, *s.tiny.checkpoint,
                    {.pool = &testing::TestPool(), .stats = &s.scan.stats, .output = path}) ==
          absl::OkStatus());
  auto source = ExportSource::Open(path);
  REQUIRE(source.ok());
  return *std::move(source);
}

TEST_CASE("Codes, zero points and scales reach GPTQ's layout, and come back the same",
          "[export][gptq_export]") {
  const testing::Scanned s = testing::ScanTiny(
      {.hidden = 128, .intermediate = 128, .num_layers = 2, .num_heads = 2, .num_kv_heads = 1});
  const TempDirectory directory;
  const Recipe recipe{.scheme = "w4a16",
                      .outliers = OutlierMode::kNone,
                      .group_size = 32,
                      .codes = Codes::kGrid,
                      .zero_points = ZeroPoints::kWeights};
  const auto source = Quantized(s, recipe, directory / "native");
  const auto report = ExportGptq(*source, directory / "v2", {.v2 = true});
  REQUIRE(report.status() == absl::OkStatus());
  const auto reader = CheckpointReader::Open(directory / "v2");
  REQUIRE(reader.ok());
  int same = 0;
  for (const ExportWeight& w : source->weights()) {
    if (!w.quantized() || !w.is_linear() || w.node.role == Role::kHead) continue;
    const auto ours = source->ReadWeight(w), theirs = (*reader)->ReadF32(w.weight_name());
    REQUIRE(theirs.ok());
    CHECK(std::memcmp(ours->data(), theirs->data(), static_cast<size_t>(ours->num_bytes())) == 0);
    ++same;
  }
  CHECK(same == 14);
  for (const ExportedTensor& t : report->tensors) {
    if (absl::StrContains(t.name, "norm")) CHECK(t.to == (*reader)->Find(t.name)->stored_type);
  }
  CHECK(std::any_of(report->losses.begin(), report->losses.end(),
                    [](const ExportLoss& l) { return l.what == "tokenizer"; }));  // the tiny model has none
  const auto stop_reading = [](absl::string_view stage, int64_t, int64_t) { return stage != "reading back"; };
  const auto stopped = ExportGptq(*source, directory / "stopped", {.v2 = true, .progress = stop_reading});
  CHECK(absl::IsCancelled(stopped.status()));
  CHECK(!PathExists(directory / "stopped"));
  const auto files = SafetensorsModel::Open(directory / "v2");
  REQUIRE(files.ok());
  const Shape packed = {128 / 8, 128};
  CHECK((*files)->Find("model.layers.1.mlp.up_proj.qweight")->shape == packed);
}

TEST_CASE("Trellis codes reach GPTQ's layout as the INT8 matrix that they stand for",
          "[export][gptq_export]") {
  const testing::Scanned s = testing::ScanTiny(
      {.hidden = 128, .intermediate = 320, .num_layers = 1, .num_heads = 2, .num_kv_heads = 1});
  const TempDirectory directory;
  const Recipe recipe{.scheme = "w4a16", .outliers = OutlierMode::kNone, .codes = Codes::kTrellis};
  const auto source = Quantized(s, recipe, directory / "native");
  for (const bool v2 : {false, true}) {
    const std::string path = directory / (v2 ? "v2" : "v1");
    const auto report = ExportGptq(*source, path, {.v2 = v2, .pool = &testing::TestPool()});
    REQUIRE(report.status() == absl::OkStatus());
    const auto files = SafetensorsModel::Open(path);
    REQUIRE(files.ok());
    const Shape words = {128 / 4, 320};
    CHECK((*files)->Find("model.layers.0.mlp.up_proj.qweight")->shape == words);
    for (const ExportedTensor& t : report->tensors) CHECK(t.error < 1e-3);  // scales are float16
  }
}

TEST_CASE("What GPTQ's layout cannot hold is refused, or stays in 16 bit with the reason",
          "[export][gptq_export]") {
  const testing::Scanned s = testing::ScanTiny(
      {.hidden = 128, .intermediate = 128, .num_layers = 1, .num_heads = 2, .num_kv_heads = 1});
  const TempDirectory directory;
  const auto plain = ExportSource::Of(*s.tiny.checkpoint);
  CHECK_THAT(ExportGptq(*plain, directory / "float", {}).status(),
             Fails(StatusCode::kUnimplemented, "has no linear whose codes GPTQ's layout holds"));
  CHECK_FALSE(PathExists(directory / "float"));
  const auto kept = Quantized(
      s, {.scheme = "w8a8", .outliers = OutlierMode::kKeep, .keep_columns = 2, .keep = {"*mlp.up_proj"}},
      directory / "kept");
  CHECK_THAT(ExportGptq(*kept, directory / "k", {}).status(),
             Fails(StatusCode::kUnimplemented, "has no linear whose codes GPTQ's layout holds"));
  const auto mixed = Quantized(
      s, {.scheme = "w8a8", .outliers = OutlierMode::kNone, .keep = {"*mlp.up_proj"}}, directory / "mixed");
  const auto report = ExportGptq(*mixed, directory / "m", {});
  REQUIRE(report.status() == absl::OkStatus());
  const auto reader = CheckpointReader::Open(directory / "m");
  REQUIRE(reader.ok());
  CHECK((*reader)->Find("model.layers.0.mlp.up_proj.weight")->stored_type == "F16");
  const auto config = ReadFileToString(directory / "m/config.json", 1 << 20);
  CHECK(config->find("\"-:^model\\\\.layers\\\\.0\\\\.mlp\\\\.up_proj$\"") != std::string::npos);
}

}  // namespace
}  // namespace spikefold
