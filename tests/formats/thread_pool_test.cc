#include "formats/base/thread_pool.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace spikefold {

TEST_CASE("Every index is visited once, whatever the count, the grain and the threads", "[thread_pool]") {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    CHECK(pool.num_threads() == threads);
    for (const int64_t count : {0, 1, 7, 64, 1000}) {
      for (const int64_t grain : {1, 3, 64, 5000}) {
        std::vector<int> visits(static_cast<size_t>(count), 0);
        std::atomic<bool> in_range{true};
        pool.ParallelFor(count, grain, [&](int64_t begin, int64_t end) {
          if (begin % grain != 0 || end - begin > grain) in_range = false;
          for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
        });
        REQUIRE(in_range);
        REQUIRE(visits == std::vector<int>(static_cast<size_t>(count), 1));
      }
    }
  }
}

TEST_CASE("A nested loop runs inline, and two callers may share a pool", "[thread_pool]") {
  ThreadPool pool(3);
  std::atomic<int> sum{0};
  pool.ParallelFor(8, 1, [&](int64_t, int64_t) {
    pool.ParallelFor(10, 2, [&](int64_t begin, int64_t end) { sum += static_cast<int>(end - begin); });
  });
  CHECK(sum == 80);
  sum = 0;
  const auto caller = [&] {
    for (int i = 0; i < 500; ++i) {
      pool.ParallelFor(16, 1, [&](int64_t begin, int64_t end) { sum += static_cast<int>(end - begin); });
    }
  };
  std::thread other(caller);
  caller();
  other.join();
  CHECK(sum == 16000);
}

TEST_CASE("What a chunk throws reaches the caller, and the pool goes on", "[thread_pool]") {
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 50; ++round) {
      std::atomic<int> ran{0};
      const auto body = [&](int64_t begin, int64_t) {
        ++ran;
        if (begin >= 5) throw std::bad_alloc();
      };
      CHECK_THROWS_AS(pool.ParallelFor(1000, 1, body), std::bad_alloc);
      CHECK(ran < 1000);
      ran = 0;
      pool.ParallelFor(1000, 1, [&](int64_t, int64_t) { ++ran; });
      REQUIRE(ran == 1000);
    }
  }
}

TEST_CASE("A pool whose last threads cannot be started throws, and the first ones end", "[thread_pool]") {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // they take terabytes of address space
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const rlimit limit = {rlim_t{1} << 30, rlim_t{1} << 30};  // of which a stack takes 8 MiB
    setrlimit(RLIMIT_AS, &limit);
    try {
      const ThreadPool pool(10'000);
    } catch (const std::system_error&) {
      _exit(0);
    }
    _exit(1);
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
#endif
}

TEST_CASE("There is at least one core to run on", "[thread_pool]") { CHECK(DefaultNumThreads() >= 1); }

}  // namespace spikefold
