#include "apps/spikefold/exit_code.h"

#include <array>

namespace spikefold {
namespace {

struct Row {
  absl::StatusCode status;
  ExitCode exit;
};
using Code = absl::StatusCode;
// Codes that are not in the table (Unknown, OutOfRange ...) are nowhere returned on purpose: our own bug.
constexpr std::array<Row, 12> kTable = {{
    {Code::kOk, kExitOk},
    {Code::kInvalidArgument, kExitUsage},
    {Code::kDataLoss, kExitBadInput},
    {Code::kUnimplemented, kExitUnsupported},
    {Code::kFailedPrecondition, kExitGate},
    {Code::kNotFound, kExitIo},
    {Code::kPermissionDenied, kExitIo},
    {Code::kAlreadyExists, kExitIo},
    {Code::kUnavailable, kExitIo},
    {Code::kResourceExhausted, kExitMemory},
    {Code::kAborted, kExitNoDevice},
    {Code::kCancelled, kExitInterrupted},
}};

constexpr ExitMeaning kMeanings[] = {
    {kExitOk, "done"},
    {kExitInternal, "a bug of Spikefold; please report it"},
    {kExitUsage, "the command line asks for something impossible or unknown"},
    {kExitBadInput, "a file is corrupt, truncated or contradicts itself"},
    {kExitUnsupported, "a well-formed model or file that is not supported"},
    {kExitGate, "a comparison did not hold"},
    {kExitIo, "the file system said no, or the reader of stdout has gone"},
    {kExitMemory, "out of memory"},
    {kExitNoDevice, "no usable GPU"},
    {kExitInterrupted, "interrupted"},
};

}  // namespace

absl::Span<const ExitMeaning> ExitCodes() { return kMeanings; }

ExitCode ExitCodeOf(const absl::Status& status) {
  for (const Row& row : kTable) {
    if (row.status == status.code()) return row.exit;
  }
  return kExitInternal;
}

}  // namespace spikefold
