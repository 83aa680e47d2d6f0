#include "kernels/attention_f32_f32/attention_f32_f32_simd.h"

namespace spikefold::kernels::attention_f32_f32 {

const AttentionTarget<Params> kAvx2 = {RunTask, RunTaskSpan, RunAllHeadsSpan, MergeTask};

}  // namespace spikefold::kernels::attention_f32_f32
