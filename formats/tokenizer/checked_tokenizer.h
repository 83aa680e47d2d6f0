// A tokenizer beside a model: some make ids that the embedding has no row for.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "formats/tokenizer.h"

namespace spikefold {

// The same tokenizer, but Encode() fails on an id of `vocab` or more. DataLoss: names `where` (the model's
// path), the id and its text.
std::unique_ptr<Tokenizer> CheckedTokenizer(std::unique_ptr<Tokenizer> tokenizer, int64_t vocab,
                                            std::string where);

}  // namespace spikefold
