// Loaded before the C library (LD_PRELOAD), counts the calls that change the file system, syncs aside:
//   SPIKEFOLD_KILL_AT=n   ends the process by SIGKILL at the n-th, half of a write being done. A kill between
//   two
//                         such calls leaves the same files as one at the second, so these are all there are.
//   SPIKEFOLD_FULL_AT=n   from the n-th on the disk is full; files can be removed.
//   SPIKEFOLD_COUNT=path  writes their number there at the end.
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace {

std::atomic<long> g_calls{0};

long Number(const char* name) {
  const char* const text = std::getenv(name);
  return text == nullptr ? 0 : std::atol(text);
}

enum class Fate { kDone, kKilled, kFull };
Fate Next() {
  static const long kKill = Number("SPIKEFOLD_KILL_AT"), kFull = Number("SPIKEFOLD_FULL_AT");
  const long call = ++g_calls;
  if (call == kKill) return Fate::kKilled;
  return kFull > 0 && call >= kFull ? Fate::kFull : Fate::kDone;
}
void Die() {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}
// Of a call that is made or not: whether the disk is full.
bool Full() {
  const Fate fate = Next();
  if (fate == Fate::kKilled) Die();
  errno = fate == Fate::kFull ? ENOSPC : errno;
  return fate == Fate::kFull;
}

template <typename Function>
Function* Original(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

__attribute__((destructor)) void WriteCount() {
  const char* const path = std::getenv("SPIKEFOLD_COUNT");
  if (path == nullptr) return;
  const long calls = g_calls;
  if (FILE* const file = std::fopen(path, "w"); file != nullptr) {
    std::fprintf(file, "%ld", calls);
    std::fclose(file);
  }
}

}  // namespace

#define DEFINE_CALL(name, parameters, arguments)                  \
  extern "C" int name parameters noexcept {                       \
    static const auto original = Original<int parameters>(#name); \
    return Full() ? -1 : original arguments;                      \
  }
DEFINE_CALL(ftruncate, (int fd, off_t size), (fd, size))
DEFINE_CALL(mkdir, (const char* path, mode_t mode), (path, mode))
DEFINE_CALL(rename, (const char* from, const char* to), (from, to))
DEFINE_CALL(renameat2, (int from_dir, const char* from, int to_dir, const char* to, unsigned flags),
            (from_dir, from, to_dir, to, flags))

extern "C" int unlink(const char* path) noexcept {
  static const auto original = Original<int(const char*)>("unlink");
  if (Next() == Fate::kKilled) Die();
  return original(path);
}

extern "C" int posix_fallocate(int fd, off_t at, off_t size) {
  static const auto original = Original<int(int, off_t, off_t)>("posix_fallocate");
  return Full() ? ENOSPC : original(fd, at, size);
}

extern "C" int open(const char* path, int flags, ...) {
  static const auto original = Original<int(const char*, int, ...)>("open");
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return (flags & O_CREAT) != 0 && Full() ? -1 : original(path, flags, mode);
}

extern "C" ssize_t pwrite(int fd, const void* data, size_t size, off_t at) {
  static const auto original = Original<ssize_t(int, const void*, size_t, off_t)>("pwrite");
  switch (Next()) {
    case Fate::kDone:
      return original(fd, data, size, at);
    case Fate::kKilled:
      original(fd, data, size / 2, at);
      Die();
      break;
    case Fate::kFull:
      break;
  }
  errno = ENOSPC;
  return -1;
}
