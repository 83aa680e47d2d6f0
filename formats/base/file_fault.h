// A disk that fails, for tests: every call of ours that changes the file system asks here first.
#pragma once

namespace spikefold {

// The errno with which the call ("create", "reserve", "write", "sync", "close", "rename") fails instead of
// being made; 0: it is made.
using FileFault = int (*)(const char* call);
// Null, the default: nothing fails. Not beside running writers.
void SetFileFault(FileFault fault);
// Sets errno and returns true if the call shall fail.
bool FailsByFault(const char* call);

}  // namespace spikefold
