// Channel shift: x -> x - z online, b <- b + W z with the unrounded W. Always legal: W(x - z) + Wz = Wx. What
// is rounded then is spread about 0, and rounding W no longer moves the mean of the output. X. Wei et al.,
// "Outlier Suppression+" (2304.09145), shifts to the middle of the range; z is the mean here.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "quant/folds/fold_builder.h"

namespace spikefold {
namespace {

absl::StatusOr<const Site*> FindSite(const ModelGraph& graph, const SiteShift& shift) {
  for (const Site& site : graph.sites) {
    if (site.layer != shift.layer || site.value != shift.value || site.layer < 0) continue;
    const bool finite =
        std::all_of(shift.values.begin(), shift.values.end(), [](float v) { return std::isfinite(v); });
    if (static_cast<int64_t>(shift.values.size()) == site.k && finite && site.shift.empty()) return &site;
    return absl::InvalidArgumentError(absl::StrCat(site.name, ": a shift of ", shift.values.size(),
                                                   " values; one of ", site.k,
                                                   " finite values is needed, once"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("shift: the model has no input ", ValueKindName(shift.value), " in layer ", shift.layer));
}

}  // namespace

absl::Status ShiftChannels(const FoldOptions& options, FoldBuilder& b) {
  uint64_t digest = 0;
  for (const SiteShift& shift : options.shifts) {
    SF_ASSIGN_OR_RETURN(const Site* const site, FindSite(b.graph(), shift));
    const std::vector<float> stored = b.Shift(site->id, shift.values);
    digest = (digest ^ static_cast<uint64_t>(site->id + 1)) * 0x100000001b3ull;
    for (const float v : stored) digest = (digest ^ FloatToBf16(v)) * 0x100000001b3ull;
  }
  Json provenance = Json::MakeObject();
  provenance.Set("kind", "shift")
      .Set("sites", static_cast<int64_t>(options.shifts.size()))
      .Set("digest", absl::StrCat(absl::Hex(digest, absl::kZeroPad16)));
  b.Applied("shift", std::move(provenance));
  return absl::OkStatus();
}

}  // namespace spikefold
