// What differs between two JSON documents, value by value. Elements of arrays that carry a name ("module",
// "name", "site") are matched by it, others by their place.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "formats/base/json.h"

namespace spikefold {

struct JsonChange {
  std::string path;  // "tensors[model.layers.0.mlp.down_proj].weight_bits"
  std::string a, b;  // values as JSON, shortened; "" where there is none
};
// Members whose last name is in `ignored` are left out at any depth.
std::vector<JsonChange> DiffJson(const Json& a, const Json& b, const std::vector<std::string>& ignored);

}  // namespace spikefold
