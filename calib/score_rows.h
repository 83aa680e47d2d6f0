// Scores of one row of logits against its true token, and of two rows against each other, over the full
// vocabulary. Sums in float64.
#pragma once

#include <cstdint>

#include "kernels/kld_f64_f32_f32/kld_f64_f32_f32.h"

namespace spikefold {

struct RowScore {
  double nll = 0;            // -ln q(y)
  double nll_reference = 0;  // -ln p(y)
  double kld = 0;            // sum_v p(v) (ln p(v) - ln q(v))
  double kld_llamacpp = 0;   // the same without v of ln p(v) <= -16, as llama.cpp has it
  bool same_top = true;      // argmax p = argmax q; ties go to the lower id
  bool finite = true;        // no NaN or infinity among the logits
};
// p: reference, q: quantized.
RowScore ScoreRow(const float* p, const float* q, int64_t vocab, int32_t target);
// Of rows that were compared already, with the logits of the target.
RowScore ScoreOf(const kernels::kld_f64_f32_f32::TargetRow& compared);
// One model alone: nll_reference = nll, kld 0.
RowScore ScoreRow(const float* p, int64_t vocab, int32_t target);

}  // namespace spikefold
