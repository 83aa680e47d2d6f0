#include "benchmarks/cutlass_peer.h"

namespace spikefold::benchmarks {

absl::Span<const CutlassGemm> CutlassGemms() { return {}; }

}  // namespace spikefold::benchmarks
