#include "tests/apps/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <stdexcept>

namespace spikefold::testing {
namespace {

struct Pipe {
  int read = -1, write = -1;
};
Pipe MakePipe() {
  std::array<int, 2> fds;
  if (pipe2(fds.data(), O_CLOEXEC) != 0) throw std::runtime_error("pipe");
  return {fds[0], fds[1]};
}

[[noreturn]] void BecomeSpikefold(const std::vector<std::string>& arguments, const ProcessOptions& options,
                                  int out, int err) {
  if (options.close_stdout) {
    close(STDOUT_FILENO);
  } else {
    dup2(out, STDOUT_FILENO);
  }
  dup2(err, STDERR_FILENO);
  dup2(open("/dev/null", O_RDONLY | O_CLOEXEC), STDIN_FILENO);
  for (const std::string& entry : options.environment) {
    const size_t equals = entry.find('=');
    setenv(entry.substr(0, equals).c_str(), entry.substr(equals + 1).c_str(), 1);
  }
  if (options.max_memory > 0 && !kSanitized) {
    const rlimit limit = {options.max_memory, options.max_memory};
    setrlimit(RLIMIT_AS, &limit);
  }
  if (options.max_file > 0) {
    const rlimit limit = {options.max_file, options.max_file};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  std::vector<char*> argv;
  std::string program = SPIKEFOLD_BINARY;
  argv.push_back(program.data());
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  execv(program.c_str(), argv.data());
  _exit(127);
}

// Appends what is there; false at the end.
bool Drain(int fd, std::string& text) {
  std::array<char, 4096> part;
  const ssize_t n = read(fd, part.data(), part.size());
  if (n > 0) text.append(part.data(), static_cast<size_t>(n));
  return n > 0;
}

// A stopped process collects its signals, so that several reach it before it runs on.
void SendAll(pid_t pid, const std::vector<int>& signals) {
  kill(pid, SIGSTOP);
  int status = 0;
  waitpid(pid, &status, WUNTRACED);
  for (const int signal : signals) kill(pid, signal);
  kill(pid, SIGCONT);
}

}  // namespace

Finished RunSpikefold(const std::vector<std::string>& arguments, const ProcessOptions& options) {
  const Pipe out = MakePipe(), err = MakePipe();
  const pid_t pid = fork();
  if (pid < 0) throw std::runtime_error("fork");
  if (pid == 0) BecomeSpikefold(arguments, options, out.write, err.write);
  close(out.write);
  close(err.write);
  if (options.unread_stdout) close(out.read);

  Finished finished;
  std::array<pollfd, 2> streams = {
      {{options.unread_stdout ? -1 : out.read, POLLIN, 0}, {err.read, POLLIN, 0}}};
  bool sent = false;
  while (streams[0].fd >= 0 || streams[1].fd >= 0) {
    if (poll(streams.data(), streams.size(), -1) < 0) break;
    if (streams[0].revents != 0 && !Drain(out.read, finished.out)) streams[0].fd = -1;
    if (streams[1].revents != 0 && !Drain(err.read, finished.err)) streams[1].fd = -1;
    if (!sent && options.when && options.when(finished)) {
      sent = true;
      SendAll(pid, options.signals);
    }
  }
  if (!options.unread_stdout) close(out.read);
  close(err.read);
  int status = 0;
  waitpid(pid, &status, 0);
  if (WIFEXITED(status)) finished.exit = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) finished.signal = WTERMSIG(status);
  return finished;
}

}  // namespace spikefold::testing
