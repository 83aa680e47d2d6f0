#include "apps/spikefold/standard_streams.h"

#include <fcntl.h>
#include <unistd.h>

#include <initializer_list>

namespace spikefold {

void ProtectStandardStreams() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    // open() takes the lowest free number, which is `fd`: all below it are taken by now.
    if (fcntl(fd, F_GETFD) == -1) (void)open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
  }
}

}  // namespace spikefold
