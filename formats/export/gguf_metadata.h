// Metadata of a GGUF file from our configuration and tokenizer.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "formats/export/export_report.h"
#include "formats/export/export_source.h"
#include "formats/gguf_writer.h"
#include "formats/tokenizer/gguf_tokenizer.h"

namespace spikefold {

// The architecture's name in GGUF: "llama" for LlamaForCausalLM and MistralForCausalLM.
absl::StatusOr<std::string> GgufArchitecture(const ModelConfig& config);

// Unimplemented: llama.cpp's architecture for this model computes something else, whatever a file says.
absl::Status CheckGgufModel(const ModelConfig& config);

// general.* and <architecture>.* keys. What llama.cpp would compute otherwise is reported (a window) or
// refused (Unimplemented).
absl::Status AddModelMetadata(const ModelConfig& config, const std::string& name, GgmlType main_type,
                              GgufMetadata* out, ExportReport* report);
// Divisors of the rotary frequencies [head_dim / 2] for rope_freqs.weight; empty unless scaled as Llama 3.1.
std::vector<float> RopeFactors(const ModelConfig& config);

// The tokenizer of a tokenizer.json and its tokenizer_config.json (or null) in GGUF's terms, one token for
// each row of the embedding; the model's BOS and EOS where the files name none. Unimplemented:
// AddTokenizer().
absl::StatusOr<tok::GgufVocab> GgufVocabOf(const Json& document, const Json& config, const ModelConfig& model,
                                           const std::string& where);

// tokenizer.* keys: copied from a GGUF source; from tokenizer.json by choosing the pre-tokenizer of ggml that
// gives the same ids on a text of hard cases. Unimplemented if none does.
absl::Status AddTokenizer(const ExportSource& source, GgufMetadata* out, ExportReport* report);

}  // namespace spikefold
