// Models on disk for the command line: a few hundred kilobytes, with a tokenizer whose tokens are bytes.
#pragma once

#include <string>

#include "tests/testing/tiny_model.h"

namespace spikefold::testing {

// tests/data/tiny/llama with a tokenizer for ASCII text: a token a byte.
void WriteTinyLlama(const std::string& directory);

// A model of 256 tokens, one a byte, as a directory of float32 weights.
PlantedSpikes WriteModel(const TinyModelOptions& options, const std::string& directory);
// A model with planted spikes, as a directory: 256 tokens, one a byte.
PlantedSpikes WritePlantedModel(const std::string& directory);

// Lines of words; the same text for the same seed.
std::string RandomText(int num_words, unsigned seed);

}  // namespace spikefold::testing
