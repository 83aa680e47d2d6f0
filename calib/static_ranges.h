// Whether a text stays within what calibration saw: inputs of linears beyond their static range, and columns
// that grow far above any calibrated value. A quantizer leaves the calibrated side in the checkpoint
// (quant/calibrated_ranges.h); an observer counts the other on some windows of the text.
#pragma once

#include <cstdint>
#include <vector>

#include "formats/base/json.h"
#include "kernels/runtime/model.h"
#include "kernels/runtime/tap.h"

namespace spikefold {

struct SiteRange {
  int site = 0;
  double limit = 0;                // largest magnitude that the codes hold
  double peak = 0;                 // largest that was seen
  int64_t values = 0, beyond = 0;  // seen; of larger magnitude than the limit
  double calibrated_share = -1;    // the same share in calibration; -1: not known
  // Beyond the limit in three rows and one of 1,024 at least, and more than twice as large as calibration
  // ever saw them. (Single values of that size are met in text of the calibrated kind as well.)
  std::vector<int64_t> unseen_columns;
  double share() const { return values > 0 ? static_cast<double>(beyond) / static_cast<double>(values) : 0; }
  // Whether this text is another than the calibrated one, for this site.
  bool fires() const;
};

// Kept columns, and rows that are computed in float, do not count.
class RangeObserver : public Taps {
 public:
  // `calibration`: NativeInfo::calibration, or null.
  RangeObserver(const RuntimeModel& model, const Json& calibration);
  bool empty() const { return sites_.empty(); }  // no static site
  bool Wants(int layer, ValueKind value) const override { return Find(layer, value) >= 0; }
  bool WantsAttention(int) const override { return false; }
  void OnRows(const TapRows& rows) override;
  std::vector<SiteRange> Ranges() const;  // in the model's order

 private:
  struct Watched {
    SiteRange range;
    int layer = 0;
    ValueKind value = ValueKind::kAttnIn;
    double spike_threshold = 0;
    std::vector<bool> kept;  // [k]
    int64_t rows = 0;
    std::vector<float> column_peak;      // [k]
    std::vector<int64_t> column_beyond;  // [k] rows beyond the limit
    std::vector<int> calibrated_bin;     // [k] MagnitudeBin; empty: not known
  };
  int Find(int layer, ValueKind value) const;
  std::vector<Watched> sites_;
};

Json RangesToJson(const std::vector<SiteRange>& ranges, const ModelGraph& graph);

}  // namespace spikefold
