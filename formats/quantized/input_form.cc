#include "formats/quantized/input_form.h"

#include "absl/strings/str_cat.h"
#include "formats/base/json.h"

namespace spikefold {

InputForm InputFormOf(const QuantizedLinear& linear) {
  return {.module = linear.module,
          .format = linear.act,
          .scale = linear.input_scale,
          .zero = linear.input_zero,
          .kept = linear.kept_columns,
          .spike_threshold = linear.spike_threshold,
          .max_spike_rows = linear.max_spike_rows};
}

absl::Status CheckSameInput(const InputForm& first, const InputForm& other) {
  const char* what =
      first.format != other.format ? "activation format"
      : first.scale != other.scale ? "input_scale"
      : first.zero != other.zero   ? "input_zero_point"
      : first.kept != other.kept   ? "kept_columns"
      : first.spike_threshold != other.spike_threshold || first.max_spike_rows != other.max_spike_rows
          ? "spike rows"
          : nullptr;
  if (what == nullptr) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(Printable(other.module), ": ", what, " differs from ",
                                                 Printable(first.module),
                                                 ", which reads the same input; quantize them alike"));
}

absl::Status InputForms::Add(const InputForm& form) {
  const int node = graph_.FindModule(form.module);
  if (node < 0 || graph_.nodes[static_cast<size_t>(node)].op != Op::kLinear) return absl::OkStatus();
  const auto [it, is_first] = first_.emplace(graph_.SiteOf(node), form);
  return is_first ? absl::OkStatus() : CheckSameInput(it->second, form);
}

}  // namespace spikefold
