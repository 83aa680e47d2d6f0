// Contenders timed by turns on a GPU: graphs of launches that go around copies of their operands, so that
// these exceed the L2 cache, and the median of the rounds.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "absl/status/status.h"
#include "formats/base/status.h"
#include "kernels/cuda/graph.h"
#include "kernels/cuda/stream.h"

namespace spikefold::benchmarks {

// Of a contender: its launches, and the seconds of one for each round.
struct Turns {
  kernels::cuda::Graph graph;
  int64_t launches = 0;
  std::vector<double> seconds;
  double median() const {
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }
};

// Contender: launch(copy) -> absl::Status, and `turns`, which is filled. copies_of(contender): 1 or more.
template <typename Contender, typename CopiesOf>
absl::Status TimeByTurns(std::vector<Contender>& contenders, CopiesOf copies_of, int rounds,
                         const kernels::cuda::Stream& stream) {
  constexpr int64_t kLeastLaunches = 50;
  for (Contender& c : contenders) {
    const int64_t copies = copies_of(c);
    c.turns.launches = std::max<int64_t>(1, (kLeastLaunches + copies - 1) / copies) * copies;
    SF_RETURN_IF_ERROR(c.launch(0));  // functions load, attributes are set
    SF_RETURN_IF_ERROR(stream.Sync());
    SF_ASSIGN_OR_RETURN(c.turns.graph, kernels::cuda::Graph::Record(stream, [&]() -> absl::Status {
                          for (int64_t i = 0; i < c.turns.launches; ++i) {
                            SF_RETURN_IF_ERROR(c.launch(i % copies));
                          }
                          return absl::OkStatus();
                        }));
  }
  kernels::cuda::Timer timer(stream);
  // A card that has just worked hard is slower for who comes next. So each comes in another order each time
  // and in each run of the program, and behind itself: a turn's first run is not timed.
  std::vector<size_t> order(contenders.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::mt19937 random(std::random_device{}());
  for (int round = 0; round < rounds; ++round) {
    std::shuffle(order.begin(), order.end(), random);
    for (const size_t i : order) {
      Turns& turns = contenders[i].turns;
      SF_RETURN_IF_ERROR(turns.graph.Run(stream));
      SF_RETURN_IF_ERROR(timer.Start());
      SF_RETURN_IF_ERROR(turns.graph.Run(stream));
      SF_ASSIGN_OR_RETURN(const double seconds, timer.Stop());
      turns.seconds.push_back(seconds / static_cast<double>(turns.launches));
    }
  }
  return absl::OkStatus();
}

}  // namespace spikefold::benchmarks
