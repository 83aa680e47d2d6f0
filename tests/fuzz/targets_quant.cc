#include "calib/census.h"
#include "calib/stats.h"
#include "calib/zstd_frame.h"
#include "formats/base/file.h"
#include "formats/families/family.h"
#include "quant/folds/learned_rotations.h"
#include "quant/plan.h"
#include "quant/recipe.h"
#include "tests/fuzz/targets.h"
#include "tests/testing/temp_directory.h"

namespace spikefold::fuzz {
namespace {

constexpr JsonLimits kJsonLimits = {.max_values = 1 << 16};

// The graph of the tiny model that the seeds are of.
const ModelGraph& TinyGraph() {
  static const ModelGraph graph = [] {
    const std::string path = SPIKEFOLD_TEST_DATA "/tiny/llama/config.json";
    const auto config = ConfigFromJson(*ParseJson(*ReadFileToString(path, 1 << 20), path));
    FUZZ_CHECK(config.ok());
    return *BuildGraph(*config);
  }();
  return graph;
}

}  // namespace

void ZstdCache(absl::string_view bytes) {
  const auto content = ReadZstdFrame(bytes, "fuzz", {.max_bytes = 1 << 24, .max_ratio = 1000});
  FUZZ_CHECK(!content.ok() || content->size() <= 1000 * bytes.size());
}

void ScanSpike(absl::string_view bytes) {
  static const testing::TempDirectory directory;
  auto writer = ZstdFrameWriter::Create(bytes.size());
  FUZZ_CHECK(writer.ok() && (*writer)->Append(absl::MakeConstSpan(bytes.data(), bytes.size())).ok());
  const auto frame = (*writer)->Finish();
  const std::string path = directory / "scan.spike";
  FUZZ_CHECK(frame.ok() && WriteFileAtomically(path, *frame).ok());
  const auto stats = LoadStats(path);
  if (!stats.ok()) return;
  // Saved and read again it is the same.
  const std::string copy = directory / "copy.spike";
  if (!SaveStats(*stats, copy).ok()) return;
  FUZZ_CHECK(LoadStats(copy).ok());
}

void Outliers(absl::string_view bytes) {
  const auto json = ParseJson(bytes, "fuzz", kJsonLimits);
  if (!json.ok()) return;
  const auto map = OutlierMapFromJson(*json, TinyGraph(), "fuzz");
  if (!map.ok()) return;
  const Json written = OutlierMapToJson(*map, TinyGraph());
  const auto again = OutlierMapFromJson(written, TinyGraph(), "again");
  FUZZ_CHECK(again.ok() && OutlierMapToJson(*again, TinyGraph()).Dump() == written.Dump());
}

void Rotations(absl::string_view bytes) {
  static const testing::TempDirectory directory;
  const std::string path = directory / "rotations.spike", copy = directory / "copy.spike";
  FUZZ_CHECK(WriteFileAtomically(path, bytes).ok());
  const auto rotations = LoadRotations(path);
  if (!rotations.ok()) return;
  FUZZ_CHECK(SaveRotations(*rotations, copy).ok());
  const auto again = LoadRotations(copy);
  FUZZ_CHECK(again.ok() && again->sha256 == rotations->sha256);
}

void RecipeFile(absl::string_view bytes) {
  const auto json = ParseJson(bytes, "fuzz", kJsonLimits);
  if (!json.ok()) return;
  const auto recipe = RecipeFromJson(*json, "fuzz");
  if (!recipe.ok()) return;
  const Json written = RecipeToJson(*recipe);
  const auto again = RecipeFromJson(written, "again");
  FUZZ_CHECK(again.ok() && RecipeToJson(*again).Dump() == written.Dump());
}

void PlanFile(absl::string_view bytes) {
  const auto plan = PlanFromJson(bytes, "fuzz");
  if (!plan.ok()) return;
  const std::string written = PlanToJson(*plan);
  const auto again = PlanFromJson(written, "again");
  FUZZ_CHECK(again.ok() && PlanToJson(*again) == written);
}

}  // namespace spikefold::fuzz
