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
std::string ReadSystemFile(const std::string& path) {
  std::string text;
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
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

struct GroupMemory {
  uint64_t limit = UINT64_MAX, free = UINT64_MAX;  // the largest number if nothing is limited
};

uint64_t Number(const std::string& path) {
  uint64_t value = 0;
  return absl::SimpleAtoi(absl::StripAsciiWhitespace(ReadSystemFile(path)), &value) ? value : 0;
}

// One control group's, of either version, if it has a limit. File cache that the kernel may drop counts as
// free.
void TakeGroup(const std::string& directory, bool v2, GroupMemory& least) {
  const uint64_t limit = Number(directory + (v2 ? "/memory.max" : "/memory.limit_in_bytes"));
  if (limit == 0) return;
  const uint64_t used = Number(directory + (v2 ? "/memory.current" : "/memory.usage_in_bytes"));
  uint64_t cache = 0;
  const std::string stat = ReadSystemFile(directory + "/memory.stat");
  for (absl::string_view line : absl::StrSplit(stat, '\n')) {
    if (absl::ConsumePrefix(&line, v2 ? "inactive_file " : "total_inactive_file ")) {
      (void)absl::SimpleAtoi(line, &cache);
    }
  }
  const uint64_t taken = used - std::min(used, cache);
  least.limit = std::min(least.limit, limit);
  least.free = std::min(least.free, limit - std::min(limit, taken));
}

// The least of the groups that this process is in and of all above them (kernel documentation, cgroup-v2.rst
// and cgroup-v1/memory.rst).
GroupMemory ReadGroups() {
  GroupMemory least;
  const std::string groups =
      ReadSystemFile("/proc/self/cgroup");  // a line each, "4:memory:/path" or "0::/path"
  for (absl::string_view line : absl::StrSplit(groups, '\n')) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() < 3 || !(parts[1].empty() || parts[1] == "memory")) continue;
    const bool v2 = parts[1].empty();
    std::string path = parts[2] == "/" ? "" : parts[2];
    while (true) {
      TakeGroup(absl::StrCat("/sys/fs/cgroup", v2 ? "" : "/memory", path), v2, least);
      if (path.empty()) break;
      path.resize(std::min(path.rfind('/'), path.size() - 1));
    }
  }
  return least;
}

}  // namespace

Machine ReadMachine() {
  Machine machine;
  machine.cpu = ValueOf(ReadSystemFile("/proc/cpuinfo"), "model name");
  machine.online_cores = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  const std::string memory = ReadSystemFile("/proc/meminfo");
  const GroupMemory groups = ReadGroups();
  machine.memory_total = std::min(KiBytes(ValueOf(memory, "MemTotal")), groups.limit);
  machine.memory_available = std::min(KiBytes(ValueOf(memory, "MemAvailable")), groups.free);
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
