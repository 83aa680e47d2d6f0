#include "apps/spikefold/machine.h"

#include <fcntl.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "kernels/cpu/cpu_features.h"

namespace spikefold {
namespace {

// Files of /proc and /sys have no size, so they are read to their end (at most 1 MiB). Empty: not there.
std::string ReadSystemFile(const char* path) {
  std::string text;
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return text;
  std::array<char, 4096> part;
  ssize_t n = 0;
  while (text.size() < (1u << 20) && (n = read(fd, part.data(), part.size())) > 0) {
    text.append(part.data(), static_cast<size_t>(n));
  }
  close(fd);
  return text;
}

// The rest of the first line that begins with `key`, without colon and blanks.
std::string ValueOf(absl::string_view text, absl::string_view key) {
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (!absl::StartsWith(line, key)) continue;
    const size_t colon = line.find(':');
    if (colon != absl::string_view::npos) {
      return std::string(absl::StripAsciiWhitespace(line.substr(colon + 1)));
    }
  }
  return "";
}

uint64_t KiBytes(absl::string_view text) {  // "24684084 kB"
  uint64_t value = 0;
  return absl::SimpleAtoi(text.substr(0, text.find(' ')), &value) ? value * 1024 : 0;
}

// Of the container, or the largest number if there is none.
uint64_t MemoryLimit() {
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    uint64_t limit = 0;
    if (absl::SimpleAtoi(absl::StripAsciiWhitespace(ReadSystemFile(path)), &limit) && limit > 0) return limit;
  }
  return UINT64_MAX;
}

}  // namespace

Machine ReadMachine() {
  Machine machine;
  machine.cpu = ValueOf(ReadSystemFile("/proc/cpuinfo"), "model name");
  machine.online_cores = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  const std::string memory = ReadSystemFile("/proc/meminfo");
  machine.memory_total = std::min(KiBytes(ValueOf(memory, "MemTotal")), MemoryLimit());
  machine.memory_available = std::min(KiBytes(ValueOf(memory, "MemAvailable")), MemoryLimit());
  // "always [madvise] never": the chosen one stands in brackets.
  const std::string pages = ReadSystemFile("/sys/kernel/mm/transparent_hugepage/enabled");
  const size_t begin = pages.find('['), end = pages.find(']');
  if (begin != std::string::npos && end != std::string::npos && begin < end) {
    machine.huge_pages = pages.substr(begin + 1, end - begin - 1);
  }
  return machine;
}

uint64_t MemoryInUse() { return KiBytes(ValueOf(ReadSystemFile("/proc/self/status"), "VmRSS")); }
uint64_t PeakMemory() { return KiBytes(ValueOf(ReadSystemFile("/proc/self/status"), "VmHWM")); }

void ReturnLargeBuffers() { (void)mallopt(M_MMAP_THRESHOLD, 1 << 20); }

absl::Status ChooseIsa(const std::string& name) {
  if (name.empty()) return absl::OkStatus();
  const absl::StatusOr<kernels::Isa> isa = kernels::ParseIsa(name);
  return isa.ok() ? kernels::SetIsa(*isa) : isa.status();
}

}  // namespace spikefold
