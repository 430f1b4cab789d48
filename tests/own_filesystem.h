// A small filesystem of a test's own: to fill up, or to be read-only.
#pragma once

#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <functional>

namespace adder::test {

// Runs `call` in a child process that sees a filesystem of its own at `mount_point`; the child's
// exit code, or -1 where the system does not permit the mount.
inline int RunOnOwnFilesystem(const std::filesystem::path& mount_point, const char* options,
                              unsigned long flags, const std::function<int()>& call) {
  constexpr int kNotPermitted = 77;
  const pid_t child = ::fork();
  if (child == 0) {
    // A mount namespace of its own, by root or by a user namespace: nothing outlives the child.
    if (::unshare(CLONE_NEWNS) != 0 && ::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) {
      ::_exit(kNotPermitted);
    }
    if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("none", mount_point.c_str(), "tmpfs", flags, options) != 0) {
      ::_exit(kNotPermitted);
    }
    try {
      ::_exit(call());
    } catch (...) {
      ::_exit(99);
    }
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 98;
  return code == kNotPermitted ? -1 : code;
}

}  // namespace adder::test
