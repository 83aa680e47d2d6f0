#include "apps/spikefold/kv_flags.h"

#include "formats/base/status.h"

namespace spikefold {

absl::Status SetKv(const KvFlags& flags, KvChoice& choice) {
  if (flags.form) SF_RETURN_IF_ERROR(ParseKvWord(*flags.form, choice));
  choice.sinks = flags.sinks.value_or(choice.sinks);
  choice.recent = flags.recent.value_or(choice.recent);
  choice.window = flags.window.value_or(choice.window);
  if (choice.is_float() && (flags.sinks || flags.recent || flags.window)) {
    return absl::InvalidArgumentError(
        "--kv-sinks, --kv-recent and --kv-window need a form of the cache; give --kv 16, 8, 4, 3 or 2");
  }
  return absl::OkStatus();
}

absl::Status OverrideKv(const KvFlags& flags, RuntimeModel& model) {
  if (!flags.any()) return absl::OkStatus();
  KvChoice choice;
  SF_RETURN_IF_ERROR(SetKv(flags, choice));
  const bool has_prefix = model.prefix() != nullptr && !model.prefix()->empty();
  SF_ASSIGN_OR_RETURN(const KvOptions kv, ChooseKv(choice, model.graph(), {}, has_prefix));
  return model.set_kv(kv);
}

}  // namespace spikefold
