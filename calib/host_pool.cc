#include "calib/host_pool.h"

namespace spikefold {

ThreadPool& HostPool() {
  static ThreadPool* pool = new ThreadPool(DefaultNumThreads());  // never destroyed: threads outlive statics
  return *pool;
}

}  // namespace spikefold
