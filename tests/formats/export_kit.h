// Native checkpoints whose codes are known, for the exports.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/export/export_report.h"
#include "formats/export/export_source.h"
#include "formats/quantized/native.h"

namespace spikefold::export_kit {

// Makes of a linear, which comes float and without extras, what shall be stored.
using Fill = std::function<void(QuantizedLinear& linear)>;

// Codes over their whole range, zero points where the format has them, scales that float16 and bfloat16 hold.
void RandomCodes(QuantizedLinear& linear, const WeightFormat& format, int64_t group = 0);
// Columns and single weights that stay float beside the codes.
void KeepColumns(QuantizedLinear& linear, const std::vector<int32_t>& columns);
void KeepWeight(QuantizedLinear& linear, int32_t row, int32_t column, float value);

struct NativeExtras {
  std::vector<NativeSideFile> side_files;
  std::function<void(NativeInfo&)> info;  // edits it
  NativePrefix prefix;
};
// `base` as a native checkpoint at `path`: its linears as `fill` makes them, everything else as it is.
void WriteNative(const CheckpointReader& base, const std::string& path, const Fill& fill,
                 const NativeExtras& extras = {});
// The same, opened for an export.
std::unique_ptr<ExportSource> Native(const CheckpointReader& base, const std::string& path, const Fill& fill,
                                     const NativeExtras& extras = {});

// tests/data/foreign/NAME: what the libraries of other tools wrote.
std::string ForeignFixture(const std::string& name);
// Its codes, zero points and scales as a native checkpoint.
std::unique_ptr<ExportSource> NativeOfForeign(const std::string& name, const std::string& path);

// That `reader` has exactly the values of the source in each weight but those of `rounded`.
void CheckSameValues(const ExportSource& source, const CheckpointReader& reader,
                     const std::vector<std::string>& rounded = {});

// Of a report; fails where there is none.
const ExportedTensor& TensorOf(const ExportReport& report, const std::string& module);
const ExportLoss& LossOf(const ExportReport& report, const std::string& what);
bool HasLoss(const ExportReport& report, const std::string& what);

}  // namespace spikefold::export_kit
