// Every kernel of the list against its reference, at every instruction level of this machine.
#include <catch2/catch.hpp>
#include <string>

#include "kernels/cpu/cpu_features.h"
#include "kernels/kernel_list.h"

namespace spikefold::kernels {
namespace {

// Gives the process its own level back.
struct IsaGuard {
  explicit IsaGuard(Isa isa) { REQUIRE(SetIsa(isa).ok()); }
  ~IsaGuard() { (void)SetIsa(DetectedIsa()); }
};

template <typename Body>
void ForEachKernelAndIsa(Body body) {
  for (Isa isa : AvailableIsas()) {
    const IsaGuard guard(isa);
    for (const KernelEntry& kernel : KernelList()) {
      INFO(std::string(kernel.name) << " at " << std::string(IsaName(isa)));
      body(kernel);
    }
  }
}

TEST_CASE("Every kernel equals its reference within its bound at every instruction level", "[kernels]") {
  ThreadPool pool(3);  // more than the cores of a small machine: chunks land on any thread
  ForEachKernelAndIsa([&](const KernelEntry& kernel) {
    const CheckReport report = kernel.check(pool, Fault::kNone);
    INFO(report.detail << " (" << report.worst << " of its tolerance)");
    CHECK(report.ok());
  });
}

TEST_CASE("Every kernel's check fails when one element of an operand is wrong", "[kernels][canary]") {
  ThreadPool pool(2);
  ForEachKernelAndIsa([&](const KernelEntry& kernel) {
    const CheckReport report = kernel.check(pool, Fault::kOneElement);
    INFO(report.worst << " of its tolerance");
    CHECK(report.num_values > 0);
    CHECK(report.worst > 1);
  });
}

TEST_CASE("The instruction level is chosen by name, and only one that the CPU has", "[kernels][isa]") {
  for (Isa isa : AvailableIsas()) {
    const IsaGuard guard(isa);
    CHECK(ActiveIsa() == isa);
    CHECK(*ParseIsa(IsaName(isa)) == isa);
  }
  CHECK(ActiveIsa() == DetectedIsa());
  const absl::Status unknown = ParseIsa("sse9").status();
  CHECK(unknown.code() == absl::StatusCode::kInvalidArgument);
  CHECK(unknown.message() ==
        "isa: 'sse9' is unknown; use one of plain, avx2, avx512, avx512-vnni, avx512-bf16, avx512-amx");
  if (DetectedIsa() < Isa::kAvx512Amx) {
    CHECK(SetIsa(Isa::kAvx512Amx).code() == absl::StatusCode::kUnimplemented);
    CHECK(ActiveIsa() == DetectedIsa());
  }
}

}  // namespace
}  // namespace spikefold::kernels
