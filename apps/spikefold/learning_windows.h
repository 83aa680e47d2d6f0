// Text for what learns: windows to learn from, and among them windows that are held out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "calib/dataset.h"
#include "formats/base/json.h"
#include "formats/tokenizer.h"
#include "quant/refine/descent.h"

namespace spikefold {

struct LearningText {
  std::vector<std::string> texts;
  int64_t windows = 256, length = 256;
  std::string backend = "cpu";
};
// Windows from all over the text; those held out (a sixteenth more, 4 to 16) lie evenly among the others.
// Where no prefix holds the model's BOS each begins with it.
absl::StatusOr<LearningOptions> LearningWindows(const LearningText& options, const Tokenizer& tokenizer,
                                                const TokenStream& text, bool has_prefix);

std::string LearningTable(const Learning& learning);
// "held_out_kld_before", "held_out_kld", "best_step", "curve".
void AddLearning(const Learning& learning, Json& document);

}  // namespace spikefold
