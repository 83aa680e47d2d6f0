#pragma once

namespace spikefold {

// Takes the places of file descriptors 0 to 2 that were closed by the caller (`spikefold ... >&-`), so that
// no file that is opened later lands there and receives what was meant for a person. Writing to such a
// placeholder fails.
void ProtectStandardStreams();

}  // namespace spikefold
