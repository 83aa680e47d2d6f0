#include "apps/spikefold/interrupt.h"

#include <signal.h>

#include <initializer_list>

namespace spikefold {
namespace {

volatile sig_atomic_t g_interrupted = 0;

void OnSignal(int signal) {
  if (g_interrupted != 0) {  // not the first: die of it, as a process without handlers would
    struct sigaction action = {};
    action.sa_handler = SIG_DFL;
    sigaction(signal, &action, nullptr);
    raise(signal);
    return;
  }
  g_interrupted = 1;
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

bool Interrupted() { return g_interrupted != 0; }

}  // namespace spikefold
