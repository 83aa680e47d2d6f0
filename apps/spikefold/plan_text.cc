#include "apps/spikefold/plan_text.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "apps/spikefold/text.h"
#include "apps/spikefold/text_table.h"

namespace spikefold {
namespace {

std::string WeightWord(const TensorDecision& d) {
  if (d.weight_bits == 16) return "16 bit";
  if (d.trellis) return absl::StrCat("trellis ", d.weight_bits);
  return absl::StrCat("INT", d.weight_bits,
                      d.group_size > 0 ? absl::StrCat(", groups of ", d.group_size) : " per channel",
                      d.weight_zeros ? ", zeros" : "");
}
std::string ActivationWord(const TensorDecision& d) {
  if (d.role == Role::kEmbedding) return "";
  if (d.activation_bits == 16) return "float";
  return absl::StrCat("INT", d.activation_bits,
                      d.activation_static      ? " static"
                      : d.activation_group > 0 ? absl::StrCat(" per ", d.activation_group)
                                               : " per token",
                      d.activation_zeros ? ", zeros" : "");
}

// Tensors of one role that are stored alike.
struct Group {
  std::string role, weight, activation;
  int64_t tensors = 0, weights = 0, bytes = 0, supers = 0, spike_rows = 0;
  size_t kept_min = 0, kept_max = 0;
};

void AddTo(std::vector<Group>& groups, const TensorDecision& d) {
  const std::string role(RoleName(d.role)), weight = WeightWord(d), activation = ActivationWord(d);
  auto group = std::find_if(groups.begin(), groups.end(), [&](const Group& g) {
    return g.role == role && g.weight == weight && g.activation == activation;
  });
  if (group == groups.end()) {
    group = groups.insert(groups.end(), {.role = role, .weight = weight, .activation = activation});
    group->kept_min = d.kept.size();
  }
  ++group->tensors;
  group->weights += d.n * d.k;
  group->bytes += d.bytes;
  group->supers += static_cast<int64_t>(d.supers.size());
  group->spike_rows += d.spike_threshold > 0 ? 1 : 0;
  group->kept_min = std::min(group->kept_min, d.kept.size());
  group->kept_max = std::max(group->kept_max, d.kept.size());
}

std::string KeptText(const Group& g) {
  std::vector<std::string> parts;
  if (g.kept_max > 0) {
    const std::string least = g.kept_min < g.kept_max ? absl::StrCat(g.kept_min, " to ") : "";
    parts.push_back(absl::StrCat(least, g.kept_max, " columns"));
  }
  if (g.supers > 0) parts.push_back(absl::StrCat(g.supers, " super weights"));
  if (g.spike_rows > 0) parts.push_back(absl::StrCat("spike rows of ", g.spike_rows));
  return absl::StrJoin(parts, ", ");
}

std::vector<std::string> RowOf(const Group& g) {
  const double bits = g.weights == 0 ? 0 : 8 * static_cast<double>(g.bytes) / static_cast<double>(g.weights);
  return {g.role,
          absl::StrCat(g.tensors),
          g.weight,
          g.activation,
          KeptText(g),
          BitsText(bits),
          BytesText(static_cast<uint64_t>(g.bytes))};
}

}  // namespace

std::string PlanText(const Plan& plan, const Console& console) {
  std::vector<Group> groups;
  AddTo(groups, plan.embedding);
  for (const TensorDecision& d : plan.linears) AddTo(groups, d);
  if (plan.has_head) AddTo(groups, plan.head);
  TextTable table("lrlllrr");
  table.Row({"", "tensors", "weights", "activations", "kept in 16 bit", "bits", "bytes"});
  for (const Group& group : groups) table.Row(RowOf(group));

  const PlanTotals& t = plan.totals;
  return absl::StrCat(console.Bold(plan.recipe.scheme), ": ", BitsText(t.bits_linear()),
                      " bits a weight in the linears, ", BitsText(t.bits_total()), " in all, ",
                      BytesText(static_cast<uint64_t>(t.total_bytes)), "; activations of ",
                      BitsText(t.activation_bits), " bits\n\n", table.Text(), "\n",
                      Wrap(absl::StrCat("Treatment: ", plan.outlier_reason, "."), 0, 100), "\n");
}

}  // namespace spikefold
