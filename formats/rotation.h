// Orthogonal matrices that values of a model are multiplied by: x <- x * diag(signs) * (I (x) H) /
// sqrt(block), H a Hadamard matrix (formats/base/hadamard.h). Part of a graph where weights were rotated to
// match.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace spikefold {

// Which values are rotated. The first two lie between weights, which hold the rotation (offline); the last
// two are rotated while the model runs (online).
enum class RotationPlace : uint8_t {
  kResidual,     // the residual stream, width d
  kValues,       // each head's values and context, width head_dim
  kQueriesKeys,  // each head's queries and keys after RoPE, width head_dim
  kDownIn,       // the input of down_proj, width f
};
absl::string_view RotationPlaceName(RotationPlace place);  // "residual", "values", "queries_keys", "down_in"
absl::StatusOr<RotationPlace> ParseRotationPlace(absl::string_view name);  // Unimplemented, naming all
inline bool IsOnline(RotationPlace place) { return place >= RotationPlace::kQueriesKeys; }

struct Rotation {
  std::string name;  // "R1" ...: letters, digits and '_'; a tensor carries it
  RotationPlace place = RotationPlace::kResidual;
  std::vector<int64_t> factors;  // of H, as HadamardFactors() makes them; their product is the block
  std::vector<int8_t> signs;     // [width] +-1
  // kDownIn: the layers that rotate, ascending; empty: all.
  std::vector<int> layers;
  int64_t width() const { return static_cast<int64_t>(signs.size()); }
  int64_t block() const;
  bool operator==(const Rotation&) const = default;
};

// InvalidArgument: a name, factor, sign or list of layers that is none.
absl::Status CheckRotation(const Rotation& rotation);

}  // namespace spikefold
