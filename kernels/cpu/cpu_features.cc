#include "kernels/cpu/cpu_features.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace spikefold::kernels {
namespace {

constexpr absl::string_view kNames[] = {"plain",       "avx2",        "avx512",
                                        "avx512-vnni", "avx512-bf16", "avx512-amx"};

struct Registers {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers Cpuid(uint32_t leaf, uint32_t subleaf) {
  Registers r;
  if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return {};
  return r;
}

// Which register states the operating system saves. Valid only with OSXSAVE.
uint64_t ReadXcr0() {
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

constexpr bool HasBits(uint64_t value, std::initializer_list<int> bits) {
  for (int bit : bits) {
    if ((value >> bit & 1) == 0) return false;
  }
  return true;
}

// Linux saves the 8 KiB of tile registers only for a process that asks (Documentation/arch/x86/xstate.rst).
bool MayUseTiles() {
  constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

// Bit numbers: Intel SDM volume 2A, CPUID leaves 1 and 7, and volume 1, section 13.3 for XCR0.
Isa Detect() {
  const Registers leaf1 = Cpuid(1, 0), leaf7 = Cpuid(7, 0), leaf7_1 = Cpuid(7, 1);
  if (!HasBits(leaf1.ecx, {12 /* FMA */, 27 /* OSXSAVE */, 28 /* AVX */, 29 /* F16C */})) return Isa::kPlain;
  const uint64_t xcr0 = ReadXcr0();
  if (!HasBits(xcr0, {1 /* xmm */, 2 /* ymm */}) || !HasBits(leaf7.ebx, {5 /* AVX2 */})) return Isa::kPlain;
  if (!HasBits(xcr0, {5, 6, 7 /* opmask, zmm */}) ||
      !HasBits(leaf7.ebx, {16 /* F */, 17 /* DQ */, 30 /* BW */, 31 /* VL */})) {
    return Isa::kAvx2;
  }
  if (!HasBits(leaf7.ecx, {11 /* VNNI */})) return Isa::kAvx512;
  if (!HasBits(leaf7_1.eax, {5 /* BF16 */})) return Isa::kAvx512Vnni;
  const bool tiles = HasBits(leaf7.edx, {24 /* AMX-TILE */, 25 /* AMX-INT8 */}) &&
                     HasBits(xcr0, {17, 18 /* tile configuration, tile data */}) && MayUseTiles();
  return tiles ? Isa::kAvx512Amx : Isa::kAvx512Bf16;
}

std::atomic<Isa>& Active() {
  static std::atomic<Isa> active{DetectedIsa()};
  return active;
}

}  // namespace

absl::string_view IsaName(Isa isa) { return kNames[static_cast<int>(isa)]; }

absl::StatusOr<Isa> ParseIsa(absl::string_view name) {
  for (int i = 0; i <= static_cast<int>(Isa::kAvx512Amx); ++i) {
    if (kNames[i] == name) return static_cast<Isa>(i);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("isa: '", name, "' is unknown; use one of ", absl::StrJoin(kNames, ", ")));
}

Isa DetectedIsa() {
  static const Isa detected = Detect();
  return detected;
}

std::vector<Isa> AvailableIsas() {
  std::vector<Isa> isas;
  for (int i = 0; i <= static_cast<int>(DetectedIsa()); ++i) isas.push_back(static_cast<Isa>(i));
  return isas;
}

Isa ActiveIsa() { return Active().load(std::memory_order_relaxed); }

absl::Status SetIsa(Isa isa) {
  if (isa > DetectedIsa()) {
    return absl::UnimplementedError(absl::StrCat(
        "isa: ", IsaName(isa), " is not supported by this CPU, whose best is ", IsaName(DetectedIsa())));
  }
  Active().store(isa, std::memory_order_relaxed);
  return absl::OkStatus();
}

}  // namespace spikefold::kernels
