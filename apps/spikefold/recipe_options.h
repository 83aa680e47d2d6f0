// The wishes of a command line, put together to a recipe; shared by plan and quantize.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "apps/spikefold/context.h"
#include "apps/spikefold/kv_flags.h"
#include "apps/spikefold/scan_files.h"
#include "quant/prepare.h"
#include "quant/recipe.h"

namespace spikefold {

// Empty options leave what the recipe file, or else the recipe's default, says.
struct RecipeOptions {
  std::string file;  // recipe.json
  std::string scheme;
  std::optional<std::string> target, outliers, rotate, rounding, codes, shift, zero_points, group_scales,
      activation_scales, weight_scales, dynamic_by;
  std::optional<std::string> smooth;   // a number, or "search"
  std::optional<std::string> rescale;  // a power of two, or "auto"
  std::optional<double> bits, max_kld, qk_smooth;
  std::optional<std::string> max_bytes;  // "80MB"
  std::optional<int> group_size, keep_columns, keep_modules, dynamic_sites, head_bits;
  bool random_columns = false, random_bits = false, keep_rows = false, keep_super_weights = false;
  std::vector<std::string> keep;
  KvFlags kv;

  bool any() const;
};
absl::StatusOr<Recipe> BuildRecipe(const RecipeOptions& options, std::optional<uint64_t> seed);

// What can be said about a recipe before any scan: scheme, group size, patterns. The work of minutes should
// not end with "unknown scheme".
absl::Status CheckRecipe(const Recipe& recipe, const ModelGraph& graph);

// What learn-rotations wrote, for a recipe that is made with them; null where `path` is empty.
absl::StatusOr<std::shared_ptr<const LearnedRotations>> ReadRotations(const std::string& path);

// Whether the planner has use for a scan.
absl::StatusOr<bool> NeedsScan(const Recipe& recipe);

// What Prepare needs of a command: `scan` may be null; `scan_directory` (may be empty) also keeps statistics
// of folded models.
PrepareInput MakePrepareInput(const CheckpointReader& reader, const LoadedScan* scan,
                              const std::string& scan_directory, Context& context);

}  // namespace spikefold
