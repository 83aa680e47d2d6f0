// Which vector instructions this process uses. Detected once from CPUID and XCR0 (compiler built-ins differ
// in the names they know); no environment variable is read. Kernels ask ActiveIsa() on each call and have a
// function for each level they gain from: a level without its own function uses the next lower one.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace spikefold::kernels {

// Each level contains all lower ones.
enum class Isa {
  kPlain,       // the compiler's baseline
  kAvx2,        // AVX2, FMA, F16C
  kAvx512,      // AVX-512 F, BW, VL, DQ
  kAvx512Vnni,  // + VNNI
  kAvx512Bf16,  // + BF16
  kAvx512Amx,   // + AMX tiles with INT8
};

// "plain", "avx2", "avx512", "avx512-vnni", "avx512-bf16", "avx512-amx": the values of --isa.
absl::string_view IsaName(Isa isa);
// InvalidArgument for an unknown name, with the known ones.
absl::StatusOr<Isa> ParseIsa(absl::string_view name);

// The best level that the CPU and the operating system support. The first call asks Linux for AMX's tile
// registers, which threads started later inherit.
Isa DetectedIsa();
std::vector<Isa> AvailableIsas();  // kPlain .. DetectedIsa(), ascending
Isa ActiveIsa();                   // DetectedIsa() unless SetIsa chose a lower one
// Chooses the level for the whole process. Call it before kernels run or between their calls, never beside
// one. Unimplemented, and no change, if this CPU lacks it.
absl::Status SetIsa(Isa isa);

}  // namespace spikefold::kernels
