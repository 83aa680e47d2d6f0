// What the fuzzers run: a function a parser. Each takes any bytes, must neither crash nor fault nor hang, and
// checks what has to hold of everything that is accepted. The unit test fuzz_corpus_test runs them over the
// committed seeds and simple mutations of them; `make fuzz` lets libFuzzer look for more.
#pragma once

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace spikefold::fuzz {

struct Target {
  const char* name;  // and its folder in corpus/
  void (*run)(absl::string_view bytes);
};
absl::Span<const Target> Targets();
const Target* FindTarget(absl::string_view name);  // nullptr: unknown

// Aborts with the text, so that a fuzzer sees it and keeps the input.
#define FUZZ_CHECK(condition) \
  (condition) ? static_cast<void>(0) : ::spikefold::fuzz::Fail(#condition, __FILE__, __LINE__)
[[noreturn]] void Fail(const char* condition, const char* file, int line);

// formats
void StHeader(absl::string_view bytes);       // a safetensors file
void StIndex(absl::string_view bytes);        // model.safetensors.index.json
void Gguf(absl::string_view bytes);           // a GGUF file, its tokenizer and configuration
void GgufBlocks(absl::string_view bytes);     // blocks of any type
void TokenizerJson(absl::string_view bytes);  // tokenizer.json, then text
void Tokenize(absl::string_view bytes);       // text, with a committed tokenizer
void ConfigJson(absl::string_view bytes);     // config.json
void Sidecar(absl::string_view bytes);        // spikefold.json
void Foreign(absl::string_view bytes);        // GPTQ, AWQ, compressed-tensors: configuration and one linear
void Journal(absl::string_view bytes);        // the journal of an interrupted run
void PackRoundTrip(absl::string_view bytes);  // code streams and trellis codes
// calib, quant
void ZstdCache(absl::string_view bytes);  // a zstd frame
void ScanSpike(absl::string_view bytes);  // what the frame of scan.spike holds
void Outliers(absl::string_view bytes);   // outliers.json
void Rotations(absl::string_view bytes);  // learned rotations
void RecipeFile(absl::string_view bytes);
void PlanFile(absl::string_view bytes);

}  // namespace spikefold::fuzz
