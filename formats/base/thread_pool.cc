#include "formats/base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace spikefold {
namespace {

thread_local bool inside_parallel_for = false;

struct Job {
  int64_t count;
  int64_t grain;
  absl::FunctionRef<void(int64_t, int64_t)> body;
  std::atomic<int64_t> next{0};

  void Run() {
    inside_parallel_for = true;
    for (int64_t begin; (begin = next.fetch_add(grain, std::memory_order_relaxed)) < count;) {
      body(begin, std::min(begin + grain, count));
    }
    inside_parallel_for = false;
  }
};

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

// A worker joins the open job, if there is one; the caller closes the job when its counter has run out and
// waits only for the workers that joined. A worker that was never scheduled delays nobody.
struct ThreadPool::Impl {
  std::mutex caller_mutex;  // one ParallelFor at a time
  std::mutex mutex;
  std::condition_variable wake, done;
  Job* job = nullptr;
  uint64_t generation = 0;
  int joined = 0;
  bool stop = false;
  std::vector<std::thread> threads;

  void Work() {
    uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex);
    while (true) {
      wake.wait(lock, [&] { return stop || (job != nullptr && generation != seen); });
      if (stop) return;
      seen = generation;
      Job* mine = job;
      ++joined;
      lock.unlock();
      mine->Run();
      lock.lock();
      if (--joined == 0) done.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int num_threads) : impl_(std::make_unique<Impl>()) {
  for (int i = 1; i < num_threads; ++i) impl_->threads.emplace_back([impl = impl_.get()] { impl->Work(); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(impl_->mutex);
    impl_->stop = true;
  }
  impl_->wake.notify_all();
  for (std::thread& t : impl_->threads) t.join();
}

int ThreadPool::num_threads() const { return static_cast<int>(impl_->threads.size()) + 1; }

void ThreadPool::ParallelFor(int64_t count, int64_t grain, absl::FunctionRef<void(int64_t, int64_t)> body) {
  if (count <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  if (inside_parallel_for || impl_->threads.empty() || count <= grain) {
    for (int64_t begin = 0; begin < count; begin += grain) body(begin, std::min(begin + grain, count));
    return;
  }
  std::lock_guard<std::mutex> caller(impl_->caller_mutex);
  Job job{count, grain, body};
  {
    std::lock_guard<std::mutex> lock(impl_->mutex);
    impl_->job = &job;
    ++impl_->generation;
  }
  impl_->wake.notify_all();
  job.Run();
  std::unique_lock<std::mutex> lock(impl_->mutex);
  impl_->job = nullptr;
  impl_->done.wait(lock, [&] { return impl_->joined == 0; });
}

int DefaultNumThreads() {
  int cores = static_cast<int>(std::thread::hardware_concurrency());
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof(mask), &mask) == 0) cores = CPU_COUNT(&mask);
  if (const int quota = CgroupQuotaCores(); quota > 0) cores = std::min(cores, quota);
  return std::max(cores, 1);
}

}  // namespace spikefold
