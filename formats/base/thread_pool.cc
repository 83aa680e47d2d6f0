#include "formats/base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace spikefold {
namespace {

// Loops of a decode step follow each other within a few microseconds, sleeping and waking costs ten to fifty:
// a worker waits this long awake. A caller waits less, because what it waits for then is usually a worker
// that lost its core, and a sleeping caller leaves it its own.
constexpr std::chrono::microseconds kWorkerSpin{60}, kCallerSpin{25};
constexpr int kPausesPerClock = 16;

thread_local bool inside_parallel_for = false;

void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

// Waits until word != old, awake for `spin` and then asleep. Returns the value seen.
uint32_t WaitWhileEqual(const std::atomic<uint32_t>& word, uint32_t old, std::chrono::microseconds spin) {
  const auto start = std::chrono::steady_clock::now();
  do {
    for (int i = 0; i < kPausesPerClock; ++i) {
      if (const uint32_t now = word.load(); now != old) return now;
      Pause();
    }
  } while (std::chrono::steady_clock::now() - start < spin);
  word.wait(old);
  return word.load();
}

// Cores that the cgroup v2 quotas of this process and its ancestors allow, rounded up; 0 when unlimited.
int CgroupQuotaCores() {
  std::string path;
  std::ifstream self("/proc/self/cgroup");
  for (std::string line; std::getline(self, line);) {
    if (line.rfind("0::", 0) == 0) path = line.substr(3);
  }
  int cores = 0;
  while (true) {
    std::ifstream file("/sys/fs/cgroup" + path + "/cpu.max");
    std::string quota;
    double period = 0;
    if (file >> quota >> period && quota != "max" && period > 0) {
      const double limit = std::strtod(quota.c_str(), nullptr) / period;
      const int whole = std::max(1, static_cast<int>(limit + 0.999));
      cores = cores == 0 ? whole : std::min(cores, whole);
    }
    if (path.empty() || path == "/") return cores;
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
}

}  // namespace

// One job at a time lies in the pool. `epoch` is odd while it is open; a worker joins by counting itself into
// `active` and then finding the same odd epoch, so a caller that has closed the job and sees nobody active
// owns it again. A worker that was never scheduled delays nobody. Sequentially consistent throughout: joining
// and closing are a store and a load each, in opposite order.
struct ThreadPool::Impl {
  std::mutex caller_mutex;  // one ParallelFor at a time
  alignas(64) std::atomic<uint32_t> epoch{0};
  alignas(64) std::atomic<uint32_t> active{0};
  alignas(64) std::atomic<int64_t> next{0};
  int64_t count = 0, grain = 1;
  const absl::FunctionRef<void(int64_t, int64_t)>* body = nullptr;
  std::mutex thrown_mutex;
  std::exception_ptr thrown;  // by a chunk of this job; guarded
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;

  // Also of a pool whose last threads could not be started.
  ~Impl() {
    stop.store(true);
    epoch.fetch_add(2);
    epoch.notify_all();
    for (std::thread& t : threads) t.join();
  }

  void RunChunks() {
    inside_parallel_for = true;
    try {
      for (int64_t begin; (begin = next.fetch_add(grain, std::memory_order_relaxed)) < count;) {
        (*body)(begin, std::min(begin + grain, count));
      }
    } catch (...) {
      const std::lock_guard<std::mutex> lock(thrown_mutex);
      if (thrown == nullptr) thrown = std::current_exception();
      next.store(count);
    }
    inside_parallel_for = false;
  }

  void Work() {
    uint32_t seen = 0;
    while (true) {
      seen = WaitWhileEqual(epoch, seen, kWorkerSpin);
      if (stop.load()) return;
      if (seen % 2 == 0) continue;
      active.fetch_add(1);
      if (epoch.load() == seen) RunChunks();
      if (active.fetch_sub(1) == 1) active.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int num_threads) : impl_(std::make_unique<Impl>()) {
  for (int i = 1; i < num_threads; ++i) impl_->threads.emplace_back([impl = impl_.get()] { impl->Work(); });
}

ThreadPool::~ThreadPool() = default;

int ThreadPool::num_threads() const { return static_cast<int>(impl_->threads.size()) + 1; }

void ThreadPool::ParallelFor(int64_t count, int64_t grain, absl::FunctionRef<void(int64_t, int64_t)> body) {
  if (count <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  if (inside_parallel_for || impl_->threads.empty() || count <= grain) {
    for (int64_t begin = 0; begin < count; begin += grain) body(begin, std::min(begin + grain, count));
    return;
  }
  std::lock_guard<std::mutex> caller(impl_->caller_mutex);
  impl_->count = count;
  impl_->grain = grain;
  impl_->body = &body;
  impl_->next.store(0);
  impl_->epoch.fetch_add(1);
  impl_->epoch.notify_all();
  impl_->RunChunks();
  impl_->epoch.fetch_add(1);  // closed; nobody sleeps on this value for long, so nobody is told
  while (const uint32_t active = impl_->active.load()) WaitWhileEqual(impl_->active, active, kCallerSpin);
  if (impl_->thrown != nullptr) std::rethrow_exception(std::exchange(impl_->thrown, nullptr));
}

int DefaultNumThreads() {
  int cores = static_cast<int>(std::thread::hardware_concurrency());
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof(mask), &mask) == 0) cores = CPU_COUNT(&mask);
  if (const int quota = CgroupQuotaCores(); quota > 0) cores = std::min(cores, quota);
  return std::max(cores, 1);
}

}  // namespace spikefold
