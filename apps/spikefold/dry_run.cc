#include "apps/spikefold/dry_run.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "apps/spikefold/machine.h"
#include "apps/spikefold/text.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

std::string WhatWouldFit(const WorkForecast& f, uint64_t limit) {
  const uint64_t text = static_cast<uint64_t>(f.work.text_bytes);
  if (text == 0) return "allow more, or use a machine with more";
  const uint64_t rest = f.peak_memory - text;
  const uint64_t windows = limit > rest ? (limit - rest) * static_cast<uint64_t>(f.num_windows) / text : 0;
  const std::string others = "--rounding nearest, which needs no text, or more memory";
  if (windows == 0) return absl::StrCat("GPTQ does not fit with any text: use ", others);
  return absl::StrCat("GPTQ would fit with a scan of ", windows, " windows of text instead of ",
                      f.num_windows, " (scan --windows); else use ", others);
}

}  // namespace

absl::StatusOr<WorkForecast> Forecast(const Plan& plan, const CheckpointReader& model,
                                      const ApplyOptions& options) {
  SF_ASSIGN_OR_RETURN(ApplyForecast apply, ForecastApply(plan, model, options));
  WorkForecast out;
  out.file_bytes = apply.file_bytes;
  out.peak_memory = std::max(PeakMemory(), MemoryInUse() + static_cast<uint64_t>(apply.memory.bytes));
  if (apply.memory.text_bytes > 0) out.num_windows = static_cast<int64_t>(options.stats->windows.size());
  out.work = std::move(apply.memory);
  return out;
}

uint64_t MemoryLimit(uint64_t max_memory) {
  const uint64_t available = ReadMachine().memory_available;
  const uint64_t machine = available == 0 ? UINT64_MAX : available + MemoryInUse();
  return max_memory > 0 ? std::min(max_memory, machine) : machine;
}

absl::Status CheckMemory(const WorkForecast& f, uint64_t max_memory) {
  const uint64_t limit = MemoryLimit(max_memory);
  if (f.peak_memory <= limit) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      Printable(f.work.at), ": quantizing it needs ", BytesText(f.peak_memory), " of memory; ",
      BytesText(limit), max_memory == limit ? " are allowed by --max-memory; " : " are available; ",
      WhatWouldFit(f, limit)));
}

std::string ForecastText(const WorkForecast& f, const CheckpointReader& model) {
  return absl::StrCat("Would write ", f.file_bytes, " bytes of weights (", BytesText(f.file_bytes),
                      "); the original has ", BytesText(model.file_bytes()), ".\nWould take ",
                      BytesText(f.peak_memory), " of memory, most of it at ", Printable(f.work.at), ".\n");
}

Json ForecastJson(const WorkForecast& f) {
  return Json::MakeObject()
      .Set("file_bytes", f.file_bytes)
      .Set("peak_memory", f.peak_memory)
      .Set("peak_memory_at", f.work.at);
}

}  // namespace spikefold
