#include "kernels/attention_f32_f32_ukv/attention_f32_f32_ukv_simd.h"

namespace spikefold::kernels::attention_f32_f32_ukv {

const AttentionTarget<Params> kAvx512 = {RunTask, RunTaskSpan, RunAllHeadsSpan, MergeTask};

}  // namespace spikefold::kernels::attention_f32_f32_ukv
