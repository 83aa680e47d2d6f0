#include "apps/spikefold/doctor_command.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "apps/spikefold/machine.h"
#include "apps/spikefold/text.h"
#include "apps/spikefold/text_table.h"
#include "formats/base/status.h"
#include "formats/base/version.h"
#include "kernels/ceiling/ceiling.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/kernel_list.h"
#include "kernels/runtime/ops.h"
#include "kernels/runtime/torch/torch_plugin.h"

namespace spikefold {
namespace {

struct Diagnosis {
  Machine machine;
  kernels::Ceilings ceilings;
  std::vector<std::pair<std::string, kernels::CheckReport>> kernels;
  absl::Status cuda;
  absl::StatusOr<TorchPlugin> torch;

  int num_wrong() const {
    int wrong = 0;
    for (const auto& entry : kernels) wrong += entry.second.ok() ? 0 : 1;
    return wrong;
  }
};

absl::StatusOr<Diagnosis> Examine(Context& context) {
  Diagnosis diagnosis{.machine = ReadMachine(), .torch = LoadTorchPlugin()};
  const Progress progress = context.console.progress();
  const auto list = kernels::KernelList();
  const int64_t total = static_cast<int64_t>(list.size()) + 1;
  if (!progress("measuring memory", 0, total)) return absl::CancelledError("doctor: interrupted");
  diagnosis.ceilings = kernels::MeasureCeilings(context.pool());
  for (const kernels::KernelEntry& kernel : list) {
    const int64_t done = static_cast<int64_t>(diagnosis.kernels.size()) + 1;
    if (!progress("checking kernels", done, total)) return absl::CancelledError("doctor: interrupted");
    diagnosis.kernels.emplace_back(std::string(kernel.name),
                                   kernel.check(context.pool(), kernels::Fault::kNone));
  }
  diagnosis.cuda = MakeCudaOps(nullptr).status();
  context.console.EndProgress();
  return diagnosis;
}

std::string HugePagesText(const std::string& mode) {
  if (mode.empty()) return "not known: weights may lie on small pages, which makes decoding slower";
  if (mode == "never") {
    return "never: decoding is slower than it could be; as root:\n"
           "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled";
  }
  return absl::StrCat(mode, ": weights lie on 2 MiB pages");
}

std::string IsaText() {
  const auto active = kernels::ActiveIsa(), detected = kernels::DetectedIsa();
  if (active == detected) return std::string(IsaName(active));
  return absl::StrCat(kernels::IsaName(active), " as asked for; this CPU has ", kernels::IsaName(detected));
}

std::string CudaText(const absl::Status& cuda) {
  return cuda.ok() ? "built in and usable"
                   : std::string(absl::StripPrefix(cuda.message(), "backend \"cuda\": "));
}

std::string TorchText(const absl::StatusOr<TorchPlugin>& torch) {
  if (!torch.ok()) return std::string(absl::StripPrefix(torch.status().message(), "backend \"torch\": "));
  return absl::StrCat("LibTorch ", torch->api->torch_version, ", ",
                      torch->api->cuda_devices() > 0 ? "with a GPU" : "without a GPU", ": ",
                      Printable(torch->path, 1024));
}

void PrintText(const Diagnosis& d, const Context& context, Console& console) {
  const Machine& m = d.machine;
  TextTable table("ll");
  table.Row({"Spikefold", ToolVersionAndCommit()});
  table.Row({"processor", m.cpu.empty() ? "not known" : Printable(m.cpu)});
  table.Row({"cores", absl::StrCat(DefaultNumThreads(), " usable of ", m.online_cores, "; ",
                                   context.num_threads(), " threads are used")});
  table.Row({"instructions", IsaText()});
  table.Row(
      {"memory", absl::StrCat(BytesText(m.memory_total), ", ", BytesText(m.memory_available), " available")});
  const std::string pages = HugePagesText(m.huge_pages);
  table.Row({"2 MiB pages", pages.substr(0, pages.find('\n'))});
  if (pages.find('\n') != std::string::npos) table.Row({"", pages.substr(pages.find('\n') + 1)});
  table.Row({"memory reads", absl::StrFormat("%.1f GB/s", d.ceilings.read_bytes * 1e-9)});
  table.Row({"arithmetic", absl::StrFormat("float32 %.0f, int8 %.0f billion operations a second",
                                           d.ceilings.float_ops * 1e-9, d.ceilings.int8_ops * 1e-9)});
  table.Row({"CUDA", CudaText(d.cuda)});
  table.Row({"LibTorch plugin", TorchText(d.torch)});
  console.Print(table.Text(0));

  console.Print(absl::StrCat("\n", console.Bold("Kernels"), " at ", kernels::IsaName(kernels::ActiveIsa()),
                             ", each against its reference on this machine\n"));
  TextTable checks("lrl");
  for (const auto& [name, report] : d.kernels) {
    checks.Row(
        {name, absl::StrCat(report.num_cases, " cases"),
         report.ok() ? console.Good("agrees") : absl::StrCat(console.Bad("WRONG"), " ", report.detail)});
  }
  console.Print(checks.Text());
}

Json Document(const Diagnosis& d, const Context& context) {
  Json checks = Json::MakeArray();
  for (const auto& [name, report] : d.kernels) {
    checks.Append(Json::MakeObject()
                      .Set("kernel", name)
                      .Set("cases", report.num_cases)
                      .Set("agrees", report.ok())
                      .Set("worst_of_tolerance", report.worst));
  }
  return NewDocument("doctor")
      .Set("processor", d.machine.cpu)
      .Set("cores_usable", DefaultNumThreads())
      .Set("cores_online", d.machine.online_cores)
      .Set("threads", context.num_threads())
      .Set("isa", kernels::IsaName(kernels::ActiveIsa()))
      .Set("isa_detected", kernels::IsaName(kernels::DetectedIsa()))
      .Set("memory_bytes", d.machine.memory_total)
      .Set("memory_available_bytes", d.machine.memory_available)
      .Set("transparent_huge_pages", d.machine.huge_pages)
      .Set("read_bytes_per_second", d.ceilings.read_bytes)
      .Set("float32_operations_per_second", d.ceilings.float_ops)
      .Set("int8_operations_per_second", d.ceilings.int8_ops)
      .Set("cuda", d.cuda.ok())
      .Set("torch", d.torch.ok() ? Json(d.torch->api->torch_version) : Json())
      .Set("kernels", std::move(checks));
}

}  // namespace

absl::Status RunDoctor(const DoctorCommandOptions&, Context& context) {
  SF_ASSIGN_OR_RETURN(const Diagnosis diagnosis, Examine(context));
  Console& console = context.console;
  if (console.json()) {
    SF_RETURN_IF_ERROR(console.PrintJson(Document(diagnosis, context)));
  } else {
    PrintText(diagnosis, context, console);
    SF_RETURN_IF_ERROR(console.Flush());
  }
  if (diagnosis.num_wrong() == 0) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(diagnosis.num_wrong(), " of ", diagnosis.kernels.size(),
                                          " kernels disagree with their references on this machine; try "
                                          "another --isa and report it"));
}

}  // namespace spikefold
