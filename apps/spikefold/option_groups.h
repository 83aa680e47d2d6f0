// Options that several commands share, and what an option's value may be.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "apps/spikefold/kv_flags.h"
#include "apps/spikefold/recipe_options.h"
#include "apps/spikefold/scan_command.h"

namespace spikefold {

inline constexpr int64_t kMany = int64_t{1} << 40;

inline constexpr char kKvForm[] =
    "Keep keys and values so: float, 16, 8, 4, 3 or 2 bits, or apart, as in k4v2 [as the model says]";

// Validators say what was given and what is allowed.
CLI::Validator Integer(int64_t min, int64_t max);
CLI::Validator Number(double min, double max);
// Its name says the words, joined by '|', behind this.
inline constexpr char kWordsPrefix[] = "words:";
CLI::Validator OneOf(const std::vector<std::string>& words);

// --text, --windows ...: what a scan calibrates on.
void AddScanText(CLI::App* c, ScanTextOptions& o);
// --scheme, --recipe, --outliers ...: a recipe.
void AddRecipe(CLI::App* c, RecipeOptions& o);
// --kv and its companions; `form` is the help text of --kv.
void AddKv(CLI::App* c, KvFlags& o, const char* form = kKvForm);

}  // namespace spikefold
