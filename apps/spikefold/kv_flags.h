// How keys and values are kept: options of the commands that run or make a model.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "kernels/runtime/model.h"
#include "quant/kv_choice.h"

namespace spikefold {

struct KvFlags {
  std::optional<std::string> form;
  std::optional<int64_t> sinks, recent, window;
  bool any() const { return form || sinks || recent || window; }
};
// Puts the given ones into `choice`. InvalidArgument: an unknown form.
absl::Status SetKv(const KvFlags& flags, KvChoice& choice);

// Lets the model keep its keys and values so, if any flag is given: a form replaces its checkpoint's, sizes
// alone change that one's. InvalidArgument: a form that the model cannot have, sizes for float rows.
absl::Status OverrideKv(const KvFlags& flags, RuntimeModel& model);

}  // namespace spikefold
