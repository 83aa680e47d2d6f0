// The tokenizer of a tokenizer.json file (Hugging Face `tokenizers` 0.23) with a BPE model.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "formats/base/json.h"
#include "formats/tokenizer.h"

namespace spikefold::tok {

// As Tokenizer::FromTokenizerJson().
absl::StatusOr<std::unique_ptr<Tokenizer>> MakeJsonTokenizer(const Json& document, const Json& config,
                                                             absl::string_view where, int64_t model_bos);

}  // namespace spikefold::tok
