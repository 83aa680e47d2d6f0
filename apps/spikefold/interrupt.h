// Ctrl-C. The first one (or a SIGTERM) asks the work to stop: progress callbacks return false, the command
// ends with Cancelled and leaves nothing behind under its final name. The second one ends the process at
// once.
#pragma once

namespace spikefold {

void InstallInterruptHandlers();
bool Interrupted();

}  // namespace spikefold
