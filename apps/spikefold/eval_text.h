// An evaluation for people.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "apps/report/eval_document.h"
#include "apps/spikefold/console.h"

namespace spikefold {

// `prefix`: the text of the model's prefix, ready to print; empty if it has none.
std::string EvalText(const EvalDocument& document, absl::string_view prefix, const Console& console);

}  // namespace spikefold
