// The thread pool for host-side work beside a model's own.
#pragma once

#include "formats/base/thread_pool.h"

namespace spikefold {

// Made on first use with DefaultNumThreads(); its threads sleep while the model runs.
ThreadPool& HostPool();

}  // namespace spikefold
