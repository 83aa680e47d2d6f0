// Shifts in the sidecar: {"layers.3.down_in": width, ...}, by the site whose input is lessened.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "formats/quantized/native_parts.h"

namespace spikefold {
namespace {

constexpr int64_t kMaxWidth = int64_t{1} << 24;

}  // namespace

Json ShiftsToJson(const std::vector<NativeShift>& shifts) {
  Json json = Json::MakeObject();
  for (const NativeShift& s : shifts) json.Set(s.site, static_cast<int64_t>(s.values.size()));
  return json;
}

absl::StatusOr<std::vector<NativeShift>> ShiftsFromJson(const Json& json, absl::string_view sidecar) {
  const std::string where = absl::StrCat(sidecar, ": shifts");
  if (!json.is_object()) return absl::DataLossError(absl::StrCat(where, ": is not an object"));
  std::vector<NativeShift> shifts;
  for (const auto& [site, value] : json.object()) {
    SF_ASSIGN_OR_RETURN(const int64_t width, json.GetInt(site, where));
    if (width < 1 || width > kMaxWidth) {
      return absl::DataLossError(
          absl::StrCat(where, ": width ", width, "; 1 to ", kMaxWidth, " are allowed"));
    }
    shifts.push_back({site, std::vector<float>(static_cast<size_t>(width))});
  }
  return shifts;
}

SafetensorsWriter::Spec ShiftTensorSpec(const NativeShift& shift) {
  return {absl::StrCat("spikefold.shift.", shift.site),
          DType::kBF16,
          {static_cast<int64_t>(shift.values.size())}};
}

absl::Status CheckShifts(const std::vector<NativeShift>& shifts) {
  for (const NativeShift& s : shifts) {
    for (size_t i = 0; i < s.values.size(); ++i) {
      if (std::isfinite(s.values[i]) && Bf16ToFloat(FloatToBf16(s.values[i])) == s.values[i]) continue;
      return absl::InvalidArgumentError(absl::StrCat("shift of ", Printable(s.site), ": element ", i, " is ",
                                                     s.values[i], "; it must be finite and exact in BF16"));
    }
  }
  return absl::OkStatus();
}

}  // namespace spikefold
