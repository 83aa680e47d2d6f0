#include "apps/spikefold/interrupt.h"

#include <signal.h>

#include <atomic>
#include <initializer_list>

namespace spikefold {
namespace {

// Two signals may be handled at once, by two threads: exactly one of them is the first.
std::atomic<bool> g_interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free);  // so that a handler may use it

void OnSignal(int signal) {
  if (g_interrupted.exchange(true)) {  // not the first: die of it, as a process without handlers would
    struct sigaction action = {};
    action.sa_handler = SIG_DFL;
    sigaction(signal, &action, nullptr);
    raise(signal);
  }
}

}  // namespace

void InstallInterruptHandlers() {
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART;
  for (const int signal : {SIGINT, SIGTERM}) {
    struct sigaction before = {};
    sigaction(signal, nullptr, &before);
    if (before.sa_handler != SIG_IGN) sigaction(signal, &action, nullptr);  // nohup's wish is respected
  }
  // A closed pipe and a file beyond the limit are errors of write(), with a text and an exit code.
  action = {};
  action.sa_handler = SIG_IGN;
  for (const int signal : {SIGPIPE, SIGXFSZ}) sigaction(signal, &action, nullptr);
}

bool Interrupted() { return g_interrupted.load(std::memory_order_relaxed); }

}  // namespace spikefold
