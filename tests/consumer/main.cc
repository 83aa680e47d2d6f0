#include <cstdio>
#include <string>

#include "formats/base/dtype.h"
#include "formats/base/version.h"
#include "formats/model_graph.h"
#include "kernels/numeric.h"

int main() {
  std::printf("%s\n", spikefold::ToolVersion().c_str());
  return spikefold::ToolVersion() == "0.1.0" ? 0 : 1;
}
