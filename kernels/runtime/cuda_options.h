// How the CUDA backend of this process computes, as far as a user may choose.
#pragma once

#include <atomic>

namespace spikefold {

// Many float rows are rounded to bf16 where they meet bf16 weights, as engines that call themselves bf16 do:
// half the time of the two bf16 parts that they are split into otherwise; attention of a prefill takes f16
// then, as it does where its output becomes codes or meets weights that take f16. To be set before a model
// runs.
inline std::atomic<bool> cuda_rounds_rows = false;

}  // namespace spikefold
