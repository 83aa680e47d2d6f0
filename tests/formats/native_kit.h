// A native checkpoint of three linears that have everything a checkpoint can have.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/quantized/native.h"

namespace spikefold::native_kit {

QuantizedLinear DownProj();  // everything that a linear can have, K no multiple of 8
QuantizedLinear QProj();
QuantizedLinear Head();  // float
inline constexpr char kGain[] = "model.norm.weight";

NativeInfo Info();
NativePrefix Prefix();

// A writer to which all of these are declared.
absl::StatusOr<std::unique_ptr<NativeWriter>> Begin(
    const std::string& path, const NativeWriter::Options& options = {},
    std::vector<NativeSideFile> files = {{"tokenizer.json", "{\"a\": 1}"}}, NativeInfo info = Info());
void WriteAll(const std::string& path, const NativeWriter::Options& options = {}, bool reversed = false);

std::string Read(const std::string& path);
// Replaces text that must be there exactly once.
void Edit(const std::string& path, const std::string& from, const std::string& to);

}  // namespace spikefold::native_kit
