// A rotation as its kernel wants it: applied to rows of values while the model runs.
#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "formats/rotation.h"

namespace spikefold {

struct RowRotation {
  std::vector<int64_t> factors;
  std::vector<float> scale;  // [width] signs / sqrt(block)
};

inline std::shared_ptr<const RowRotation> MakeRowRotation(const Rotation& r) {
  auto rotation = std::make_shared<RowRotation>();
  rotation->factors = r.factors;
  const double unit = 1 / std::sqrt(static_cast<double>(r.block()));
  for (const int8_t sign : r.signs) rotation->scale.push_back(static_cast<float>(sign * unit));
  return rotation;
}

}  // namespace spikefold
