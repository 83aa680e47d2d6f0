// Reading config.json into a ModelConfig: typed fields with defaults, and what all families share.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "formats/base/json.h"
#include "formats/model_config.h"

namespace spikefold {

// Looks fields up and remembers the first error, so that a family reads like a table. A null counts as
// absent.
class JsonFields {
 public:
  JsonFields(const Json& json, std::string where) : json_(json), where_(std::move(where)) {}

  const Json* Get(absl::string_view key) const;  // nullptr: absent or null
  int64_t Int(absl::string_view key);            // required
  int64_t Int(absl::string_view key, int64_t fallback);
  double Number(absl::string_view key);  // required
  double Number(absl::string_view key, double fallback);
  bool Bool(absl::string_view key, bool fallback);
  std::string Text(absl::string_view key, absl::string_view fallback);
  const Json* Object(absl::string_view key);  // nullptr: absent or null

  void Fail(absl::Status status);
  void Unsupported(absl::string_view what);    // Unimplemented "<where>: <what>"
  void Contradiction(absl::string_view what);  // DataLoss "<where>: <what>"
  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }
  const std::string& where() const { return where_; }

 private:
  const Json& json_;
  std::string where_;
  absl::Status status_;
};

struct CommonDefaults {
  const char* architecture;
  bool tied_embeddings = false;
  int64_t num_kv_heads = 0;  // 0: as many as query heads
  int64_t head_dim = 0;      // 0: hidden / heads
  const char* activation_key = "hidden_act";
  const char* activation = "silu";
};
// Sizes, norm, activation, token ids, attention scale 1/sqrt(head_dim). Refuses by name what changes the
// function and is not supported in any family (soft-capping, experts, partial rotation ...).
ModelConfig CommonFromJson(JsonFields& fields, const char* family, const CommonDefaults& defaults);

// One rope description, {rope_type | type, factor, ...}; nullptr: none. rope_theta inside it wins over
// `theta`; `original_positions`, unless 0, over original_max_position_embeddings inside it (transformers,
// standardize_rope_params).
RopeConfig RopeFromObject(JsonFields& fields, const Json* object, double theta,
                          int64_t original_positions = 0);
// rope_scaling + rope_theta (transformers 4) or rope_parameters (5) of a model with one kind of layer.
RopeConfig RopeFromJson(JsonFields& fields);

// layer_types -> which layers slide; empty if the field is absent.
std::vector<bool> SlidingFromLayerTypes(JsonFields& fields, int64_t num_layers);

}  // namespace spikefold
