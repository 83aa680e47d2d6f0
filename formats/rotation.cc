#include "formats/rotation.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "formats/base/hadamard.h"
#include "formats/base/json.h"

namespace spikefold {
namespace {

constexpr int64_t kMaxWidth = int64_t{1} << 24;
constexpr size_t kMaxFactors = 4;  // what the kernel takes: three tables and a power of two
constexpr absl::string_view kPlaces[] = {"residual", "values", "queries_keys", "down_in"};

bool IsName(absl::string_view name) {
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_';
  });
}

// Tables, then a power of two, whose product divides the width.
bool FactorsFit(const Rotation& r) {
  if (r.factors.empty() || r.factors.size() > kMaxFactors) return false;
  int64_t rest = r.width();
  for (size_t i = 0; i < r.factors.size(); ++i) {
    const int64_t f = r.factors[i];
    const bool last = i + 1 == r.factors.size();
    if (f < 1 || IsPowerOfTwo(f) != last || (!last && !HasHadamardTable(f)) || rest % f != 0) return false;
    rest /= f;
  }
  return true;
}

}  // namespace

absl::string_view RotationPlaceName(RotationPlace place) { return kPlaces[static_cast<size_t>(place)]; }

absl::StatusOr<RotationPlace> ParseRotationPlace(absl::string_view name) {
  for (size_t i = 0; i < std::size(kPlaces); ++i) {
    if (kPlaces[i] == name) return static_cast<RotationPlace>(i);
  }
  return absl::UnimplementedError(absl::StrCat("rotation at \"", Printable(name),
                                               "\" is not supported; known: ", absl::StrJoin(kPlaces, ", ")));
}

int64_t Rotation::block() const {
  int64_t block = 1;
  for (const int64_t f : factors) block *= f;
  return block;
}

absl::Status CheckRotation(const Rotation& r) {
  const std::string where = absl::StrCat("rotation \"", Printable(r.name), "\"");
  if (!IsName(r.name)) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": a name has up to 64 letters, digits and underscores"));
  }
  if (r.width() < 1 || r.width() > kMaxWidth) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": width ", r.width(), "; 1 to ", kMaxWidth, " are allowed"));
  }
  if (!FactorsFit(r)) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": factors ", absl::StrJoin(r.factors, " x "), " of width ", r.width(),
                     "; up to three Hadamard orders, then a power of two, whose product divides the width, "
                     "are needed"));
  }
  for (size_t i = 0; i < r.signs.size(); ++i) {
    if (r.signs[i] == 1 || r.signs[i] == -1) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": sign ", i, " is ", static_cast<int>(r.signs[i]), "; 1 and -1 are allowed"));
  }
  for (size_t i = 0; i < r.layers.size(); ++i) {
    if (r.layers[i] >= 0 && (i == 0 || r.layers[i] > r.layers[i - 1])) continue;
    return absl::InvalidArgumentError(absl::StrCat(where, ": its layers do not ascend"));
  }
  if (!r.layers.empty() && r.place != RotationPlace::kDownIn) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": at ", RotationPlaceName(r.place), " all layers rotate; list none"));
  }
  return absl::OkStatus();
}

}  // namespace spikefold
