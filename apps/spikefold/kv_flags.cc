#include "apps/spikefold/kv_flags.h"

#include "formats/base/status.h"

namespace spikefold {

absl::Status SetKv(const KvFlags& flags, KvChoice& choice) {
  if (flags.form) SF_RETURN_IF_ERROR(ParseKvWord(*flags.form, choice));
  choice.sinks = flags.sinks.value_or(choice.sinks);
  choice.recent = flags.recent.value_or(choice.recent);
  choice.window = flags.window.value_or(choice.window);
  // Said aloud they are refused, whatever they are: as defaults they mean nothing here.
  const bool sizes = flags.sinks.has_value() || flags.recent.has_value();
  return choice.is_float() && sizes ? KvSizesNeedForm() : absl::OkStatus();
}

absl::Status OverrideKv(const KvFlags& flags, RuntimeModel& model) {
  if (!flags.any()) return absl::OkStatus();
  const bool has_prefix = model.prefix() != nullptr && !model.prefix()->empty();
  if (!flags.form && !model.kv().is_float()) {
    KvOptions kv = model.kv();
    if (!has_prefix) kv.sinks = flags.sinks.value_or(kv.sinks);
    kv.recent = flags.recent.value_or(kv.recent);
    kv.evict = flags.window.value_or(kv.evict);
    return model.set_kv(kv);
  }
  KvChoice choice;
  SF_RETURN_IF_ERROR(SetKv(flags, choice));
  SF_RETURN_IF_ERROR(CheckKvChoice(choice, model.graph()));
  SF_ASSIGN_OR_RETURN(const KvOptions kv, ChooseKv(choice, model.graph(), {}, has_prefix));
  return model.set_kv(kv);
}

}  // namespace spikefold
